//! The kernel's own price of a start: `../shared/floor/start.c`, compiled where it lies and run as its README says.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kekkai_tests::registry::shared_folder;

/// START p50 of `./start 200 2 100 1`.
pub(crate) fn start_p50() -> Result<Duration> {
    let source = shared_folder("floor")
        .context("no ../shared/floor")?
        .join("start.c");
    std::fs::create_dir_all("/tmp/floor")?;
    rootfs(Path::new("/tmp/floor/rootfs"))?;
    let program = format!("/tmp/floor/start-{}", std::process::id());
    let status = Command::new("cc")
        .args(["-O2", "-w", "-o", &program])
        .arg(source)
        .status()
        .context("cc")?;
    if !status.success() {
        bail!("cc could not compile start.c");
    }
    let out = Command::new(&program)
        .args(["200", "2", "100", "1"])
        .output()?;
    drop(std::fs::remove_file(&program));
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let line = text
        .lines()
        .find(|l| l.contains("=> START ("))
        .with_context(|| format!("no START in {text:?}"))?;
    let p50 = line
        .split_whitespace()
        .skip_while(|w| *w != "p50")
        .nth(1)
        .context("no p50")?;
    Ok(Duration::from_secs_f64(p50.parse::<f64>()? / 1e6))
}

/// Alpine's root at the path that is a constant in the source.
fn rootfs(path: &Path) -> Result<()> {
    if path.join("bin/busybox").exists() {
        return Ok(());
    }
    let images = shared_folder("images").context("no ../shared/images")?;
    let read = |digest: &str| -> Result<Vec<u8>> {
        Ok(std::fs::read(
            images.join("blobs").join(digest.replace(':', "/")),
        )?)
    };
    let document =
        |digest: &str| -> Result<serde_json::Value> { Ok(serde_json::from_slice(&read(digest)?)?) };
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(images.join("index.json"))?)?;
    let list = |v: &serde_json::Value| v["manifests"].as_array().cloned().unwrap_or_default();
    let named = |m: &serde_json::Value| {
        m["annotations"]["org.opencontainers.image.ref.name"] == "alpine:3.20"
    };
    let alpine = list(&index)
        .into_iter()
        .find(named)
        .context("no alpine:3.20 in the layout")?;
    let platforms = document(alpine["digest"].as_str().context("a digest")?)?;
    let ours = |m: &serde_json::Value| m["platform"]["architecture"] == "amd64";
    let manifest = list(&platforms)
        .into_iter()
        .find(ours)
        .context("no amd64 alpine")?;
    let manifest = document(manifest["digest"].as_str().context("a digest")?)?;
    for layer in manifest["layers"].as_array().into_iter().flatten() {
        let bytes = read(layer["digest"].as_str().context("a digest")?)?;
        tar::Archive::new(flate2::read::GzDecoder::new(&bytes[..])).unpack(path)?;
    }
    Ok(())
}
