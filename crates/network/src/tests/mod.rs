//! The network as containers, the host and the outside see it. Every test has network namespaces of its own.

mod lab;
mod lifecycle;
mod neighbours;
mod paths;
