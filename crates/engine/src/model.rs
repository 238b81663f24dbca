//! The engine's own vocabulary: what a caller hands in and gets back.
//!
//! These are domain types, not wire types: the API crate maps Docker's JSON onto them in one file per resource.
//! Values that dockerd's *daemon* validates (network mode, binds, security options …) stay text here and are parsed,
//! with dockerd's words for what is wrong, by `validate` before anything has an effect.
//!
//! ```text
//! CreateContainer ──create──▶ ContainerSpec (immutable, stored) ──▶ ContainerView (one moment, for list and inspect)
//! ```

mod archive;
mod events;
mod exec;
mod host;
mod lifecycle;
mod list;
mod spec;
mod system;
mod view;

pub use self::archive::*;
pub use self::events::*;
pub use self::exec::*;
pub use self::host::*;
pub use self::lifecycle::*;
pub use self::list::*;
pub use self::spec::*;
pub use self::system::*;
pub use self::view::*;
