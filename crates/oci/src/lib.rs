//! OCI documents and Docker's media types. No I/O.
//!
//! The types are those of the `oci-spec` crate; this crate is the one place that names it, adds the media types that
//! only Docker uses, and bounds the sizes of documents from outside.

#![forbid(unsafe_code)]

pub mod image_documents;

pub use oci_spec::{image, runtime};
