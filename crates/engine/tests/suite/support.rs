//! An engine of a test's own, and what tests do with it again and again.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use kekkai_engine::model::{
    AttachOptions, ContainerConfig, CreateContainer, HostOptions, LogOptions, RemoveOptions,
    StdStream, WaitCondition,
};
use kekkai_engine::{Engine, EngineConfig, OutputStream};

static NEXT: AtomicU16 = AtomicU16::new(0);

/// The keeper beside the test's own executable, or of `KEKKAI_KEEPER`.
pub(crate) fn keeper() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("KEKKAI_KEEPER") {
        return Some(PathBuf::from(path));
    }
    let own = std::env::current_exe().ok()?;
    let path = own.parent()?.parent()?.join("kekkai-keeper");
    path.exists().then_some(path)
}

/// One engine with everything of its own.
pub(crate) struct Bench {
    pub(crate) engine: Option<Engine>,
    pub(crate) config: EngineConfig,
    directory: Option<tempfile::TempDir>,
}

impl Bench {
    /// Opens one; `None` (and a line that says why) where that cannot be.
    pub(crate) async fn open() -> Option<Self> {
        Self::open_with(|_| {}).await
    }

    pub(crate) async fn open_with(change: impl FnOnce(&mut EngineConfig)) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return None;
        }
        let Some(keeper) = keeper() else {
            println!("skipped: build kekkai-keeper-bin first, or set KEKKAI_KEEPER");
            return None;
        };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        let directory = tempfile::Builder::new()
            .prefix("kekkai-engine-")
            .tempdir_in("/var/tmp")
            .unwrap();
        // The socket's path must stay short.
        let exec_root = PathBuf::from(format!("/run/kke-{process}-{number}"));
        let mut config = EngineConfig::new(directory.path().join("data"), exec_root, keeper);
        config.cgroup_parent = format!("kekkai-test-{process}-{number}");
        config.bridge.name = format!("kke{process}x{number}").chars().take(15).collect();
        config.bridge.table = format!("kekkai_test_{process}_{number}");
        let slot = (u32::from(number) + process * 7) % 4096;
        config.bridge.address = Some(format!("10.{}.{}.1/24", 144 + slot / 256, slot % 256));
        config.bridge.pool_size = 2;
        change(&mut config);
        let engine = Engine::open(config.clone())
            .await
            .expect("opening the engine");
        Some(Self {
            engine: Some(engine),
            config,
            directory: Some(directory),
        })
    }

    pub(crate) fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("the engine is open")
    }

    /// The daemon's end, which containers do not notice.
    pub(crate) async fn crash(&mut self) {
        if let Some(engine) = self.engine.take() {
            engine.close().await;
        }
    }

    /// A second daemon on the same state, as after a restart.
    pub(crate) async fn reopen(&mut self) {
        // The database belongs to the old one until its last task has ended.
        for attempt in 0.. {
            match Engine::open(self.config.clone()).await {
                Ok(engine) => {
                    self.engine = Some(engine);
                    return;
                }
                Err(error) if attempt < 50 => {
                    println!("not yet: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => panic!("reopening: {error}"),
            }
        }
    }

    /// Loads an image of the shared layout.
    pub(crate) async fn load(&self, reference: &str) -> Option<()> {
        let layout = Path::new("/work/shared/images");
        if !layout.join("index.json").exists() {
            println!("skipped: no images in {}", layout.display());
            return None;
        }
        let archive = tokio::task::spawn_blocking({
            let reference = reference.to_owned();
            move || archive_of(layout, &reference)
        })
        .await
        .unwrap();
        self.engine()
            .images()
            .load(std::io::Cursor::new(archive), kekkai_image::no_progress())
            .await
            .expect("loading");
        Some(())
    }

    /// Removes everything that the test made.
    pub(crate) async fn close(mut self) {
        let engine = self.engine.take().expect("the engine is open");
        for view in engine
            .list(kekkai_engine::model::ListContainers {
                all: true,
                ..Default::default()
            })
            .await
            .unwrap()
        {
            let options = RemoveOptions {
                force: true,
                volumes: true,
                link: false,
            };
            // `--rm` ones may be gone by themselves.
            let _ = engine.remove(&view.id.to_string(), options).await;
        }
        engine.stop_all().await.expect("stopping the keeper");
        engine.destroy_network().expect("removing the bridge");
        drop(engine);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let _ = std::fs::remove_dir_all(&self.config.exec_root);
        drop(self.directory.take());
        remove_cgroups(&self.config.cgroup_parent);
    }
}

/// A test that failed leaves nothing behind either.
impl Drop for Bench {
    fn drop(&mut self) {
        let Some(engine) = self.engine.take() else {
            return;
        };
        let exec_root = self.config.exec_root.to_string_lossy().into_owned();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
                continue;
            };
            let words = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            if words.contains("keeper") && words.split('\0').any(|word| word == exec_root) {
                let pid = rustix::process::Pid::from_raw(pid).unwrap();
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        let _ = engine.destroy_network();
        remove_cgroups(&self.config.cgroup_parent);
        let _ = std::fs::remove_dir_all(&self.config.exec_root);
    }
}

fn remove_cgroups(parent: &str) {
    if let Ok(layout) = kekkai_cgroups::detect()
        && let Ok(cgroup) = kekkai_cgroups::Cgroup::new(&layout, parent)
    {
        for directory in cgroup.directories() {
            for child in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                if child.file_type().is_ok_and(|kind| kind.is_dir()) {
                    let path = format!("{parent}/{}", child.file_name().to_string_lossy());
                    if let Ok(cgroup) = kekkai_cgroups::Cgroup::new(&layout, &path) {
                        let _ = cgroup.kill();
                        let _ = cgroup.remove();
                    }
                }
            }
        }
        let _ = cgroup.remove();
    }
}

/// An OCI archive of one image of a layout.
fn archive_of(layout: &Path, reference: &str) -> Vec<u8> {
    let read = |path: PathBuf| {
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let index: serde_json::Value =
        serde_json::from_slice(&read(layout.join("index.json"))).unwrap();
    let chosen: Vec<serde_json::Value> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| {
            let name = entry["annotations"]["org.opencontainers.image.ref.name"]
                .as_str()
                .unwrap_or_default();
            name == reference || name.ends_with(&format!("/{reference}"))
        })
        .cloned()
        .collect();
    assert!(!chosen.is_empty(), "no {reference} in the layout");
    let mut wanted: Vec<String> = Vec::new();
    let mut queue: Vec<(String, bool)> = chosen
        .iter()
        .map(|entry| (entry["digest"].as_str().unwrap().to_owned(), true))
        .collect();
    while let Some((digest, document)) = queue.pop() {
        if wanted.contains(&digest) {
            continue;
        }
        wanted.push(digest.clone());
        let (algorithm, hex) = digest.split_once(':').unwrap();
        let path = layout.join("blobs").join(algorithm).join(hex);
        if !document || !path.exists() {
            continue;
        }
        let parsed: serde_json::Value = serde_json::from_slice(&read(path)).unwrap();
        let is_host = |entry: &serde_json::Value| {
            let platform = &entry["platform"];
            platform.is_null() || platform["architecture"] == "amd64" && platform["os"] == "linux"
        };
        for entry in parsed["manifests"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|entry| is_host(entry))
        {
            queue.push((entry["digest"].as_str().unwrap().to_owned(), true));
        }
        for entry in parsed["layers"]
            .as_array()
            .into_iter()
            .flatten()
            .chain([&parsed["config"]])
        {
            if let Some(digest) = entry["digest"].as_str() {
                queue.push((digest.to_owned(), false));
            }
        }
    }
    let mut bytes = Vec::new();
    let mut add = |name: &str, content: &[u8]| {
        append_file(&mut bytes, name, content);
    };
    add("oci-layout", b"{\"imageLayoutVersion\":\"1.0.0\"}");
    add(
        "index.json",
        serde_json::json!({"schemaVersion": 2, "manifests": chosen})
            .to_string()
            .as_bytes(),
    );
    for digest in wanted {
        let (algorithm, hex) = digest.split_once(':').unwrap();
        let path = layout.join("blobs").join(algorithm).join(hex);
        if path.exists() {
            add(&format!("blobs/{algorithm}/{hex}"), &read(path));
        }
    }
    bytes.extend_from_slice(&[0; 1024]);
    bytes
}

/// A ustar entry of an ordinary file.
fn append_file(bytes: &mut Vec<u8>, name: &str, content: &[u8]) {
    let mut header = [0_u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..107].copy_from_slice(b"0000644");
    header[108..115].copy_from_slice(b"0000000");
    header[116..123].copy_from_slice(b"0000000");
    header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    header[136..147].copy_from_slice(b"00000000000");
    header[148..156].copy_from_slice(b"        ");
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    bytes.extend_from_slice(&header);
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
}

/// A request to run these words in busybox.
pub(crate) fn busybox(words: &[&str]) -> CreateContainer {
    CreateContainer {
        config: ContainerConfig {
            image: "busybox".to_owned(),
            cmd: Some(words.iter().map(|word| (*word).to_owned()).collect()),
            ..Default::default()
        },
        host: HostOptions::default(),
        ..Default::default()
    }
}

/// What a run gave.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) code: i64,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// All that a stream gives until its end.
pub(crate) async fn collect(output: &mut OutputStream) -> Ran {
    let mut ran = Ran::default();
    while let Some(frame) = output.next().await {
        let frame = frame.expect("a frame");
        let text = String::from_utf8_lossy(&frame.data);
        match frame.stream {
            StdStream::Stderr => ran.stderr.push_str(&text),
            _ => ran.stdout.push_str(&text),
        }
    }
    ran
}

/// Creates, attaches, starts, waits, as `docker run` does. The container stays unless it removes itself.
pub(crate) async fn run(engine: &Engine, request: CreateContainer) -> (String, Ran) {
    let removed = request.host.auto_remove;
    let id = engine.create(request).await.expect("create").id.to_string();
    let attach = AttachOptions {
        stream: true,
        stdout: true,
        stderr: true,
        ..Default::default()
    };
    let mut streams = engine.attach(&id, attach).await.expect("attach");
    let condition = if removed {
        WaitCondition::Removed
    } else {
        WaitCondition::NextExit
    };
    let wait = engine.wait(&id, condition).await.expect("wait");
    engine.start(&id).await.expect("start");
    let mut ran = within(collect(&mut streams.output)).await;
    ran.code = within(wait.finished()).await.expect("exit").code;
    (id, ran)
}

/// What a container has logged.
pub(crate) async fn logs(engine: &Engine, id: &str) -> Ran {
    let options = LogOptions {
        stdout: true,
        stderr: true,
        ..Default::default()
    };
    let (mut output, _) = engine.logs(id, options).await.expect("logs");
    within(collect(&mut output)).await
}

/// Waits until a container's log says `text`.
pub(crate) async fn until_logged(engine: &Engine, id: &str, text: &str) {
    let said = async {
        while !logs(engine, id).await.stdout.contains(text) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(said).await;
}

/// What must happen soon.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("in time")
}
