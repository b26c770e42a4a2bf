use serde_json::json;

use super::*;

fn said(amounts: &Amounts) -> String {
    print(amounts)
}

#[test]
fn what_is_used() {
    let container = |resources: Value| json!({"name": "c", "resources": resources});
    let pod = |containers: Value| json!({"spec": {"containers": containers}});
    let one = container(
        json!({"requests": {"cpu": "100m", "memory": "1Gi", "example.com/x": "1"}, "limits": {"cpu": "1"}}),
    );
    for (kind, object, expected) in [
        (&kinds::POD, pod(json!([container(json!({}))])), "count/pods=1,pods=1"),
        (
            &kinds::POD,
            pod(json!([one, one])),
            "count/pods=1,cpu=200m,limits.cpu=2,memory=2Gi,pods=1,requests.cpu=200m,requests.example.com/x=2,requests.memory=2Gi",
        ),
        (
            &kinds::POD,
            json!({"spec": {"containers": [one]}, "status": {"phase": "Succeeded"}}),
            "count/pods=1",
        ),
        (
            &kinds::SERVICE,
            json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2}]}}),
            "count/services=1,services=1,services.loadbalancers=1,services.nodeports=2",
        ),
        (
            &kinds::SERVICE,
            json!({"spec": {"type": "ClusterIP", "ports": [{"port": 1}]}}),
            "count/services=1,services=1,services.loadbalancers=0,services.nodeports=0",
        ),
        (
            &kinds::PERSISTENT_VOLUME_CLAIM,
            json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}}),
            "count/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/requests.storage=1Gi,persistentvolumeclaims=1,requests.storage=1Gi",
        ),
        (
            &kinds::RESOURCE_CLAIM,
            json!({"spec": {"devices": {"requests": [
                {"name": "a", "exactly": {"deviceClassName": "gold", "allocationMode": "ExactCount", "count": 2}},
                {"name": "b", "firstAvailable": [
                    {"name": "x", "deviceClassName": "gold", "count": 3},
                    {"name": "y", "deviceClassName": "gold", "count": 1},
                    {"name": "z", "deviceClassName": "iron", "allocationMode": "All"},
                ]},
            ]}}}),
            "count/resourceclaims.resource.k8s.io=1,gold.deviceclass.resource.k8s.io/devices=5,iron.deviceclass.resource.k8s.io/devices=32",
        ),
        (&kinds::DEPLOYMENT, json!({}), "count/deployments.apps=1"),
        (&kinds::CONFIG_MAP, json!({}), "configmaps=1,count/configmaps=1"),
    ] {
        assert_eq!(said(&usage(kind, &object)), expected);
    }
}

#[test]
fn scopes_say_which_pods_count() {
    let term = json!({"labelSelector": {}, "topologyKey": "k", "namespaces": ["other"]});
    let across = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
    let plain = json!({"containers": [{"name": "c"}]});
    let with = |field: &str, value: Value| {
        let mut spec = plain.clone();
        spec[field] = value;
        spec
    };
    let class = |operator: &str, values: Value| json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": operator, "values": values}]}});
    let scope = |name: &str| json!({"scopes": [name]});
    let asks = json!([{"name": "c", "resources": {"requests": {"cpu": "1"}}}]);
    for (limits, spec, expected) in [
        (json!({}), plain.clone(), true),
        (scope("Terminating"), plain.clone(), false),
        (scope("NotTerminating"), plain.clone(), true),
        (scope("Terminating"), with("activeDeadlineSeconds", json!(5)), true),
        (scope("BestEffort"), plain.clone(), true),
        (scope("NotBestEffort"), plain.clone(), false),
        (scope("NotBestEffort"), with("containers", asks), true),
        (scope("CrossNamespacePodAffinity"), plain.clone(), false),
        (scope("CrossNamespacePodAffinity"), with("affinity", across), true),
        (scope("PriorityClass"), plain.clone(), false),
        (class("In", json!(["high"])), with("priorityClassName", json!("high")), true),
        (class("In", json!(["high"])), with("priorityClassName", json!("low")), false),
        (class("NotIn", json!(["high"])), plain.clone(), true),
        (class("Exists", json!([])), with("priorityClassName", json!("low")), true),
        (class("DoesNotExist", json!([])), plain.clone(), true),
    ] {
        let mut quota = json!({"spec": {"hard": {"pods": "1"}}});
        for (field, value) in limits.as_object().unwrap() {
            quota["spec"][field] = value.clone();
        }
        let pod = json!({"spec": spec});
        assert_eq!(concerns(&quota, &kinds::POD, &pod), expected, "{limits} {spec}");
    }
    let services = json!({"spec": {"hard": {"services": "1"}}});
    assert!(!concerns(&services, &kinds::POD, &json!({})));
    assert!(concerns(&services, &kinds::SERVICE, &json!({})));
}

#[test]
fn quotas_of_computing_oblige_to_say_how_much() {
    let quota = json!({"spec": {"hard": {"limits.cpu": "1", "memory": "1Gi", "pods": "1"}}});
    let full =
        json!({"name": "b", "resources": {"limits": {"cpu": "1"}, "requests": {"memory": "1"}}});
    let pod = |containers: Value| json!({"spec": {"containers": containers}});
    let unsaid = |containers| super::unsaid(&quota, &kinds::POD, &pod(containers));
    assert_eq!(
        unsaid(json!([{"name": "a"}, full])).as_deref(),
        Some("must specify limits.cpu for: a; memory for: a")
    );
    assert_eq!(unsaid(json!([full])), None);
}
