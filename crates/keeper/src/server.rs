//! The keeper's side: guardian, keeper, launchers, pump threads.

mod boot;
mod chores;
mod exit_file;
mod guardian;
mod input;
mod keeper;
mod launcher;
mod links;
mod pending;
mod pool;
mod pump;
mod requests;
mod resume;
mod session;
mod slots;
mod starts;
mod state;
mod tasks;

pub use boot::run;
pub use exit_file::read_exit;
