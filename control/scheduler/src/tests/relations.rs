//! Spreading and affinity between Pods. Inputs and expectations are those of upstream's tests of the plugins
//! PodTopologySpread and InterPodAffinity.

use super::*;

/// Nodes `name: label=value …`, Pods on them `node: label=value …` (`ns/` before the node for another namespace, `!` for one
/// that is being deleted), and which nodes the Pod with such labels may go to: each is tried with all others cordoned.
struct Case {
    what: &'static str,
    nodes: &'static [&'static str],
    pods: &'static [&'static str],
    labels: &'static str,
    spec: Value,
    fits: &'static [&'static str],
}

fn labels(text: &str) -> Value {
    let pairs = text.split_whitespace().map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs
        .map(|(key, value)| (key.to_owned(), Value::from(value)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn named(text: &str) -> (&str, Value) {
    let (name, rest) = text.split_once(':').unwrap_or((text, ""));
    (name, labels(rest))
}

fn with_labels(pod: Arc<Object>, namespace: &str, labels: Value) -> Arc<Object> {
    let mut value = pod.value();
    value["metadata"]["labels"] = labels;
    value["metadata"]["namespace"] = json!(namespace);
    Arc::new(Object::from_value(&kinds::POD, &value).expect("a Pod"))
}

fn nodes_of(case: &Case, cordon_all_but: Option<&str>) -> Vec<Arc<Object>> {
    let node_of = |text: &&str| {
        let (name, labels) = named(text);
        let (name, tainted) = match name.strip_suffix('*') {
            Some(name) => (name, true),
            None => (name, false),
        };
        let taints = json!([{"key": "team", "value": "x", "effect": "NoSchedule"}]);
        let away = cordon_all_but.is_some_and(|only| only != name);
        let mut spec = json!({"unschedulable": away});
        if tainted {
            spec["taints"] = taints;
        }
        let status = json!({"allocatable": {"pods": "1000", "cpu": "64", "memory": "64Gi"}});
        node(name, json!({"metadata": {"labels": labels}, "spec": spec, "status": status}))
    };
    case.nodes.iter().map(node_of).collect()
}

fn scheduler_of(case: &Case, cordon_all_but: Option<&str>) -> Scheduler {
    let mut scheduler = Scheduler::new();
    for name in ["ns", "other"] {
        let value = json!({"metadata": {"name": name, "labels": {"team": name}}});
        add(&mut scheduler, &object(&kinds::NAMESPACE, value));
    }
    for node in nodes_of(case, cordon_all_but) {
        add(&mut scheduler, &node);
    }
    for (i, text) in case.pods.iter().enumerate() {
        let (place, spec) = text.split_once('|').unwrap_or((text, "{}"));
        let (place, labels) = named(place);
        let (place, going) = match place.strip_prefix('!') {
            Some(place) => (place, true),
            None => (place, false),
        };
        let (namespace, node) = place.split_once('/').unwrap_or(("ns", place));
        let spec = serde_json::from_str(spec).expect("a spec");
        let pod = bound(&pod(&format!("e{i}"), spec), node);
        let mut value = with_labels(pod, namespace, labels).value();
        if going {
            value["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:00Z");
        }
        add(&mut scheduler, &Arc::new(Object::from_value(&kinds::POD, &value).expect("a Pod")));
    }
    scheduler
}

fn fits(case: &Case) {
    let names = case.nodes.iter().map(|text| named(text).0.trim_end_matches('*'));
    for name in names {
        let mut scheduler = scheduler_of(case, Some(name));
        add(&mut scheduler, &with_labels(pod("p", case.spec.clone()), "ns", labels(case.labels)));
        let told = decide(&mut scheduler, now());
        let expected = case.fits.contains(&name);
        let bound = told == [format!("p → {name}")];
        assert!(bound == expected && told.len() == 1, "{}: {name}: {told:?}", case.what);
    }
}

fn goes_to(case: &Case) {
    let mut scheduler = scheduler_of(case, None);
    add(&mut scheduler, &with_labels(pod("p", case.spec.clone()), "ns", labels(case.labels)));
    let told = decide(&mut scheduler, now());
    let expected = case.fits.iter().any(|name| told == [format!("p → {name}")]);
    assert!(expected, "{}: {told:?}", case.what);
}

fn exists(label: &str) -> Value {
    json!({"matchExpressions": [{"key": label, "operator": "Exists"}]})
}

fn spread(max_skew: i32, key: &str, label: &str, more: Value) -> Value {
    let mut constraint = json!({
        "maxSkew": max_skew, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": exists(label),
    });
    merge(&mut constraint, &more);
    constraint
}

fn all(constraints: &[Value]) -> Value {
    json!({"topologySpreadConstraints": constraints})
}

const FOUR: &[&str] =
    &["a: zone=1 node=a", "b: zone=1 node=b", "x: zone=2 node=x", "y: zone=2 node=y"];
const THREE: &[&str] = &["a: node=a foo", "b: node=b foo", "c: node=c"];
const EVERY: &[&str] = &["a", "b", "x", "y"];
/// Two on a, one on b, none on x, three on y.
const SPREAD: &[&str] = &["a: foo", "a: foo", "b: foo", "y: foo", "y: foo", "y: foo"];

#[test]
fn spread_constraints() {
    let zone = |max_skew| all(&[spread(max_skew, "zone", "foo", json!({}))]);
    let node = |max_skew| all(&[spread(max_skew, "node", "foo", json!({}))]);
    let by_node = |max_skew, more| all(&[spread(max_skew, "node", "foo", more)]);
    let both = || all(&[spread(1, "zone", "foo", json!({})), spread(1, "node", "foo", json!({}))]);
    let mut affine = node(1);
    merge(
        &mut affine,
        &json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "node", "operator": "In", "values": ["a", "y"]}]}]}}}}),
    );
    let selected = |policy: &str| {
        let mut spec = by_node(1, json!({"nodeAffinityPolicy": policy}));
        spec["nodeSelector"] = json!({"foo": ""});
        spec
    };
    let case =
        |what, nodes, pods, spec, fits| Case { what, nodes, pods, labels: "foo", spec, fits };
    for case in [
        case("no existing pods", FOUR, &[], zone(1), EVERY),
        Case {
            what: "no existing pods, incoming pod doesn't match itself",
            nodes: FOUR,
            pods: &[],
            labels: "foo2",
            spec: zone(1),
            fits: EVERY,
        },
        case(
            "existing pods in a different namespace do not count",
            FOUR,
            &["other/a: foo", "other/b: foo", "other/a: foo", "y: foo"],
            zone(1),
            &["a", "b"],
        ),
        case("pods spread across zones as 3/3, all nodes fit", FOUR, SPREAD, zone(1), EVERY),
        case(
            "pods spread across zones as 1/2 due to absence of label on b",
            &["a: zone=1", "b: zon=1", "x: zone=2", "y: zone=2"],
            &["a: foo", "b: foo", "x: foo", "y: foo"],
            zone(1),
            &["a"],
        ),
        case("no node has the label", FOUR, &[], all(&[spread(1, "rack", "foo", json!({}))]), &[]),
        case("2/1/0/3, only x fits", FOUR, SPREAD, node(1), &["x"]),
        case("2/1/0/3, maxSkew is 2, b and x fit", FOUR, SPREAD, node(2), &["b", "x"]),
        Case {
            what: "2/1/0/3, but pod doesn't match itself",
            nodes: FOUR,
            pods: SPREAD,
            labels: "bar",
            spec: node(1),
            fits: &["b", "x"],
        },
        case("nodeAffinity leaves 2/-/-/3, hence a fits", FOUR, SPREAD, affine, &["a"]),
        case(
            "terminating Pods are excluded",
            &["a: node=a", "b: node=b"],
            &["!a: foo", "b: foo"],
            node(1),
            &["a"],
        ),
        case(
            "2/2/1, fewer domains than minDomains",
            THREE,
            &["a: foo", "a: foo", "b: foo", "b: foo", "c: foo"],
            by_node(2, json!({"minDomains": 4})),
            &["c"],
        ),
        case(
            "2/2/1, more domains than minDomains",
            THREE,
            &["a: foo", "a: foo", "b: foo", "b: foo", "c: foo"],
            by_node(2, json!({"minDomains": 2})),
            &["a", "b", "c"],
        ),
        case(
            "zones 2/1, fewer domains than minDomains",
            FOUR,
            &["a: foo", "b: foo", "x: foo"],
            all(&[spread(2, "zone", "foo", json!({"minDomains": 3}))]),
            &["x", "y"],
        ),
        case(
            "nodeAffinityPolicy honored",
            THREE,
            &["a: foo", "b: foo"],
            selected("Honor"),
            &["a", "b"],
        ),
        case("nodeAffinityPolicy ignored", THREE, &["a: foo", "b: foo"], selected("Ignore"), &[]),
        case(
            "nodeTaintsPolicy honored",
            &["a: node=a", "b: node=b", "c*: node=c"],
            &["a: foo", "b: foo"],
            by_node(1, json!({"nodeTaintsPolicy": "Honor"})),
            &["a", "b"],
        ),
        case(
            "nodeTaintsPolicy ignored",
            &["a: node=a", "b: node=b", "c*: node=c"],
            &["a: foo", "b: foo"],
            node(1),
            &[],
        ),
        case("two constraints, 3/3 and 2/1/0/3", FOUR, SPREAD, both(), &["x"]),
        case(
            "two constraints, 3/4 and 2/1/0/4",
            FOUR,
            &["a: foo", "a: foo", "b: foo", "y: foo", "y: foo", "y: foo", "y: foo"],
            both(),
            &[],
        ),
        Case {
            what: "different selectors, 1/0 and 1/0/0/1",
            nodes: FOUR,
            pods: &["a: foo bar", "y: bar"],
            labels: "foo bar",
            spec: all(&[spread(1, "zone", "foo", json!({})), spread(1, "node", "bar", json!({}))]),
            fits: &["x"],
        },
        Case {
            what: "matchLabelKeys: only Pods of this revision count",
            nodes: FOUR,
            pods: &["a: foo rev=1", "a: foo rev=1", "x: foo rev=2"],
            labels: "foo rev=2",
            spec: all(&[spread(1, "zone", "foo", json!({"matchLabelKeys": ["rev"]}))]),
            fits: &["a", "b"],
        },
        Case {
            what: "no selector selects nothing",
            nodes: FOUR,
            pods: SPREAD,
            labels: "foo",
            spec: all(&[
                json!({"maxSkew": 1, "topologyKey": "node", "whenUnsatisfiable": "DoNotSchedule"}),
            ]),
            fits: EVERY,
        },
    ] {
        fits(&case);
    }
}

#[test]
fn spread_scores() {
    let soft = |key: &str| spread(1, key, "foo", json!({"whenUnsatisfiable": "ScheduleAnyway"}));
    for (what, pods, spec, to) in [
        ("fewest on the node", SPREAD, all(&[soft("node")]), &["x"][..]),
        ("fewest in the zone", &["a: foo", "b: foo", "y: foo"], all(&[soft("zone")]), &["x", "y"]),
        ("both", &["a: foo", "b: foo", "y: foo"], all(&[soft("zone"), soft("node")]), &["x"]),
        (
            "hard first, then soft",
            &["a: foo", "x: foo", "y: foo"],
            all(&[spread(1, "zone", "foo", json!({})), soft("node")]),
            &["b"],
        ),
    ] {
        goes_to(&Case { what, nodes: FOUR, pods, labels: "foo", spec, fits: to });
    }
}

/// A term about Pods with a label of one of some values.
fn term(label: &str, values: &[&str], key: &str) -> Value {
    json!({"labelSelector": {"matchExpressions": [{"key": label, "operator": "In", "values": values}]}, "topologyKey": key})
}

fn required(near: &[Value], away: &[Value]) -> Value {
    let of = |terms: &[Value]| json!({"requiredDuringSchedulingIgnoredDuringExecution": terms});
    json!({"affinity": {"podAffinity": of(near), "podAntiAffinity": of(away)}})
}

/// A Pod on `a` that keeps away Pods of a service from its zone.
const GUARDED: &str = r#"a: service=scan|{"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
    {"labelSelector": {"matchLabels": {"service": "scan"}}, "topologyKey": "zone"}]}}}"#;
/// The same of Pods of namespaces of a team.
const GUARDED_TEAM: &str = r#"a: |{"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
    {"labelSelector": {}, "namespaceSelector": {"matchLabels": {"team": "ns"}}, "topologyKey": "node"}]}}}"#;

#[test]
fn pod_affinity() {
    let scan = |key: &str| term("service", &["scan", "value2"], key);
    let virus = |key: &str| term("service", &["virus", "value2"], key);
    let other = |key: &str| {
        let mut term = scan(key);
        term["namespaces"] = json!(["other"]);
        term
    };
    let by_team = |team: &str| {
        let mut term = scan("zone");
        term["namespaceSelector"] = json!({"matchLabels": {"team": team}});
        term
    };
    let keyed = |field: &str| {
        let mut term = json!({"labelSelector": exists("service"), "topologyKey": "zone"});
        term[field] = json!(["rev"]);
        term
    };
    let not_in = |values: &[&str]| json!({"labelSelector": {"matchExpressions": [{"key": "service", "operator": "NotIn", "values": values}]}, "topologyKey": "zone"});
    let one: &[&str] = &["a: service=scan"];
    let case =
        |what, pods, labels, spec, fits| Case { what, nodes: FOUR, pods, labels, spec, fits };
    for case in [
        case("no rules, no pods", &[], "", json!({}), EVERY),
        case(
            "In matches the existing pod",
            one,
            "security=S1",
            required(&[scan("zone")], &[]),
            &["a", "b"],
        ),
        case(
            "NotIn matches the existing pod",
            one,
            "security=S1",
            required(&[not_in(&["x"])], &[]),
            &["a", "b"],
        ),
        case("another namespace", one, "security=S1", required(&[other("zone")], &[]), &[]),
        case(
            "namespaces named",
            &["other/x: service=scan"],
            "",
            required(&[other("zone")], &[]),
            &["x", "y"],
        ),
        case(
            "namespaceSelector",
            &["other/x: service=scan"],
            "",
            required(&[by_team("other")], &[]),
            &["x", "y"],
        ),
        case(
            "namespaceSelector of others",
            &["other/x: service=scan"],
            "",
            required(&[by_team("ns")], &[]),
            &[],
        ),
        case("unmatching selector", one, "", required(&[virus("zone")], &[]), &[]),
        case(
            "both terms have to match one pod",
            &["a: service=scan", "b: security=S2"],
            "",
            required(&[scan("zone"), term("security", &["S2"], "zone")], &[]),
            &[],
        ),
        case(
            "terms of different topologies",
            &["a: service=scan security=S2"],
            "",
            required(&[scan("zone"), term("security", &["S2"], "node")], &[]),
            &["a"],
        ),
        case(
            "the first of its kind goes anywhere",
            &[],
            "service=scan",
            required(&[scan("zone")], &[]),
            EVERY,
        ),
        case("but where the label is", &[], "service=scan", required(&[scan("rack")], &[]), &[]),
        case(
            "the second follows it",
            one,
            "service=scan",
            required(&[scan("zone")], &[]),
            &["a", "b"],
        ),
        case("away from the zone", one, "security=S1", required(&[], &[scan("zone")]), &["x", "y"]),
        case(
            "away from the node",
            one,
            "security=S1",
            required(&[], &[scan("node")]),
            &["b", "x", "y"],
        ),
        case("near, but not too near", one, "", required(&[scan("zone")], &[scan("node")]), &["b"]),
        case(
            "nodes without the label are far away",
            one,
            "",
            required(&[], &[scan("rack")]),
            EVERY,
        ),
        case("kept away by the existing pod", &[GUARDED], "service=scan", json!({}), &["x", "y"]),
        case("kept away for another label: not", &[GUARDED], "service=virus", json!({}), EVERY),
        case(
            "kept away by namespace",
            &[GUARDED_TEAM],
            "service=virus",
            json!({}),
            &["b", "x", "y"],
        ),
        case(
            "matchLabelKeys",
            &["a: service=s rev=1", "x: service=s rev=2"],
            "service=s rev=2",
            required(&[keyed("matchLabelKeys")], &[]),
            &["x", "y"],
        ),
        case(
            "mismatchLabelKeys",
            &["a: service=s rev=1", "x: service=s rev=2"],
            "service=s rev=2",
            required(&[], &[keyed("mismatchLabelKeys")]),
            &["x", "y"],
        ),
        case(
            "terminating pods still keep others away",
            &["!a: service=scan"],
            "",
            required(&[], &[scan("zone")]),
            &["x", "y"],
        ),
    ] {
        fits(&case);
    }
}

/// A Pod on `x` that likes, or requires, or dislikes Pods of a service in its zone.
const LIKES: &str = r#"x: |{"affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 8,
    "podAffinityTerm": {"labelSelector": {"matchLabels": {"service": "scan"}}, "topologyKey": "zone"}}]}}}"#;
const REQUIRES: &str = r#"x: service=scan|{"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
    {"labelSelector": {"matchLabels": {"service": "scan"}}, "topologyKey": "zone"}]}}}"#;
const DISLIKES: &str = r#"x: |{"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 8,
    "podAffinityTerm": {"labelSelector": {"matchLabels": {"service": "scan"}}, "topologyKey": "zone"}}]}}}"#;

#[test]
fn preferred_pod_affinity() {
    let preferred = |kind: &str, terms: &[(i32, Value)]| {
        let terms =
            terms.iter().map(|(weight, term)| json!({"weight": weight, "podAffinityTerm": term}));
        json!({"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": terms.collect::<Vec<_>>()}}})
    };
    let scan = |key: &str| term("service", &["scan"], key);
    let virus = |key: &str| term("service", &["virus"], key);
    let near = |terms: &[(i32, Value)]| preferred("podAffinity", terms);
    let away = |terms: &[(i32, Value)]| preferred("podAntiAffinity", terms);
    for (what, pods, spec, to) in [
        ("near the zone", &["x: service=scan"][..], near(&[(5, scan("zone"))]), &["x", "y"][..]),
        ("near the node", &["x: service=scan"], near(&[(100, scan("node"))]), &["x"]),
        (
            "the heavier",
            &["a: service=scan", "x: service=virus"],
            near(&[(5, scan("zone")), (8, virus("zone"))]),
            &["x", "y"],
        ),
        (
            "the more",
            &["a: service=scan", "b: service=scan", "x: service=scan"],
            near(&[(5, scan("zone"))]),
            &["a", "b"],
        ),
        ("away", &["a: service=scan"], away(&[(5, scan("zone"))]), &["x", "y"]),
        ("liked by another", &[LIKES], json!({}), &["x", "y"]),
        ("required by another", &[REQUIRES], json!({}), &["x", "y"]),
        ("disliked by another", &[DISLIKES], json!({}), &["a", "b"]),
    ] {
        goes_to(&Case { what, nodes: FOUR, pods, labels: "service=scan", spec, fits: to });
    }
}

#[test]
fn reasons_in_words() {
    let words = |pods, labels, spec, expected: &str| {
        let case = Case { what: "", nodes: FOUR, pods, labels, spec, fits: &[] };
        let mut scheduler = scheduler_of(&case, None);
        add(
            &mut scheduler,
            &with_labels(pod("p", case.spec.clone()), "ns", super::relations::labels(labels)),
        );
        let told = decide(&mut scheduler, now());
        assert_eq!(told, [format!("p: 0/4 nodes are available: {expected}")]);
    };
    const NOT: &str = "Preemption is not helpful for scheduling";
    const NOBODY: &str = "No preemption victims found for incoming pod";
    words(
        &[],
        "foo",
        all(&[spread(1, "rack", "foo", json!({}))]),
        &format!(
            "4 node(s) didn't match pod topology spread constraints (missing required label). preemption: 0/4 nodes are available: 4 {NOT}."
        ),
    );
    words(
        &[],
        "foo",
        required(&[term("service", &["scan"], "zone")], &[]),
        &format!(
            "4 node(s) didn't match pod affinity rules. preemption: 0/4 nodes are available: 4 {NOT}."
        ),
    );
    words(
        &["a: service=scan", "x: service=scan"],
        "",
        required(&[], &[term("service", &["scan"], "zone")]),
        &format!(
            "4 node(s) didn't match pod anti-affinity rules. preemption: 0/4 nodes are available: 4 {NOBODY}."
        ),
    );
    const BOTH: &[&str] = &[
        GUARDED,
        "x: service=scan|{\"affinity\": {\"podAntiAffinity\": {\"requiredDuringSchedulingIgnoredDuringExecution\": [{\"labelSelector\": {\"matchLabels\": {\"service\": \"scan\"}}, \"topologyKey\": \"zone\"}]}}}",
    ];
    words(
        BOTH,
        "service=scan",
        json!({}),
        &format!(
            "4 node(s) didn't satisfy existing pods anti-affinity rules. preemption: 0/4 nodes are available: 4 {NOBODY}."
        ),
    );
}

/// Pods that wait for others, or for others to go, are tried again when these come and go, and only then.
#[test]
fn pods_that_wait_for_pods() {
    let case = Case { what: "", nodes: FOUR, pods: &[], labels: "", spec: json!({}), fits: &[] };
    let mut scheduler = scheduler_of(&case, None);
    let later = |seconds| now() + SignedDuration::from_secs(seconds);
    let follower = pod("follower", required(&[term("service", &["scan"], "zone")], &[]));
    let loner = pod("loner", required(&[], &[exists_term("service")]));
    add(&mut scheduler, &follower);
    assert!(decide(&mut scheduler, now())[0].contains("pod affinity rules"));
    let unrelated = with_labels(bound(&pod("u", json!({})), "a"), "ns", labels("app=u"));
    add(&mut scheduler, &unrelated);
    assert_eq!(scheduler.wake_at(), None);
    let leader = with_labels(bound(&pod("leader", json!({})), "x"), "ns", labels("service=scan"));
    add(&mut scheduler, &leader);
    let to = decide(&mut scheduler, later(60));
    assert!(to == ["follower → x"] || to == ["follower → y"], "{to:?}");
    let other = with_labels(bound(&pod("other", json!({})), "a"), "ns", labels("service=scan"));
    add(&mut scheduler, &other);
    add(&mut scheduler, &loner);
    assert!(decide(&mut scheduler, later(60))[0].contains("anti-affinity rules"));
    update(&mut scheduler, &other, None);
    let to = decide(&mut scheduler, later(120));
    assert!(to == ["loner → a"] || to == ["loner → b"], "{to:?}");
}

fn exists_term(label: &str) -> Value {
    json!({"labelSelector": exists(label), "topologyKey": "zone"})
}

/// Namespaces may get labels after Pods were counted.
#[test]
fn labels_of_namespaces_may_change() {
    let case = Case {
        what: "",
        nodes: FOUR,
        pods: &["other/x: service=scan"],
        labels: "",
        spec: json!({}),
        fits: &[],
    };
    let mut scheduler = scheduler_of(&case, None);
    let mut term = term("service", &["scan"], "zone");
    term["namespaceSelector"] = json!({"matchLabels": {"stage": "test"}});
    add(&mut scheduler, &pod("p", required(&[term], &[])));
    assert!(decide(&mut scheduler, now())[0].contains("pod affinity rules"));
    let value = json!({"metadata": {"name": "other", "labels": {"stage": "test"}}});
    add(&mut scheduler, &object(&kinds::NAMESPACE, value));
    let to = decide(&mut scheduler, now() + SignedDuration::from_secs(60));
    assert!(to == ["p → x"] || to == ["p → y"], "{to:?}");
}

/// Thousands of Pods that are all spread over zones and nodes: even to one, and never a walk over Pods.
#[test]
fn many_that_are_spread() {
    let mut scheduler = Scheduler::new();
    for i in 0..300 {
        let labels = json!({"zone": format!("z{}", i % 3)});
        let status = json!({"allocatable": {"pods": "110"}});
        let node =
            node(&format!("n{i}"), json!({"metadata": {"labels": labels}, "status": status}));
        add(&mut scheduler, &node);
    }
    let mut spec = all(&[
        spread(1, "zone", "app", json!({})),
        spread(1, "kubernetes.io/hostname", "app", json!({"whenUnsatisfiable": "ScheduleAnyway"})),
    ]);
    merge(
        &mut spec,
        &json!({"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 1, "podAffinityTerm": {"labelSelector": exists("app"), "topologyKey": "kubernetes.io/hostname"}}]}}}),
    );
    for i in 0..900 {
        let pod = owned(&format!("p{i}"), "set", spec.clone());
        add(&mut scheduler, &with_labels(pod, "ns", labels("app=web")));
    }
    let mut counts = std::collections::HashMap::new();
    while scheduler.wake_at().is_some() {
        for decision in scheduler.schedule(now(), 500) {
            let Outcome::Bind(node) = decision.outcome else { panic!("{:?}", decision.outcome) };
            *counts.entry(node).or_insert(0) += 1;
        }
    }
    let zone = |z: usize| {
        let here =
            counts.iter().filter(|(node, _)| node[1..].parse::<usize>().is_ok_and(|n| n % 3 == z));
        here.map(|(_, count)| count).sum::<i32>()
    };
    assert_eq!([zone(0), zone(1), zone(2)], [300, 300, 300]);
    assert!(counts.values().all(|count| (2..=4).contains(count)), "{counts:?}");
}
