//! What admission is asked: which operation, on what, by whom.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};

use coracle_api::Kind;
use coracle_api::kinds::{self, autoscaling_v1};
use serde_json::{Value, json};

use crate::auth::{AUTHENTICATED, Identity};

/// Warnings that one request may bring back, and characters of each; upstream bounds them too.
const MOST_WARNINGS: usize = 32;
const LONGEST_WARNING: usize = 4096;

/// What is done (`admission/v1 Operation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

impl Operation {
    /// `CREATE`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// A group, a version, and the plural or the kind in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gv<'a> {
    pub(crate) group: &'a str,
    pub(crate) version: &'a str,
    /// `pods` of a resource, `Pod` of a kind.
    pub(crate) name: &'a str,
}

/// The version that an object was written in, where it is not the stored one, and the ways there and back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Requested {
    /// With the plural.
    pub(crate) resource: Gv<'static>,
    /// From how it is stored to how this version shows it.
    pub(crate) show: fn(&mut Value),
    /// From how this version writes it to how it is stored.
    pub(crate) store: fn(&mut Value),
}

impl Requested {
    /// The other version that a built-in kind has, if it has one.
    pub(super) fn other_of(kind: &Kind) -> Option<Self> {
        let (version, show, store) =
            (autoscaling_v1::VERSION, autoscaling_v1::show, autoscaling_v1::store);
        let kind =
            Some(&kinds::HORIZONTAL_POD_AUTOSCALER).filter(|it| it.resource == kind.resource)?;
        let resource = Gv { group: kind.group, version, name: kind.plural };
        Some(Self { resource, show, store })
    }
}

/// One request to admission, but for the objects, which change on their way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) operation: Operation,
    /// The kind whose collection is written to.
    pub(crate) kind: &'static Kind,
    /// `status`, `binding`…; empty for the object itself.
    pub(crate) subresource: &'a str,
    /// The version that was asked for where it is not the stored one.
    pub(crate) requested: Option<Requested>,
    /// Empty for what is in none.
    pub(crate) namespace: &'a str,
    /// Empty where it is yet to be made.
    pub(crate) name: &'a str,
    pub(crate) caller: &'a Caller,
    /// The field manager, where there is one.
    pub(crate) manager: &'a str,
    /// Nothing is going to be stored, nothing may be changed elsewhere.
    pub(crate) dry_run: bool,
    /// `DeleteOptions` of a deletion.
    pub(crate) deletion: Option<&'a super::super::DeleteOptions>,
}

impl<'a> Request<'a> {
    /// A request for an object of that kind.
    pub(crate) fn new(
        operation: Operation,
        kind: &'static Kind,
        (namespace, name): (&'a str, &'a str),
        caller: &'a Caller,
    ) -> Self {
        let (requested, deletion) = (None, None);
        let (subresource, manager, dry_run) = ("", "", false);
        Self {
            operation,
            kind,
            subresource,
            requested,
            namespace,
            name,
            caller,
            manager,
            dry_run,
            deletion,
        }
    }

    /// A request for the subresource of an object.
    pub(crate) fn of(mut self, subresource: &'a str) -> Self {
        self.subresource = subresource;
        self
    }

    /// The kind of the objects that go with it: that of the collection, or of the subresource.
    pub(crate) fn object_kind(&self) -> Gv<'static> {
        let core = |name| Gv { group: "", version: "v1", name };
        match self.subresource {
            "scale" => Gv { group: "autoscaling", version: "v1", name: "Scale" },
            "binding" => core("Binding"),
            "eviction" => Gv { group: "policy", version: "v1", name: "Eviction" },
            "token" => Gv { group: "authentication.k8s.io", version: "v1", name: "TokenRequest" },
            "exec" => core("PodExecOptions"),
            "attach" => core("PodAttachOptions"),
            "portforward" => core("PodPortForwardOptions"),
            "proxy" if self.kind.is_pod() => core("PodProxyOptions"),
            "proxy" if self.kind.resource == "nodes" => core("NodeProxyOptions"),
            "proxy" => core("ServiceProxyOptions"),
            _ => Gv { group: self.kind.group, version: self.kind.version, name: self.kind.kind },
        }
    }

    /// The collection that is written to, as it is stored.
    pub(crate) fn resource(&self) -> Gv<'static> {
        Gv { group: self.kind.group, version: self.kind.version, name: self.kind.plural }
    }

    /// The same, as it was asked for.
    pub(crate) fn asked(&self) -> Gv<'static> {
        self.requested.map_or(self.resource(), |requested| requested.resource)
    }

    /// The options of the request, as a tree of their kind.
    pub(crate) fn options(&self) -> Value {
        let kind = match self.operation {
            Operation::Create => "CreateOptions",
            Operation::Update => "UpdateOptions",
            Operation::Delete => "DeleteOptions",
            Operation::Connect => return Value::Null,
        };
        let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
        if self.dry_run {
            options["dryRun"] = json!(["All"]);
        }
        if !self.manager.is_empty() {
            options["fieldManager"] = self.manager.into();
        }
        if let Some(deletion) = self.deletion {
            if let Some(seconds) = deletion.grace_seconds {
                options["gracePeriodSeconds"] = seconds.into();
            }
            if let Some(propagation) = deletion.propagation {
                options["propagationPolicy"] = format!("{propagation:?}").into();
            }
            let wanted = &deletion.preconditions;
            if let Some(uid) = &wanted.uid {
                options["preconditions"]["uid"] = uid.as_str().into();
            }
            if let Some(revision) = wanted.revision {
                options["preconditions"]["resourceVersion"] = revision.to_string().into();
            }
        }
        options
    }
}

/// Who writes.
#[derive(Debug, Clone, Default)]
pub(crate) enum Caller {
    /// The server itself: what it needs in order to run, and what is part of a request that was admitted. No webhook, policy
    /// or quota has a say in it.
    #[default]
    Server,
    /// A controller or the scheduler, by the name it has here.
    Component(&'static str),
    /// Who asked over HTTP.
    Client(Arc<Client>),
}

/// A caller over HTTP, and what it is told beside the answer.
#[derive(Debug)]
pub(crate) struct Client {
    identity: Identity,
    notes: Mutex<Notes>,
}

/// What admission has to say beside yes or no.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// For `Warning` headers.
    pub(crate) warnings: Vec<String>,
    /// For the audit log: key and value.
    pub(crate) annotations: Vec<(String, String)>,
}

impl Caller {
    /// Who has that identity.
    pub(crate) fn client(identity: Identity) -> Self {
        Self::Client(Arc::new(Client { identity, notes: Mutex::default() }))
    }

    /// Whether it is the server itself.
    pub(crate) fn is_server(&self) -> bool {
        matches!(self, Self::Server)
    }

    /// The user that it is. Controllers have the names of upstream's, which people's rules exempt.
    pub(crate) fn identity(&self) -> Cow<'_, Identity> {
        match self {
            Self::Client(client) => Cow::Borrowed(&client.identity),
            Self::Component(name) => Cow::Owned(component(name)),
            Self::Server => Cow::Owned(Identity {
                user: "system:apiserver".into(),
                groups: vec!["system:masters".into(), AUTHENTICATED.into()],
                ..Identity::default()
            }),
        }
    }

    /// Tells the caller something that does not stand against its request.
    pub(crate) fn warn(&self, warning: impl Into<String>) {
        let Self::Client(client) = self else { return };
        let mut notes = client.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut warning = warning.into();
        let mut end = warning.len().min(LONGEST_WARNING);
        while !warning.is_char_boundary(end) {
            end -= 1;
        }
        warning.truncate(end);
        if notes.warnings.len() < MOST_WARNINGS && !notes.warnings.contains(&warning) {
            notes.warnings.push(warning);
        }
    }

    /// Notes something for the audit log.
    pub(crate) fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        let Self::Client(client) = self else { return };
        let mut notes = client.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let (key, value) = (key.into(), value.into());
        // The first to say something is right, as upstream.
        if notes.annotations.iter().all(|(known, _)| *known != key) {
            notes.annotations.push((key, value));
        }
    }

    /// What was noted, once.
    pub(crate) fn take_notes(&self) -> Notes {
        let Self::Client(client) = self else { return Notes::default() };
        std::mem::take(&mut *client.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The user that a component is upstream.
fn component(name: &str) -> Identity {
    let account = match name {
        "kube-scheduler" | "default-scheduler" => {
            return Identity {
                user: "system:kube-scheduler".into(),
                groups: vec![AUTHENTICATED.into()],
                ..Identity::default()
            };
        }
        "endpoints" => "endpoint-controller",
        "endpoint-slice" => "endpointslice-controller",
        "endpoint-slice-mirroring" => "endpointslicemirroring-controller",
        "daemonset" => "daemon-set-controller",
        "serviceaccount" => "service-account-controller",
        "garbage-collector" => "generic-garbage-collector",
        "root-ca-certificate-publisher" => "root-ca-cert-publisher",
        "node" | "node-ipam" | "taint-eviction" => "node-controller",
        "certificate-approver" | "certificate-cleaner" | "certificate-signer" => {
            "certificate-controller"
        }
        "pod-garbage-collector" | "horizontal-pod-autoscaler" | "token-cleaner" => name,
        other => &format!("{other}-controller"),
    };
    Identity {
        user: format!("system:serviceaccount:kube-system:{account}"),
        groups: vec![
            "system:serviceaccounts".into(),
            "system:serviceaccounts:kube-system".into(),
            AUTHENTICATED.into(),
        ],
        ..Identity::default()
    }
}
