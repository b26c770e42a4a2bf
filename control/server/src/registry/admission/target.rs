//! What the objects of a request are read as, by whoever is asked about them: their schema, in the version that was matched, and the
//! ways there and back.

use std::borrow::Cow;

use coracle_api::schema::{self, DecodeError, Decoded, Schema};
use coracle_api::{ApiError, Kind};
use serde_json::Value;

use super::{Gv, Request, Requested};
use crate::custom::Served;
use crate::registry::Registry;

/// See the module.
pub(super) struct Target {
    custom: Option<Served>,
    kind: Gv<'static>,
    other: Option<Requested>,
    /// The version of a custom kind that is written to, where it is another than the one matched.
    written: Option<&'static Kind>,
}

impl Registry {
    /// Of a request whose resource was matched in that version.
    pub(super) fn target(
        &self,
        request: &Request<'_>,
        resource: Gv<'static>,
    ) -> Result<Target, ApiError> {
        let mut kind = request.object_kind();
        if !super::is_of_collection(request) {
            return Ok(Target { custom: None, kind, other: None, written: None });
        }
        let is_it = |requested: &Requested| requested.resource == resource;
        let other = request.requested.or_else(|| Requested::other_of(request.kind)).filter(is_it);
        let (mut custom, mut written) = (self.custom(request.kind)?, None);
        if resource.version != request.kind.version
            && let Some(version) =
                custom.as_ref().and_then(|it| it.definition.version(resource.version))
        {
            (custom, written) = (self.custom(version.kind)?, Some(request.kind));
        }
        if other.is_some() || written.is_some() {
            (kind.group, kind.version) = (resource.group, resource.version);
        }
        Ok(Target { custom, kind, other, written })
    }

    /// The tree in the version of the target.
    pub(super) async fn shown<'v>(
        &self,
        target: &Target,
        tree: &'v Value,
    ) -> Result<Cow<'v, Value>, ApiError> {
        if let Some(other) = target.other {
            let mut tree = tree.clone();
            (other.show)(&mut tree);
            return Ok(Cow::Owned(tree));
        }
        match (&target.custom, target.written) {
            (Some(custom), Some(_)) => {
                self.converted(custom.kind(), tree.clone()).await.map(Cow::Owned)
            }
            _ => Ok(Cow::Borrowed(tree)),
        }
    }

    /// The same of a request's objects.
    pub(super) async fn both_shown<'v>(
        &self,
        target: &Target,
        old: Option<&'v Value>,
        new: Option<&'v Value>,
    ) -> Result<[Option<Cow<'v, Value>>; 2], ApiError> {
        let mut shown = [None, None];
        for (shown, tree) in shown.iter_mut().zip([old, new]) {
            if let Some(tree) = tree {
                *shown = Some(self.shown(target, tree).await?);
            }
        }
        Ok(shown)
    }

    /// From the version of the target back to the one that is written to.
    pub(super) async fn as_written(
        &self,
        target: &Target,
        mut tree: Value,
    ) -> Result<Value, ApiError> {
        if let Some(other) = target.other {
            (other.store)(&mut tree);
        }
        match target.written {
            Some(kind) => self.converted(kind, tree).await,
            None => Ok(tree),
        }
    }

    async fn converted(&self, kind: &'static Kind, tree: Value) -> Result<Value, ApiError> {
        self.cache.definitions().convert(self.webhooks.clients(), kind, tree).await
    }
}

impl Target {
    /// The kind of the objects, in the version matched.
    pub(super) fn kind(&self) -> Gv<'static> {
        self.kind
    }

    /// The schema that patches walk.
    pub(super) fn schema(&self) -> Result<Schema<'_>, ApiError> {
        let Gv { group, version, name } = self.kind;
        let known = match &self.custom {
            Some(custom) => custom.version().schema(),
            None => schema::builtin().by_gvk(group, version, name),
        };
        known.ok_or_else(|| ApiError::internal(format!("no schema for {name}")))
    }

    /// The tree as its schema has it, and what that has against it: fields that it does not know are dropped.
    pub(super) fn check(&self, tree: Value) -> Result<Decoded, DecodeError> {
        match &self.custom {
            Some(custom) => custom.version().check(tree),
            None => {
                let schema = self.schema().map_err(|error| DecodeError::Type(error.message))?;
                schema::check(tree, schema)
            }
        }
    }
}
