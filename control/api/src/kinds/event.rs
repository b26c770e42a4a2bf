//! Event.

use super::*;

/// `events`.
pub static KIND: Kind = Kind {
    kind: "Event",
    plural: "events",
    singular: "event",
    resource: "events",
    short_names: &["ev"],
    short_history: true,
    ..Kind::BASE
};
