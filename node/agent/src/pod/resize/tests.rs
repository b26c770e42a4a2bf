use super::*;
use serde_json::{Value, json};

fn pod(containers: Value, status: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "generation": 3},
        "spec": {"containers": containers}, "status": status,
    }))
    .unwrap()
}

fn asks(name: &str, cpu: &str, memory: &str) -> Value {
    json!({"name": name, "resources": {"requests": {"cpu": cpu, "memory": memory}}})
}

#[test]
fn room_is_given_as_far_as_there_is_some() {
    let of = |cpu_milli, memory| Requests { cpu_milli, memory, ..Requests::default() };
    let check = |asked, has, others, expected: Result<(), (&str, &str)>| {
        let verdict = decide(asked, has, others, (4000, 1 << 32));
        let told = match &verdict {
            Verdict::Fits => Ok(()),
            Verdict::Deferred(why) => Err(("Deferred", why.as_str())),
            Verdict::Infeasible(why) => Err(("Infeasible", why.as_str())),
        };
        assert_eq!(told, expected);
    };
    check(of(2000, 0), of(1000, 0), of(2000, 0), Ok(()));
    let why = "Node didn't have enough resource: cpu, requested: 2001, used: 2000, capacity: 4000";
    check(of(2001, 0), of(1000, 0), of(2000, 0), Err(("Deferred", why)));
    let why = "Node didn't have enough capacity: cpu, requested: 5000, capacity: 4000";
    check(of(5000, 0), of(1000, 0), of(0, 0), Err(("Infeasible", why)));
    // What never fits is told, whatever else only has to wait.
    let why =
        "Node didn't have enough capacity: memory, requested: 4294967297, capacity: 4294967296";
    check(of(3000, (1 << 32) + 1), of(1000, 0), of(2000, 0), Err(("Infeasible", why)));
    // A node that is too full takes back all the same.
    check(of(1000, 0), of(2000, 0), of(9000, 0), Ok(()));
}

#[test]
fn amounts_are_compared_as_numbers_and_only_what_can_be_resized() {
    let one = amounts(&pod(json!([asks("a", "1", "1Gi")]), Value::Null));
    let two = amounts(&pod(json!([asks("a", "1000m", "1024Mi")]), Value::Null));
    let other = amounts(&pod(json!([asks("a", "1001m", "1024Mi")]), Value::Null));
    assert!(one.are(&two) && !one.are(&other));
    let mut pod = pod(json!([asks("a", "1", "1Gi")]), Value::Null);
    put(&mut pod, &other);
    assert!(amounts(&pod).are(&other));
}

#[test]
fn a_container_starts_again_for_what_its_policy_names() {
    let container: Container = serde_json::from_value(json!({"name": "a", "resizePolicy": [
        {"resourceName": "cpu", "restartPolicy": "NotRequired"},
        {"resourceName": "memory", "restartPolicy": "RestartContainer"},
    ]}))
    .unwrap();
    let of = |cpu: &str, memory: &str| -> ResourceRequirements {
        serde_json::from_value(json!({"limits": {"cpu": cpu, "memory": memory}})).unwrap()
    };
    assert!(!restarts(&container, &of("1", "1Gi"), &of("2", "1Gi")));
    assert!(restarts(&container, &of("1", "1Gi"), &of("1", "2Gi")));
}

#[test]
fn a_later_agent_decides_anew_on_what_is_not_in_force() {
    let status = json!({"containerStatuses": [{"name": "a", "ready": true, "restartCount": 0, "image": "", "imageID": "",
        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}]});
    let mut same = pod(json!([asks("a", "1", "1Gi")]), status.clone());
    assert!(recall(&mut same).is_none());
    let mut other = pod(json!([asks("a", "2", "1Gi")]), status);
    let resize = recall(&mut other).unwrap();
    let cpu =
        |amounts: &Amounts| amounts.containers["a"].requests.as_ref().unwrap()["cpu"].0.clone();
    assert_eq!((cpu(&amounts(&other)), cpu(&resize.asked.unwrap())), ("1".into(), "2".into()));
}

#[test]
fn conditions_and_events_are_the_kubelets() {
    let mut resize = Resize {
        pending: Some(Pending {
            infeasible: false,
            message: "no room".into(),
            generation: 3,
            since: Timestamp::UNIX_EPOCH,
        }),
        ..Resize::default()
    };
    let first = resize.conditions(&[], Timestamp::UNIX_EPOCH);
    let later = Timestamp::from_second(60).unwrap();
    assert_eq!(resize.conditions(&first, later), first);
    let told = json!(first[0]);
    assert_eq!(
        (&told["type"], &told["reason"], &told["observedGeneration"]),
        (&json!("PodResizePending"), &json!("Deferred"), &json!(3))
    );
    resize.pending = None;
    resize.progress = Some(Progress { error: Some("too small".into()), generation: 4 });
    let told = json!(resize.conditions(&first, later));
    assert_eq!(
        (&told[0]["type"], &told[0]["reason"], &told[0]["message"]),
        (&json!("PodResizeInProgress"), &json!("Error"), &json!("too small"))
    );
    let text = summary(&pod(json!([asks("a", "1", "1Gi")]), Value::Null), None);
    assert_eq!(
        text,
        r#"{"containers":[{"name":"a","resources":{"requests":{"cpu":"1","memory":"1Gi"}}}],"generation":3}"#
    );
}
