//! Kubernetes objects without I/O: what they are, how they are read, changed and checked.
//!
//! Read in this order: an [`Object`] is one stored thing of a [`Kind`]; a [`Cluster`] is an indexed set of
//! them; a [`Plan`] is what a controller wants written. [`status`] holds the errors that clients see.
//!
//! What a kind's file is written with: [`json`] (fields of trees), [`path`] (where an error is), [`names`] (syntax),
//! [`quantity`], [`selector`]; [`meta`] checks what all kinds have in common, [`metrics`] is what nodes tell of their Pods' use,
//! [`pod`] answers what readers of Pods ask, [`extensions`] is what other API servers are said to hold; [`custom`] makes kinds of CustomResourceDefinitions. With [`bootstrap_token`]
//! machines join, by [`csr`] they get certificates, and by a [`tunnel`] they are called.

pub mod age;
pub mod bootstrap_token;
pub mod cluster;
pub mod cron;
pub mod csr;
pub mod custom;
pub mod extensions;
pub mod fields;
pub mod go_duration;
pub mod indexes;
pub mod json;
pub mod kinds;
pub mod meta;
pub mod metrics;
pub mod names;
pub mod object;
pub mod patch;
pub mod path;
pub mod placement;
pub mod plan;
pub mod pod;
pub mod quantity;
pub mod quota;
pub mod schema;
pub mod selector;
pub mod spam;
pub mod status;
pub mod tunnel;

pub use cluster::{Change, Cluster};
pub use kinds::Kind;
pub use object::{Meta, Object, OwnerRef};
pub use plan::{Plan, Write};
pub use quantity::Quantity;
pub use selector::{FieldSelector, LabelSelector};
pub use status::{ApiError, FieldError};
