//! `version`.

use kekkai_client::{API_VERSION, Request};
use serde_json::{Value as Json, json};

use super::{items, text};
use crate::cli::command::Outcome;
use crate::cli::flags::{Flag, Matches, text as text_flag};
use crate::cli::{Cli, Failure, output, table};

pub(crate) const FLAGS: &[Flag] = &[text_flag(
    "format",
    "Format of the output:\n'json':             one JSON document\n'TEMPLATE':         a Go template over the object",
)
.short('f')];

/// The first digits of the build id.
pub(crate) fn short_build() -> String {
    let id = crate::build_id::current();
    let hash = id.split_once('-').map_or(id.as_str(), |(_, hash)| hash);
    hash.chars().take(7).collect()
}

/// The architecture under Go's name.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// What `version` and `info` say about the client.
pub(crate) fn client_info(cli: &Cli, api: (u32, u32)) -> Json {
    json!({
        "Platform": {"Name": "Kekkai"},
        "Version": env!("CARGO_PKG_VERSION"),
        "ApiVersion": format!("{}.{}", api.0, api.1),
        "DefaultAPIVersion": format!("{}.{}", API_VERSION.0, API_VERSION.1),
        "GitCommit": short_build(),
        "GoVersion": "",
        "Os": "linux",
        "Arch": architecture(),
        "BuildTime": "",
        "Context": cli.context_name(),
    })
}

pub(crate) async fn version(cli: &Cli, matches: &Matches) -> Outcome {
    let format = match matches.text("format") {
        "json" => "{{json .}}",
        other => other,
    };
    let server = async {
        let client = cli.client().await?;
        let answer: Json = client.send(Request::get("/version")).await?.json().await?;
        Ok::<Json, Failure>(answer)
    };
    let server = server.await;
    let api = cli
        .client_unconnected()
        .map_or(API_VERSION, |client| client.version());
    let client = client_info(cli, api);
    if !format.is_empty() {
        let all = json!({"Client": client, "Server": server.as_ref().ok()});
        let rendered = super::inspect::with_template(format, &all)?;
        output::line(&rendered)?;
    } else {
        let mut lines = client_lines(&client);
        if let Ok(server) = &server {
            lines.push_str(&server_lines(server));
        }
        output::print(&table::align_with(&lines, 20, 1))?;
    }
    server.map(|_| 0)
}

fn client_lines(client: &Json) -> String {
    let mut lines = String::from("Client: Kekkai\n");
    for (title, key) in [
        ("Version", "Version"),
        ("API version", "ApiVersion"),
        ("Git commit", "GitCommit"),
    ] {
        lines.push_str(&format!(" {title}:\t{}\n", text(client, key)));
    }
    lines.push_str(&format!(
        " OS/Arch:\t{}/{}\n Context:\t{}\n",
        text(client, "Os"),
        text(client, "Arch"),
        text(client, "Context")
    ));
    lines
}

fn server_lines(server: &Json) -> String {
    let platform = text(&server["Platform"], "Name");
    let mut lines = if platform.is_empty() {
        String::from("\nServer:\n")
    } else {
        format!("\nServer: {platform}\n")
    };
    let engine_only = [json!({
        "Name": "Engine",
        "Version": server["Version"],
        "Details": {
            "ApiVersion": server["ApiVersion"], "MinAPIVersion": server["MinAPIVersion"], "GoVersion": server["GoVersion"],
            "GitCommit": server["GitCommit"], "BuildTime": server["BuildTime"], "Os": server["Os"], "Arch": server["Arch"],
            "Experimental": server["Experimental"].as_bool().unwrap_or(false).to_string(),
        },
    })];
    let components = match items(&server["Components"]) {
        [] => &engine_only[..],
        components => components,
    };
    for component in components {
        let (name, details) = (text(component, "Name"), &component["Details"]);
        lines.push_str(&format!(
            " {name}:\n  Version:\t{}\n",
            text(component, "Version")
        ));
        if name == "Engine" {
            lines.push_str(&engine_lines(details));
            continue;
        }
        let mut keys: Vec<&String> = details
            .as_object()
            .into_iter()
            .flat_map(|details| details.keys())
            .collect();
        keys.sort();
        for key in keys {
            lines.push_str(&format!("  {key}:\t{}\n", text(details, key)));
        }
    }
    lines
}

fn engine_lines(details: &Json) -> String {
    let mut lines = format!(
        "  API version:\t{} (minimum version {})\n",
        text(details, "ApiVersion"),
        text(details, "MinAPIVersion")
    );
    for (title, key) in [("Go version", "GoVersion"), ("Git commit", "GitCommit")] {
        if !text(details, key).is_empty() {
            lines.push_str(&format!("  {title}:\t{}\n", text(details, key)));
        }
    }
    if !text(details, "BuildTime").is_empty() {
        lines.push_str(&format!("  Built:\t{}\n", text(details, "BuildTime")));
    }
    lines.push_str(&format!(
        "  OS/Arch:\t{}/{}\n",
        text(details, "Os"),
        text(details, "Arch")
    ));
    lines.push_str(&format!(
        "  Experimental:\t{}\n",
        text(details, "Experimental")
    ));
    lines
}
