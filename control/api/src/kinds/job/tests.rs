use serde_json::json;

use super::*;

fn job(spec: Value) -> Value {
    let mut job = json!({
        "metadata": {"name": "pi", "namespace": "ns", "uid": "u-1"},
        "spec": {"template": {"spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "main", "image": "pi:v1"}],
        }}},
    });
    json_patch::merge(&mut job["spec"], &spec);
    (KIND.default)(&mut job);
    (KIND.prepare)(Prepare::Create(&mut job));
    job
}

fn errors(found: Vec<FieldError>) -> Vec<String> {
    found.iter().map(ToString::to_string).collect()
}

#[track_caller]
fn check(spec: Value, expected: &[&str]) {
    let job = job(spec);
    let mut found = errors(validate(&job));
    found.extend(errors(validate_create(&job)));
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found} does not start with {expected}");
    }
}

#[test]
fn defaults_and_generated_selector() {
    let plain = job(json!({}));
    let spec = &plain["spec"];
    for (field, expected) in [
        ("parallelism", json!(1)),
        ("completions", json!(1)),
        ("backoffLimit", json!(6)),
        ("completionMode", json!("NonIndexed")),
        ("suspend", json!(false)),
        ("manualSelector", json!(false)),
        ("podReplacementPolicy", json!("TerminatingOrFailed")),
        ("selector", json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u-1"}})),
    ] {
        assert_eq!(spec[field], expected, "{field}");
    }
    let labels = json!({
        "batch.kubernetes.io/controller-uid": "u-1", "controller-uid": "u-1",
        "batch.kubernetes.io/job-name": "pi", "job-name": "pi",
    });
    assert_eq!(spec["template"]["metadata"]["labels"], labels);
    assert_eq!(plain["metadata"]["labels"], labels);
    let queue = job(json!({"parallelism": 3}));
    assert_eq!(queue["spec"].get("completions"), None);
    let indexed = json!({"completions": 2, "completionMode": "Indexed", "backoffLimitPerIndex": 1});
    assert_eq!(job(indexed)["spec"]["backoffLimit"], i32::MAX);
    let policy = json!({"podFailurePolicy": {"rules": [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]}});
    let spec = &job(policy)["spec"];
    assert_eq!(spec["podReplacementPolicy"], "Failed");
    assert_eq!(spec["podFailurePolicy"]["rules"][0]["onPodConditions"][0]["status"], "True");
}

#[test]
fn what_is_wrong_is_named() {
    check(json!({}), &[]);
    check(json!({"template": {"spec": {"restartPolicy": "Always"}}}), &[
        "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
    ]);
    check(json!({"parallelism": -1, "backoffLimit": -2, "maxFailedIndexes": 1}), &[
        "spec.parallelism: Invalid value: -1: must be greater than or equal to 0",
        "spec.backoffLimit: Invalid value: -2: must be",
        "spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified",
        "spec.maxFailedIndexes: Invalid value: 1: requires indexed completion mode",
    ]);
    check(json!({"completionMode": "Indexed", "parallelism": 3}), &[
        "spec.completions: Required value: when completion mode is Indexed",
    ]);
    check(json!({"completionMode": "Odd"}), &[
        "spec.completionMode: Unsupported value: \"Odd\": supported values: \"NonIndexed\", \"Indexed\"",
    ]);
    check(json!({"selector": {"matchLabels": {"a": "b"}}}), &[
        "spec.selector: Invalid value: {\"matchLabels\":{",
        "spec.template.metadata.labels: Invalid value: {",
    ]);
    check(json!({"template": {"metadata": {"labels": {"job-name": "other"}}}}), &[
        "spec.template.metadata.labels[job-name]: Invalid value: \"other\": must be 'pi'",
    ]);
    let rule = |rule: Value| json!({"podFailurePolicy": {"rules": [rule]}});
    check(rule(json!({"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [3, 0, 3]}})), &[
        "spec.podFailurePolicy.rules[0].action: Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set",
        "spec.podFailurePolicy.rules[0].onExitCodes.values[1]: Invalid value: 0: must not be 0 for the In operator",
        "spec.podFailurePolicy.rules[0].onExitCodes.values[2]: Duplicate value: 3",
        "spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [3,0,3]: must be ordered",
    ]);
    check(rule(json!({"action": "Odd"})), &[
        "spec.podFailurePolicy.rules[0].action: Unsupported value: \"Odd\": supported values: \"Count\", \"FailIndex\", \"FailJob\", \"Ignore\"",
        "spec.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
    ]);
    let success = |rule: Value| {
        json!({"completionMode": "Indexed", "completions": 5, "parallelism": 5, "successPolicy": {"rules": [rule]}})
    };
    check(success(json!({"succeededIndexes": "0-2", "succeededCount": 2})), &[]);
    check(success(json!({"succeededIndexes": "0-2", "succeededCount": 4})), &[
        "spec.successPolicy.rules[0].succeededCount: Invalid value: 4: must be less than or equal to 3 (the number of indexes in",
    ]);
    check(success(json!({"succeededIndexes": "3-9"})), &[
        "spec.successPolicy.rules[0].succeededIndexes: Invalid value: \"3-9\": error parsing succeededIndexes: too large index: \"9\"",
    ]);
    let mut long = job(json!({"completionMode": "Indexed", "completions": 100}));
    long["metadata"]["name"] = "n".repeat(61).into();
    assert!(errors(validate_create(&long))[0].contains("will not able to create pod with invalid DNS label"));
}

#[test]
fn little_may_change() {
    let change = |old: Value, new: Value, status: Value| {
        let mut old = job(old);
        old["status"] = status;
        let mut after = old.clone();
        json_patch::merge(&mut after, &new);
        errors(update::job(&after, &old))
    };
    let started = json!({"startTime": "2024-01-01T00:00:00Z"});
    let none: [&str; 0] = [];
    assert_eq!(change(json!({}), json!({"spec": {"parallelism": 4, "suspend": true}}), started.clone()), none);
    assert_eq!(
        change(json!({}), json!({"spec": {"completions": 4}}), started.clone()),
        ["spec.completions: Invalid value: 4: field is immutable"]
    );
    let indexed = json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2});
    let tandem = json!({"spec": {"completions": 3, "parallelism": 3}});
    assert_eq!(change(indexed.clone(), tandem, started.clone()), none);
    let alone = change(indexed, json!({"spec": {"completions": 3}}), started.clone());
    assert!(alone[0].contains("can only be modified in tandem with spec.parallelism"), "{alone:?}");
    let moved = json!({"spec": {"template": {"spec": {"nodeSelector": {"a": "b"}, "affinity": {"nodeAffinity": {}}}}}});
    assert_eq!(change(json!({"suspend": true}), moved.clone(), json!({})), none);
    assert!(change(json!({"suspend": true}), moved, started.clone())[0].contains("field is immutable"));
    let complete = json!({"status": {"conditions": [{"type": "Complete", "status": "True"}]}});
    let found = change(json!({}), complete, started);
    assert!(found[0].contains("without the SuccessCriteriaMet=true condition"), "{found:?}");
    assert!(found[1].contains("completionTime is required for Complete jobs"), "{found:?}");
}

#[test]
fn rows() {
    let row = |spec: Value, status: Value| {
        let mut job = job(spec);
        job["status"] = status;
        let object = Object::from_value(&KIND, &job).expect("a Job");
        let now = "2024-01-01T00:01:00Z".parse().expect("a time");
        let cells = cells(&object, now);
        cells[1..4].iter().map(|c| c.as_str().unwrap_or("").to_owned()).collect::<Vec<_>>()
    };
    let started = "2024-01-01T00:00:00Z";
    assert_eq!(row(json!({}), json!({})), ["Running", "0/1", ""]);
    assert_eq!(row(json!({"parallelism": 3}), json!({"startTime": started})), ["Running", "0/1 of 3", "60s"]);
    let done = json!({
        "startTime": started, "completionTime": "2024-01-01T00:00:05Z", "succeeded": 1,
        "conditions": [{"type": "SuccessCriteriaMet", "status": "True"}, {"type": "Complete", "status": "True"}],
    });
    assert_eq!(row(json!({}), done), ["Complete", "1/1", "5s"]);
    let suspended = json!({"conditions": [{"type": "Suspended", "status": "True"}]});
    assert_eq!(row(json!({}), suspended), ["Suspended", "0/1", ""]);
}
