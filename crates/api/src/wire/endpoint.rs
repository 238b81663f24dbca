//! Docker's `EndpointSettings`: wanted endpoints in a request, actual ones in an answer.

use std::collections::BTreeMap;

use kekkai_engine::model::{EndpointOptions, EndpointView};
use serde::Serialize;

use crate::http::{ApiError, Fields};

/// The wanted endpoints of a create request by network. An entry that says nothing about the network the container is
/// in anyway is left out.
pub(crate) fn read_endpoints(
    body: &mut Fields,
    network_mode: &str,
    warnings: &mut Vec<String>,
) -> Result<BTreeMap<String, EndpointOptions>, ApiError> {
    let mut endpoints = BTreeMap::new();
    let Some(mut networking) = body.object("NetworkingConfig")? else {
        return Ok(endpoints);
    };
    let at = networking.name("EndpointsConfig");
    for (name, value) in networking.entries("EndpointsConfig")? {
        let options = match Fields::from_value(&format!("{at}.{name}"), value)? {
            Some(fields) => read_endpoint(fields, warnings)?,
            None => EndpointOptions::default(),
        };
        let (network, main) = (normal_name(&name), normal_name(network_mode));
        if options != EndpointOptions::default() || network != main {
            endpoints.insert(network.to_owned(), options);
        }
    }
    networking.finish(warnings);
    Ok(endpoints)
}

fn normal_name(network: &str) -> &str {
    if network.is_empty() || network == "default" {
        "bridge"
    } else {
        network
    }
}

fn read_endpoint(
    mut fields: Fields,
    warnings: &mut Vec<String>,
) -> Result<EndpointOptions, ApiError> {
    let mut options = EndpointOptions {
        aliases: fields.strings("Aliases")?,
        links: fields.strings("Links")?,
        mac_address: fields.nonempty("MacAddress")?,
        driver_options: fields.string_map("DriverOpts")?,
        gateway_priority: fields.integer("GwPriority")?,
        ..EndpointOptions::default()
    };
    if let Some(mut ipam) = fields.object("IPAMConfig")? {
        options.ipv4_address = ipam.nonempty("IPv4Address")?;
        options.ipv6_address = ipam.nonempty("IPv6Address")?;
        options.link_local_ips = ipam.strings("LinkLocalIPs")?;
        ipam.finish(warnings);
    }
    // What only the engine knows; clients that copy an inspect result send it back.
    for field in [
        "NetworkID",
        "EndpointID",
        "Gateway",
        "IPAddress",
        "IPPrefixLen",
        "IPv6Gateway",
        "GlobalIPv6Address",
        "GlobalIPv6PrefixLen",
        "DNSNames",
    ] {
        fields.skip(field);
    }
    fields.finish(warnings);
    Ok(options)
}

/// An endpoint in an answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct EndpointOut<'a> {
    #[serde(rename = "IPAMConfig")]
    ipam_config: Option<IpamOut<'a>>,
    links: Option<&'a [String]>,
    aliases: Option<&'a [String]>,
    mac_address: &'a str,
    driver_opts: Option<&'a BTreeMap<String, String>>,
    gw_priority: i64,
    #[serde(rename = "NetworkID")]
    network_id: &'a str,
    #[serde(rename = "EndpointID")]
    endpoint_id: &'a str,
    gateway: &'a str,
    #[serde(rename = "IPAddress")]
    ip_address: &'a str,
    #[serde(rename = "IPPrefixLen")]
    ip_prefix_len: u8,
    #[serde(rename = "IPv6Gateway")]
    ipv6_gateway: &'a str,
    #[serde(rename = "GlobalIPv6Address")]
    global_ipv6_address: &'a str,
    #[serde(rename = "GlobalIPv6PrefixLen")]
    global_ipv6_prefix_len: u8,
    #[serde(rename = "DNSNames")]
    dns_names: Option<&'a [String]>,
}

#[derive(Debug, Serialize)]
struct IpamOut<'a> {
    #[serde(rename = "IPv4Address", skip_serializing_if = "Option::is_none")]
    ipv4_address: Option<&'a str>,
    #[serde(rename = "IPv6Address", skip_serializing_if = "Option::is_none")]
    ipv6_address: Option<&'a str>,
    #[serde(rename = "LinkLocalIPs", skip_serializing_if = "<[String]>::is_empty")]
    link_local_ips: &'a [String],
}

fn some(list: &[String]) -> Option<&[String]> {
    (!list.is_empty()).then_some(list)
}

impl<'a> From<&'a EndpointView> for EndpointOut<'a> {
    fn from(view: &'a EndpointView) -> Self {
        let wanted = view.requested.as_ref();
        let ipam = wanted.filter(|wanted| {
            wanted.ipv4_address.is_some()
                || wanted.ipv6_address.is_some()
                || !wanted.link_local_ips.is_empty()
        });
        Self {
            ipam_config: ipam.map(|wanted| IpamOut {
                ipv4_address: wanted.ipv4_address.as_deref(),
                ipv6_address: wanted.ipv6_address.as_deref(),
                link_local_ips: &wanted.link_local_ips,
            }),
            links: wanted.and_then(|wanted| some(&wanted.links)),
            aliases: wanted.and_then(|wanted| some(&wanted.aliases)),
            mac_address: &view.mac_address,
            driver_opts: wanted
                .map(|wanted| &wanted.driver_options)
                .filter(|options| !options.is_empty()),
            gw_priority: wanted.map_or(0, |wanted| wanted.gateway_priority),
            network_id: &view.network_id,
            endpoint_id: &view.endpoint_id,
            gateway: &view.gateway,
            ip_address: &view.ip_address,
            ip_prefix_len: view.prefix_len,
            ipv6_gateway: &view.ipv6_gateway,
            global_ipv6_address: &view.ipv6_address,
            global_ipv6_prefix_len: view.ipv6_prefix_len,
            dns_names: some(&view.dns_names),
        }
    }
}
