//! Names, addresses, networks.

use std::net::IpAddr;

use serde_json::{Map, Value as Json, json};

use super::mounts::csv;
use crate::cli::flags::Matches;

/// `host:ip` or `host=ip`, also with brackets around the address, or `host-gateway`.
pub(crate) fn add_host(text: &str) -> Result<String, String> {
    let pair = text.split_once('=').or_else(|| text.split_once(':'));
    let Some((host, address)) = pair.filter(|(host, _)| !host.is_empty()) else {
        return Err(format!("bad format for add-host: {text:?}"));
    };
    let bare = address
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(address);
    if bare != "host-gateway" && bare.parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address in add-host: {address:?}"));
    }
    Ok(format!("{host}:{bare}"))
}

pub(crate) fn check_add_host(text: &str) -> Result<(), String> {
    add_host(text).map(|_| ())
}

pub(crate) fn check_dns(text: &str) -> Result<(), String> {
    match text.trim().parse::<IpAddr>() {
        Ok(_) => Ok(()),
        Err(_) => Err(format!("IP address is not correctly formatted: {text}")),
    }
}

pub(crate) fn check_network(text: &str) -> Result<(), String> {
    endpoint(text).map(|_| ())
}

/// One `--network`: the network, and the settings of the endpoint.
#[derive(Debug, Default)]
pub(crate) struct Endpoint {
    target: String,
    aliases: Vec<String>,
    links: Vec<String>,
    driver_options: Map<String, Json>,
    ip: String,
    ip6: String,
    link_local: Vec<String>,
    mac: String,
    gateway_priority: i64,
}

fn endpoint(text: &str) -> Result<Endpoint, String> {
    let mut endpoint = Endpoint::default();
    if !text.contains('=') {
        text.clone_into(&mut endpoint.target);
        return Ok(endpoint);
    }
    for field in csv(text)? {
        let (key, value) = field
            .split_once('=')
            .ok_or_else(|| format!("invalid field {field}"))?;
        let value = value.trim();
        match key.trim().to_lowercase().as_str() {
            "name" => value.clone_into(&mut endpoint.target),
            "alias" => endpoint.aliases.push(value.to_lowercase()),
            "ip" => value.clone_into(&mut endpoint.ip),
            "ip6" => value.clone_into(&mut endpoint.ip6),
            "mac-address" => value.clone_into(&mut endpoint.mac),
            "link-local-ip" => endpoint.link_local.push(value.to_owned()),
            "driver-opt" => {
                let (name, option) = value.split_once('=').ok_or_else(|| {
                    String::from("invalid key value pair format in driver options")
                })?;
                endpoint.driver_options.insert(
                    name.trim().to_owned(),
                    Json::String(option.trim().to_owned()),
                );
            }
            "gw-priority" => {
                endpoint.gateway_priority = value
                    .parse()
                    .map_err(|_| format!("invalid gw-priority ({value:?}): invalid syntax"))?;
            }
            other => return Err(format!("invalid field key {other}")),
        }
    }
    if endpoint.target.is_empty() {
        return Err(String::from("network name/id is not specified"));
    }
    Ok(endpoint)
}

/// Whether a network mode names a network made by a user.
fn is_user_defined(mode: &str) -> bool {
    !matches!(mode, "" | "default" | "bridge" | "host" | "none") && !mode.starts_with("container:")
}

/// The network mode, and the endpoints by network.
pub(crate) fn networks(matches: &Matches) -> Result<(String, Map<String, Json>), String> {
    let mut given = matches.list("network");
    given.extend(matches.list("net"));
    let mut endpoints: Vec<Endpoint> = given
        .iter()
        .map(|text| endpoint(text))
        .collect::<Result<_, _>>()?;
    if endpoints.is_empty() {
        endpoints.push(Endpoint {
            target: String::from("default"),
            ..Endpoint::default()
        });
    }
    if endpoints.len() > 1
        && endpoints
            .iter()
            .any(|endpoint| !is_user_defined(&endpoint.target))
    {
        return Err(String::from(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes",
        ));
    }
    merge_flags(&mut endpoints[0], matches)?;
    let mode = endpoints[0].target.clone();
    let mut map = Map::new();
    for endpoint in endpoints {
        if map.contains_key(&endpoint.target) {
            return Err(format!(
                "network {:?} is specified multiple times",
                endpoint.target
            ));
        }
        let settings = endpoint.settings()?;
        map.insert(endpoint.target, settings);
    }
    // A mode that is not a network has no endpoint.
    if mode.starts_with("container:")
        || (map.len() == 1
            && map
                .values()
                .all(|settings| settings.as_object().is_some_and(Map::is_empty))
            && !is_user_defined(&mode))
    {
        map.clear();
    }
    Ok((mode, map))
}

/// Gives the first network what the old flags say.
fn merge_flags(endpoint: &mut Endpoint, matches: &Matches) -> Result<(), String> {
    let mut aliases = matches.list("network-alias");
    aliases.extend(matches.list("net-alias"));
    let conflict = |what: &str, flag: &str| {
        Err(format!(
            "conflicting options: cannot specify both --{flag} and per-network {what}"
        ))
    };
    if !aliases.is_empty() {
        if !endpoint.aliases.is_empty() {
            return conflict("alias", "network-alias");
        }
        endpoint.aliases = aliases.into_iter().map(str::to_owned).collect();
    }
    let links = matches.list("link");
    if !links.is_empty() && is_user_defined(&endpoint.target) {
        endpoint.links = links.into_iter().map(str::to_owned).collect();
    }
    let local = matches.list("link-local-ip");
    if !local.is_empty() {
        endpoint.link_local = local.into_iter().map(str::to_owned).collect();
    }
    for (flag, word, slot) in [
        ("ip", "IPv4 address", &mut endpoint.ip),
        ("ip6", "IPv6 address", &mut endpoint.ip6),
        ("mac-address", "MAC address", &mut endpoint.mac),
    ] {
        let value = matches.text(flag).trim();
        if value.is_empty() {
            continue;
        }
        if !slot.is_empty() {
            return conflict(word, flag);
        }
        value.clone_into(slot);
    }
    if !endpoint.aliases.is_empty() && !is_user_defined(&endpoint.target) {
        return Err(String::from(
            "network-scoped aliases are only supported for user-defined networks",
        ));
    }
    Ok(())
}

impl Endpoint {
    fn settings(&self) -> Result<Json, String> {
        let mut settings = Map::new();
        let mut put = |key: &str, value: Json| settings.insert(key.to_owned(), value);
        if !self.mac.is_empty() {
            if !is_mac(&self.mac) {
                return Err(format!("{} is not a valid mac address", self.mac));
            }
            put("MacAddress", Json::String(self.mac.clone()));
        }
        if !self.aliases.is_empty() {
            put("Aliases", json!(self.aliases));
        }
        if !self.links.is_empty() {
            put("Links", json!(self.links));
        }
        if !self.driver_options.is_empty() {
            put("DriverOpts", Json::Object(self.driver_options.clone()));
        }
        if self.gateway_priority != 0 {
            put("GwPriority", Json::from(self.gateway_priority));
        }
        if !self.ip.is_empty() || !self.ip6.is_empty() || !self.link_local.is_empty() {
            put(
                "IPAMConfig",
                json!({"IPv4Address": self.ip, "IPv6Address": self.ip6, "LinkLocalIPs": self.link_local}),
            );
        }
        Ok(Json::Object(settings))
    }
}

fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    matches!(parts.len(), 6 | 8)
        && parts
            .iter()
            .all(|part| part.len() == 2 && u8::from_str_radix(part, 16).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        assert_eq!(add_host("a:1.2.3.4").unwrap(), "a:1.2.3.4");
        assert_eq!(add_host("a=[::1]").unwrap(), "a:::1");
        assert_eq!(add_host("a:host-gateway").unwrap(), "a:host-gateway");
        assert_eq!(add_host("x").unwrap_err(), "bad format for add-host: \"x\"");
        assert_eq!(
            add_host("a:b").unwrap_err(),
            "invalid IP address in add-host: \"b\""
        );
    }

    #[test]
    fn long_form() {
        let endpoint = endpoint("name=n,alias=A,ip=1.2.3.4").unwrap();
        assert_eq!(
            endpoint.settings().unwrap()["IPAMConfig"]["IPv4Address"],
            "1.2.3.4"
        );
        assert_eq!(
            super::endpoint("name=x,foo=1").unwrap_err(),
            "invalid field key foo"
        );
        assert!(is_mac("92:d0:c6:0a:29:33") && !is_mac("x"));
    }
}
