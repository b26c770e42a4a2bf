//! Service rules in the kernel: an nf_tables table, programmed through netlink by an encoder of our own.
//!
//! `wire` lays out messages and sends a batch as one transaction; `expr` is the small part of the rule language that
//! Services need; `ruleset` is the fixed part of the table, `elements` the changing part; `rules` is what others use.
//! `conntrack` ends what datagrams were led to before; `remembered` keeps callers with their backends.

mod conntrack;
mod elements;
mod expr;
mod faults;
mod remembered;
mod rules;
mod ruleset;
mod wire;

pub use faults::{Loss, forget_connections, hide, set_losses};
pub use rules::{Rules, RulesConfig, Scope, remove_unused};
pub use wire::NftError;
