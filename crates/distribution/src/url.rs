//! The few kinds of URL a registry client meets: a base, and where a redirect leads.

use http::Uri;

/// Scheme, host and port, and a path that is put before all others (of a mirror).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Base {
    pub(crate) https: bool,
    /// Without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// Whether the port was given, so that it is shown.
    explicit_port: bool,
    prefix: String,
}

impl Base {
    /// `http://…` or `https://…` without user, query and fragment.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        if uri.query().is_some() || text.contains('#') {
            return None;
        }
        let base = Self::of_uri(&uri)?;
        Some(Self {
            prefix: uri.path().trim_end_matches('/').to_owned(),
            ..base
        })
    }

    /// The base of an absolute URL.
    pub(crate) fn of_uri(uri: &Uri) -> Option<Self> {
        let https = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?;
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return None;
        }
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_ascii_lowercase();
        let port = authority.port_u16();
        Some(Self {
            https,
            host,
            port: port.unwrap_or(if https { 443 } else { 80 }),
            explicit_port: port.is_some(),
            prefix: String::new(),
        })
    }

    /// `host[:port]` under a scheme.
    pub(crate) fn of_host(scheme: &str, host: &str) -> Option<Self> {
        if host.contains('/') {
            return None;
        }
        Self::parse(&format!("{scheme}://{host}"))
    }

    /// `host[:port]`, as the `Host` header has it.
    pub(crate) fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        if self.explicit_port {
            format!("{host}:{}", self.port)
        } else {
            host
        }
    }

    /// The absolute URL of a path that begins with a slash.
    pub(crate) fn url(&self, path: &str) -> String {
        format!(
            "{}://{}{}{path}",
            if self.https { "https" } else { "http" },
            self.authority(),
            self.prefix
        )
    }

    /// Whether requests to both reach the same server, so that credentials may go along.
    pub(crate) fn same_server(&self, other: &Self) -> bool {
        (self.https, &self.host, self.port) == (other.https, &other.host, other.port)
    }
}

/// What `location` means in an answer from `from`.
pub(crate) fn join(from: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next().unwrap_or(location);
    if location.starts_with("http://") || location.starts_with("https://") {
        return location.parse().ok();
    }
    let (scheme, authority) = (from.scheme_str()?, from.authority()?);
    if let Some(rest) = location.strip_prefix("//") {
        return format!("{scheme}://{rest}").parse().ok();
    }
    if location.starts_with('/') {
        return format!("{scheme}://{authority}{location}").parse().ok();
    }
    // Another scheme, which is none of ours.
    if location
        .split(['/', '?'])
        .next()
        .is_some_and(|first| first.contains(':'))
    {
        return None;
    }
    let directory = from
        .path()
        .rsplit_once('/')
        .map_or("", |(directory, _)| directory);
    format!("{scheme}://{authority}{directory}/{location}")
        .parse()
        .ok()
}

/// An URL for an error message: query strings carry signatures and tokens.
pub(crate) fn for_people(uri: &Uri) -> String {
    let text = uri.to_string();
    match text.split_once('?') {
        Some((before, _)) => format!("{before}?REDACTED"),
        None => text,
    }
}

/// Percent-encodes a value of a query or of a form.
pub(crate) fn encode(value: &str) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            text.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases() {
        let base = Base::parse("https://mirror.example/docker/").unwrap();
        assert_eq!(base.url("/v2/"), "https://mirror.example/docker/v2/");
        assert_eq!(
            Base::of_host("http", "[::1]:5000").unwrap().url("/v2/"),
            "http://[::1]:5000/v2/"
        );
        for bad in [
            "ftp://x",
            "https://",
            "http://u@x",
            "http://x?q",
            "x",
            "http://x#f",
        ] {
            assert!(Base::parse(bad).is_none(), "{bad}");
        }
        let one = Base::parse("https://x").unwrap();
        assert!(one.same_server(&Base::parse("https://X:443/a").unwrap()));
        assert!(!one.same_server(&Base::parse("http://x:443").unwrap()));
    }

    #[test]
    fn locations() {
        let from: Uri = "https://a:1/v2/x/blobs/y?z".parse().unwrap();
        let to = |location| join(&from, location).map(|uri| uri.to_string());
        assert_eq!(to("https://b/c?d#e").unwrap(), "https://b/c?d");
        assert_eq!(to("/c").unwrap(), "https://a:1/c");
        assert_eq!(to("//b/c").unwrap(), "https://b/c");
        assert_eq!(to("c?d").unwrap(), "https://a:1/v2/x/blobs/c?d");
        assert_eq!(to("file:///etc/passwd"), None);
        assert_eq!(to("gopher://b/"), None);
    }
}
