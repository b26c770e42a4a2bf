//! Creating an object.

use std::sync::Arc;

use coracle_api::kinds::{self, Prepare};
use coracle_api::{ApiError, Kind, Object};
use coracle_store::{Batch, Expect};
use serde_json::Value;

use super::admission::{note, sign_as};
use super::commit::Refused;
use super::{ATTEMPTS, Operation, Registry, WriteOptions, fields, meta, update, validate};
use crate::keys;

/// Names tried for a `generateName` before giving up, as upstream.
const NAMES: usize = 8;

/// Of `metadata`, what is not admission's to change.
const KEPT: [&str; 7] = [
    "name",
    "namespace",
    "generateName",
    "uid",
    "creationTimestamp",
    "generation",
    "managedFields",
];

impl Registry {
    /// Creates the object that `body` describes; it has passed the schema.
    pub(crate) async fn create(
        &self,
        kind: &'static Kind,
        namespace: &str,
        body: Value,
        options: WriteOptions,
    ) -> Result<Arc<Object>, ApiError> {
        let custom = self.custom(kind)?;
        if custom.as_ref().is_some_and(|custom| custom.definition.terminating) {
            let why = "create not allowed while custom resource definition is terminating";
            return Err(ApiError::new(405, "MethodNotAllowed", why));
        }
        let mut value = meta::object(body)?;
        value.insert("kind".into(), kind.kind.into());
        value.insert("apiVersion".into(), kind.api_version().into());
        let metadata = meta::of(&mut value);
        let claimed = metadata.remove("managedFields").unwrap_or_default();
        meta::agree(metadata, kind, namespace, None)?;
        meta::create(metadata, kind)?;
        let base = meta::text(metadata, "generateName").to_owned();
        let generated = meta::text(metadata, "name").is_empty() && !base.is_empty();
        if generated {
            metadata.insert("name".into(), meta::generate(&base).into());
        }

        let mut tree = Value::Object(value);
        self.fill_in(kind, &mut tree);
        self.catch_up().await?;
        let asked_name = match generated {
            // As upstream has it: the name is made after the first phase.
            true => String::new(),
            false => tree["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
        };
        let mut request = options.request(Operation::Create, kind, (namespace, &asked_name));
        fields::created(kind, custom.as_ref(), &mut tree, claimed, &options.fields)?;
        if let Some(was) = self.mutate(&request, None, Some(&mut tree)).await? {
            for field in KEPT {
                update::take_over(meta::of_tree(&mut tree)?, &was.metadata, field);
            }
            self.fill_in(kind, &mut tree);
        }
        self.restrict(&request, None, &tree)?;
        if kind.resource == kinds::CERTIFICATE_SIGNING_REQUEST.resource
            && !options.caller.is_server()
        {
            sign_as(&options.caller.identity(), &mut tree);
        }
        (kind.prepare)(Prepare::Create(&mut tree));
        note(self.cache.definitions(), kind, &mut tree, None);
        validate::create(kind, custom.as_ref(), &tree)?;
        let first_name = tree["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        request.name = &first_name;
        self.admit(&request, None, Some(&tree)).await?;
        let charge = self.charge(&request, None, &tree)?;

        let parent = keys::of_object(&kinds::NAMESPACE, "", namespace);
        let mut names = 1;
        for _ in 0..ATTEMPTS {
            let name = tree["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            // Allocation fills the tree in; another attempt must start from what the client asked for.
            let asked = (kind.resource == "services").then(|| tree.clone());
            let claims = self.allocate(&mut tree, kind, None)?;
            if options.dry_run {
                if self.cache.get(kind, namespace, &name).is_some() {
                    return Err(ApiError::already_exists(kind, &name));
                }
                return Self::dry(kind, meta::as_object(&tree)?, 0);
            }
            let stored = self.to_be_stored(kind, &tree).await?;
            let (stored_kind, value) = (stored.kind, meta::as_object(&stored.tree)?);
            let mut batch = claims.batch(Batch::new(), namespace, &name);
            if kind.namespaced {
                batch = batch.expect(parent.clone(), Expect::Present);
            }
            let put = self.put(stored_kind, (namespace, &name), value, Expect::Absent, batch).await;
            match put {
                Ok(object) => {
                    if let Some(charge) = charge {
                        charge.keep(object.meta.resource_version);
                    }
                    return self.show(kind, object).await;
                }
                Err(Refused::Error(error)) => return Err(error),
                Err(Refused::Conflict { key }) if kind.namespaced && key == parent => {
                    return Err(ApiError::not_found(&kinds::NAMESPACE, namespace));
                }
                Err(Refused::Conflict { key }) if claims.claims(&key) => {
                    claims.taken(kind, &name, &key)?;
                    self.catch_up().await?;
                    tree = asked.unwrap_or(tree);
                }
                Err(Refused::Conflict { .. }) if generated && names < NAMES => {
                    names += 1;
                    tree["metadata"]["name"] = meta::generate(&base).into();
                }
                Err(Refused::Conflict { .. }) => {
                    return Err(ApiError::already_exists(kind, &name));
                }
            }
        }
        Err(ApiError::unavailable(format!("no {} could be allocated; try again", kind.singular)))
    }

    /// Creates the object unless it is there; for what the server itself needs.
    pub(crate) async fn ensure(
        &self,
        kind: &'static Kind,
        namespace: &str,
        body: Value,
    ) -> Result<(), ApiError> {
        let name = body["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if self.cache.get(kind, namespace, &name).is_some() {
            return Ok(());
        }
        match self.create(kind, namespace, body, WriteOptions::default()).await {
            Err(error) if error.reason == "AlreadyExists" => Ok(()),
            other => other.map(|_| ()),
        }
    }
}
