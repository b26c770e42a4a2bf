//! What of a write depends on who writes; the registry knows nobody.

use coracle_api::kinds::CERTIFICATE_SIGNING_REQUEST as CSR;
use coracle_api::{ApiError, Kind, Object};
use http::request::Parts;
use serde_json::Value;

use super::other_versions::OtherVersion;
use super::{certificates, escalation, node_restriction};
use crate::auth::Identity;
use crate::registry::{Part, Registry};

/// What is about to be written: an object of that kind in that namespace, by the request with those headers.
pub(super) struct Written<'a> {
    pub(super) registry: &'a Registry,
    pub(super) kind: &'static Kind,
    pub(super) namespace: &'a str,
    pub(super) parts: &'a Parts,
    /// In whose words it is written, if not in those of the kind itself.
    pub(super) other: Option<&'static OtherVersion>,
}

impl Written<'_> {
    /// A new object, into which is written who asks where that belongs to it.
    ///
    /// # Errors
    /// 403, saying what is refused; 422, saying what is wrong.
    pub(super) fn create(&self, new: &mut Value) -> Result<(), ApiError> {
        if let Some(other) = self.other {
            let mut placed = new.clone();
            placed["metadata"]["namespace"] = self.namespace.into();
            other.check(&placed, None)?;
        }
        escalation::check(self.registry, self.kind, self.namespace, self.parts, new)?;
        let Some(identity) = self.identity() else { return Ok(()) };
        node_restriction::create(&self.registry.cache.read(), self.kind, identity, new)?;
        if self.kind.resource == CSR.resource {
            certificates::ask(identity, new)?;
        }
        Ok(())
    }

    /// A changed object.
    ///
    /// # Errors
    /// 403, saying what is refused; 422, saying what is wrong.
    pub(super) fn change(&self, part: Part, old: &Object, new: &Value) -> Result<(), ApiError> {
        if let Some(other) = self.other {
            other.check(new, Some(&old.value()))?;
        }
        escalation::check(self.registry, self.kind, self.namespace, self.parts, new)?;
        let Some(identity) = self.identity() else { return Ok(()) };
        node_restriction::change(self.kind, identity, part, old, new)?;
        if self.kind.resource == CSR.resource {
            certificates::change(&self.registry.cache.read(), identity, part, old)?;
        }
        Ok(())
    }

    fn identity(&self) -> Option<&Identity> {
        self.parts.extensions.get()
    }
}
