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

#[derive(Clone, Debug)]
struct Network {
    id: NetworkId,
    driver: NetworkDriver,
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

    /// The networks with what is attached to the bridge.
    pub(crate) fn list(
        &self,
        config: &NetworkConfig,
        subnet: Subnet,
        endpoints: &[EndpointRecord],
    ) -> Vec<NetworkInfo> {
        let describe = |network: &Network| {
            let is_bridge = network.driver == NetworkDriver::Bridge;
            NetworkInfo {
                id: network.id,
                name: network.document.name.clone(),
                driver: network.driver,
                created: network.document.created,
                subnet: is_bridge.then_some(subnet),
                options: if is_bridge {
                    options(config)
                } else {
                    Vec::new()
                },
                endpoints: if is_bridge {
                    endpoints.to_vec()
                } else {
                    Vec::new()
                },
            }
        };
        self.networks.iter().map(describe).collect()
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
