//! A container's way into a network when it starts, and out of it when it has ended.

use std::os::fd::OwnedFd;

use kekkai_network::{EndpointRecord, EndpointRequest, NetworkDriver, NetworkError};
use kekkai_types::{ErrorClass, PortMapping};

use crate::EngineError;
use crate::container::Container;
use crate::create::check::host_ports;
use crate::inner::Inner;
use crate::model::{ContainerSpec, EventKind};
use crate::plan;

/// What a start needs of the network.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The namespace to start in; none for the host's.
    pub(crate) netns: Option<OwnedFd>,
    /// What to release afterwards.
    pub(crate) record: Option<EndpointRecord>,
}

/// A network error in dockerd's words and class.
pub(crate) fn network_error(error: &NetworkError) -> EngineError {
    match error.class() {
        ErrorClass::NotFound => EngineError::NotFound(error.to_string()),
        ErrorClass::InvalidArgument => EngineError::Invalid(error.to_string()),
        ErrorClass::Conflict => EngineError::Conflict(error.to_string()),
        ErrorClass::Forbidden | ErrorClass::Unavailable => {
            EngineError::Unavailable(error.to_string())
        }
        _ => EngineError::System(error.to_string()),
    }
}

/// The ports that a container publishes.
fn mappings(spec: &ContainerSpec) -> Result<Vec<PortMapping>, EngineError> {
    let host = &spec.host;
    let mut list = Vec::new();
    for (port, bindings) in &host.port_bindings {
        for binding in bindings {
            let host_ip = match binding.host_ip.as_str() {
                "" => None,
                text => Some(text.parse().map_err(|_| {
                    EngineError::Invalid(format!("invalid IP address in port binding: {text:?}"))
                })?),
            };
            list.push(PortMapping {
                container: *port,
                host_ip,
                host_ports: host_ports(binding)?,
            });
        }
    }
    if host.publish_all_ports {
        for port in &spec.config.exposed_ports {
            if !host.port_bindings.contains_key(port) {
                list.push(PortMapping {
                    container: *port,
                    host_ip: None,
                    host_ports: None,
                });
            }
        }
    }
    Ok(list)
}

/// Connects a container that is about to start.
pub(crate) fn connect(
    inner: &Inner,
    container: &Container,
    name: &str,
    spec: &ContainerSpec,
) -> Result<Connection, EngineError> {
    let mode = spec.host.network_mode.as_str();
    if let Some(other) = mode.strip_prefix("container:") {
        let netns = plan::namespace(inner, other, "net", "network")?;
        return Ok(Connection {
            netns: Some(netns),
            record: None,
        });
    }
    if mode == "host" {
        return Ok(Connection {
            netns: None,
            record: None,
        });
    }
    let missing = || {
        EngineError::NotFound(format!(
            "failed to set up container networking: network {mode} not found"
        ))
    };
    let Some(network) = &inner.network else {
        // `--bridge none`: there is no pool; the launcher makes an empty namespace.
        return if mode == "none" {
            Ok(Connection {
                netns: None,
                record: None,
            })
        } else {
            Err(missing())
        };
    };
    if mode == "none" || spec.config.network_disabled {
        let netns = network.isolated().map_err(|error| network_error(&error))?;
        return Ok(Connection {
            netns: Some(netns),
            record: None,
        });
    }
    let (_, driver) = network.resolve(mode).map_err(|_| missing())?;
    if driver != NetworkDriver::Bridge {
        return Err(missing());
    }
    let options = spec
        .endpoints
        .get("bridge")
        .or_else(|| spec.endpoints.get(mode));
    let mac = match options
        .and_then(|options| options.mac_address.as_deref())
        .filter(|mac| !mac.is_empty())
    {
        Some(text) => Some(text.parse().map_err(|_| {
            EngineError::Invalid(format!(
                "invalid config for network {mode}: invalid MAC address {text}"
            ))
        })?),
        None => None,
    };
    let request = EndpointRequest {
        container: container.id,
        name: name.to_owned(),
        mac,
        ip: None,
        ports: mappings(spec)?,
    };
    let endpoint = network
        .attach(&request)
        .map_err(|error| network_error(&error))?;
    Ok(Connection {
        netns: Some(endpoint.netns),
        record: Some(endpoint.record),
    })
}

/// Gives back what `connect` took. Ports are free when this returns.
pub(crate) fn release(inner: &Inner, record: &EndpointRecord) {
    if let Some(network) = &inner.network
        && let Err(error) = network.release(record)
    {
        tracing::warn!(container = %record.container, %error, "releasing an endpoint");
    }
}

/// Tells `connect` or `disconnect`. A container that shares another's network says nothing.
pub(crate) fn event(inner: &Inner, container: &Container, spec: &ContainerSpec, action: &str) {
    let mode = spec.host.network_mode.as_str();
    let Some((id, driver)) = inner
        .network
        .as_ref()
        .and_then(|network| network.resolve(mode).ok())
    else {
        return;
    };
    let name = match driver {
        NetworkDriver::Bridge => "bridge",
        NetworkDriver::Host => "host",
        NetworkDriver::Null => "none",
    };
    let attributes = vec![
        ("container".to_owned(), container.id.to_string()),
        ("name".to_owned(), name.to_owned()),
        ("type".to_owned(), driver.as_str().to_owned()),
    ];
    inner
        .events
        .publish(EventKind::Network, action, &id.to_string(), attributes);
}
