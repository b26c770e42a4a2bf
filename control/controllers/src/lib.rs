//! The controllers: each a pure function from the cluster, as one view has it, to a plan.
//!
//! Nothing here does I/O, keeps state or knows what woke it, so the server's driver and the simulator run the very same
//! code. What they may rely on, and must keep:
//!
//! - `wakes` is called with the view that already holds the change, once for the old and once for the new object. On
//!   start it is called for every object there is; so a controller may be killed anywhere.
//! - A plan's writes are performed in order and stop at the first that fails. A key is not run again before the view
//!   has reached the revision of its last write.
//! - Names of created objects are derived from what was seen: a plan made twice from one view collides with itself
//!   instead of creating twice.
//! - A creation that is refused (not for already existing) is told by a warning `FailedCreate` about the object's
//!   controller, and the key runs again with back-off.
//!
//! In the order of the apply trace: a Deployment plans ReplicaSets, a ReplicaSet plans Pods, the scheduler and a node run
//! them, and [`endpoint_slice`] lists the ready ones for the network.

mod deployment;
mod replica_set;

mod cron_job;
mod job;

mod daemon_set;
mod history;
mod stateful_set;

mod autoscaler;
mod disruption;

mod ephemeral_volumes;
mod ip_address;
mod service_cidr;
mod volumes;

mod endpoint_slice;
mod endpoint_slice_mirroring;
mod endpoints;
mod ingress;
mod load_balancer;

mod api_service_registration;
mod custom_resource_definition;
mod extension_authentication;
mod flow_schema;
mod garbage_collector;
mod namespace;
mod resource_quota;
mod root_ca;
mod service_account;

mod node_ipam;
mod node_lifecycle;
mod pod_gc;
mod taint_eviction;

mod certificates;
mod cluster_role_aggregation;
mod token_cleaner;

mod names;
mod nodes;
mod owners;
mod patch;
mod pods;
mod scales;
mod services;
mod slices;

use coracle_api::plan::Controller;

pub use api_service_registration::{AUTOMANAGED, ApiServiceRegistration, ON_START};
pub use autoscaler::HorizontalPodAutoscalerController;
pub use certificates::{CertificateApprover, CertificateCleaner, Requester};
pub use cluster_role_aggregation::ClusterRoleAggregation;
pub use cron_job::CronJobController;
pub use custom_resource_definition::CustomResourceDefinitionController;
pub use daemon_set::DaemonSetController;
pub use deployment::DeploymentController;
pub use disruption::DisruptionController;
pub use endpoint_slice::EndpointSliceController;
pub use endpoint_slice_mirroring::EndpointSliceMirroring;
pub use endpoints::EndpointsController;
pub use ephemeral_volumes::EphemeralVolumes;
pub use extension_authentication::ExtensionAuthentication;
pub use flow_schema::FlowSchemaController;
pub use garbage_collector::GarbageCollector;
pub use ingress::IngressController;
pub use ip_address::IpAddressController;
pub use job::JobController;
pub use load_balancer::LoadBalancerController;
pub use namespace::NamespaceController;
pub use node_ipam::{NodeIpam, owner_of_range};
pub use node_lifecycle::NodeLifecycle;
pub use pod_gc::PodCollector;
pub use replica_set::ReplicaSetController;
pub use resource_quota::ResourceQuotaController;
pub use root_ca::RootCaPublisher;
pub use service_account::ServiceAccountController;
pub use service_cidr::ServiceCidrController;
pub use stateful_set::StatefulSetController;
pub use taint_eviction::TaintEviction;
pub use token_cleaner::TokenCleaner;
pub use volumes::{ClaimController, VolumeController};

/// Every controller that needs nothing but the cluster, with its usual settings.
pub fn all() -> Vec<Box<dyn Controller>> {
    with(NodeLifecycle::default())
}

/// The same, with this patience for nodes.
pub fn with(nodes: NodeLifecycle) -> Vec<Box<dyn Controller>> {
    vec![
        Box::new(DeploymentController),
        Box::new(ReplicaSetController::REPLICA_SETS),
        Box::new(ReplicaSetController::REPLICATION_CONTROLLERS),
        Box::new(JobController),
        Box::new(CronJobController),
        Box::new(DaemonSetController),
        Box::new(StatefulSetController),
        Box::new(DisruptionController),
        Box::new(HorizontalPodAutoscalerController),
        Box::new(EndpointSliceController),
        Box::new(EndpointSliceMirroring),
        Box::new(EndpointsController),
        Box::new(IngressController),
        Box::new(NamespaceController),
        Box::new(ServiceAccountController),
        Box::new(ResourceQuotaController),
        Box::new(ServiceCidrController),
        Box::new(IpAddressController),
        Box::new(EphemeralVolumes),
        Box::new(ClaimController),
        Box::new(VolumeController),
        Box::new(ClusterRoleAggregation),
        Box::new(FlowSchemaController),
        Box::new(GarbageCollector),
        Box::new(CustomResourceDefinitionController),
        Box::new(nodes),
        Box::new(TaintEviction),
        Box::new(PodCollector::default()),
        Box::new(TokenCleaner),
        Box::new(CertificateCleaner),
    ]
}

/// The most writes in one plan: a bound on what one key can keep others waiting, and on what a cut plan can lose.
pub(crate) const BURST: usize = 500;

#[cfg(test)]
mod tests;
