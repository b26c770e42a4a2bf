use coracle_api::plan::Write;

use super::*;
use crate::tests::{NOW, cluster, created, json_merge, owner, patches};

fn job(spec: Value, status: Value) -> Value {
    let mut job = json!({
        "metadata": {"name": "pi"},
        "spec": {
            "parallelism": 2, "completions": 3, "backoffLimit": 6, "completionMode": "NonIndexed",
            "podReplacementPolicy": "TerminatingOrFailed",
            "selector": {"matchLabels": {"job": "pi"}},
            "template": {
                "metadata": {"labels": {"job": "pi"}},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "pi"}]},
            },
        },
        "status": status,
    });
    json_merge(&mut job["spec"], spec);
    job
}

/// A Pod of the Job that ended a minute ago, or runs.
fn pod(name: &str, phase: &str, more: Value) -> Value {
    let ended = json!([{"name": "main", "state": {"terminated": {"exitCode": if phase == "Failed" { 3 } else { 0 }, "finishedAt": "2029-12-31T23:59:00Z"}}}]);
    let mut pod = json!({
        "metadata": {
            "name": name, "labels": {"job": "pi"}, "finalizers": [FINALIZER],
            "ownerReferences": owner(&kinds::JOB, "pi"),
        },
        "spec": {"nodeName": "n1"},
        "status": {"phase": phase, "containerStatuses": if phase == "Running" { json!([]) } else { ended }},
    });
    json_merge(&mut pod, more);
    pod
}

fn at_index(index: usize) -> Value {
    json!({"metadata": {"annotations": {INDEX: index.to_string()}}})
}

fn plan(job: Value, pods: Vec<Value>) -> Plan {
    let mut objects = vec![(&kinds::JOB, job)];
    objects.extend(pods.into_iter().map(|pod| (&kinds::POD, pod)));
    JobController.reconcile(&cluster(objects), &Key::new("ns", "pi"))
}

fn status(plan: &Plan) -> Value {
    let of_job = patches(plan).into_iter().find(|(name, _)| *name == "pi");
    of_job.map(|(_, patch)| patch["status"].clone()).unwrap_or_default()
}

/// What was patched, as it is then stored: without what is `null`.
fn stored(plan: &Plan) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.retain(|_, value| !value.is_null());
                map.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut status = status(plan);
    strip(&mut status);
    status
}

/// Types and reasons of the conditions that are true.
fn conditions(plan: &Plan) -> Vec<String> {
    let status = status(plan);
    let list = status["conditions"].as_array().into_iter().flatten();
    list.filter(|c| c["status"] == "True")
        .map(|c| format!("{} {}", c["type"], c["reason"]).replace('"', ""))
        .collect()
}

fn deleted(plan: &Plan) -> Vec<&str> {
    let names = plan.writes.iter().filter_map(|write| match write {
        Write::Delete { name, .. } => Some(name.as_str()),
        _ => None,
    });
    names.collect()
}

#[test]
fn pods_are_made_as_declared() {
    let first = plan(job(json!({}), json!({})), vec![]);
    let pods = created(&first);
    assert_eq!(pods.len(), 2);
    assert_eq!(pods[0]["metadata"]["finalizers"], json!([FINALIZER]));
    assert_eq!(pods[0]["metadata"]["generateName"], "pi-");
    assert!(matches!(&first.writes[0], Write::Patch { name, .. } if name == "pi"), "status first");
    assert_eq!((&status(&first)["startTime"], &status(&first)["ready"]), (&json!(NOW), &json!(0)));
    assert_eq!(first.events[0].reason, "SuccessfulCreate");

    for (spec, pods, expected) in [
        (json!({}), vec![pod("a", "Running", json!({}))], 1),
        (json!({}), vec![pod("a", "Succeeded", json!({})), pod("b", "Succeeded", json!({}))], 1),
        (json!({"suspend": true}), vec![], 0),
        (json!({"completions": null}), vec![], 2),
        (json!({"completions": null}), vec![pod("a", "Succeeded", json!({}))], 0),
        (json!({"parallelism": 9}), vec![], 3),
    ] {
        assert_eq!(created(&plan(job(spec.clone(), json!({})), pods)).len(), expected, "{spec}");
    }
}

/// Noted, finalizer off, counted, complete: one run of the controller each.
#[test]
fn counting_is_in_steps() {
    let spec = json!({"completions": 1});
    let done = pod("a", "Succeeded", json!({}));
    let first = plan(job(spec.clone(), json!({"startTime": NOW})), vec![done.clone()]);
    assert_eq!(status(&first)["uncountedTerminatedPods"]["succeeded"], json!(["uid-a"]));
    assert_eq!(status(&first)["succeeded"], Value::Null);
    assert_eq!(conditions(&first), ["SuccessCriteriaMet CompletionsReached"]);
    let [("pi", _), ("a", untracked)] = patches(&first)[..] else { panic!("{first:?}") };
    assert_eq!(untracked["metadata"]["finalizers"], json!([]));

    // It died in between: the finalizer is still there.
    let noted = stored(&first);
    let again = plan(job(spec.clone(), noted.clone()), vec![done.clone()]);
    let [("a", _)] = patches(&again)[..] else { panic!("{again:?}") };

    let counted = pod("a", "Succeeded", json!({"metadata": {"finalizers": []}}));
    let second = plan(job(spec, noted), vec![counted]);
    assert_eq!(
        (&status(&second)["succeeded"], &status(&second)["completionTime"]),
        (&json!(1), &json!(NOW))
    );
    assert_eq!(status(&second)["uncountedTerminatedPods"]["succeeded"], Value::Null);
    assert_eq!(
        conditions(&second),
        ["SuccessCriteriaMet CompletionsReached", "Complete CompletionsReached"]
    );
    assert_eq!(second.events[0].reason, "Completed");
}

#[test]
fn ends_and_their_reasons() {
    let failed = |name: &str| pod(name, "Failed", json!({}));
    let running = || pod("r", "Running", json!({}));
    let old = json!({"startTime": "2029-12-31T23:00:00Z"});
    let restarted = json!({"status": {"containerStatuses": [{"restartCount": 3}]}});
    for (spec, pods, reason) in [
        (json!({"backoffLimit": 0}), vec![failed("a"), running()], "BackoffLimitExceeded"),
        (json!({"backoffLimit": 1}), vec![failed("a"), running()], ""),
        (
            json!({"backoffLimit": 3, "template": {"spec": {"restartPolicy": "OnFailure"}}}),
            vec![pod("r", "Running", restarted)],
            "BackoffLimitExceeded",
        ),
        (json!({"activeDeadlineSeconds": 3600}), vec![running()], "DeadlineExceeded"),
        (json!({"activeDeadlineSeconds": 3601}), vec![running()], ""),
        (json!({"activeDeadlineSeconds": 1, "suspend": true}), vec![], ""),
        (
            json!({"podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [3]}}]}}),
            vec![failed("a"), running()],
            "PodFailurePolicy",
        ),
        (
            json!({"backoffLimit": 0, "podFailurePolicy": {"rules": [{"action": "Ignore", "onExitCodes": {"operator": "NotIn", "values": [4]}}]}}),
            vec![failed("a"), running()],
            "",
        ),
    ] {
        let plan = plan(job(spec.clone(), old.clone()), pods);
        let expected: &[String] =
            if reason.is_empty() { &[] } else { &[format!("FailureTarget {reason}")] };
        let found: Vec<_> =
            conditions(&plan).into_iter().filter(|c| !c.starts_with("Suspended")).collect();
        assert_eq!(found, expected, "{spec}");
        assert_eq!(deleted(&plan).contains(&"r"), !reason.is_empty(), "{spec}");
    }
}

#[test]
fn a_policy_says_what_it_matched() {
    let rules = json!([
        {"action": "Count", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [3]}},
    ]);
    let job = job(json!({"podFailurePolicy": {"rules": rules}}), json!({}));
    let plan = plan(job, vec![pod("a", "Failed", json!({}))]);
    assert_eq!(
        status(&plan)["conditions"][0]["message"],
        "Container main for pod ns/a failed with exit code 3 matching FailJob rule at index 1"
    );
}

#[test]
fn failures_delay_what_comes_next() {
    let just = |at: &str| json!({"status": {"containerStatuses": [{"name": "main", "state": {"terminated": {"exitCode": 1, "finishedAt": at}}}]}});
    let failed = |name: &str, at: &str| pod(name, "Failed", just(at));
    for (pods, creates, wait) in [
        (vec![failed("a", "2029-12-31T23:59:55Z")], 0, Some(5)),
        (vec![failed("a", "2029-12-31T23:59:50Z")], 2, None),
        (
            vec![failed("a", "2029-12-31T23:59:45Z"), failed("b", "2029-12-31T23:59:50Z")],
            0,
            Some(10),
        ),
        // A success in between is a new beginning.
        (
            vec![
                failed("a", "2029-12-31T23:59:45Z"),
                pod("c", "Succeeded", just("2029-12-31T23:59:46Z")),
                failed("b", "2029-12-31T23:59:50Z"),
            ],
            2,
            None,
        ),
    ] {
        let plan = plan(job(json!({}), json!({})), pods);
        assert_eq!(
            (created(&plan).len(), plan.requeue_after.map(|w| w.as_secs())),
            (creates, wait)
        );
    }
}

#[test]
fn indexes() {
    let spec = json!({"completionMode": "Indexed", "completions": 4, "parallelism": 3});
    let done = json!({"completedIndexes": "0", "succeeded": 1});
    let pods = vec![pod("b", "Running", at_index(1))];
    let plan = plan(job(spec.clone(), done), pods);
    let pods = created(&plan);
    let told: Vec<_> = pods
        .iter()
        .map(|pod| {
            let meta = &pod["metadata"];
            assert_eq!(meta["labels"][INDEX], meta["annotations"][INDEX]);
            assert_eq!(pod["spec"]["containers"][0]["env"][0]["name"], "JOB_COMPLETION_INDEX");
            (
                pod["spec"]["hostname"].as_str().unwrap_or(""),
                meta["generateName"].as_str().unwrap_or(""),
            )
        })
        .collect();
    assert_eq!(told, [("pi-2", "pi-2-"), ("pi-3", "pi-3-")]);
    let succeeded =
        ["0", "1", "3"].map(|i| pod(i, "Succeeded", at_index(i.parse().expect("a number"))));
    let plan = super::tests::plan(job(spec.clone(), json!({})), succeeded.to_vec());
    assert_eq!(
        (&status(&plan)["completedIndexes"], &status(&plan)["succeeded"]),
        (&json!("0,1,3"), &json!(3))
    );
    // Two of one index: one goes, uncounted.
    let twice = vec![pod("a", "Running", at_index(0)), pod("b", "Running", at_index(0))];
    let plan = super::tests::plan(job(spec, json!({})), twice);
    assert_eq!((deleted(&plan).len(), created(&plan).len()), (1, 0));
    assert_eq!(status(&plan)["failed"], Value::Null);
}

#[test]
fn limits_for_each_index() {
    let spec = |limit: i64| json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3, "backoffLimitPerIndex": limit, "backoffLimit": i32::MAX, "podReplacementPolicy": "Failed"});
    let failed = || {
        vec![
            pod("a", "Failed", at_index(1)),
            pod("b", "Running", at_index(0)),
            pod("c", "Running", at_index(2)),
        ]
    };
    // Another chance: the failed one is held until its successor knows of it.
    let plan = super::tests::plan(job(spec(1), json!({})), failed());
    let [next] = created(&plan)[..] else { panic!("{plan:?}") };
    assert_eq!(next["metadata"]["annotations"][failure::FAILURES], "1");
    assert!(!patches(&plan).iter().any(|(name, _)| *name == "a"));
    assert_eq!(status(&plan)["failedIndexes"], "");
    // None: the index is given up.
    let plan = super::tests::plan(job(spec(0), json!({})), failed());
    assert_eq!((created(&plan).len(), &status(&plan)["failedIndexes"]), (0, &json!("1")));
    assert_eq!(status(&plan)["uncountedTerminatedPods"]["failed"], json!(["uid-a"]));
    let mut all = failed();
    for pod in &mut all[1..] {
        pod["status"]["phase"] = "Succeeded".into();
    }
    let plan = super::tests::plan(job(spec(0), json!({})), all);
    assert_eq!(conditions(&plan), ["FailureTarget FailedIndexes"]);
}

#[test]
fn a_success_policy_ends_the_rest() {
    let rules = json!([{"succeededIndexes": "0,2", "succeededCount": 1}]);
    let spec = json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3, "successPolicy": {"rules": rules}});
    let pods = vec![pod("a", "Succeeded", at_index(2)), pod("b", "Running", at_index(0))];
    let plan = plan(job(spec, json!({})), pods);
    assert_eq!(conditions(&plan), ["SuccessCriteriaMet SuccessPolicy"]);
    assert_eq!(status(&plan)["conditions"][0]["message"], "Matched rules at index 0");
    assert_eq!(deleted(&plan), ["b"]);
    assert_eq!(status(&plan)["uncountedTerminatedPods"]["failed"], Value::Null);
}

#[test]
fn suspension_ends_pods_uncounted() {
    let suspended =
        plan(job(json!({"suspend": true}), json!({})), vec![pod("a", "Running", json!({}))]);
    assert_eq!(deleted(&suspended), ["a"]);
    assert_eq!(conditions(&suspended), ["Suspended JobSuspended"]);
    assert_eq!(status(&suspended)["uncountedTerminatedPods"]["failed"], Value::Null);
    let mut old = stored(&suspended);
    old["startTime"] = json!("2029-12-31T00:00:00Z");
    let resumed = plan(job(json!({}), old), vec![]);
    assert_eq!(status(&resumed)["startTime"], NOW);
    assert_eq!(resumed.events.iter().filter(|e| e.reason == "Resumed").count(), 1);
}

#[test]
fn finished_jobs_go_after_a_while_and_strays_are_let_go() {
    let finished = json!({"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": "2029-12-31T23:59:30Z"}]});
    let later = plan(job(json!({"ttlSecondsAfterFinished": 60}), finished.clone()), vec![]);
    assert_eq!(later.requeue_after, Some(Duration::from_secs(30)));
    let now = plan(job(json!({"ttlSecondsAfterFinished": 30}), finished), vec![]);
    assert_eq!(deleted(&now), ["pi"]);

    let world = cluster([(&kinds::POD, pod("a", "Running", json!({})))]);
    let pod = world.get(&kinds::POD, "ns", "a").expect("it");
    let keys = JobController.wakes(&world, pod);
    let plan = JobController.reconcile(&world, &keys[0]);
    let [("a", patch)] = patches(&plan)[..] else { panic!("{plan:?}") };
    assert_eq!(patch["metadata"]["finalizers"], json!([]));
}
