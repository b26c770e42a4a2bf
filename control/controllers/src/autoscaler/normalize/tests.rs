use serde_json::{Value, json};

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_900_000_000 + second).expect("a time")
}

fn behavior(value: Value) -> Behavior {
    serde_json::from_value(value).expect("a behavior")
}

/// As defaults fill it in.
fn usual() -> Behavior {
    behavior(json!({
        "scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [
            {"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]},
        "scaleDown": {"selectPolicy": "Max", "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]},
    }))
}

/// What is done when metrics ask for `asked` at these seconds, one after the other.
fn run(
    start: i32,
    behavior: Option<&Behavior>,
    asked: &[(i64, i32)],
) -> Vec<(i32, &'static str, &'static str)> {
    let mut history = History::default();
    let mut current = start;
    let mut done = Vec::new();
    for (second, desired) in asked {
        let now = at(*second);
        history.see(current, behavior, now);
        history.begin(current, now);
        let found = history.normalize(current, *desired, (1, 20), behavior, now);
        if found.replicas != current {
            history.ask(current, found.replicas, now);
            current = found.replicas;
        }
        done.push((current, found.able.0, found.limit.0));
    }
    done
}

#[test]
fn without_a_behavior_it_doubles_at_each_look_and_shrinks_after_five_minutes() {
    let replicas = run(
        1,
        None,
        &[(0, 30), (1, 30), (2, 30), (3, 30), (4, 30), (5, 2), (303, 2), (304, 2), (305, 2)],
    );
    assert_eq!(
        replicas,
        [
            (4, "ReadyForNewScale", "ScaleUpLimit"),
            (8, "ReadyForNewScale", "ScaleUpLimit"),
            (16, "ReadyForNewScale", "ScaleUpLimit"),
            (20, "ReadyForNewScale", "TooManyReplicas"),
            (20, "ReadyForNewScale", "TooManyReplicas"),
            (20, "ScaleDownStabilized", "TooManyReplicas"),
            (20, "ScaleDownStabilized", "TooManyReplicas"),
            (2, "ReadyForNewScale", "DesiredWithinRange"),
            (2, "ReadyForNewScale", "DesiredWithinRange"),
        ]
    );
    assert_eq!(
        run(3, None, &[(0, 0)]),
        [(3, "ScaleDownStabilized", "DesiredWithinRange")],
        "who begins removes nothing"
    );
}

#[test]
fn policies_bound_what_happens_in_their_periods() {
    let usual = usual();
    let replicas: Vec<i32> =
        run(2, Some(&usual), &[(0, 20), (1, 20), (14, 20), (15, 20), (16, 20), (30, 20)])
            .iter()
            .map(|it| it.0)
            .collect();
    assert_eq!(replicas, [6, 6, 6, 12, 12, 20]);
    let slow = behavior(json!({
        "scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Min", "policies": [
            {"type": "Pods", "value": 4, "periodSeconds": 10}, {"type": "Percent", "value": 10, "periodSeconds": 10}]},
        "scaleDown": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]},
    }));
    let looks = [(0, 20), (5, 20), (10, 20), (11, 1), (12, 1), (71, 1)];
    let replicas: Vec<_> =
        run(10, Some(&slow), &looks).into_iter().map(|it| (it.0, it.2)).collect();
    assert_eq!(
        replicas,
        [
            (11, "ScaleUpLimit"),
            (11, "ScaleUpLimit"),
            (13, "ScaleUpLimit"),
            // What was added within the period may go again, and one more.
            (9, "ScaleDownLimit"),
            (9, "ScaleDownLimit"),
            (8, "ScaleDownLimit"),
        ]
    );
    let never = behavior(
        json!({"scaleUp": {"selectPolicy": "Max", "policies": [{"type": "Pods", "value": 9, "periodSeconds": 1}]}, "scaleDown": {"stabilizationWindowSeconds": 0, "selectPolicy": "Disabled", "policies": []}}),
    );
    assert_eq!(run(5, Some(&never), &[(0, 1)]), [(5, "ReadyForNewScale", "ScaleDownLimit")]);
}

#[test]
fn windows_hold_both_ways() {
    let calm = behavior(json!({
        "scaleUp": {"stabilizationWindowSeconds": 10, "selectPolicy": "Max", "policies": [{"type": "Percent", "value": 1000, "periodSeconds": 1}]},
        "scaleDown": {"stabilizationWindowSeconds": 20, "selectPolicy": "Max", "policies": [{"type": "Percent", "value": 100, "periodSeconds": 1}]},
    }));
    let replicas: Vec<_> =
        run(2, Some(&calm), &[(0, 2), (1, 6), (5, 8), (11, 7), (12, 3), (16, 3), (31, 3), (32, 3)])
            .into_iter()
            .map(|it| (it.0, it.1))
            .collect();
    assert_eq!(
        replicas,
        [
            (2, "ReadyForNewScale"),
            (2, "ScaleUpStabilized"),
            (2, "ScaleUpStabilized"),
            (7, "ReadyForNewScale"),
            (7, "ScaleDownStabilized"),
            (7, "ScaleDownStabilized"),
            (3, "ReadyForNewScale"),
            (3, "ReadyForNewScale"),
        ]
    );
}

/// A change that was refused, or undone by somebody, uses nothing up.
#[test]
fn only_what_is_seen_to_have_happened_counts() {
    let usual = usual();
    let mut history = History::default();
    let mut look = |current: i32, second: i64| {
        history.see(current, Some(&usual), at(second));
        history.begin(current, at(second));
        let found = history.normalize(current, 20, (1, 20), Some(&usual), at(second));
        history.ask(current, found.replicas, at(second));
        found.replicas
    };
    assert_eq!(look(2, 0), 6);
    assert_eq!(look(2, 1), 6);
    assert_eq!(look(6, 2), 6);
    assert_eq!(look(6, 16), 12);
}

#[test]
fn what_nobody_looks_back_at_is_forgotten() {
    let usual = usual();
    let mut history = History::default();
    for second in 0..10_000 {
        history.see(5, Some(&usual), at(second));
        history.ask(4, 5, at(second));
        history.normalize(5, (second % 7) as i32, (1, 20), Some(&usual), at(second));
    }
    assert!(history.recommendations.len() <= 301, "{}", history.recommendations.len());
    assert!(history.added.len() <= 16, "{}", history.added.len());
}
