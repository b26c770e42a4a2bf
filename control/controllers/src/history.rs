//! ControllerRevisions: the templates that a DaemonSet or StatefulSet had, for `kubectl rollout history` and `undo`.
//!
//! A revision holds a strategic merge patch that brings its template back. It is found again by what it holds, not by its
//! name.

use std::borrow::Cow;
use std::sync::Arc;

use coracle_api::plan::Propagation;
use coracle_api::{Cluster, LabelSelector, Object, Plan, kinds};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{names, owners};

/// On a Pod: the revision that it was made from.
pub(crate) const HASH: &str = "controller-revision-hash";

/// A revision and what was read of it.
pub(crate) struct Revision<'a> {
    pub(crate) object: &'a Arc<Object>,
    number: i64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct View {
    data: Value,
    revision: i64,
}

/// The history of one controller.
pub(crate) struct History<'a> {
    /// Oldest first; the last is the current one, unless it is still to be created.
    pub(crate) all: Vec<Revision<'a>>,
    /// The one that holds the present template.
    pub(crate) current: Option<usize>,
}

/// What a revision holds of its owner.
fn data(template: &Value) -> Value {
    let mut template = template.clone();
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

impl<'a> History<'a> {
    /// Reads the revisions that an owner has, adopting what it selects.
    pub(crate) fn of(
        cluster: &'a Cluster,
        owner: &Object,
        selector: &LabelSelector,
        template: &Value,
        plan: &mut Plan,
    ) -> Self {
        let kind = &kinds::CONTROLLER_REVISION;
        let claimed = owners::claim(cluster, kind, owner, selector, |_| true, None, plan);
        let data = data(template);
        let mut all: Vec<(Revision<'_>, bool)> = claimed
            .into_iter()
            .filter_map(|object| {
                let view = object.decode::<View>().ok()?;
                let current = names::same(&view.data, &data);
                Some((Revision { object, number: view.revision }, current))
            })
            .collect();
        all.sort_by_key(|(revision, _)| {
            let meta = &revision.object.meta;
            (revision.number, meta.creation_timestamp, meta.name.as_str())
        });
        let current = all.iter().rposition(|(_, current)| *current);
        Self { all: all.into_iter().map(|(revision, _)| revision).collect(), current }
    }

    /// The revision of that name.
    pub(crate) fn named(&self, name: &str) -> Option<&Revision<'a>> {
        self.all.iter().find(|revision| revision.object.meta.name == name)
    }

    /// The revision of the present template, once it has the highest number. Otherwise plans what is missing for that,
    /// and is none. `label` is given its hash; `collisions` is raised when a name was taken by something else.
    pub(crate) fn settle(
        &self,
        cluster: &Cluster,
        owner: &Object,
        template: &Value,
        label: &str,
        collisions: &mut i32,
        plan: &mut Plan,
    ) -> Option<&Revision<'a>> {
        let newest = |but: Option<usize>| {
            let others = self.all.iter().enumerate().filter(|(at, _)| Some(*at) != but);
            others.map(|(_, revision)| revision.number).max().unwrap_or(0)
        };
        let next = newest(self.current) + 1;
        let meta = &owner.meta;
        let Some(current) = self.current.map(|at| &self.all[at]) else {
            let hash = names::template_hash(template, *collisions);
            let name = format!("{}-{hash}", meta.name);
            if cluster.get(&kinds::CONTROLLER_REVISION, &meta.namespace, &name).is_some() {
                // Not ours or not this template, or it would have been found: another hash, then.
                *collisions += 1;
                return None;
            }
            let mut labels = template["metadata"].get("labels").cloned().unwrap_or_default();
            labels[label] = hash.into();
            let mut annotations = meta.annotations.clone();
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
            plan.create(
                &kinds::CONTROLLER_REVISION,
                json!({
                    "kind": "ControllerRevision",
                    "apiVersion": "apps/v1",
                    "metadata": {
                        "name": name,
                        "namespace": meta.namespace,
                        "labels": labels,
                        "annotations": annotations,
                        "ownerReferences": [owner.owner_ref()],
                    },
                    "data": data(template),
                    "revision": next,
                }),
            );
            return None;
        };
        if current.number < next {
            // A rollback: it is the newest again.
            plan.patch(current.object, json!({"revision": next}));
            return None;
        }
        Some(current)
    }

    /// Deletes the oldest revisions beyond the limit that `in_use` says nothing about.
    pub(crate) fn truncate(
        &self,
        limit: Option<i32>,
        in_use: impl Fn(&Revision<'_>) -> bool,
        plan: &mut Plan,
    ) {
        let limit = usize::try_from(limit.unwrap_or(10)).unwrap_or(0);
        let old = self.all.iter().enumerate().filter(|(at, _)| Some(*at) != self.current);
        let old: Vec<_> = old.map(|(_, revision)| revision).collect();
        let unused = old.iter().filter(|r| !in_use(r) && !r.object.is_deleting());
        let kept = old.iter().filter(|r| in_use(r)).count();
        let excess = (old.len() - kept).saturating_sub(limit);
        for revision in unused.take(excess) {
            plan.delete(revision.object, Propagation::Background);
        }
    }
}

impl Revision<'_> {
    /// Its hash, as the label on a DaemonSet's Pods has it.
    pub(crate) fn hash(&self) -> &str {
        self.object.meta.labels.get(HASH).unwrap_or(&self.object.meta.name)
    }

    /// The template that it holds.
    pub(crate) fn template(&self) -> Value {
        let mut view = self.object.decode::<View>().map(Cow::into_owned).unwrap_or_default();
        let mut template = view.data["spec"]["template"].take();
        if let Some(template) = template.as_object_mut() {
            template.remove("$patch");
        }
        template
    }
}
