use serde_json::{Value, json};

use super::*;

const INGRESSES: &str = "/apis/networking.k8s.io/v1/namespaces/default/ingresses";
const CLASSES: &str = "/apis/networking.k8s.io/v1/ingressclasses";

fn ingress(name: &str) -> Value {
    let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
    json!({"metadata": {"name": name}, "spec": {"defaultBackend": backend}})
}

#[tokio::test]
async fn ingresses_get_the_default_class() {
    let it = Fixture::new().await;
    let class = it.get(&format!("{CLASSES}/coracle")).await.body;
    assert_eq!(class["spec"]["controller"], "coracle.dev/ingress");
    assert_eq!(it.create(INGRESSES, ingress("a")).await["spec"]["ingressClassName"], "coracle");
    let mut named = ingress("b");
    named["spec"]["ingressClassName"] = "other".into();
    assert_eq!(it.create(INGRESSES, named).await["spec"]["ingressClassName"], "other");
    let mut annotated = ingress("c");
    annotated["metadata"]["annotations"] = json!({"kubernetes.io/ingress.class": "other"});
    assert!(it.create(INGRESSES, annotated).await["spec"]["ingressClassName"].is_null());
    let default = json!({"ingressclass.kubernetes.io/is-default-class": "true"});
    let second =
        json!({"metadata": {"name": "d", "annotations": default}, "spec": {"controller": "a.b/c"}});
    it.create(CLASSES, second).await;
    let refused = it.post(INGRESSES, ingress("d")).await;
    assert_eq!((refused.code, refused.reason()), (403, "Forbidden"));
    assert!(refused.message().contains("2 default IngressClasses were found, only 1 allowed"));
    it.merge(&format!("{CLASSES}/coracle"), json!({"metadata": {"annotations": null}})).await;
    assert_eq!(it.create(INGRESSES, ingress("d")).await["spec"]["ingressClassName"], "d");
    it.delete(&format!("{CLASSES}/d")).await;
    assert!(it.create(INGRESSES, ingress("e")).await["spec"]["ingressClassName"].is_null());
}

/// As upstream's conformance test of the API's operations.
#[tokio::test]
async fn status_and_spec_of_an_ingress_are_written_apart() {
    let it = Fixture::new().await;
    let made = it.create(INGRESSES, ingress("a")).await;
    assert_eq!(
        (&made["metadata"]["generation"], &made["status"]),
        (&json!(1), &json!({"loadBalancer": {}}))
    );
    let (path, status) = (format!("{INGRESSES}/a"), format!("{INGRESSES}/a/status"));
    let points = json!({"loadBalancer": {"ingress": [{"ip": "169.1.1.1"}]}});
    let patch = json!({"metadata": {"annotations": {"patchedstatus": "true"}}, "status": points, "spec": {"defaultBackend": null}});
    let patched = it.merge(&status, patch).await.body;
    assert_eq!(patched["status"], points);
    assert_eq!(patched["metadata"]["annotations"]["patchedstatus"], "true");
    assert_eq!((&patched["spec"], &patched["metadata"]["generation"]), (&made["spec"], &json!(1)));
    let mut changed = patched.clone();
    changed["spec"]["rules"] = json!([{"host": "a.b"}]);
    changed["status"] = json!({});
    let changed = it.put(&path, changed).await.body;
    assert_eq!((&changed["status"], &changed["metadata"]["generation"]), (&points, &json!(2)));
    let refused =
        it.merge(&status, json!({"status": {"loadBalancer": {"ingress": [{"ip": "x"}]}}})).await;
    assert!(
        refused.message().contains("status.loadBalancer.ingress[0].ip: Invalid value: \"x\""),
        "{}",
        refused.body
    );
    assert_eq!(it.delete(INGRESSES).await.code, 200);
    assert_eq!(it.get(&path).await.code, 404);
}
