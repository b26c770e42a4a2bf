//! OwnerReferencesPermissionEnforcement (`plugin/pkg/admission/gc` upstream): who names an owner could have the object deleted with
//! it, and who has it block the owner's deletion keeps that from ending. Both take rights.

use coracle_api::json::Json;
use coracle_api::{ApiError, kinds};
use serde_json::Value;

use super::{Caller, Operation, Request};
use crate::auth::{self, Attributes};
use crate::registry::Registry;

impl Registry {
    /// Checks what a client changes in `metadata.ownerReferences`.
    pub(super) fn check_owners(
        &self,
        request: &Request<'_>,
        old: Option<&Value>,
        new: Option<&Value>,
    ) -> Result<(), ApiError> {
        let Caller::Client(_) = request.caller else { return Ok(()) };
        let Some(new) = new.filter(|_| super::is_of_collection(request)) else { return Ok(()) };
        let of = |tree: &Value| tree.list(&["metadata", "ownerReferences"]).to_vec();
        let (owners, before) = (of(new), old.map(of).unwrap_or_default());
        if owners == before {
            return Ok(());
        }
        let name = new.text(&["metadata", "name"]);
        let identity = request.caller.identity();
        let cluster = self.cache.read();
        let may = |wanted: Attributes| auth::allows(&cluster, &identity, &wanted).is_ok();
        let refuse = |why: String| Err(ApiError::forbidden(request.kind, name, &why));
        let kind = request.kind;
        // Who creates it may have it begin as they like.
        if request.operation == Operation::Update
            && !may(Attributes {
                verb: "delete".into(),
                group: kind.group.into(),
                version: kind.version.into(),
                resource: kind.plural.into(),
                namespace: request.namespace.into(),
                name: name.into(),
                ..Attributes::default()
            })
        {
            return refuse(
                "cannot set an ownerRef on a resource you can't delete: , <nil>".to_owned(),
            );
        }
        let blocks = |owner: &&Value| owner.flag(&["blockOwnerDeletion"]);
        let known = |owner: &&Value| {
            before.iter().filter(blocks).any(|b| b.text(&["uid"]) == owner.text(&["uid"]))
        };
        for owner in owners.iter().filter(blocks).filter(|owner| !known(owner)) {
            let (version, kind) = (owner.text(&["apiVersion"]), owner.text(&["kind"]));
            let custom = || self.cache.definitions().by_kind(version, kind);
            let Some(of) = kinds::by_kind(version, kind).or_else(custom) else {
                return refuse(format!(
                    "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion {version} \
                     Kind {kind}: no matches for kind \"{kind}\" in version \"{version}\""
                ));
            };
            let wanted = Attributes {
                verb: "update".into(),
                group: of.group.into(),
                version: of.version.into(),
                resource: of.plural.into(),
                subresource: "finalizers".into(),
                namespace: if of.namespaced { request.namespace.into() } else { String::new() },
                name: owner.text(&["name"]).into(),
                ..Attributes::default()
            };
            if !may(wanted) {
                return refuse(
                    "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: , <nil>"
                        .to_owned(),
                );
            }
        }
        Ok(())
    }
}
