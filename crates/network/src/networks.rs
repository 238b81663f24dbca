//! The networks `bridge`, `host` and `none`: identifiers that stay, and what inspecting them shows.

use kekkai_metadata::{Change, Database, Durability, Table};
use kekkai_types::{NetworkId, Timestamp};

use crate::config::{NetworkConfig, Subnet};
use crate::error::NetworkError;
use crate::model::{EndpointRecord, NetworkDriver, NetworkInfo};

/// Version of the rows written here.
const VERSION: u32 = 1;
const BRIDGE: &str = "bridge";
/// Every network, as Docker orders them.
const ALL: [(&str, NetworkDriver); 3] = [
    (BRIDGE, NetworkDriver::Bridge),
    ("host", NetworkDriver::Host),
    ("none", NetworkDriver::Null),
];

/// A network's row.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Document {
    version: u32,
    name: String,
    created: Timestamp,
    /// The bridge's address and subnet, tried again first when the bridge has to be made again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subnet: Option<String>,
}

/// One network.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub(crate) id: NetworkId,
    pub(crate) driver: NetworkDriver,
    document: Document,
    saved: bool,
}

/// The three networks, in the order of [`ALL`].
#[derive(Debug)]
pub(crate) struct Networks {
    networks: Vec<Network>,
}

impl Networks {
    /// Reads the rows; a network without one gets a new identifier.
    pub(crate) fn load(database: &Database) -> Result<Networks, NetworkError> {
        let mut rows: Vec<(NetworkId, Document)> = Vec::new();
        for row in database.load(Table::Networks)? {
            // A row with a key that is no identifier is not one of ours to use.
            if let Ok(id) = row.key.parse() {
                rows.push((id, row.parse(Table::Networks)?));
            }
        }
        let networks = ALL.map(|(name, driver)| {
            match rows.iter().find(|(_, document)| document.name == name) {
                Some((id, document)) => Network {
                    id: *id,
                    driver,
                    document: document.clone(),
                    saved: true,
                },
                None => {
                    let created = Timestamp::now();
                    let document = Document {
                        version: VERSION,
                        name: name.to_owned(),
                        created,
                        subnet: None,
                    };
                    Network {
                        id: NetworkId::random(),
                        driver,
                        document,
                        saved: false,
                    }
                }
            }
        });
        Ok(Networks {
            networks: networks.into(),
        })
    }

    /// The subnet that the bridge had.
    pub(crate) fn bridge_subnet(&self) -> Option<Subnet> {
        self.networks[0].document.subnet.as_ref()?.parse().ok()
    }

    /// Notes the bridge's subnet and writes what is new.
    pub(crate) fn save(&mut self, database: &Database, subnet: Subnet) -> Result<(), NetworkError> {
        let bridge = &mut self.networks[0];
        let text = Some(subnet.to_string());
        if bridge.document.subnet != text {
            bridge.document.subnet = text;
            bridge.saved = false;
        }
        let mut changes = Vec::new();
        for network in self.networks.iter_mut().filter(|network| !network.saved) {
            changes.push(Change::put_json(
                Table::Networks,
                network.id.to_string(),
                &network.document,
            )?);
            network.saved = true;
        }
        if !changes.is_empty() {
            database.apply(changes, Durability::PowerCut)?;
        }
        Ok(())
    }

    pub(crate) fn bridge_id(&self) -> NetworkId {
        self.networks[0].id
    }

    /// All of them, in Docker's order.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Network> {
        self.networks.iter()
    }

    /// One by name, identifier, or an identifier's unique prefix.
    pub(crate) fn find(&self, name_or_id: &str) -> Result<&Network, NetworkError> {
        if let Some(network) = self
            .all()
            .find(|network| network.document.name == name_or_id)
        {
            return Ok(network);
        }
        let mut fitting = self
            .all()
            .filter(|n| !name_or_id.is_empty() && n.id.to_string().starts_with(name_or_id));
        match (fitting.next(), fitting.next()) {
            (Some(network), None) => Ok(network),
            (Some(_), Some(_)) => Err(NetworkError::Ambiguous(name_or_id.to_owned())),
            (None, _) => Err(NetworkError::NotFound(name_or_id.to_owned())),
        }
    }
}

impl Network {
    /// The network as it is shown, with what is attached to it.
    pub(crate) fn describe(
        &self,
        config: &NetworkConfig,
        subnet: Subnet,
        endpoints: Vec<EndpointRecord>,
    ) -> NetworkInfo {
        let is_bridge = self.driver == NetworkDriver::Bridge;
        NetworkInfo {
            id: self.id,
            name: self.document.name.clone(),
            driver: self.driver,
            created: self.document.created,
            subnet: is_bridge.then_some(subnet),
            options: if is_bridge {
                options(config)
            } else {
                Vec::new()
            },
            endpoints,
        }
    }
}

/// The bridge's options under Docker's names.
fn options(config: &NetworkConfig) -> Vec<(String, String)> {
    [
        (
            "com.docker.network.bridge.default_bridge",
            "true".to_owned(),
        ),
        (
            "com.docker.network.bridge.enable_icc",
            config.inter_container.to_string(),
        ),
        (
            "com.docker.network.bridge.enable_ip_masquerade",
            config.masquerade.to_string(),
        ),
        (
            "com.docker.network.bridge.host_binding_ipv4",
            config.host_binding.to_string(),
        ),
        ("com.docker.network.bridge.name", config.bridge.clone()),
        ("com.docker.network.driver.mtu", config.mtu.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}
