use jiff::Timestamp;

use super::*;

fn autoscaler(spec: Value) -> Value {
    let mut autoscaler = json!({
        "apiVersion": "autoscaling/v2",
        "metadata": {"name": "web", "namespace": "ns"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "maxReplicas": 5,
        },
    });
    json_patch::merge(&mut autoscaler["spec"], &spec);
    (KIND.default)(&mut autoscaler);
    autoscaler
}

fn resource(target: Value) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu", "target": target}})
}

#[test]
fn defaults() {
    let plain = autoscaler(json!({}));
    assert_eq!(plain["spec"]["minReplicas"], 1);
    assert_eq!(plain["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
    assert!(plain["spec"].get("behavior").is_none());
    let behavior = autoscaler(json!({"behavior": {"scaleUp": {"policies": [
        {"type": "Pods", "value": 1, "periodSeconds": 60}]}}}))["spec"]["behavior"]
        .take();
    assert_eq!(
        behavior,
        json!({
            "scaleUp": {
                "stabilizationWindowSeconds": 0,
                "selectPolicy": "Max",
                "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
            },
            "scaleDown": {
                "selectPolicy": "Max",
                "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
            },
        })
    );
}

#[test]
fn what_is_wrong_is_named() {
    let percent = |n: i64| resource(json!({"type": "Utilization", "averageUtilization": n}));
    let metrics = |metric: Value| json!({"metrics": [metric]});
    let pods = |target: Value| json!({"metrics": [{"type": "Pods", "pods": {"metric": {"name": "qps"}, "target": target}}]});
    let up = |rules: Value| json!({"behavior": {"scaleUp": rules}});
    for (spec, expected) in [
        (json!({}), ""),
        (metrics(percent(70)), ""),
        (json!({"minReplicas": 0}), "spec.metrics: Forbidden: must specify at least one Object or External metric to support scaling to zero replicas; spec.minReplicas: Invalid value: 0: must be greater than or equal to 1"),
        (json!({"maxReplicas": 0}), "spec.maxReplicas: Invalid value: 0: must be greater than 0; spec.maxReplicas: Invalid value: 0: must be greater than or equal to `minReplicas`"),
        (json!({"minReplicas": 6}), "spec.maxReplicas: Invalid value: 5: must be greater than or equal to `minReplicas`"),
        (json!({"scaleTargetRef": {"name": null}}), "spec.scaleTargetRef.name: Required value"),
        (json!({"scaleTargetRef": {"kind": "a/b"}}), "spec.scaleTargetRef.kind: Invalid value: \"a/b\": may not contain '/'"),
        (metrics(percent(0)), "spec.metrics[0].resource.target.averageUtilization: Invalid value: 0: must be greater than 0"),
        (metrics(resource(json!({"type": "Utilization"}))), "spec.metrics[0].resource.target.averageUtilization: Required value: must set either a target raw value or a target utilization"),
        (metrics(resource(json!({"type": "Utilization", "averageUtilization": 5, "averageValue": "1"}))), "spec.metrics[0].resource.target.averageValue: Forbidden: may not set both a target raw value and a target utilization"),
        (metrics(resource(json!({"averageUtilization": 5}))), "spec.metrics[0].resource.target.type: Required value: must specify a metric target type; spec.metrics[0].resource.target.type: Invalid value: \"\": must be either Utilization, Value, or AverageValue"),
        (metrics(json!({"type": "Magic"})), "spec.metrics[0].type: Unsupported value: \"Magic\": supported values: \"ContainerResource\", \"External\", \"Object\", \"Pods\", \"Resource\""),
        (metrics(json!({"type": "Pods", "resource": percent(5)["resource"]})), "spec.metrics[0].pods: Required value: must populate information for the given metric source"),
        (pods(json!({"type": "AverageValue", "averageValue": "0"})), "spec.metrics[0].pods.target.averageValue: Invalid value: \"0\": must be positive"),
        (pods(json!({"type": "Value", "value": "3"})), "spec.metrics[0].pods.target.averageValue: Required value: must specify a positive target averageValue"),
        (up(json!({"stabilizationWindowSeconds": 3601})), "spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600"),
        (up(json!({"selectPolicy": "Most"})), "spec.behavior.scaleUp.selectPolicy: Unsupported value: \"Most\": supported values: \"Disabled\", \"Max\", \"Min\""),
        (up(json!({"policies": []})), "spec.behavior.scaleUp.policies: Required value: must specify at least one Policy"),
        (up(json!({"policies": [{"type": "Pods", "value": 0, "periodSeconds": 1801}]})), "spec.behavior.scaleUp.policies[0].value: Invalid value: 0: must be greater than zero; spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800"),
        (up(json!({"tolerance": "-1m"})), "spec.behavior.scaleUp.tolerance: Invalid value: \"-1m\": must be greater than or equal to zero"),
    ] {
        let object = autoscaler(spec.clone());
        let mut found = (KIND.validate)(&object);
        found.extend((KIND.validate_create)(&object));
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        let found: Vec<&str> = found.iter().map(|text| text.strip_suffix(": ").unwrap_or(text)).collect();
        if expected.contains("pods: Required") {
            assert!(found.contains(&expected), "{found:#?}");
        } else {
            assert_eq!(found.join("; "), expected, "{spec}");
        }
    }
    let zero = autoscaler(json!({"minReplicas": 0}));
    assert_eq!((KIND.validate_update)(&zero, &zero), []);
    assert_eq!((KIND.validate_update)(&zero, &autoscaler(json!({}))).len(), 1);
}

#[test]
fn rows() {
    let row = |spec: Value, current: Value| {
        let mut object = autoscaler(spec);
        object["status"] = json!({"currentReplicas": 3, "currentMetrics": current});
        let object = Object::from_value(&KIND, &object).expect("an autoscaler");
        let cells = (KIND.cells)(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(cells[1], "Deployment/web");
        assert_eq!(cells[3..6], [json!("1"), json!("5"), json!("3")]);
        cells[2].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(row(json!({}), json!([])), "cpu: <unknown>/80%");
    let used = |current: Value| json!({"type": "Resource", "resource": {"name": "cpu", "current": current}});
    let current = json!([used(json!({"averageUtilization": 12, "averageValue": "12m"}))]);
    assert_eq!(row(json!({}), current.clone()), "cpu: 12%/80%");
    let value = resource(json!({"type": "AverageValue", "averageValue": "50m"}));
    assert_eq!(row(json!({"metrics": [value.clone()]}), current), "cpu: 12m/50m");
    let pods = json!({"type": "Pods", "pods": {"metric": {"name": "qps"}, "target": {"type": "AverageValue", "averageValue": "10"}}});
    let object = json!({"type": "Object", "object": {"metric": {"name": "q"}, "target": {"type": "AverageValue", "averageValue": "10"}}});
    assert_eq!(row(json!({"metrics": [pods, object, value]}), json!([])), "<unknown>/10, <unknown>/10 (avg) + 1 more...");
}

/// What upstream's own conversion keeps: the metrics' order apart, which puts CPU first.
#[test]
fn the_older_version_loses_nothing() {
    let metrics = json!([
        resource(json!({"type": "Utilization", "averageUtilization": 70})),
        resource(json!({"type": "AverageValue", "averageValue": "2"})),
        {"type": "ContainerResource", "containerResource": {"name": "memory", "container": "app", "target": {"type": "Utilization", "averageUtilization": 50}}},
        {"type": "Pods", "pods": {"metric": {"name": "qps", "selector": {"matchLabels": {"a": "b"}}}, "target": {"type": "AverageValue", "averageValue": "10"}}},
        {"type": "Object", "object": {"describedObject": {"kind": "Service", "name": "s"}, "metric": {"name": "q"}, "target": {"type": "Value", "value": "9"}}},
        {"type": "External", "external": {"metric": {"name": "e"}, "target": {"type": "AverageValue", "averageValue": "1"}}},
    ]);
    let behavior = json!({"scaleDown": {"stabilizationWindowSeconds": 5}});
    let mut stored = autoscaler(json!({"metrics": metrics, "behavior": behavior}));
    stored["status"] = json!({
        "currentReplicas": 1,
        "desiredReplicas": 2,
        "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 7, "averageValue": "7m"}}}],
        "conditions": [{"type": "AbleToScale", "status": "True", "reason": "r", "message": "m"}],
    });
    let mut shown = stored.clone();
    v1::show(&mut shown);
    assert_eq!(shown["apiVersion"], "autoscaling/v1");
    assert_eq!(shown["spec"]["targetCPUUtilizationPercentage"], 70);
    assert_eq!(shown["status"]["currentCPUUtilizationPercentage"], 7);
    assert!(shown["spec"].get("metrics").is_none() && shown["status"].get("conditions").is_none());
    let annotations = &shown["metadata"]["annotations"];
    let read = |name: &str| -> Value {
        let text = annotations[format!("autoscaling.alpha.kubernetes.io/{name}")].as_str();
        serde_json::from_str(text.unwrap_or("null")).expect("JSON")
    };
    assert_eq!(read("metrics")[0], json!({"type": "Resource", "resource": {"name": "cpu", "targetAverageValue": "2"}}));
    assert_eq!(read("metrics")[3], json!({"type": "Object", "object": {"target": {"kind": "Service", "name": "s"}, "metricName": "q", "targetValue": "9"}}));
    assert_eq!(read("current-metrics")[0]["resource"]["currentAverageValue"], "7m");
    v1::store(&mut shown);
    assert_eq!(shown, stored);
    // Without anything said, both versions mean the same.
    let mut old = json!({"metadata": {"name": "web"}, "spec": {"maxReplicas": 3, "scaleTargetRef": {}}});
    v1::store(&mut old);
    assert_eq!(old["spec"]["metrics"], json!([usual_metric()]));
}
