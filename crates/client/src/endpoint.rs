//! Where the daemon is: `unix://`, `tcp://`, `tcp://` with TLS; `ssh://` is refused by name.

use std::path::PathBuf;

use crate::{ClientError, ConfigFile, ContextStore, TlsFiles};

/// The socket of a daemon started without further flags.
pub const DEFAULT_SOCKET: &str = "/run/kekkai/kekkai.sock";

/// Who chose the endpoint. Only a daemon at the default endpoint may be started by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointSource {
    /// Nobody: the built-in default.
    Default,
    /// A flag, the environment or a context.
    Chosen,
}

/// How bytes reach the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// A unix socket.
    Unix(PathBuf),
    /// TCP, with TLS when files are given. The path prefix is empty or starts with a slash.
    Tcp {
        /// Host name or address, without brackets.
        host: String,
        /// Port.
        port: u16,
        /// Path before the version prefix.
        base_path: String,
        /// TLS, if any.
        tls: Option<TlsFiles>,
    },
}

/// A daemon's address, and who chose it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// How to reach it.
    pub transport: Transport,
    /// The address as it was written, for messages.
    pub url: String,
    /// Who chose it.
    pub source: EndpointSource,
}

impl Endpoint {
    /// The built-in default: our own socket.
    #[must_use]
    pub fn built_in() -> Self {
        Self {
            transport: Transport::Unix(PathBuf::from(DEFAULT_SOCKET)),
            url: format!("unix://{DEFAULT_SOCKET}"),
            source: EndpointSource::Default,
        }
    }

    /// Chooses as Docker does: `-H`, `--context`, `KEKKAI_HOST` or `DOCKER_HOST`, `DOCKER_CONTEXT`, the configuration's
    /// current context, the default. `environment` reads one variable; `config` is asked only when nothing earlier decides.
    ///
    /// # Errors
    /// `-H` together with `--context`, an address that cannot be read, a context that does not exist.
    pub fn choose(
        host: Option<&str>,
        context: Option<&str>,
        tls: Option<TlsFiles>,
        environment: impl Fn(&str) -> Option<String>,
        config: &ConfigFile,
    ) -> Result<Self, ClientError> {
        if host.is_some() && context.is_some() {
            return Err(ClientError::Configuration(String::from(
                "conflicting options: cannot specify both --host and --context",
            )));
        }
        let set = |name: &str| environment(name).filter(|value| !value.is_empty());
        if let Some(host) = host {
            return Self::parse(host, tls);
        }
        let mut chosen = context.map(str::to_owned);
        if chosen.is_none() {
            if let Some(host) = set("KEKKAI_HOST").or_else(|| set("DOCKER_HOST")) {
                return Self::parse(&host, tls);
            }
            chosen = set("DOCKER_CONTEXT").or_else(|| config.current_context());
        }
        match chosen {
            Some(name) if name != "default" => {
                let context = ContextStore::new(config.directory()).load(&name)?;
                Self::parse(&context.host, context.tls.or(tls))
            }
            _ => Ok(Self::built_in()),
        }
    }

    /// Reads an address as `-H` takes it.
    ///
    /// # Errors
    /// An unknown scheme, `ssh://`, a bad port.
    pub fn parse(text: &str, tls: Option<TlsFiles>) -> Result<Self, ClientError> {
        let text = text.trim();
        let bad = || ClientError::Configuration(format!("invalid bind address format: {text}"));
        let (scheme, rest) = match text.split_once("://") {
            Some(parts) => parts,
            None if text.starts_with('/') => ("unix", text),
            None => ("tcp", text),
        };
        let transport = match scheme {
            "unix" => Transport::Unix(PathBuf::from(if rest.is_empty() {
                DEFAULT_SOCKET
            } else {
                rest
            })),
            "tcp" | "http" | "https" => {
                let (authority, base_path) = match rest.find('/') {
                    Some(at) => (&rest[..at], rest[at..].trim_end_matches('/')),
                    None => (rest, ""),
                };
                let tls = match (scheme, tls) {
                    ("https", None) => Some(TlsFiles::default()),
                    (_, tls) => tls,
                };
                let default_port = if tls.is_some() { 2376 } else { 2375 };
                let (host, port) = split_host_port(authority, default_port).ok_or_else(bad)?;
                Transport::Tcp {
                    host,
                    port,
                    base_path: base_path.to_owned(),
                    tls,
                }
            }
            "ssh" => {
                return Err(ClientError::Configuration(format!(
                    "the host {text} needs the ssh:// transport, which kekkai does not have yet"
                )));
            }
            _ => return Err(bad()),
        };
        let url = if text.contains("://") {
            text.to_owned()
        } else {
            format!("{scheme}://{text}")
        };
        Ok(Self {
            transport,
            url,
            source: EndpointSource::Chosen,
        })
    }
}

/// Splits `host:port`, `[v6]:port`, `host`, `:port`.
fn split_host_port(text: &str, default_port: u16) -> Option<(String, u16)> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        match after.strip_prefix(':') {
            Some(port) => (host, port.parse().ok()?),
            None if after.is_empty() => (host, default_port),
            None => return None,
        }
    } else {
        match text.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok()?),
            None => (text, default_port),
        }
    };
    Some((
        if host.is_empty() {
            "127.0.0.1".to_owned()
        } else {
            host.to_owned()
        },
        port,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(text: &str) -> (String, u16, String) {
        match Endpoint::parse(text, None).unwrap().transport {
            Transport::Tcp {
                host,
                port,
                base_path,
                ..
            } => (host, port, base_path),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn addresses() {
        assert_eq!(
            Endpoint::parse("unix:///x.sock", None).unwrap().transport,
            Transport::Unix("/x.sock".into())
        );
        assert_eq!(
            tcp("tcp://10.0.0.1:99"),
            ("10.0.0.1".into(), 99, String::new())
        );
        assert_eq!(
            tcp("tcp://[::1]:99/base/"),
            ("::1".into(), 99, "/base".into())
        );
        assert_eq!(
            tcp("example.org"),
            ("example.org".into(), 2375, String::new())
        );
        assert!(
            Endpoint::parse("ssh://h", None)
                .unwrap_err()
                .to_string()
                .contains("ssh://")
        );
        assert!(Endpoint::parse("foo://h", None).is_err());
        assert!(Endpoint::parse("tcp://h:x", None).is_err());
    }

    #[test]
    fn choice_order() {
        let config = ConfigFile::empty("/nonexistent");
        let none = |_: &str| None;
        assert_eq!(
            Endpoint::choose(None, None, None, none, &config)
                .unwrap()
                .source,
            EndpointSource::Default
        );
        let both = |name: &str| (name == "DOCKER_HOST").then(|| "unix:///d".to_owned());
        assert_eq!(
            Endpoint::choose(None, None, None, both, &config)
                .unwrap()
                .url,
            "unix:///d"
        );
        let kekkai = |name: &str| {
            Some(
                if name == "KEKKAI_HOST" {
                    "unix:///k"
                } else {
                    "unix:///d"
                }
                .to_owned(),
            )
        };
        assert_eq!(
            Endpoint::choose(None, None, None, kekkai, &config)
                .unwrap()
                .url,
            "unix:///k"
        );
        assert_eq!(
            Endpoint::choose(Some("unix:///h"), None, None, kekkai, &config)
                .unwrap()
                .url,
            "unix:///h"
        );
        assert!(Endpoint::choose(Some("unix:///h"), Some("c"), None, none, &config).is_err());
        assert!(Endpoint::choose(None, Some("nosuch"), None, none, &config).is_err());
    }
}
