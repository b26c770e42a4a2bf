//! The kinds table: one entry per kind feeds routes, discovery, OpenAPI, defaults, validation and printing.
//!
//! Adding a kind is one file here and one line in [`ALL`].

use jiff::Timestamp;
use serde_json::Value;

use crate::object::Object;
use crate::status::FieldError;

/// One kind, in the version that is served and stored.
pub struct Kind {
    /// API group; empty for core.
    pub group: &'static str,
    /// Version, such as `v1`.
    pub version: &'static str,
    /// `Pod`.
    pub kind: &'static str,
    /// `pods`.
    pub plural: &'static str,
    /// `pod`.
    pub singular: &'static str,
    /// `deployments.apps`, or the plural alone for core: its identity, and how error texts name it.
    pub resource: &'static str,
    /// `po`.
    pub short_names: &'static [&'static str],
    /// `all`.
    pub categories: &'static [&'static str],
    /// Lives in a namespace.
    pub namespaced: bool,
    /// Subresources that are served.
    pub subresources: &'static [Subresource],
    /// Which fields `metadata.generation` follows.
    pub generation: Generation,
    /// Defined by a CustomResourceDefinition: see [`crate::custom`].
    pub custom: bool,
    /// Its old versions need not be kept for long (Leases, Events).
    pub short_history: bool,
    /// A deletion that says nothing of dependents leaves them alone.
    pub orphans_dependents: bool,
    /// How its names are checked.
    pub name_rule: NameRule,
    /// Fills defaults in, in place. Total: never fails on odd input that passed the schema.
    pub default: fn(&mut Value),
    /// What create and update do beside validation (clear status, drop or keep fields).
    pub prepare: fn(Prepare<'_>),
    /// Checks a whole new object.
    pub validate: fn(&Value) -> Vec<FieldError>,
    /// Checks what only a new object must not have, beside `validate`.
    pub validate_create: fn(&Value) -> Vec<FieldError>,
    /// Checks a change (`new`, `old`), after `validate(new)`.
    pub validate_update: fn(&Value, &Value) -> Vec<FieldError>,
    /// What its writer is told that stands not against it.
    pub warnings: fn(&Value) -> Vec<String>,
    /// What everybody is told who asks for it; empty if nothing.
    pub deprecated: &'static str,
    /// Columns for `kubectl get`.
    pub columns: &'static [Column],
    /// One cell per column.
    pub cells: fn(&Object, Timestamp) -> Vec<Value>,
    /// Field selector paths beyond `metadata.name` and `metadata.namespace`, and their values.
    pub fields: &'static [SelectableField],
}

/// A field that field selectors may name, and how it is read (absent reads as empty).
pub struct SelectableField {
    /// `spec.nodeName`.
    pub path: &'static str,
    /// Its value in an object.
    pub read: fn(&Object) -> String,
}

/// A subresource of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subresource {
    /// `/status`.
    Status,
    /// `/scale`, with the JSON paths of replicas and of the label selector taken from `spec` and `status`.
    Scale,
    /// `/log`.
    Log,
    /// `/binding`.
    Binding,
    /// `/eviction`.
    Eviction,
    /// `/exec`.
    Exec,
    /// `/attach`.
    Attach,
    /// `/portforward`.
    PortForward,
    /// `/ephemeralcontainers` of a Pod.
    EphemeralContainers,
    /// `/resize` of a Pod.
    Resize,
    /// `/finalize` of a Namespace.
    Finalize,
    /// `/approval` of a CertificateSigningRequest.
    Approval,
    /// `/token` of a ServiceAccount.
    Token,
}

/// Whether and how `metadata.generation` moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// Not used by this kind.
    None,
    /// Starts at 1 and moves with `spec`.
    Spec,
}

/// Which names are valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 subdomain.
    Subdomain,
    /// RFC 1123 label.
    Label,
    /// RFC 1035 label (Services).
    Label1035,
    /// A path segment (RBAC).
    PathSegment,
}

/// What is being written, for [`Kind::prepare`].
pub enum Prepare<'a> {
    /// A new object.
    Create(&'a mut Value),
    /// A write to the object itself: status is kept from `old`.
    Update {
        /// As it will be.
        new: &'a mut Value,
        /// As it is.
        old: &'a Value,
    },
    /// A write to `/status`: everything else is kept from `old`.
    Status {
        /// As it will be.
        new: &'a mut Value,
        /// As it is.
        old: &'a Value,
    },
}

/// A column of a Table.
#[derive(Clone, Copy)]
pub struct Column {
    /// Header.
    pub name: &'static str,
    /// `string`, `integer`, `date`…
    pub kind: &'static str,
    /// OpenAPI format; `name` marks the name column.
    pub format: &'static str,
    /// For documentation.
    pub description: &'static str,
    /// 0 is always shown, more only with `-o wide`.
    pub priority: i32,
}

impl Kind {
    /// What most kinds have: core `v1`, namespaced, no defaults of its own, nothing beyond the schema to check.
    pub const BASE: Kind = Kind {
        group: "",
        version: "v1",
        kind: "",
        plural: "",
        singular: "",
        resource: "",
        short_names: &[],
        categories: &[],
        namespaced: true,
        subresources: &[],
        generation: Generation::None,
        custom: false,
        short_history: false,
        orphans_dependents: false,
        name_rule: NameRule::Subdomain,
        default: |_| {},
        prepare: |_| {},
        validate: |_| Vec::new(),
        validate_create: |_| Vec::new(),
        validate_update: |_, _| Vec::new(),
        warnings: |_| Vec::new(),
        deprecated: "",
        columns: &[],
        cells: |_, _| Vec::new(),
        fields: &[],
    };

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The kind Pod, which alone is bound to nodes.
    pub fn is_pod(&self) -> bool {
        self.resource == "pods"
    }

    /// Whether it has that subresource.
    pub fn has(&self, subresource: Subresource) -> bool {
        self.subresources.contains(&subresource)
    }
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.resource)
    }
}

mod common;
mod devices;
pub mod flow_control;
mod policy;
mod rbac;
mod warnings;
mod webhook;
mod workload;

macro_rules! table {
    ($($module:ident $name:ident;)*) => {
        $(mod $module; pub use $module::KIND as $name;)*
        /// Every built-in kind, in the order of discovery.
        pub static ALL: &[&Kind] = &[$(&$name),*];
    };
}

table! {
    namespace NAMESPACE;
    node NODE;
    pod POD;
    service SERVICE;
    endpoints ENDPOINTS;
    config_map CONFIG_MAP;
    secret SECRET;
    service_account SERVICE_ACCOUNT;
    resource_quota RESOURCE_QUOTA;
    limit_range LIMIT_RANGE;
    event EVENT;
    persistent_volume PERSISTENT_VOLUME;
    persistent_volume_claim PERSISTENT_VOLUME_CLAIM;
    pod_template POD_TEMPLATE;
    replication_controller REPLICATION_CONTROLLER;
    deployment DEPLOYMENT;
    replica_set REPLICA_SET;
    daemon_set DAEMON_SET;
    stateful_set STATEFUL_SET;
    controller_revision CONTROLLER_REVISION;
    job JOB;
    cron_job CRON_JOB;
    pod_disruption_budget POD_DISRUPTION_BUDGET;
    horizontal_pod_autoscaler HORIZONTAL_POD_AUTOSCALER;
    certificate_signing_request CERTIFICATE_SIGNING_REQUEST;
    custom_resource_definition CUSTOM_RESOURCE_DEFINITION;
    lease LEASE;
    endpoint_slice ENDPOINT_SLICE;
    ingress INGRESS;
    ingress_class INGRESS_CLASS;
    network_policy NETWORK_POLICY;
    service_cidr SERVICE_CIDR;
    ip_address IP_ADDRESS;
    storage_class STORAGE_CLASS;
    volume_attachment VOLUME_ATTACHMENT;
    csi_driver CSI_DRIVER;
    csi_node CSI_NODE;
    csi_storage_capacity CSI_STORAGE_CAPACITY;
    volume_attributes_class VOLUME_ATTRIBUTES_CLASS;
    device_class DEVICE_CLASS;
    resource_claim RESOURCE_CLAIM;
    resource_claim_template RESOURCE_CLAIM_TEMPLATE;
    resource_slice RESOURCE_SLICE;
    flow_schema FLOW_SCHEMA;
    priority_level_configuration PRIORITY_LEVEL_CONFIGURATION;
    api_service API_SERVICE;
    mutating_admission_policy MUTATING_ADMISSION_POLICY;
    mutating_admission_policy_binding MUTATING_ADMISSION_POLICY_BINDING;
    validating_admission_policy VALIDATING_ADMISSION_POLICY;
    validating_admission_policy_binding VALIDATING_ADMISSION_POLICY_BINDING;
    runtime_class RUNTIME_CLASS;
    priority_class PRIORITY_CLASS;
    role ROLE;
    cluster_role CLUSTER_ROLE;
    role_binding ROLE_BINDING;
    cluster_role_binding CLUSTER_ROLE_BINDING;
    mutating_webhook_configuration MUTATING_WEBHOOK_CONFIGURATION;
    validating_webhook_configuration VALIDATING_WEBHOOK_CONFIGURATION;
}

pub use policy::RESERVED as CEL_RESERVED;

pub use ingress::{
    CLASS_ANNOTATION as INGRESS_CLASS_ANNOTATION, PORTS_ANNOTATION as INGRESS_PORTS_ANNOTATION,
};
pub use ingress_class::{
    CONTROLLER as INGRESS_CONTROLLER, DEFAULT_ANNOTATION as DEFAULT_INGRESS_CLASS_ANNOTATION,
};

pub use persistent_volume::PROTECTION as VOLUME_PROTECTION;
pub use persistent_volume_claim::{
    BETA_CLASS_ANNOTATION as STORAGE_CLASS_ANNOTATION, PROTECTION as CLAIM_PROTECTION,
};
pub use storage_class::DEFAULT_ANNOTATIONS as DEFAULT_STORAGE_CLASS_ANNOTATIONS;

/// Checks a change (`new`, `old`) through `/ephemeralcontainers` of a Pod, after `validate(new)`.
pub fn validate_ephemeral_update(new: &Value, old: &Value) -> Vec<FieldError> {
    pod::ephemeral_update(new, old)
}

/// A Pod as it was, but for what a write through `/resize` may change.
pub fn resized(old: &Value, asked: &Value) -> Value {
    pod::resized(old, asked)
}

/// Checks a change (`new`, `old`) through `/resize` of a Pod, after `validate(new)`.
pub fn validate_resize_update(new: &Value, old: &Value) -> Vec<FieldError> {
    pod::resize_update(new, old)
}

/// Autoscalers in their older version, `autoscaling/v1`.
pub mod autoscaling_v1 {
    pub use super::horizontal_pod_autoscaler::v1::{VERSION, show, store};
}

/// Events as `events.k8s.io/v1` has them.
pub mod events_v1 {
    pub use super::event::check_v1 as check;
}

/// Checks a change (`new`, `old`) through `/approval` of a CertificateSigningRequest, after `validate(new)`.
pub fn validate_approval_update(new: &Value, old: &Value) -> Vec<FieldError> {
    certificate_signing_request::approval_update(new, old)
}

/// The kind of that group and plural.
pub fn by_resource(group: &str, plural: &str) -> Option<&'static Kind> {
    ALL.iter().find(|k| k.group == group && k.plural == plural).copied()
}

/// The kind of that `apiVersion` and `kind`.
pub fn by_kind(api_version: &str, kind: &str) -> Option<&'static Kind> {
    ALL.iter().find(|k| k.kind == kind && k.api_version() == api_version).copied()
}

#[cfg(test)]
mod tests;
