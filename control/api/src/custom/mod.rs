//! Custom kinds: what a CustomResourceDefinition says, made ready to use.
//!
//! A [`Definition`] is read from the definition's object; each of its [`Version`]s holds a compiled [`Structure`], which
//! prunes, fills in defaults and checks values, the messages that server-side apply and OpenAPI walk, and what is printed.
//! All of it is pure; the server keeps the definitions of its cluster and converts between versions.
//!
//! What tells kinds apart ([`identity`]) is a [`Kind`](crate::Kind) like any built-in one, so that objects, keys and
//! indexes need not know the difference.

mod columns;
mod decode;
mod default;
mod definition;
mod format;
mod identity;
mod json_path;
mod list_types;
mod prune;
pub(crate) mod structure;
mod validate;

#[cfg(test)]
mod tests;

pub use definition::{CLEANUP_FINALIZER, Conversion, Definition, Scale, Service, Version, Webhook};
pub use identity::{Identity, intern, kind_of, kinds_by_version};
pub use json_path::JsonPath;
pub use structure::{Structure, Ty};
