//! The text of a container's `resolv.conf` and `hosts`. Pure, except for [`HostResolver::read`].

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

/// What Docker falls back to when no resolver of the host can be used from inside a container.
const FALLBACK: [&str; 2] = ["8.8.8.8", "8.8.4.4"];
/// Where systemd-resolved keeps the real resolvers, when the host's own file names only its stub on 127.0.0.53.
const UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";
/// More than any resolver reads; a file larger than this is cut.
const MAX_FILE: u64 = 64 * 1024;

/// The host's resolver configuration, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostResolver {
    /// `/etc/resolv.conf`.
    pub host: String,
    /// The upstreams of a local stub, when there is one.
    pub upstream: Option<String>,
}

impl HostResolver {
    /// Reads the host's files. A missing one is an empty one, as for every resolver.
    #[must_use]
    pub fn read() -> HostResolver {
        HostResolver {
            host: read(Path::new("/etc/resolv.conf")).unwrap_or_default(),
            upstream: read(Path::new(UPSTREAM)),
        }
    }
}

fn read(path: &Path) -> Option<String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .ok()?
        .take(MAX_FILE)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// A container's `--dns`, `--dns-search`, `--dns-option`, or the daemon's defaults of these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsOptions {
    /// Resolvers; none takes the host's.
    pub nameservers: Vec<IpAddr>,
    /// Search domains; none takes the host's, a single `.` means none.
    pub search: Vec<String>,
    /// Options; none takes the host's.
    pub options: Vec<String>,
}

/// Whether the container has the host's network, so that a resolver on the host's loopback can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolverReach {
    /// A network of its own (bridge, none).
    Own,
    /// The host's.
    Host,
}

#[derive(Default)]
struct Parsed {
    nameservers: Vec<String>,
    search: Vec<String>,
    options: Vec<String>,
}

fn parse(text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => parsed.nameservers.extend(words.next().map(str::to_owned)),
            // The last one counts, as in resolv.conf(5).
            Some("search" | "domain") => parsed.search = words.map(str::to_owned).collect(),
            Some("options") => parsed.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    parsed
}

fn is_loopback(nameserver: &str) -> bool {
    let bare = nameserver.split('%').next().unwrap_or_default();
    bare.parse::<IpAddr>()
        .is_ok_and(|address| address.is_loopback())
}

/// The resolvers a container can reach. IPv6 ones are left out on a network without IPv6, as Docker does.
fn reachable(nameservers: &[String]) -> Vec<String> {
    nameservers
        .iter()
        .filter(|n| !is_loopback(n) && !n.contains(':'))
        .cloned()
        .collect()
}

/// The container's `resolv.conf`: what was asked for, else what the host has, without resolvers on the host's loopback.
#[must_use]
pub fn resolv_conf(resolver: &HostResolver, reach: ResolverReach, wanted: &DnsOptions) -> String {
    let host = parse(&resolver.host);
    let nameservers = if !wanted.nameservers.is_empty() {
        wanted.nameservers.iter().map(ToString::to_string).collect()
    } else if reach == ResolverReach::Host {
        host.nameservers.clone()
    } else {
        let mut found = reachable(&host.nameservers);
        if found.is_empty()
            && let Some(upstream) = &resolver.upstream
        {
            found = reachable(&parse(upstream).nameservers);
        }
        if found.is_empty() {
            found = FALLBACK.map(str::to_owned).to_vec();
        }
        found
    };
    let search = if wanted.search.is_empty() {
        &host.search
    } else {
        &wanted.search
    };
    let options = if wanted.options.is_empty() {
        &host.options
    } else {
        &wanted.options
    };

    let mut text = String::new();
    for nameserver in &nameservers {
        text.push_str(&format!("nameserver {nameserver}\n"));
    }
    if !search.is_empty() && search.iter().any(|domain| domain != ".") {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}

/// What goes into a container's `hosts`.
#[derive(Clone, Debug, Default)]
pub struct HostsFile<'a> {
    /// The container's host name.
    pub hostname: &'a str,
    /// Its domain name; empty for none.
    pub domainname: &'a str,
    /// Its address; `None` without a network.
    pub address: Option<Ipv4Addr>,
    /// `--add-host` as `name:address`; the address may be `host-gateway`.
    pub extra: &'a [String],
    /// What `host-gateway` stands for: the bridge's address.
    pub host_gateway: Option<IpAddr>,
}

/// Why an `--add-host` is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExtraHostError {
    /// It is not `name:address`.
    #[error("bad format for add-host: {0:?}")]
    Format(String),
    /// Its address is none.
    #[error("invalid IP address in add-host: {0:?}")]
    Address(String),
    /// `host-gateway` without a bridge.
    #[error("unable to derive the IP value for host-gateway")]
    HostGateway,
}

/// The container's `hosts`: Docker's first lines, `--add-host`, and the container itself.
pub fn hosts_file(wanted: &HostsFile<'_>) -> Result<String, ExtraHostError> {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    for entry in wanted.extra {
        let (name, address) = extra_host(entry, wanted.host_gateway)?;
        text.push_str(&format!("{address}\t{name}\n"));
    }
    if let Some(address) = wanted.address
        && !wanted.hostname.is_empty()
    {
        if wanted.domainname.is_empty() {
            text.push_str(&format!("{address}\t{}\n", wanted.hostname));
        } else {
            text.push_str(&format!(
                "{address}\t{0}.{1} {0}\n",
                wanted.hostname, wanted.domainname
            ));
        }
    }
    Ok(text)
}

/// Parses one `--add-host` (`name:address` or `name=address`).
pub fn extra_host(
    entry: &str,
    host_gateway: Option<IpAddr>,
) -> Result<(&str, IpAddr), ExtraHostError> {
    let (name, address) = entry
        .split_once([':', '='])
        .ok_or_else(|| ExtraHostError::Format(entry.to_owned()))?;
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(ExtraHostError::Format(entry.to_owned()));
    }
    if address == "host-gateway" {
        return host_gateway
            .map(|gateway| (name, gateway))
            .ok_or(ExtraHostError::HostGateway);
    }
    let bare = address
        .strip_prefix('[')
        .and_then(|a| a.strip_suffix(']'))
        .unwrap_or(address);
    match bare.parse() {
        Ok(address) => Ok((name, address)),
        Err(_) => Err(ExtraHostError::Address(address.to_owned())),
    }
}

/// The host's `hosts` with `--add-host` appended, for `--network host`.
pub fn hosts_file_of_host(
    host: &str,
    extra: &[String],
    host_gateway: Option<IpAddr>,
) -> Result<String, ExtraHostError> {
    let mut text = host.to_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    for entry in extra {
        let (name, address) = extra_host(entry, host_gateway)?;
        text.push_str(&format!("{address}\t{name}\n"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolver(host: &str, upstream: Option<&str>) -> HostResolver {
        HostResolver {
            host: host.into(),
            upstream: upstream.map(Into::into),
        }
    }

    #[test]
    fn resolv_conf_takes_the_hosts() {
        let host = resolver(
            "# x\nnameserver 10.0.0.1 ; y\nnameserver fe80::1%eth0\ndomain a\nsearch b c\noptions ndots:2 rotate\n",
            None,
        );
        let text = resolv_conf(&host, ResolverReach::Own, &DnsOptions::default());
        assert_eq!(
            text,
            "nameserver 10.0.0.1\nsearch b c\noptions ndots:2 rotate\n"
        );
    }

    #[test]
    fn loopback_resolvers_are_replaced_by_their_upstreams() {
        let host = resolver(
            "nameserver 127.0.0.53\nsearch lan\n",
            Some("nameserver 192.168.1.1\nnameserver 2001:db8::1\n"),
        );
        assert_eq!(
            resolv_conf(&host, ResolverReach::Own, &DnsOptions::default()),
            "nameserver 192.168.1.1\nsearch lan\n"
        );
        assert_eq!(
            resolv_conf(&host, ResolverReach::Host, &DnsOptions::default()),
            "nameserver 127.0.0.53\nsearch lan\n"
        );
        let host = resolver("nameserver ::1\nnameserver 127.0.0.1\n", None);
        assert_eq!(
            resolv_conf(&host, ResolverReach::Own, &DnsOptions::default()),
            "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"
        );
    }

    #[test]
    fn what_is_asked_for_wins() {
        let host = resolver("nameserver 10.0.0.1\nsearch lan\noptions ndots:5\n", None);
        let wanted = DnsOptions {
            nameservers: vec!["1.1.1.1".parse().unwrap(), "127.0.0.1".parse().unwrap()],
            search: vec![".".into()],
            options: vec!["timeout:1".into()],
        };
        assert_eq!(
            resolv_conf(&host, ResolverReach::Own, &wanted),
            "nameserver 1.1.1.1\nnameserver 127.0.0.1\noptions timeout:1\n"
        );
    }

    #[test]
    fn hosts() {
        let extra = [
            "foo:1.2.3.4".to_owned(),
            "hg:host-gateway".to_owned(),
            "six=[2001:db8::1]".to_owned(),
        ];
        let wanted = HostsFile {
            hostname: "web",
            domainname: "example.com",
            address: Some(Ipv4Addr::new(172, 17, 0, 2)),
            extra: &extra,
            host_gateway: Some("172.17.0.1".parse().unwrap()),
        };
        let text = hosts_file(&wanted).unwrap();
        assert!(
            text.starts_with("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
        );
        assert!(text.ends_with("ff02::2\tip6-allrouters\n1.2.3.4\tfoo\n172.17.0.1\thg\n2001:db8::1\tsix\n172.17.0.2\tweb.example.com web\n"));
        for (bad, gateway) in [
            ("foo", None),
            ("foo:bar", None),
            (":1.2.3.4", None),
            ("a b:1.2.3.4", None),
            ("x:host-gateway", None),
        ] {
            assert!(extra_host(bad, gateway).is_err(), "{bad}");
        }
        assert_eq!(
            hosts_file_of_host("127.0.0.1 localhost", &extra[..1], None).unwrap(),
            "127.0.0.1 localhost\n1.2.3.4\tfoo\n"
        );
    }
}
