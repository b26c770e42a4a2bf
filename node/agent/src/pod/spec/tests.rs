use super::*;
use serde_json::{Value, json};

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "web-1", "namespace": "shop", "uid": "u-1", "labels": {"app": "web"}},
        "spec": spec,
    }))
    .unwrap()
}

fn service(selector: Value, ports: Value) -> Service {
    serde_json::from_value(json!({
        "metadata": {"name": "s", "namespace": "shop"},
        "spec": {"selector": selector, "ports": ports},
    }))
    .unwrap()
}

#[test]
fn http_is_served_on_declared_ports_or_on_those_that_others_name() {
    let services = [
        service(json!({"app": "web"}), json!([{"port": 80, "targetPort": 3000}])),
        service(json!({"app": "web"}), json!([{"port": 90}])),
        service(json!({"app": "other"}), json!([{"port": 70}])),
    ];
    for (containers, expected) in [
        (
            json!([{"name": "c", "ports": [{"containerPort": 8080}, {"containerPort": 53, "protocol": "UDP"}]}]),
            vec![8080],
        ),
        (
            json!([{"name": "c", "readinessProbe": {"httpGet": {"port": 3001}}}]),
            vec![90, 3000, 3001],
        ),
        (
            json!([{"name": "b"}, {"name": "c", "livenessProbe": {"tcpSocket": {"port": 7}}}]),
            vec![7],
        ),
        (json!([{"name": "c"}]), vec![90, 3000]),
    ] {
        let pod = pod(json!({"containers": containers}));
        assert_eq!(http_ports(&pod, "c", services.iter()), expected, "{containers}");
    }
}

#[test]
fn a_cpu_limit_is_a_request_too() {
    let pod = pod(json!({"containers": [
        {"name": "c", "resources": {"limits": {"memory": "64Mi", "cpu": "1500m"}}},
    ]}));
    let expected =
        Limits { cpu_request: 1500, cpu_limit: Some(1500), memory_limit: Some(64 << 20) };
    assert_eq!(limits(&container(&pod, "c").unwrap()), expected);
}
