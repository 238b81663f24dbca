//! Limits: CPUs, block I/O, devices, ulimits.

use kekkai_types::size;
use serde_json::{Value as Json, json};

/// Names that `--ulimit` knows.
const ULIMITS: &[&str] = &[
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// Billionths of a CPU of a decimal number.
pub(crate) fn nano_cpus(text: &str) -> Result<i64, String> {
    let bad = || format!("failed to parse {text} as a rational number");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return Err(bad());
    }
    let significant = fraction.trim_end_matches('0');
    if significant.len() > 9 {
        return Err(String::from("value is too precise"));
    }
    let whole: i64 = if whole.is_empty() {
        0
    } else {
        whole.parse().map_err(|_| bad())?
    };
    let nanos: i64 = format!("{significant:0<9}").parse().map_err(|_| bad())?;
    // A number of CPUs nobody has; the daemon says so.
    Ok(whole.saturating_mul(1_000_000_000).saturating_add(nanos))
}

fn device_and_value(text: &str) -> Result<(&str, &str), String> {
    let (path, value) = text
        .split_once(':')
        .ok_or_else(|| format!("bad format: {text}"))?;
    if !path.starts_with("/dev/") {
        return Err(format!("bad format for device path: {text}"));
    }
    Ok((path, value))
}

pub(crate) fn check_weight_device(text: &str) -> Result<(), String> {
    weight_device(text).map(|_| ())
}

pub(crate) fn weight_device(text: &str) -> Result<Json, String> {
    let (path, value) = device_and_value(text)?;
    let weight: u16 = value
        .parse()
        .map_err(|_| format!("invalid weight for device: {text}"))?;
    if weight > 0 && !(10..=1000).contains(&weight) {
        return Err(format!("invalid weight for device: {text}"));
    }
    Ok(json!({"Path": path, "Weight": weight}))
}

pub(crate) fn check_rate_bytes(text: &str) -> Result<(), String> {
    rate_bytes(text).map(|_| ())
}

pub(crate) fn rate_bytes(text: &str) -> Result<Json, String> {
    let (path, value) = device_and_value(text)?;
    let rate = size::parse_ram(value).map_err(|_| {
        format!(
            "invalid rate for device: {text}. The correct format is <device-path>:<number>[<unit>]. Number must be a positive integer. Unit is optional and can be kb, mb, or gb"
        )
    })?;
    Ok(json!({"Path": path, "Rate": rate}))
}

pub(crate) fn check_rate_count(text: &str) -> Result<(), String> {
    rate_count(text).map(|_| ())
}

pub(crate) fn rate_count(text: &str) -> Result<Json, String> {
    let (path, value) = device_and_value(text)?;
    let rate: u64 = value.parse().map_err(|_| {
        format!(
            "invalid rate for device: {text}. The correct format is <device-path>:<number>. Number must be a positive integer"
        )
    })?;
    Ok(json!({"Path": path, "Rate": rate}))
}

pub(crate) fn check_ulimit(text: &str) -> Result<(), String> {
    ulimit(text).map(|_| ())
}

/// `name=soft[:hard]`.
pub(crate) fn ulimit(text: &str) -> Result<Json, String> {
    let (name, limits) = text
        .split_once('=')
        .ok_or_else(|| format!("invalid ulimit argument: {text}"))?;
    if !ULIMITS.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let number = |text: &str| {
        text.parse::<i64>()
            .map_err(|_| format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))
    };
    let mut parts = limits.splitn(3, ':');
    let soft = number(parts.next().unwrap_or(""))?;
    let hard = parts.next().map(number).transpose()?;
    if parts.next().is_some() {
        return Err(format!(
            "too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`"
        ));
    }
    let hard = hard.unwrap_or(soft);
    if hard != -1 {
        if soft == -1 {
            return Err(format!(
                "ulimit soft limit must be less than or equal to hard limit: soft: -1 (unlimited), hard: {hard}"
            ));
        }
        if soft > hard {
            return Err(format!(
                "ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
            ));
        }
    }
    Ok(json!({"Name": name, "Hard": hard, "Soft": soft}))
}

pub(crate) fn check_device_rule(text: &str) -> Result<(), String> {
    let bad = || format!("invalid device cgroup format '{text}'");
    let fields: Vec<&str> = text.split(' ').collect();
    let [kind, numbers, access] = fields.as_slice() else {
        return Err(bad());
    };
    let number = |text: &str| {
        text == "*" || (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let numbers_good = numbers
        .split_once(':')
        .is_some_and(|(major, minor)| number(major) && number(minor));
    let access_good =
        (1..=3).contains(&access.len()) && access.bytes().all(|byte| b"rwm".contains(&byte));
    if matches!(*kind, "a" | "b" | "c") && numbers_good && access_good {
        Ok(())
    } else {
        Err(bad())
    }
}

/// `/dev/x[:/dev/y][:rwm]`.
pub(crate) fn device(text: &str) -> Result<Json, String> {
    let is_mode = |mode: &str| {
        let mut seen = [false; 3];
        !mode.is_empty()
            && mode.bytes().all(
                |byte| match b"rwm".iter().position(|known| *known == byte) {
                    Some(at) if !seen[at] => {
                        seen[at] = true;
                        true
                    }
                    _ => false,
                },
            )
    };
    let parts: Vec<&str> = text.split(':').collect();
    let (source, destination, mode) = match parts.as_slice() {
        [source] => (*source, *source, "rwm"),
        [source, second] if is_mode(second) => (*source, *source, *second),
        [source, second] => (*source, *second, "rwm"),
        [source, second, mode] if is_mode(mode) => (*source, *second, *mode),
        [_, _, mode] => return Err(format!("bad mode specified: {mode}")),
        _ => return Err(format!("bad format for path: {text}")),
    };
    for path in [source, destination] {
        if !path.starts_with('/') {
            return Err(format!("{path} is not an absolute path"));
        }
    }
    Ok(json!({"PathOnHost": source, "PathInContainer": destination, "CgroupPermissions": mode}))
}

/// A device of the Container Device Interface: `vendor/class=name`.
pub(crate) fn is_cdi_device(text: &str) -> bool {
    !text.starts_with('/')
        && text
            .split_once('=')
            .is_some_and(|(kind, name)| kind.contains('/') && !name.is_empty())
}

/// `no`, `always`, `on-failure[:n]`, `unless-stopped`; unknown policies are the daemon's to refuse.
pub(crate) fn restart_policy(text: &str) -> Result<Json, String> {
    if text.is_empty() {
        return Ok(json!({"Name": "", "MaximumRetryCount": 0}));
    }
    let (name, count) = match text.split_once(':') {
        Some(("", _)) => {
            return Err(String::from(
                "invalid restart policy format: no policy provided before colon",
            ));
        }
        Some((name, count)) => (name, Some(count)),
        None => (text, None),
    };
    let count = match count {
        None => 0,
        Some(count) => count.parse::<i64>().map_err(|_| {
            String::from("invalid restart policy format: maximum retry count must be an integer")
        })?,
    };
    Ok(json!({"Name": name, "MaximumRetryCount": count}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus() {
        assert_eq!(nano_cpus("1.5"), Ok(1_500_000_000));
        assert_eq!(nano_cpus(".25"), Ok(250_000_000));
        assert_eq!(nano_cpus("2"), Ok(2_000_000_000));
        assert_eq!(
            nano_cpus("x").unwrap_err(),
            "failed to parse x as a rational number"
        );
        assert!(nano_cpus("0.0000000001").is_err());
    }

    #[test]
    fn ulimits() {
        assert_eq!(
            ulimit("nofile=1024:2048").unwrap(),
            json!({"Name": "nofile", "Hard": 2048, "Soft": 1024})
        );
        assert_eq!(
            ulimit("core=-1").unwrap(),
            json!({"Name": "core", "Hard": -1, "Soft": -1})
        );
        assert_eq!(
            ulimit("nofile=2:1").unwrap_err(),
            "ulimit soft limit must be less than or equal to hard limit: 2 > 1"
        );
        assert_eq!(ulimit("foo=1").unwrap_err(), "invalid ulimit type: foo");
        assert_eq!(
            ulimit("nofile=x").unwrap_err(),
            "strconv.ParseInt: parsing \"x\": invalid syntax"
        );
    }

    #[test]
    fn devices() {
        assert_eq!(
            device("/dev/null:/dev/x:rw").unwrap(),
            json!({"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "rw"})
        );
        assert_eq!(device("/dev/null:r").unwrap()["CgroupPermissions"], "r");
        assert_eq!(device("x").unwrap_err(), "x is not an absolute path");
        assert_eq!(
            device("/a:y:z:w").unwrap_err(),
            "bad format for path: /a:y:z:w"
        );
        assert_eq!(device("/a:/b:q").unwrap_err(), "bad mode specified: q");
        assert!(check_device_rule("c 1:3 rwm").is_ok() && check_device_rule("c 1:3").is_err());
        assert!(is_cdi_device("nvidia.com/gpu=all") && !is_cdi_device("/dev/x"));
    }

    #[test]
    fn restart() {
        assert_eq!(
            restart_policy("on-failure:3").unwrap(),
            json!({"Name": "on-failure", "MaximumRetryCount": 3})
        );
        assert!(restart_policy(":3").is_err() && restart_policy("on-failure:x").is_err());
    }
}
