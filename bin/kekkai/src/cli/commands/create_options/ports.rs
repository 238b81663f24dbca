//! `--publish` and `--expose`.

use std::net::IpAddr;

use serde_json::{Map, Value as Json, json};

/// A range of ports, both ends included.
fn range(text: &str) -> Option<(u16, u16)> {
    match text.split_once('-') {
        None => text.parse().ok().map(|port| (port, port)),
        Some((from, to)) => {
            let (from, to) = (from.parse().ok()?, to.parse().ok()?);
            (from <= to).then_some((from, to))
        }
    }
}

/// `target=80,published=8080,protocol=tcp` in the short form.
fn short_form(text: &str) -> Result<String, String> {
    if !text.contains('=') {
        return Ok(text.to_owned());
    }
    let (mut target, mut published, mut protocol) = ("", "", "tcp");
    for field in text.split(',') {
        let (key, value) = field.split_once('=').ok_or_else(|| {
            format!("invalid publish opts format (should be name=value but got '{field}')")
        })?;
        match key {
            "target" => target = value,
            "published" => published = value,
            "protocol" => protocol = value,
            _ => {}
        }
    }
    Ok(format!("{published}:{target}/{protocol}"))
}

/// Reads one `--publish` and adds its ports to what is exposed and what is bound.
pub(crate) fn publish(
    text: &str,
    exposed: &mut Map<String, Json>,
    bindings: &mut Map<String, Json>,
) -> Result<(), String> {
    let text = &short_form(text)?;
    let parts: Vec<&str> = text.split(':').collect();
    let (ip, host, container) = match parts.as_slice() {
        [container] => (String::new(), "", *container),
        [host, container] => (String::new(), *host, *container),
        [ip @ .., host, container] => (ip.join(":"), *host, *container),
        [] => (String::new(), "", ""),
    };
    let (container, protocol) = container.split_once('/').unwrap_or((container, "tcp"));
    let bare_ip = ip
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(&ip);
    if !bare_ip.is_empty() && bare_ip.parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address: {ip}"));
    }
    if container.is_empty() {
        return Err(format!("no port specified: {text}<empty>"));
    }
    let (first, last) =
        range(container).ok_or_else(|| format!("invalid containerPort: {container}"))?;
    let host_range = match host {
        "" => None,
        host => Some(range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?),
    };
    if let Some((host_first, host_last)) = host_range
        && last - first != host_last - host_first
        && last != first
    {
        return Err(format!(
            "invalid ranges specified for container and host Ports: {container} and {host}"
        ));
    }
    let protocol = protocol.to_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(format!("invalid proto: {protocol}"));
    }
    for port in first..=last {
        let host_port = match host_range {
            None => String::new(),
            Some((from, to)) if first == last && from != to => format!("{from}-{to}"),
            Some((from, _)) => (u32::from(from) + u32::from(port - first)).to_string(),
        };
        let key = format!("{port}/{protocol}");
        exposed.insert(key.clone(), json!({}));
        let binding = json!({"HostIp": bare_ip, "HostPort": host_port});
        let list = bindings
            .entry(key)
            .or_insert_with(|| Json::Array(Vec::new()));
        if let Json::Array(list) = list {
            list.push(binding);
        }
    }
    Ok(())
}

/// Reads one `--expose`.
pub(crate) fn expose(text: &str, exposed: &mut Map<String, Json>) -> Result<(), String> {
    if text.contains(':') {
        return Err(format!("invalid port format for --expose: {text}"));
    }
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    if ports.is_empty() {
        return Err(format!(
            "invalid range format for --expose: {text}, error: empty string specified for ports"
        ));
    }
    let (first, last) = range(ports).ok_or_else(|| {
        let part = ports.split('-').find(|part| part.parse::<u16>().is_err()).unwrap_or(ports);
        format!("invalid range format for --expose: {text}, error: strconv.ParseUint: parsing {part:?}: invalid syntax")
    })?;
    for port in first..=last {
        exposed
            .entry(format!("{port}/{}", protocol.to_lowercase()))
            .or_insert_with(|| json!({}));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(text: &str) -> Result<String, String> {
        let (mut exposed, mut bindings) = (Map::new(), Map::new());
        publish(text, &mut exposed, &mut bindings)?;
        assert_eq!(exposed.len(), bindings.len());
        serde_json::to_string(&bindings).map_err(|error| error.to_string())
    }

    #[test]
    fn forms() {
        for (text, expected) in [
            ("80", r#"{"80/tcp":[{"HostIp":"","HostPort":""}]}"#),
            ("8080:80", r#"{"80/tcp":[{"HostIp":"","HostPort":"8080"}]}"#),
            (
                "127.0.0.1:8080:80/udp",
                r#"{"80/udp":[{"HostIp":"127.0.0.1","HostPort":"8080"}]}"#,
            ),
            (
                "127.0.0.1::80",
                r#"{"80/tcp":[{"HostIp":"127.0.0.1","HostPort":""}]}"#,
            ),
            (
                "[::1]:1:2",
                r#"{"2/tcp":[{"HostIp":"::1","HostPort":"1"}]}"#,
            ),
            (
                "8000-8001:90-91",
                r#"{"90/tcp":[{"HostIp":"","HostPort":"8000"}],"91/tcp":[{"HostIp":"","HostPort":"8001"}]}"#,
            ),
            (
                "8000-8005:90",
                r#"{"90/tcp":[{"HostIp":"","HostPort":"8000-8005"}]}"#,
            ),
            (
                "published=1,target=2,protocol=udp",
                r#"{"2/udp":[{"HostIp":"","HostPort":"1"}]}"#,
            ),
        ] {
            assert_eq!(bind(text).as_deref(), Ok(expected), "{text}");
        }
        for (text, expected) in [
            ("x", "invalid containerPort: x"),
            ("99999:1", "invalid hostPort: 99999"),
            ("1:2:3:4", "invalid IP address: 1:2"),
            ("80/foo", "invalid proto: foo"),
            (
                "1-3:1-2",
                "invalid ranges specified for container and host Ports: 1-2 and 1-3",
            ),
            ("5-3", "invalid containerPort: 5-3"),
            ("1:", "no port specified: 1:<empty>"),
            ("", "no port specified: <empty>"),
        ] {
            assert_eq!(bind(text), Err(expected.to_owned()), "{text}");
        }
    }
}
