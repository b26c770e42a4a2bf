use super::*;

fn cron_job(spec: Value) -> Value {
    let mut cron_job = json!({
        "metadata": {"name": "nightly", "namespace": "ns"},
        "spec": {"schedule": "0 3 * * *", "jobTemplate": {"spec": {"template": {"spec": {
            "restartPolicy": "OnFailure", "containers": [{"name": "c", "image": "i"}]}}}}},
    });
    json_patch::merge(&mut cron_job["spec"], &spec);
    (KIND.default)(&mut cron_job);
    cron_job
}

#[test]
fn defaults_and_rows() {
    let spec = &cron_job(json!({}))["spec"];
    assert_eq!(spec["concurrencyPolicy"], "Allow");
    assert_eq!((&spec["successfulJobsHistoryLimit"], &spec["failedJobsHistoryLimit"]), (&json!(3), &json!(1)));
    let mut object = cron_job(json!({"timeZone": "Europe/Berlin"}));
    object["status"] = json!({"active": [{}], "lastScheduleTime": "2024-01-01T03:00:00Z"});
    let object = Object::from_value(&KIND, &object).expect("a CronJob");
    let cells = cells(&object, "2024-01-01T03:00:09Z".parse().expect("a time"));
    assert_eq!(cells[1..6], [json!("0 3 * * *"), json!("Europe/Berlin"), json!("False"), json!(1), json!("9s")]);
}

#[test]
fn what_is_wrong_is_named() {
    for (spec, expected) in [
        (json!({}), None),
        (json!({"schedule": "* * *"}), Some("spec.schedule: Invalid value: \"* * *\": expected exactly 5 fields, found 3: [* * *]")),
        (json!({"schedule": "TZ=UTC 0 * * * *"}), Some("spec.schedule: Invalid value: \"TZ=UTC 0 * * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead")),
        (json!({"timeZone": "Europe/Berlin"}), None),
        (json!({"timeZone": "Mars/Base"}), Some("spec.timeZone: Invalid value: \"Mars/Base\": unknown time zone Mars/Base")),
        (json!({"timeZone": "local"}), Some("spec.timeZone: Invalid value: \"local\": timeZone must be an explicit time zone")),
        (json!({"concurrencyPolicy": "Never"}), Some("spec.concurrencyPolicy: Unsupported value: \"Never\": supported values: \"Allow\", \"Forbid\", \"Replace\"")),
        (json!({"startingDeadlineSeconds": -1}), Some("spec.startingDeadlineSeconds: Invalid value: -1")),
        (json!({"jobTemplate": {"spec": {"manualSelector": true}}}), Some("spec.jobTemplate.spec.manualSelector: Unsupported value: true")),
        (json!({"jobTemplate": {"spec": {"template": {"spec": {"restartPolicy": "Always"}}}}}),
            Some("spec.jobTemplate.spec.template.spec.restartPolicy: Required value: valid values")),
    ] {
        let object = cron_job(spec.clone());
        let mut found = validate(&object);
        found.extend(validate_create(&object));
        assert_eq!(found.len(), usize::from(expected.is_some()), "{spec}: {found:?}");
        if let Some(expected) = expected {
            assert!(found[0].to_string().starts_with(expected), "{}", found[0]);
        }
    }
    let mut long = cron_job(json!({}));
    long["metadata"]["name"] = "n".repeat(53).into();
    assert!(validate_create(&long)[0].to_string().contains("must be no more than 52 characters"));
}
