//! From a request to a specification: names, checks, the merge with the image, mounts.
//!
//! What must stay true: everything here is checked before anything has an effect, in dockerd's words; all of it is
//! pure (host facts and the image come in as values).

pub(crate) mod check;
pub(crate) mod merge;
pub(crate) mod mounts;
pub(crate) mod names;
pub(crate) mod resources;
pub(crate) mod saga;
