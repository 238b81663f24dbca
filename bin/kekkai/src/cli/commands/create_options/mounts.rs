//! `--mount`, `-v` and `--tmpfs`.

use serde_json::{Map, Value as Json, json};

use crate::cli::flags::parse_bool;

pub(crate) fn check_mount(text: &str) -> Result<(), String> {
    mount(text).map(|_| ())
}

/// Splits one line of comma-separated values, with quotes as CSV has them.
pub(crate) fn csv(text: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut field = String::new();
            let mut chars = quoted.char_indices().peekable();
            let end = loop {
                match chars.next() {
                    Some((_, '"')) if chars.peek().is_some_and(|(_, next)| *next == '"') => {
                        chars.next();
                        field.push('"');
                    }
                    Some((at, '"')) => break at + 1,
                    Some((_, c)) => field.push(c),
                    None => {
                        return Err(String::from(
                            "parse error on line 1: extraneous or missing \" in quoted-field",
                        ));
                    }
                }
            };
            fields.push(field);
            match quoted[end..].strip_prefix(',') {
                Some(after) => rest = after,
                None if quoted[end..].is_empty() => return Ok(fields),
                None => {
                    return Err(String::from(
                        "parse error on line 1: extraneous or missing \" in quoted-field",
                    ));
                }
            }
            continue;
        }
        let (field, after) = match rest.split_once(',') {
            Some((field, after)) => (field, Some(after)),
            None => (rest, None),
        };
        if field.contains('"') {
            return Err(String::from(
                "parse error on line 1: bare \" in non-quoted-field",
            ));
        }
        fields.push(field.to_owned());
        match after {
            Some(after) => rest = after,
            None => return Ok(fields),
        }
    }
}

/// One `--mount`, as the API takes it.
pub(crate) fn mount(text: &str) -> Result<Json, String> {
    let mut kind = String::from("volume");
    let (mut source, mut target, mut read_only, mut consistency) =
        (String::new(), String::new(), false, String::new());
    let (mut bind, mut volume, mut tmpfs, mut image) =
        (Map::new(), Map::new(), Map::new(), Map::new());
    let (mut driver, mut options, mut labels) = (String::new(), Map::new(), Map::new());
    for field in csv(text)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(value.to_owned())),
            None => (field.to_lowercase(), None),
        };
        let value = match (key.as_str(), value) {
            (
                "readonly" | "ro" | "volume-nocopy" | "bind-nonrecursive" | "bind-create-src",
                None,
            ) => String::from("true"),
            (_, Some(value)) => value,
            (_, None) => return Err(format!("invalid field '{field}' must be a key=value pair")),
        };
        let boolean =
            || parse_bool(&value).ok_or_else(|| format!("invalid value for {key}: {value}"));
        match key.as_str() {
            "type" => kind = value.to_lowercase(),
            "source" | "src" => {
                source = if value == "."
                    || value == ".."
                    || value.starts_with("./")
                    || value.starts_with("../")
                {
                    absolute(&value)?
                } else {
                    value
                }
            }
            "target" | "dst" | "destination" => target = value,
            "readonly" | "ro" => read_only = boolean()?,
            "consistency" => consistency = value.to_lowercase(),
            "bind-propagation" => {
                bind.insert("Propagation".to_owned(), Json::String(value.to_lowercase()));
            }
            "bind-nonrecursive" => {
                bind.insert("NonRecursive".to_owned(), Json::Bool(boolean()?));
            }
            "bind-create-src" => {
                bind.insert("CreateMountpoint".to_owned(), Json::Bool(boolean()?));
            }
            "bind-recursive" => match value.as_str() {
                "enabled" => {}
                "disabled" => {
                    bind.insert("NonRecursive".to_owned(), Json::Bool(true));
                }
                "writable" => {
                    bind.insert("ReadOnlyNonRecursive".to_owned(), Json::Bool(true));
                }
                "readonly" => {
                    bind.insert("ReadOnlyForceRecursive".to_owned(), Json::Bool(true));
                }
                _ => {
                    return Err(format!(
                        "invalid value for {key}: {value} (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")"
                    ));
                }
            },
            "volume-subpath" => {
                volume.insert("Subpath".to_owned(), Json::String(value));
            }
            "volume-nocopy" => {
                volume.insert("NoCopy".to_owned(), Json::Bool(boolean()?));
            }
            "volume-label" => {
                insert_pair(&mut labels, &value);
            }
            "volume-driver" => driver = value,
            "volume-opt" => {
                insert_pair(&mut options, &value);
            }
            "image-subpath" => {
                image.insert("Subpath".to_owned(), Json::String(value));
            }
            "tmpfs-size" => {
                let bytes = kekkai_types::size::parse_ram(&value)
                    .map_err(|_| format!("invalid value for {key}: {value}"))?;
                tmpfs.insert("SizeBytes".to_owned(), Json::from(bytes));
            }
            "tmpfs-mode" => {
                let mode = u32::from_str_radix(&value, 8)
                    .map_err(|_| format!("invalid value for {key}: {value}"))?;
                tmpfs.insert("Mode".to_owned(), Json::from(mode));
            }
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    if target.is_empty() {
        return Err(String::from("target is required"));
    }
    if !driver.is_empty() || !options.is_empty() {
        volume.insert(
            "DriverConfig".to_owned(),
            json!({"Name": driver, "Options": options}),
        );
    }
    if !labels.is_empty() {
        volume.insert("Labels".to_owned(), Json::Object(labels));
    }
    let mut mount = Map::new();
    mount.insert("Type".to_owned(), Json::String(kind.clone()));
    let mut put = |key: &str, value: Json| mount.insert(key.to_owned(), value);
    if !source.is_empty() {
        put("Source", Json::String(source));
    }
    put("Target", Json::String(target));
    if read_only {
        put("ReadOnly", Json::Bool(true));
    }
    if !consistency.is_empty() {
        put("Consistency", Json::String(consistency));
    }
    for (group, own, key, fields) in [
        ("volume-*", "volume", "VolumeOptions", volume),
        ("bind-*", "bind", "BindOptions", bind),
        ("image-*", "image", "ImageOptions", image),
        ("tmpfs-*", "tmpfs", "TmpfsOptions", tmpfs),
    ] {
        if fields.is_empty() {
            continue;
        }
        if kind != own {
            return Err(format!(
                "cannot mix '{group}' options with mount type '{kind}'"
            ));
        }
        put(key, Json::Object(fields));
    }
    Ok(Json::Object(mount))
}

fn insert_pair(map: &mut Map<String, Json>, pair: &str) {
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    map.insert(key.to_owned(), Json::String(value.to_owned()));
}

fn absolute(path: &str) -> Result<String, String> {
    let absolute = std::path::absolute(path).map_err(|error| error.to_string())?;
    // `..` is resolved by name, as filepath.Abs does.
    let mut clean = std::path::PathBuf::new();
    for part in absolute.components() {
        match part {
            std::path::Component::ParentDir => {
                clean.pop();
            }
            std::path::Component::CurDir => {}
            part => clean.push(part),
        }
    }
    Ok(clean.to_string_lossy().into_owned())
}

/// What one `-v` asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Volume {
    /// A source and a destination, in the API's own form.
    Bind(String),
    /// A volume without a name at this path.
    Anonymous(String),
}

/// Reads `[SOURCE:]DESTINATION[:OPTIONS]`; the options are the daemon's to check.
pub(crate) fn volume(text: &str) -> Result<Volume, String> {
    if text.is_empty() {
        return Err(String::from("invalid empty volume spec"));
    }
    let parts: Vec<&str> = text.split(':').collect();
    match parts.as_slice() {
        [path] => Ok(Volume::Anonymous((*path).to_owned())),
        [source, rest @ ..] if rest.len() <= 2 => {
            if source.is_empty() && text != ":" {
                return Err(format!(
                    "invalid spec: {text}: empty section between colons"
                ));
            }
            if source.starts_with('.') {
                return Ok(Volume::Bind(format!(
                    "{}:{}",
                    absolute(source)?,
                    rest.join(":")
                )));
            }
            Ok(Volume::Bind(text.to_owned()))
        }
        _ => Err(format!("invalid spec: {text}: too many colons")),
    }
}

/// `PATH[:OPTIONS]` of `--tmpfs`.
pub(crate) fn tmpfs(text: &str) -> (String, Json) {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    (path.to_owned(), Json::String(options.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts() {
        assert_eq!(
            mount("type=bind,src=/a,dst=/b,ro,bind-propagation=rslave").unwrap(),
            json!({"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": true, "BindOptions": {"Propagation": "rslave"}})
        );
        assert_eq!(
            mount("target=/x").unwrap(),
            json!({"Type": "volume", "Target": "/x"})
        );
        assert_eq!(
            mount("type=tmpfs,target=/x,tmpfs-size=1m,tmpfs-mode=1777").unwrap(),
            json!({"Type": "tmpfs", "Target": "/x", "TmpfsOptions": {"SizeBytes": 1_048_576, "Mode": 0o1777}})
        );
        assert_eq!(
            mount("foo").unwrap_err(),
            "invalid field 'foo' must be a key=value pair"
        );
        assert_eq!(
            mount("type=bind,foo=1,target=/x").unwrap_err(),
            "unexpected key 'foo' in 'foo=1'"
        );
        assert_eq!(mount("type=bind,src=/x").unwrap_err(), "target is required");
        assert_eq!(
            mount("type=volume,tmpfs-size=1,dst=/x").unwrap_err(),
            "cannot mix 'tmpfs-*' options with mount type 'volume'"
        );
        assert_eq!(
            mount("type=bind,readonly=x,dst=/y").unwrap_err(),
            "invalid value for readonly: x"
        );
        assert_eq!(csv("a,\"b,\"\"c\",d").unwrap(), ["a", "b,\"c", "d"]);
    }

    #[test]
    fn volumes() {
        assert_eq!(volume("/x").unwrap(), Volume::Anonymous("/x".into()));
        assert_eq!(volume("/a:/b:ro").unwrap(), Volume::Bind("/a:/b:ro".into()));
        assert_eq!(
            volume("/a:/b:/c:/d").unwrap_err(),
            "invalid spec: /a:/b:/c:/d: too many colons"
        );
        let here = std::env::current_dir().unwrap();
        assert_eq!(
            volume("./a:/b").unwrap(),
            Volume::Bind(format!("{}/a:/b", here.display()))
        );
    }
}
