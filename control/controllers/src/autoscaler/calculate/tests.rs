//! The cases of upstream's `replica_calculator_test.go`: Pods of two containers that request one core each.

use jiff::SignedDuration;
use serde_json::json;

use super::*;

const NOW: i64 = 1_900_000_000;
const USUAL: Tolerances = Tolerances { up: 0.1, down: 0.1 };

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

/// What is measured of a container in each Pod.
enum Levels {
    /// The same in both.
    Each(&'static [i64]),
    /// In each; as many as are measured.
    Both(&'static [&'static [i64]]),
}
use Levels::{Both, Each};

struct Case {
    name: &'static str,
    current: i32,
    /// One letter a Pod: `r`eady, `u`nready, `p`ending, `f`ailed, `s`ucceeded, `d`eleted and unready, `h`ot: started just now.
    pods: &'static str,
    container: &'static str,
    levels: Levels,
    percent: i32,
    /// Replicas, percent, thousandths for each Pod.
    expected: Result<(i32, i32, i64), &'static str>,
}

fn candidate(n: usize, letter: char, requests: bool) -> Candidate {
    let begun = if letter == 'h' { NOW } else { NOW - 600 };
    let container = |name: &str| match requests {
        true => json!({"name": name, "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}),
        false => json!({"name": name}),
    };
    let phase = match letter {
        'p' => "Pending",
        'f' => "Failed",
        's' => "Succeeded",
        _ => "Running",
    };
    let pod = json!({
        "spec": {"containers": [container("container1"), container("container2")]},
        "status": {
            "phase": phase,
            "startTime": at(begun).to_string(),
            "conditions": [{
                "type": "Ready",
                "status": if matches!(letter, 'r' | 'h') { "True" } else { "False" },
                "lastTransitionTime": at(begun).to_string(),
            }],
        },
    });
    let pod = Arc::new(serde_json::from_value(pod).expect("a Pod"));
    Candidate { name: format!("pod-{n}"), is_deleting: letter == 'd', pod }
}

fn candidates(letters: &str) -> Vec<Candidate> {
    letters.chars().enumerate().map(|(n, letter)| candidate(n, letter, true)).collect()
}

fn values(levels: impl IntoIterator<Item = i64>) -> Values {
    let of = |value| Value { value, at: at(NOW), window: Duration::from_secs(60) };
    levels.into_iter().enumerate().map(|(n, level)| (format!("pod-{n}"), of(level))).collect()
}

#[test]
fn utilization_of_cpu() {
    let cases = [
        Case {
            name: "scale up",
            current: 3,
            pods: "rrr",
            container: "",
            levels: Each(&[300, 500, 700]),
            percent: 30,
            expected: Ok((5, 50, 1000)),
        },
        Case {
            name: "scale up: container metric",
            current: 3,
            pods: "rrr",
            container: "container2",
            levels: Both(&[&[1000, 300], &[1000, 500], &[1000, 700]]),
            percent: 30,
            expected: Ok((5, 50, 500)),
        },
        Case {
            name: "scale up: unready pod scales less",
            current: 3,
            pods: "urr",
            container: "",
            levels: Each(&[300, 500, 700]),
            percent: 30,
            expected: Ok((4, 60, 1200)),
        },
        Case {
            name: "scale up: hot-CPU container scales less",
            current: 3,
            pods: "hrr",
            container: "container2",
            levels: Both(&[&[0, 300], &[0, 500], &[0, 700]]),
            percent: 30,
            expected: Ok((4, 60, 600)),
        },
        Case {
            name: "scale up: hot-CPU pod scales less",
            current: 3,
            pods: "hrr",
            container: "",
            levels: Each(&[300, 500, 700]),
            percent: 30,
            expected: Ok((4, 60, 1200)),
        },
        Case {
            name: "no scale: unready pods ignored",
            current: 3,
            pods: "ruu",
            container: "",
            levels: Each(&[400, 500, 700]),
            percent: 30,
            expected: Ok((3, 40, 800)),
        },
        Case {
            name: "scale up: failed pods ignored",
            current: 2,
            pods: "rrff",
            container: "",
            levels: Each(&[500, 700]),
            percent: 30,
            expected: Ok((4, 60, 1200)),
        },
        Case {
            name: "scale up: container metrics with failed pods ignored",
            current: 2,
            pods: "rrff",
            container: "container2",
            levels: Both(&[&[1000, 500], &[9000, 700]]),
            percent: 30,
            expected: Ok((4, 60, 600)),
        },
        Case {
            name: "scale up: succeeded pods ignored",
            current: 2,
            pods: "rrss",
            container: "",
            levels: Each(&[500, 700]),
            percent: 30,
            expected: Ok((4, 60, 1200)),
        },
        Case {
            name: "scale up: pods being deleted are ignored",
            current: 2,
            pods: "rrdd",
            container: "",
            levels: Each(&[500, 700]),
            percent: 30,
            expected: Ok((4, 60, 1200)),
        },
        Case {
            name: "scale down",
            current: 5,
            pods: "rrrrr",
            container: "",
            levels: Each(&[100, 300, 500, 250, 250]),
            percent: 50,
            expected: Ok((3, 28, 560)),
        },
        Case {
            name: "scale down: container metric",
            current: 5,
            pods: "rrrrr",
            container: "container2",
            levels: Both(&[&[1000, 100], &[1000, 300], &[1000, 500], &[1000, 250], &[1000, 250]]),
            percent: 50,
            expected: Ok((3, 28, 280)),
        },
        Case {
            name: "scale down: exclude unready pods",
            current: 5,
            pods: "rrruu",
            container: "",
            levels: Each(&[100, 300, 500, 250, 250]),
            percent: 50,
            expected: Ok((2, 30, 600)),
        },
        Case {
            name: "scale down: exclude unscheduled pods",
            current: 5,
            pods: "rpppp",
            container: "",
            levels: Each(&[100]),
            percent: 50,
            expected: Ok((1, 10, 200)),
        },
        Case {
            name: "scale down: ignore hot-CPU pods",
            current: 5,
            pods: "rrrhh",
            container: "",
            levels: Each(&[100, 300, 500, 250, 250]),
            percent: 50,
            expected: Ok((2, 30, 600)),
        },
        Case {
            name: "scale down: container metric ignores hot-CPU pods",
            current: 5,
            pods: "rrrhh",
            container: "container2",
            levels: Both(&[&[1000, 100], &[1000, 300], &[1000, 500], &[1000, 1000], &[1000, 1000]]),
            percent: 50,
            expected: Ok((2, 30, 300)),
        },
        Case {
            name: "scale down: failed pods ignored",
            current: 5,
            pods: "rrrrrff",
            container: "",
            levels: Each(&[100, 300, 500, 250, 250]),
            percent: 50,
            expected: Ok((3, 28, 560)),
        },
        Case {
            name: "scale down: pods being deleted are ignored",
            current: 5,
            pods: "rrrrrdd",
            container: "",
            levels: Each(&[100, 300, 500, 250, 250]),
            percent: 50,
            expected: Ok((3, 28, 560)),
        },
        Case {
            name: "tolerance",
            current: 3,
            pods: "rrr",
            container: "",
            levels: Each(&[1010, 1030, 1020]),
            percent: 100,
            expected: Ok((3, 102, 2040)),
        },
        Case {
            name: "superfluous metrics",
            current: 4,
            pods: "rrrr",
            container: "",
            levels: Each(&[4000, 9500, 3000, 7000, 3200, 2000]),
            percent: 100,
            expected: Ok((24, 587, 11750)),
        },
        Case {
            name: "missing metrics",
            current: 4,
            pods: "rrrr",
            container: "",
            levels: Each(&[400, 95]),
            percent: 100,
            expected: Ok((3, 24, 495)),
        },
        Case {
            name: "empty metrics",
            current: 4,
            pods: "rrrr",
            container: "",
            levels: Each(&[]),
            percent: 100,
            expected: Err("did not receive metrics for targeted pods (pods might be unready)"),
        },
        Case {
            name: "missing metrics, equal",
            current: 2,
            pods: "rr",
            container: "",
            levels: Each(&[1000]),
            percent: 100,
            expected: Ok((2, 100, 2000)),
        },
        Case {
            name: "missing metrics, scale up stays",
            current: 3,
            pods: "rrr",
            container: "",
            levels: Each(&[1000, 1000]),
            percent: 90,
            expected: Ok((3, 100, 2000)),
        },
        Case {
            name: "missing metrics, scale down",
            current: 4,
            pods: "rrrr",
            container: "",
            levels: Each(&[100, 100, 100]),
            percent: 50,
            expected: Ok((3, 10, 200)),
        },
        Case {
            name: "missing metrics, unready, no more growth",
            current: 4,
            pods: "urrr",
            container: "",
            levels: Each(&[100, 450]),
            percent: 50,
            expected: Ok((4, 45, 900)),
        },
        Case {
            name: "missing metrics, unready, scale up",
            current: 3,
            pods: "urr",
            container: "",
            levels: Each(&[100, 2000]),
            percent: 50,
            expected: Ok((4, 200, 4000)),
        },
        Case {
            name: "an unknown container",
            current: 1,
            pods: "r",
            container: "container3",
            levels: Each(&[100]),
            percent: 50,
            expected: Err("container container3 not found in Pod pod-0"),
        },
    ];
    for Case { name, current, pods, container, levels, percent, expected } in cases {
        let pods = candidates(pods);
        let of = |both: &[i64]| match container {
            "" => both.iter().sum(),
            "container1" => both[0],
            _ => both[1],
        };
        let values = match levels {
            Each(levels) => values(levels.iter().map(|level| of(&[*level, *level]))),
            Both(levels) => values(levels.iter().map(|both| of(both))),
        };
        let aim = Aim::Utilization { percent, resource: "cpu", container };
        let found = replicas(current, aim, true, &pods, values, USUAL, at(NOW));
        let found = found.map(|it| (it.replicas, it.utilization, it.average));
        assert_eq!(found, expected.map_err(str::to_owned), "{name}");
    }
}

#[test]
fn metrics_of_pods() {
    let finer = Tolerances { up: 0.01, ..USUAL };
    for (name, current, pods, levels, target, tolerances, expected) in [
        ("scale up", 3, "rrr", &[20_000, 10_000, 30_000][..], 15_000, USUAL, (4, 20_000)),
        (
            "scale up: unready hot pods count",
            3,
            "rru",
            &[50_000, 10_000, 30_000],
            15_000,
            USUAL,
            (6, 30_000),
        ),
        (
            "scale up: unready hot pods avoid scale-down",
            3,
            "uru",
            &[50_000, 15_000, 30_000],
            15_000,
            USUAL,
            (7, 31_666),
        ),
        (
            "scale down",
            5,
            "rrrrr",
            &[12_000, 12_000, 12_000, 12_000, 12_000],
            20_000,
            USUAL,
            (3, 12_000),
        ),
        ("within tolerance", 3, "rrr", &[20_000, 21_000, 21_000], 20_000, USUAL, (3, 20_666)),
        (
            "outside a finer tolerance",
            3,
            "rrr",
            &[20_000, 21_000, 21_000],
            20_000,
            finer,
            (4, 20_666),
        ),
        (
            "no change: missing metrics",
            5,
            "rrrrr",
            &[20_000, 19_000, 21_000],
            20_000,
            USUAL,
            (5, 20_000),
        ),
        (
            "an extra pod of a rollout without metric",
            2,
            "rrr",
            &[10_000, 10_000],
            17_000,
            USUAL,
            (2, 10_000),
        ),
    ] {
        let values = values(levels.iter().copied());
        let aim = Aim::Average(target);
        let found = replicas(current, aim, false, &candidates(pods), values, tolerances, at(NOW));
        let found = found.map(|it| (it.replicas, it.average));
        assert_eq!(found, Ok(expected), "{name}");
    }
}

/// A Pod counts once a window was measured while it was ready: with windows of seconds, seconds after that.
#[test]
fn a_new_pod_counts_after_its_first_window() {
    let pod = candidate(0, 'h', true);
    let value = |second: i64, window: u64| {
        let window = Duration::from_secs(window);
        Value { value: 1, at: at(NOW + second), window }
    };
    let starting = |second, window| is_starting(&pod.pod, &value(second, window), at(NOW + second));
    assert!(starting(1, 2) && !starting(2, 2) && starting(59, 60) && !starting(60, 60));
    let unready = candidate(0, 'u', true);
    assert!(is_starting(&unready.pod, &value(600, 1), at(NOW + 600)), "it was never ready");
    let since = (at(NOW) - SignedDuration::from_secs(10)).to_string();
    let mut once = (*unready.pod).clone();
    once.status.conditions[0].last_transition_time = Some(since.parse().expect("a time"));
    assert!(!is_starting(&once, &value(600, 1), at(NOW + 600)), "it was ready once");
}

#[test]
fn what_is_not_requested_has_no_share() {
    let pods = [candidate(0, 'r', false)];
    let aim = Aim::Utilization { percent: 50, resource: "cpu", container: "" };
    let found = replicas(1, aim, true, &pods, values([5]), USUAL, at(NOW));
    assert_eq!(found, Err("missing request for cpu in container container1 of Pod pod-0".into()));
    let none = replicas(1, aim, true, &[], values([5]), USUAL, at(NOW));
    assert_eq!(none, Err("no pods returned by selector while calculating replica count".into()));
}
