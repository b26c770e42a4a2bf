use coracle_sandbox::{ContainerUsage, Usage};
use jiff::Timestamp;
use serde_json::json;

use super::usage::{Node, PodSample, Rates, Sample};
use super::{hosts, resource, summary};
use crate::pod::worker::{Seen, SeenContainer};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn sample(second: i64, cpu_seconds: u64) -> Sample {
    let usage = Usage {
        cpu_nanoseconds: cpu_seconds * 1_000_000_000,
        memory_bytes: 3 << 20,
        ..Usage::default()
    };
    let container = ContainerUsage {
        sandbox: "uid-1".into(),
        container: "app".into(),
        attempt: 2,
        started_at: at(0),
        connections: 0,
        open_connections: 0,
        usage,
    };
    let pod = Seen {
        uid: "uid-1".into(),
        namespace: "shop".into(),
        name: "web".into(),
        phase: "Running".into(),
        start_time: at(0),
        ready_since: None,
        on_host_network: false,
        has_sandbox: true,
        containers: vec![SeenContainer {
            name: "app".into(),
            attempt: 0,
            running_since: Some(at(0)),
        }],
    };
    let node = Node {
        cpu_nanoseconds: 100_000_000_000,
        memory_total: 8 << 30,
        memory_available: 6 << 30,
        booted: Some(at(-1000)),
    };
    let pods = vec![PodSample { pod, containers: vec![container] }];
    Sample { at: at(second), node, pods, incomplete: false }
}

#[test]
fn resource_metrics_are_what_metrics_server_reads() {
    let text = resource::text(&sample(100, 25));
    let labels = r#"{container="app",namespace="shop",pod="web"}"#;
    for expected in [
        "# TYPE container_cpu_usage_seconds_total counter\n".to_owned(),
        format!("container_cpu_usage_seconds_total{labels} 25 1700000100000\n"),
        format!("container_memory_working_set_bytes{labels} 3145728 1700000100000\n"),
        format!("container_start_time_seconds{labels} 1700000000 1700000100000\n"),
        "pod_cpu_usage_seconds_total{namespace=\"shop\",pod=\"web\"} 25 1700000100000\n".into(),
        "node_cpu_usage_seconds_total 100 1700000100000\n".into(),
        "node_memory_working_set_bytes 2147483648 1700000100000\n".into(),
        "resource_scrape_error 0\n".into(),
    ] {
        assert!(text.contains(&expected), "no {expected} in\n{text}");
    }
}

#[test]
fn the_summary_has_rates() {
    let rates = Rates::default();
    let of = |sample: &Sample, rates: &Rates| {
        serde_json::to_value(summary::of(sample, &rates.update(sample), "n")).unwrap()
    };
    let first = of(&sample(100, 25), &rates);
    assert_eq!(
        first["pods"][0]["podRef"],
        json!({"name": "web", "namespace": "shop", "uid": "uid-1"})
    );
    // A quarter of a core since the start; then a whole one; and no new rate within a moment.
    let nanocores = |value: &serde_json::Value| {
        value["pods"][0]["containers"][0]["cpu"]["usageNanoCores"].as_u64().unwrap()
    };
    assert_eq!(nanocores(&first), 250_000_000);
    assert_eq!(nanocores(&of(&sample(110, 35), &rates)), 1_000_000_000);
    assert_eq!(nanocores(&of(&sample(111, 35), &rates)), 1_000_000_000);
    assert_eq!(nanocores(&of(&sample(120, 35), &rates)), 0);
    assert_eq!(first["node"]["memory"]["workingSetBytes"], 2_u64 << 30);
    assert_eq!(first["node"]["cpu"]["usageNanoCores"], 90_909_090);
}

#[test]
fn the_kernel_is_understood() {
    let stat = "cpu  100 2 30 4000 50 6 7 8 9 10\ncpu0 1 1 1 1\nbtime 1700000000\n";
    let memory = "MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:   400 kB\n";
    let node = Node::parse(stat, memory);
    assert_eq!(node.cpu_nanoseconds, (100 + 2 + 30 + 6 + 7 + 8) * 10_000_000);
    assert_eq!((node.memory_total, node.memory_available), (1000 << 10, 400 << 10));
    assert_eq!(node.booted, Some(at(0)));
    assert_eq!(Node::parse("", ""), Node::default());
}

#[test]
fn documents_of_several_hosts_become_one() {
    let first = "# HELP a A.\n# TYPE a counter\na_total{pod=\"x\"} 1\n# HELP b B.\n# TYPE b gauge\nb 2\n# EOF\n";
    let second = "# HELP a A.\n# TYPE a counter\na_total{pod=\"y\"} 3\n# HELP c C.\n# TYPE c gauge\nc 4\n# EOF\n";
    let merged = hosts::merge(vec![("one".into(), first), ("two".into(), second)]);
    let expected = "# HELP a A.\n# TYPE a counter\na_total{host=\"one\",pod=\"x\"} 1\na_total{host=\"two\",pod=\"y\"} 3\n\
                    # HELP b B.\n# TYPE b gauge\nb{host=\"one\"} 2\n\
                    # HELP c C.\n# TYPE c gauge\nc{host=\"two\"} 4\n# EOF\n";
    assert_eq!(merged, expected);
}
