//! Parts of Docker's API that this engine does not have: Swarm as on a node outside a swarm, the rest refused by name.

use kekkai_types::ErrorClass;

use crate::http::{ApiError, Reply};

/// dockerd's words on a node that is in no swarm.
pub(super) const NOT_A_MANAGER: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.";

/// The answer to a request that no resource of ours takes.
pub(super) fn answer(method: &str, parts: &[&str]) -> Result<Reply, ApiError> {
    let unavailable = |words: &str| Err(ApiError::new(ErrorClass::Unavailable, words));
    match (method, parts) {
        ("POST", ["swarm", "init" | "join"]) => Err(ApiError::not_implemented("Swarm")),
        ("POST", ["swarm", "leave"]) => unavailable("This node is not part of a swarm"),
        (
            _,
            [
                "swarm" | "nodes" | "services" | "tasks" | "secrets" | "configs",
                ..,
            ],
        ) => unavailable(NOT_A_MANAGER),
        ("GET", ["plugins"]) => Reply::json(&[(); 0]),
        ("GET", ["plugins", name, "json"]) => Err(ApiError::new(
            ErrorClass::NotFound,
            format!("plugin {name:?} not found"),
        )),
        (_, ["plugins", ..]) => Err(ApiError::not_implemented("managing plugins")),
        ("POST", ["build" | "build/prune"] | ["build", "prune" | "cancel"]) => {
            Err(ApiError::not_implemented("building images"))
        }
        ("POST", ["session"]) => Err(ApiError::not_implemented("BuildKit's /session")),
        ("POST", ["grpc"]) => Err(ApiError::not_implemented("BuildKit's /grpc")),
        ("POST", ["commit"]) => Err(ApiError::not_implemented("committing a container")),
        ("GET", ["distribution", _, .., "json"]) => {
            Err(ApiError::not_implemented("inspecting images in a registry"))
        }
        _ => Err(ApiError::page_not_found()),
    }
}
