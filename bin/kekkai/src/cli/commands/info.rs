//! `info`.

use std::fmt::Write as _;

use kekkai_client::Request;
use serde_json::Value as Json;

use super::{items, number, text, texts};
use crate::cli::command::Outcome;
use crate::cli::flags::Matches;
use crate::cli::{Cli, Failure, output, units};

pub(crate) async fn info(cli: &Cli, matches: &Matches) -> Outcome {
    let format = match matches.text("format") {
        "json" => "{{json .}}",
        other => other,
    };
    let answer = async {
        let client = cli.client().await?;
        Ok::<Json, Failure>(client.send(Request::get("/info")).await?.json().await?)
    };
    let answer = answer.await;
    let api = cli
        .client_unconnected()
        .map_or(kekkai_client::API_VERSION, |client| client.version());
    let client = super::version::client_info(cli, api);
    if !format.is_empty() {
        let mut all = answer
            .as_ref()
            .map_or_else(|_| Json::Object(serde_json::Map::new()), Clone::clone);
        all["ClientInfo"] = client;
        if let Err(failure) = &answer {
            all["ServerErrors"] = serde_json::json!([failure.text()]);
        }
        output::line(&super::inspect::with_template(format, &all)?)?;
        return Ok(0);
    }
    let mut out = format!(
        "Client: Kekkai\n Version:    {}\n Context:    {}\n Debug Mode: false\n\nServer:\n",
        text(&client, "Version"),
        text(&client, "Context")
    );
    match &answer {
        Ok(info) => out.push_str(&server_lines(info)),
        Err(failure) => {
            output::print(&out)?;
            return Err(Failure::new(failure.text()));
        }
    }
    output::print(&out)?;
    for warning in answer
        .iter()
        .flat_map(|info| items(&info["Warnings"]))
        .filter_map(Json::as_str)
    {
        output::to_stderr(&format!("{warning}\n"));
    }
    Ok(0)
}

/// Adds ` title: value`, unless the value is empty.
fn line(out: &mut String, title: &str, value: &str) {
    if !value.is_empty() {
        let _ = writeln!(out, " {title}: {value}");
    }
}

fn server_lines(info: &Json) -> String {
    let mut out = String::new();
    let flag = |key: &str| info[key].as_bool().unwrap_or(false);
    let _ = write!(
        out,
        " Containers: {}\n  Running: {}\n  Paused: {}\n  Stopped: {}\n Images: {}\n",
        number(info, "Containers"),
        number(info, "ContainersRunning"),
        number(info, "ContainersPaused"),
        number(info, "ContainersStopped"),
        number(info, "Images")
    );
    line(&mut out, "Server Version", text(info, "ServerVersion"));
    line(&mut out, "Storage Driver", text(info, "Driver"));
    for pair in items(&info["DriverStatus"]) {
        if let [name, value] = texts(pair).as_slice() {
            let _ = writeln!(out, "  {name}: {value}");
        }
    }
    line(&mut out, "Logging Driver", text(info, "LoggingDriver"));
    line(&mut out, "Cgroup Driver", text(info, "CgroupDriver"));
    line(&mut out, "Cgroup Version", text(info, "CgroupVersion"));
    out.push_str(" Plugins:\n");
    for kind in ["Volume", "Network", "Authorization", "Log"] {
        let names = texts(&info["Plugins"][kind]);
        if !names.is_empty() || !matches!(kind, "Authorization") {
            let _ = writeln!(out, "  {kind}: {}", names.join(" "));
        }
    }
    let directories = texts(&info["CDISpecDirs"]);
    if !directories.is_empty() {
        out.push_str(" CDI spec directories:\n");
        for directory in directories {
            let _ = writeln!(out, "  {directory}");
        }
    }
    line(&mut out, "Swarm", text(&info["Swarm"], "LocalNodeState"));
    let mut runtimes: Vec<&String> = info["Runtimes"]
        .as_object()
        .into_iter()
        .flat_map(|map| map.keys())
        .collect();
    runtimes.sort();
    runtimes.reverse();
    if !runtimes.is_empty() {
        let names: Vec<&str> = runtimes.into_iter().map(String::as_str).collect();
        line(&mut out, "Runtimes", &names.join(" "));
        line(&mut out, "Default Runtime", text(info, "DefaultRuntime"));
    }
    line(&mut out, "Init Binary", text(info, "InitBinary"));
    for (title, key) in [
        ("containerd version", "ContainerdCommit"),
        ("runc version", "RuncCommit"),
        ("init version", "InitCommit"),
    ] {
        line(&mut out, title, text(&info[key], "ID"));
    }
    let options = texts(&info["SecurityOptions"]);
    if !options.is_empty() {
        out.push_str(" Security Options:\n");
        for option in options {
            security_option(&mut out, option);
        }
    }
    for (title, key) in [
        ("Kernel Version", "KernelVersion"),
        ("Operating System", "OperatingSystem"),
        ("OSType", "OSType"),
        ("Architecture", "Architecture"),
    ] {
        line(&mut out, title, text(info, key));
    }
    let memory = units::binary_size(u64::try_from(number(info, "MemTotal")).unwrap_or(0));
    let _ = writeln!(
        out,
        " CPUs: {}\n Total Memory: {memory}",
        number(info, "NCPU")
    );
    line(&mut out, "Name", text(info, "Name"));
    line(&mut out, "ID", text(info, "ID"));
    line(&mut out, "Docker Root Dir", text(info, "DockerRootDir"));
    let _ = writeln!(out, " Debug Mode: {}", flag("Debug"));
    line(&mut out, "HTTP Proxy", text(info, "HttpProxy"));
    line(&mut out, "HTTPS Proxy", text(info, "HttpsProxy"));
    line(&mut out, "No Proxy", text(info, "NoProxy"));
    let labels = texts(&info["Labels"]);
    if !labels.is_empty() {
        out.push_str(" Labels:\n");
        for label in labels {
            let _ = writeln!(out, "  {label}");
        }
    }
    let _ = writeln!(out, " Experimental: {}", flag("ExperimentalBuild"));
    registries(&mut out, &info["RegistryConfig"]);
    let _ = writeln!(
        out,
        " Live Restore Enabled: {}\n",
        flag("LiveRestoreEnabled")
    );
    out
}

/// `name=seccomp,profile=builtin` on two lines.
fn security_option(out: &mut String, option: &str) {
    for pair in option.split(',') {
        let (key, value) = pair.split_once('=').unwrap_or(("name", pair));
        if key == "name" {
            let _ = writeln!(out, "  {value}");
        } else {
            let mut chars = key.chars();
            let title: String = chars
                .next()
                .into_iter()
                .flat_map(char::to_uppercase)
                .chain(chars)
                .collect();
            let _ = writeln!(out, "   {title}: {value}");
        }
    }
}

fn registries(out: &mut String, config: &Json) {
    let networks = texts(&config["InsecureRegistryCIDRs"]);
    let hosts: Vec<&String> = config["IndexConfigs"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, index)| index["Secure"] == false)
        .map(|(name, _)| name)
        .collect();
    if !networks.is_empty() || !hosts.is_empty() {
        out.push_str(" Insecure Registries:\n");
        for host in hosts {
            let _ = writeln!(out, "  {host}");
        }
        for network in networks {
            let _ = writeln!(out, "  {network}");
        }
    }
    let mirrors = texts(&config["Mirrors"]);
    if !mirrors.is_empty() {
        out.push_str(" Registry Mirrors:\n");
        for mirror in mirrors {
            let _ = writeln!(out, "  {mirror}");
        }
    }
}
