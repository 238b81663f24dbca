//! What the daemon's configuration says about registries, and what follows for one of them.

use std::net::IpAddr;

use crate::DistributionError;
use crate::url::Base;

/// Settings of the registry client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryConfig {
    /// `--registry-mirror`: base URLs tried in order before Docker Hub, for `docker.io` only.
    pub mirrors: Vec<String>,
    /// `--insecure-registry`: `host[:port]` or a CIDR. Certificates are not checked and HTTP is tried.
    pub insecure: Vec<String>,
    /// `User-Agent`; empty for the default one.
    pub user_agent: String,
}

/// Docker Hub's domain in references, and the host that serves it.
pub(crate) const HUB: &str = "docker.io";
const HUB_HOST: &str = "registry-1.docker.io";

/// One place to ask, in the order of trying.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) base: Base,
    /// Whether certificates are not checked.
    pub(crate) insecure: bool,
    /// Whether it is a mirror: whatever fails there, the next one is asked.
    pub(crate) mirror: bool,
}

impl RegistryConfig {
    /// Checks every value, as the daemon should at its start.
    ///
    /// # Errors
    /// [`DistributionError::Config`] names the value.
    pub fn validate(&self) -> Result<(), DistributionError> {
        for mirror in &self.mirrors {
            parse_mirror(mirror)?;
        }
        for entry in &self.insecure {
            let host = entry.as_str();
            let fine = if host.contains('/') {
                parse_cidr(host).is_some()
            } else {
                Base::of_host("http", host).is_some()
            };
            if !fine {
                return Err(DistributionError::Config {
                    what: "insecure registry",
                    value: entry.clone(),
                    why: "neither host[:port] nor a CIDR".to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Whether plain HTTP and unknown certificates are accepted from `host[:port]`.
    #[must_use]
    pub fn is_insecure(&self, domain: &str) -> bool {
        let address = literal(domain);
        if address.is_some_and(|address| address.is_loopback()) || host_of(domain) == "localhost" {
            return true;
        }
        self.insecure
            .iter()
            .any(|entry| match (parse_cidr(entry), address) {
                (Some(network), Some(address)) => contains(network, address),
                (Some(_), None) => false,
                (None, _) => entry == domain || entry == host_of(domain),
            })
    }

    /// Where images of `domain` are, in the order of asking.
    pub(crate) fn endpoints(&self, domain: &str) -> Result<Vec<Endpoint>, DistributionError> {
        let mut endpoints = Vec::new();
        let mut host = domain;
        if domain == HUB {
            for mirror in &self.mirrors {
                let base = parse_mirror(mirror)?;
                let insecure = self.is_insecure(&base.authority());
                endpoints.push(Endpoint {
                    base,
                    insecure,
                    mirror: true,
                });
            }
            host = HUB_HOST;
        }
        let bad = || DistributionError::Config {
            what: "registry",
            value: domain.to_owned(),
            why: "no host name".to_owned(),
        };
        let insecure = self.is_insecure(domain);
        endpoints.push(Endpoint {
            base: Base::of_host("https", host).ok_or_else(bad)?,
            insecure,
            mirror: false,
        });
        if insecure {
            endpoints.push(Endpoint {
                base: Base::of_host("http", host).ok_or_else(bad)?,
                insecure,
                mirror: false,
            });
        }
        Ok(endpoints)
    }
}

fn parse_mirror(text: &str) -> Result<Base, DistributionError> {
    Base::parse(text).ok_or_else(|| DistributionError::Config {
        what: "registry mirror",
        value: text.to_owned(),
        why: "not an http:// or https:// URL without user, query and fragment".to_owned(),
    })
}

fn host_of(domain: &str) -> &str {
    match domain.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => domain.split(':').next().unwrap_or(domain),
    }
}

fn literal(domain: &str) -> Option<IpAddr> {
    host_of(domain).parse().ok()
}

fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let (address, length): (IpAddr, u8) = (address.parse().ok()?, length.parse().ok()?);
    (length <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, length))
}

fn contains((network, length): (IpAddr, u8), address: IpAddr) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, true),
        IpAddr::V6(v6) => (v6.to_bits(), false),
    };
    let ((network, four), (address, also)) = (bits(network), bits(address));
    four == also && (length == 0 || (network ^ address) >> (128 - u32::from(length)) == 0)
}

/// Whether an address is one that only the host or its own networks reach.
pub(crate) fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let octets = v4.octets();
            v4.is_loopback()
                || v4.is_private()
                || v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_broadcast()
                || v4.is_multicast()
                // Carrier-grade NAT (RFC 6598).
                || (octets[0] == 100 && octets[1] & 0xc0 == 64)
        }
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || v6.is_unique_local()
                || v6.is_unicast_link_local()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_insecure() {
        let config = RegistryConfig {
            insecure: vec![
                "reg.example:5000".into(),
                "10.0.0.0/8".into(),
                "plain.example".into(),
            ],
            ..RegistryConfig::default()
        };
        for yes in [
            "localhost",
            "localhost:5000",
            "127.3.4.5:1",
            "[::1]:5000",
            "reg.example:5000",
            "10.1.2.3",
            "plain.example:99",
        ] {
            assert!(config.is_insecure(yes), "{yes}");
        }
        for no in [
            "docker.io",
            "reg.example",
            "11.0.0.1:5000",
            "ghcr.io",
            "localhost.evil.com",
        ] {
            assert!(!config.is_insecure(no), "{no}");
        }
        config.validate().unwrap();
        let bad = |insecure: &str, mirror: &str| RegistryConfig {
            insecure: vec![insecure.into()],
            mirrors: vec![mirror.into()],
            user_agent: String::new(),
        };
        assert!(bad("10.0.0.0/33", "http://x").validate().is_err());
        assert!(bad("ok", "mirror.example").validate().is_err());
        assert!(bad("ok", "http://u:p@mirror.example").validate().is_err());
    }

    #[test]
    fn order_of_endpoints() {
        let config = RegistryConfig {
            mirrors: vec!["http://127.0.0.1:5000/".into()],
            ..RegistryConfig::default()
        };
        let urls = |domain: &str| -> Vec<String> {
            config
                .endpoints(domain)
                .unwrap()
                .iter()
                .map(|e| e.base.url("/v2/"))
                .collect()
        };
        assert_eq!(
            urls("docker.io"),
            [
                "http://127.0.0.1:5000/v2/",
                "https://registry-1.docker.io/v2/"
            ]
        );
        assert_eq!(urls("ghcr.io"), ["https://ghcr.io/v2/"]);
        assert_eq!(
            urls("localhost:5000"),
            ["https://localhost:5000/v2/", "http://localhost:5000/v2/"]
        );
    }

    #[test]
    fn private_addresses() {
        for yes in [
            "127.0.0.1",
            "10.0.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "::1",
            "fd00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
            "0.0.0.0",
        ] {
            assert!(is_private(yes.parse().unwrap()), "{yes}");
        }
        for no in ["1.1.1.1", "100.128.0.1", "2606:4700::1111"] {
            assert!(!is_private(no.parse().unwrap()), "{no}");
        }
    }
}
