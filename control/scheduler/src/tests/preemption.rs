//! Preemption. Inputs and expectations are those of upstream's tests of the plugin DefaultPreemption.

use super::*;

/// A Pod on a node: `node name priority cpu`, and `@seconds` since when it runs.
fn running(text: &str) -> Arc<Object> {
    let mut words = text.split_whitespace();
    let mut next = || words.next().unwrap_or_default();
    let (node, name, priority, cpu) = (next(), next(), next(), next());
    let since = next().trim_start_matches('@').parse::<i64>().unwrap_or(0);
    let mut spec = asking(json!({"cpu": cpu}));
    spec["priority"] = json!(priority.parse::<i32>().expect("a priority"));
    let mut value = bound(&pod(name, spec), node).value();
    let started = now() - SignedDuration::from_hours(1) + SignedDuration::from_secs(since);
    value["status"] = json!({"startTime": started.to_string()});
    value["metadata"]["labels"] = json!({"app": name});
    object(&kinds::POD, value)
}

fn wanting(priority: i32, cpu: &str) -> Arc<Object> {
    let mut spec = asking(json!({"cpu": cpu}));
    spec["priority"] = json!(priority);
    pod("p", spec)
}

fn budget(app: &str, allowed: i64) -> Arc<Object> {
    let value = json!({
        "metadata": {"name": app},
        "spec": {"selector": {"matchLabels": {"app": app}}},
        "status": {"disruptionsAllowed": allowed},
    });
    object(&kinds::POD_DISRUPTION_BUDGET, value)
}

fn cluster(names: &[&str], running_: &[&str]) -> Scheduler {
    let mut scheduler = Scheduler::new();
    for name in names {
        add(&mut scheduler, &node(name, json!({})));
    }
    for text in running_ {
        add(&mut scheduler, &running(text));
    }
    scheduler
}

fn preempts(
    names: &[&str],
    running: &[&str],
    budgets: &[(&str, i64)],
    wanted: &Arc<Object>,
    expected: &str,
) {
    let mut scheduler = cluster(names, running);
    for (app, allowed) in budgets {
        add(&mut scheduler, &budget(app, *allowed));
    }
    add(&mut scheduler, wanted);
    let told = decide(&mut scheduler, now());
    assert_eq!(told, [format!("p: {expected}")], "{running:?}");
}

/// Nodes have 4 CPUs.
#[test]
fn victims() {
    let full = |n: usize| format!("0/{n} nodes are available: {n} Insufficient cpu.");
    let nobody = |n: usize| {
        format!(
            "{} preemption: 0/{n} nodes are available: {n} No preemption victims found for incoming pod.",
            full(n)
        )
    };
    for (names, running, wanted, expected) in [
        // No preemption where all is of the same or higher priority.
        (&["a"][..], &["a x 10 3"][..], wanting(10, "2"), nobody(1)),
        (&["a"], &["a x 100 3"], wanting(10, "2"), nobody(1)),
        // A pod that fits when a lower-priority pod is preempted.
        (&["a"], &["a x 0 3"], wanting(10, "2"), format!("{} → a without x", full(1))),
        // …but not the one that need not go.
        (&["a"], &["a x 0 3", "a y 0 1"], wanting(10, "3"), format!("{} → a without x", full(1))),
        // Low priority goes before middle priority.
        (&["a"], &["a x 5 2", "a y 0 2"], wanting(10, "2"), format!("{} → a without y", full(1))),
        // Of equal priority the youngest goes.
        (&["a"], &["a x 0 2 @0", "a y 0 2 @60"], wanting(10, "2"), format!("{} → a without y", full(1))),
        // Too much even for an empty node: not helpful.
        (
            &["a"],
            &["a x 0 3"],
            wanting(10, "5"),
            "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.".into(),
        ),
        // Others of higher priority take too much.
        (
            &["a"],
            &["a x 0 1", "a y 20 3"],
            wanting(10, "2"),
            "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Insufficient cpu.".into(),
        ),
        // The node whose highest victim matters least.
        (&["a", "b"], &["a x 5 3", "b y 3 3"], wanting(10, "2"), format!("{} → b without y", full(2))),
        // Then the smallest sum of priorities…
        (
            &["a", "b"],
            &["a x 5 2", "a x2 5 2", "b y 5 2", "b y2 1 2"],
            wanting(10, "4"),
            format!("{} → b without y, y2", full(2)),
        ),
        // …then the fewest victims…
        (
            &["a", "b"],
            &["a x 5 2", "a x2 0 2", "b y 5 4"],
            wanting(10, "4"),
            format!("{} → b without y", full(2)),
        ),
        // …then where the oldest of the highest runs for the shortest time.
        (&["a", "b"], &["a x 5 3 @60", "b y 5 3 @0"], wanting(10, "2"), format!("{} → a without x", full(2))),
        // A negative priority is none to preempt for zero, but for something above.
        (&["a"], &["a x -10 3"], wanting(0, "2"), format!("{} → a without x", full(1))),
    ] {
        preempts(names, running, &[], &wanted, &expected);
    }
}

#[test]
fn budgets_are_spared() {
    let full = "0/2 nodes are available: 2 Insufficient cpu.";
    // Fewer violations before anything else.
    preempts(
        &["a", "b"],
        &["a x 0 3", "b y 9 3"],
        &[("x", 0)],
        &wanting(10, "2"),
        &format!("{full} → b without y"),
    );
    // A budget that allows it is not violated.
    preempts(
        &["a", "b"],
        &["a x 0 3", "b y 9 3"],
        &[("x", 1)],
        &wanting(10, "2"),
        &format!("{full} → a without x"),
    );
    // Where nothing else helps it is done all the same.
    let full = "0/1 nodes are available: 1 Insufficient cpu.";
    preempts(
        &["a"],
        &["a x 0 3"],
        &[("x", 0)],
        &wanting(10, "2"),
        &format!("{full} → a without x"),
    );
    // On one node, those that a budget protects are put back first, whatever their priority.
    preempts(
        &["a"],
        &["a x 0 2", "a y 5 2"],
        &[("x", 0)],
        &wanting(10, "2"),
        &format!("{full} → a without y"),
    );
}

#[test]
fn what_stands_against_it() {
    let mut never = wanting(10, "2").value();
    never["spec"]["preemptionPolicy"] = json!("Never");
    preempts(
        &["a"],
        &["a x 0 3"],
        &[],
        &object(&kinds::POD, never),
        "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never.",
    );
    // Anti-affinity to one that may go.
    let mut away = wanting(10, "1").value();
    away["spec"]["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": {"matchLabels": {"app": "x"}}, "topologyKey": "kubernetes.io/hostname"}]}});
    preempts(
        &["a"],
        &["a x 0 1", "a y 0 1"],
        &[],
        &object(&kinds::POD, away),
        "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules. → a without x",
    );
}

/// The room that is made is kept for the one it is made for, until it has it.
#[test]
fn nominated_nodes() {
    let later = |seconds| now() + SignedDuration::from_secs(seconds);
    let mut scheduler = cluster(&["a"], &["a x 0 4"]);
    let urgent = wanting(10, "2");
    add(&mut scheduler, &urgent);
    assert!(decide(&mut scheduler, now())[0].ends_with("→ a without x"));
    // The victim takes its time: nothing more is asked of anybody.
    let x = running("a x 0 4");
    let going = {
        let mut value = x.value();
        value["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:30Z");
        object(&kinds::POD, value)
    };
    update(&mut scheduler, &x, Some(&going));
    assert!(decide(&mut scheduler, later(1)).is_empty());
    // One that comes meanwhile, of less priority, does not get the room; there is enough for both a small one.
    let mut low = pod("low", asking(json!({"cpu": "3"}))).value();
    low["spec"]["priority"] = json!(1);
    add(&mut scheduler, &object(&kinds::POD, low));
    let told = decide(&mut scheduler, later(2));
    assert!(told.len() == 1 && told[0].starts_with("low: "), "{told:?}");
    update(&mut scheduler, &going, None);
    let told = decide(&mut scheduler, later(60));
    assert!(
        told.contains(&"p → a".to_owned()) && !told.iter().any(|t| t.starts_with("low →")),
        "{told:?}"
    );

    // A scheduler that starts anew knows from the Pod's status what is kept for it.
    let mut scheduler = cluster(&["a"], &["a x 0 2"]);
    let mut nominated = wanting(10, "2").value();
    nominated["metadata"]["creationTimestamp"] = json!("2029-06-01T00:00:00Z");
    nominated["status"]["nominatedNodeName"] = json!("a");
    add(&mut scheduler, &pod("q", asking(json!({"cpu": "1"}))));
    let mut gate = nominated.clone();
    gate["spec"]["priority"] = json!(0);
    add(&mut scheduler, &object(&kinds::POD, gate));
    // Of equal priority, and older: it is first in the queue and still leaves the room.
    let told = decide(&mut scheduler, now());
    assert!(told[0].starts_with("q: 0/1") && told[1] == "p → a", "{told:?}");
}

/// One of still higher priority takes the room; the other looks anew.
#[test]
fn the_higher_takes_the_room_of_the_lower() {
    let mut scheduler = cluster(&["a"], &["a x 0 4"]);
    add(&mut scheduler, &wanting(10, "3"));
    assert!(decide(&mut scheduler, now())[0].ends_with("→ a without x"));
    let mut higher = pod("higher", asking(json!({"cpu": "3"}))).value();
    higher["spec"]["priority"] = json!(20);
    add(&mut scheduler, &object(&kinds::POD, higher));
    let told = decide(&mut scheduler, now());
    assert!(told[0].starts_with("higher: ") && told[0].contains("→ a without"), "{told:?}");
    let x = running("a x 0 4");
    update(&mut scheduler, &x, None);
    let told = decide(&mut scheduler, now() + SignedDuration::from_secs(60));
    assert_eq!(told[0], "higher → a");
    assert!(told[1].starts_with("p: 0/1 nodes are available: 1 Insufficient cpu."), "{told:?}");
}

/// If the victims could not be asked to go, all begins anew.
#[test]
fn a_preemption_that_failed() {
    let mut scheduler = cluster(&["a"], &["a x 0 4"]);
    let urgent = wanting(10, "2");
    add(&mut scheduler, &urgent);
    assert!(decide(&mut scheduler, now())[0].ends_with("→ a without x"));
    scheduler.forget(&urgent);
    let told = decide(&mut scheduler, now() + SignedDuration::from_secs(60));
    assert!(told[0].ends_with("→ a without x"), "{told:?}");
}
