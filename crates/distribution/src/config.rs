//! What the daemon's configuration says about registries.

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
