//! Who owns which field: `metadata.managedFields`, and server-side apply, which is decided by it.
//!
//! Follows `sigs.k8s.io/structured-merge-diff` and `k8s.io/apimachinery/pkg/util/managedfields`. A [`FieldSet`] is a set of
//! places in an object; [`walk`] gives the places that a value sets, that two values differ in, and merges values, all of
//! them by the kind's schema; [`Managers`] is the set of places of every manager, and what applies and updates do to it.
//!
//! What nobody applied to need not be tracked: an object without entries stays without them until somebody applies to it,
//! and then everything in it belongs to `before-first-apply`.

mod managers;
mod set;
mod unowned;
mod walk;

#[cfg(test)]
mod tests;

pub use managers::{Applied, ApplyError, Conflict, Managers, Operation, Writer};
pub use set::FieldSet;
pub use unowned::apply_unowned;
pub use walk::{Comparison, compare, field_set, merge};
