//! `KEY=VALUE` lists: environment, labels, sysctls, and the files they are read from.

use serde_json::{Map, Value as Json};

use crate::cli::environment;

/// The longest line of an environment or label file, in bytes.
const MAX_LINE: usize = 64 * 1024;

pub(crate) fn check_env(text: &str) -> Result<(), String> {
    if text.split('=').next().is_none_or(str::is_empty) {
        return Err(format!("invalid environment variable: {text}"));
    }
    Ok(())
}

pub(crate) fn check_label(text: &str) -> Result<(), String> {
    if text
        .split('=')
        .next()
        .is_none_or(|name| name.trim().is_empty())
    {
        return Err(format!("invalid label '{text}': empty name"));
    }
    Ok(())
}

/// Kernel parameters that belong to an IPC namespace.
const IPC_SYSCTLS: &[&str] = &[
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

pub(crate) fn check_sysctl(text: &str) -> Result<(), String> {
    let name = text.split_once('=').map_or("", |(name, _)| name);
    if IPC_SYSCTLS.contains(&name) || name.starts_with("net.") || name.starts_with("fs.mqueue.") {
        Ok(())
    } else {
        Err(format!("sysctl '{text}' is not allowed"))
    }
}

/// The environment of a container: files first, then flags; a bare name takes our own value.
pub(crate) fn environment_of(files: &[&str], flags: &[&str]) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    for file in files {
        all.extend(read_file(file, true)?);
    }
    for flag in flags {
        if flag.contains('=') {
            all.push((*flag).to_owned());
        } else if let Some(value) = environment(flag) {
            all.push(format!("{flag}={value}"));
        } else {
            // A bare name without a value takes the image's variable away.
            all.push((*flag).to_owned());
        }
    }
    Ok(all)
}

/// Labels: files first, then flags; a bare name has an empty value.
pub(crate) fn labels_of(files: &[&str], flags: &[&str]) -> Result<Map<String, Json>, String> {
    let mut labels = Map::new();
    for file in files {
        for line in read_file(file, false)? {
            insert_pair(&mut labels, &line);
        }
    }
    for flag in flags {
        insert_pair(&mut labels, flag);
    }
    Ok(labels)
}

/// `key=value` pairs as an object.
pub(crate) fn pairs(flags: &[&str]) -> Map<String, Json> {
    let mut map = Map::new();
    for flag in flags {
        insert_pair(&mut map, flag);
    }
    map
}

fn insert_pair(map: &mut Map<String, Json>, pair: &str) {
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    map.insert(key.to_owned(), Json::String(value.to_owned()));
}

fn read_file(path: &str, from_environment: bool) -> Result<Vec<String>, String> {
    let content = std::fs::read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("open {path}: no such file or directory"),
        std::io::ErrorKind::PermissionDenied => format!("open {path}: permission denied"),
        _ => format!("open {path}: {error}"),
    })?;
    parse_lines(&content, from_environment)
        .map_err(|why| format!("invalid env file ({path}): {why}"))
}

fn parse_lines(content: &[u8], from_environment: bool) -> Result<Vec<String>, String> {
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    let mut pairs = Vec::new();
    for (index, line) in content.split(|byte| *byte == b'\n').enumerate() {
        if line.len() > MAX_LINE {
            return Err(String::from("bufio.Scanner: token too long"));
        }
        let line = std::str::from_utf8(line)
            .map_err(|_| format!("invalid utf8 bytes at line {}: {line:?}", index + 1))?;
        let line = line.strip_suffix('\r').unwrap_or(line).trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (line, None),
        };
        let name = name.trim_start();
        if name.is_empty() {
            return Err(format!("no variable name on line '{line}'"));
        }
        if name.contains([' ', '\t']) {
            return Err(format!("variable '{name}' contains whitespaces"));
        }
        match value {
            Some(value) => pairs.push(format!("{name}={value}")),
            None if from_environment => {
                pairs.extend(environment(name).map(|value| format!("{name}={value}")))
            }
            None => pairs.push(name.to_owned()),
        }
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files() {
        let lines = parse_lines(
            b"\xef\xbb\xbf# c\n\nA=1\r\n  B=x y=z\nNOT_SET_ANYWHERE\n",
            true,
        )
        .unwrap();
        assert_eq!(lines, ["A=1", "B=x y=z"]);
        assert_eq!(
            parse_lines(b"A B=1\n", true).unwrap_err(),
            "variable 'A B' contains whitespaces"
        );
        assert_eq!(
            parse_lines(b"=1\n", true).unwrap_err(),
            "no variable name on line '=1'"
        );
        assert_eq!(parse_lines(b"a\nb=c\n", false).unwrap(), ["a", "b=c"]);
    }

    #[test]
    fn bare_names() {
        let all = environment_of(&[], &["A=1", "SURELY_NOT_SET_HERE"]).unwrap();
        assert_eq!(all, ["A=1", "SURELY_NOT_SET_HERE"]);
    }
}
