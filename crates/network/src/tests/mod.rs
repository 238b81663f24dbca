//! The network as containers, the host and the outside see it. Every test has network namespaces of its own.

pub(crate) mod lab;
mod lifecycle;
mod neighbours;
mod paths;
