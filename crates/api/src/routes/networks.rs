//! Networks: list and inspect; the default ones cannot be removed.

use std::collections::BTreeMap;
use std::sync::Arc;

use kekkai_engine::model::{Filters, NetworkMember, NetworkView};
use kekkai_types::{ErrorClass, Timestamp};
use serde::Serialize;

use crate::http::{ApiError, Call, Reply, parse_filters};
use crate::routes::Api;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct NetworkOut<'a> {
    name: &'a str,
    id: &'a str,
    created: String,
    scope: &'static str,
    driver: &'a str,
    #[serde(rename = "EnableIPv4")]
    enable_ipv4: bool,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: bool,
    #[serde(rename = "IPAM")]
    ipam: IpamOut<'a>,
    internal: bool,
    attachable: bool,
    ingress: bool,
    config_from: ConfigFrom,
    config_only: bool,
    containers: BTreeMap<&'a str, MemberOut<'a>>,
    options: &'a BTreeMap<String, String>,
    labels: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct IpamOut<'a> {
    driver: &'static str,
    options: Option<()>,
    config: Option<[PoolOut<'a>; 1]>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PoolOut<'a> {
    subnet: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    gateway: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ConfigFrom {
    network: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct MemberOut<'a> {
    name: &'a str,
    #[serde(rename = "EndpointID")]
    endpoint_id: &'a str,
    mac_address: &'a str,
    #[serde(rename = "IPv4Address")]
    ipv4_address: &'a str,
    #[serde(rename = "IPv6Address")]
    ipv6_address: &'a str,
}

impl<'a> MemberOut<'a> {
    fn new(member: &'a NetworkMember) -> Self {
        Self {
            name: &member.name,
            endpoint_id: &member.endpoint_id,
            mac_address: &member.mac_address,
            ipv4_address: &member.ipv4_address,
            ipv6_address: &member.ipv6_address,
        }
    }
}

impl<'a> NetworkOut<'a> {
    /// `members`: whether the containers are told, which lists leave out.
    pub(super) fn new(view: &'a NetworkView, members: bool) -> Self {
        let containers = view.containers.iter().filter(|_| members);
        Self {
            name: &view.name,
            id: &view.id,
            created: view.created.unwrap_or(Timestamp::ZERO).to_string(),
            scope: "local",
            driver: &view.driver,
            enable_ipv4: true,
            enable_ipv6: view.enable_ipv6,
            ipam: IpamOut {
                driver: "default",
                options: None,
                config: (!view.subnet.is_empty()).then(|| {
                    [PoolOut {
                        subnet: &view.subnet,
                        gateway: &view.gateway,
                    }]
                }),
            },
            internal: false,
            attachable: false,
            ingress: false,
            config_from: ConfigFrom { network: "" },
            config_only: false,
            containers: containers
                .map(|(id, member)| (id.as_str(), MemberOut::new(member)))
                .collect(),
            options: &view.options,
            labels: &view.labels,
        }
    }
}

/// Lists networks.
pub(super) async fn list(api: Arc<Api>, call: Call) -> Result<Reply, ApiError> {
    let filters = Filters(parse_filters(call.query.get("filters"))?);
    let views = api.engine().network_list(filters).await?;
    // Lists before 1.28 had the containers.
    let members = call.version.before(28);
    Reply::json(
        &views
            .iter()
            .map(|view| NetworkOut::new(view, members))
            .collect::<Vec<_>>(),
    )
}

/// Tells about a network.
pub(super) async fn inspect(api: Arc<Api>, call: Call, name: String) -> Result<Reply, ApiError> {
    match call.query.get("scope") {
        "" | "local" => {}
        _ => {
            return Err(ApiError::new(
                ErrorClass::NotFound,
                format!("network {name} not found"),
            ));
        }
    }
    let view = api.engine().network_inspect(&name).await?;
    Reply::json(&NetworkOut::new(&view, true))
}

/// Refuses: only the default networks exist.
pub(super) async fn remove(api: Arc<Api>, name: String) -> Result<Reply, ApiError> {
    let view = api.engine().network_inspect(&name).await?;
    let words = format!(
        "{} is a pre-defined network and cannot be removed",
        view.name
    );
    Err(ApiError::new(ErrorClass::Forbidden, words))
}

/// Removes the networks that nobody uses: there are none that may be removed.
pub(super) async fn prune() -> Result<Reply, ApiError> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        networks_deleted: Option<()>,
    }
    Reply::json(&Answer {
        networks_deleted: None,
    })
}
