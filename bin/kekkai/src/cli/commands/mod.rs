//! The commands, one file per family.

pub(super) mod attach;
pub(super) mod containers;
pub(super) mod copy;
pub(super) mod create_options;
pub(super) mod events;
pub(super) mod exec;
pub(super) mod images;
pub(super) mod info;
pub(super) mod inspect;
pub(super) mod lists;
pub(super) mod login;
pub(super) mod logs;
pub(super) mod prune;
pub(super) mod pull;
pub(super) mod resource_lists;
pub(super) mod run;
pub(super) mod session;
pub(super) mod stats;
pub(super) mod system;
pub(super) mod update;
pub(super) mod version;
pub(super) mod volumes;

use std::io::BufRead;

use serde_json::Value as Json;

/// A text inside an answer; empty where there is none.
pub(super) fn text<'a>(json: &'a Json, key: &str) -> &'a str {
    json[key].as_str().unwrap_or("")
}

/// A number inside an answer; 0 where there is none.
pub(super) fn number(json: &Json, key: &str) -> i64 {
    json[key].as_i64().unwrap_or(0)
}

/// The elements of a list; none for null.
pub(super) fn items(json: &Json) -> &[Json] {
    json.as_array().map_or(&[], Vec::as_slice)
}

/// The texts of a list.
pub(super) fn texts(json: &Json) -> Vec<&str> {
    items(json).iter().filter_map(Json::as_str).collect()
}

/// Asks for confirmation; only `y` and `Y` are yes.
pub(super) fn confirm(question: &str) -> std::io::Result<bool> {
    super::output::print(&format!("{question} [y/N] "))?;
    let mut answer = String::new();
    let end = std::io::stdin().lock().read_line(&mut answer)? == 0;
    if end {
        super::output::print("\n")?;
    }
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}
