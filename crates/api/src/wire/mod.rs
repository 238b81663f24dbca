//! JSON of the API that several routes share, and its conversion from and to the engine's types.
//!
//! Reading goes field by field (`crate::http::Fields`), so that nothing is lost silently. Writing goes through
//! structures whose field order is dockerd's.

mod config_in;
mod config_out;
mod create_in;
mod endpoint;
mod host_in;
mod host_out;
mod mount_in;
mod resources_in;

use config_in::read_config;
pub(crate) use config_out::ConfigOut;
pub(crate) use create_in::read_create;
pub(crate) use endpoint::EndpointOut;
use endpoint::read_endpoints;
use host_in::read_host;
pub(crate) use host_in::read_restart_policy;
pub(crate) use host_out::HostOut;
pub(crate) use resources_in::read_resources;

use std::collections::BTreeMap;

use serde::Serializer;
use serde::ser::SerializeMap;

/// A list that Go writes as null when it is empty.
pub(crate) fn null_if_empty<T: serde::Serialize, S: Serializer>(
    list: &[T],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    if list.is_empty() {
        serializer.serialize_none()
    } else {
        serializer.collect_seq(list)
    }
}

/// A set as Go writes it: `{"80/tcp":{}}`.
pub(crate) fn serialize_set<T: std::fmt::Display, S: Serializer>(
    set: &[T],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut keys: Vec<String> = set.iter().map(ToString::to_string).collect();
    keys.sort_unstable();
    let mut map = serializer.serialize_map(Some(keys.len()))?;
    for key in &keys {
        map.serialize_entry(key, &BTreeMap::<(), ()>::new())?;
    }
    map.end()
}
