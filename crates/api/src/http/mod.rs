//! What every route needs of HTTP: a call as it came in, a reply as it goes out, errors in Docker's shape.
//!
//! Nothing here knows an endpoint or the engine's model.

mod body;
mod call;
mod error;
mod fields;
mod filters;
mod query;
mod reply;
mod version;

pub(crate) use body::Body;
pub(crate) use call::Call;
pub(crate) use error::{ApiError, status_of};
pub(crate) use fields::Fields;
pub(crate) use filters::parse_filters;
pub(crate) use query::{Query, percent_decode};
pub(crate) use reply::{Hijack, Hijacked, Reply, json_line};
pub(crate) use version::{ApiVersion, MAXIMUM, MINIMUM};

/// Largest JSON body that a client may send, in bytes. Environments and labels are bounded by the kernel far below.
pub(crate) const JSON_BODY_LIMIT: usize = 16 << 20;
