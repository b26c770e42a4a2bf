//! Whole looks, as `horizontal_test.go` has them: a Deployment, its Pods, what they use, and what comes of it.

use coracle_api::metrics::{ContainerUsage, PodReport, PodUsage, Report, Traffic, Used};
use coracle_api::plan::Write;

use super::*;
use crate::tests::{cluster, patches};

/// What one Pod uses: CPU in thousandths, memory in MiB, requests a second; none: its node does not know.
type Use = Option<(u64, u64, u64)>;

struct Given {
    replicas: i32,
    least: i32,
    most: i32,
    metrics: Json,
    uses: Vec<Use>,
}

impl Default for Given {
    fn default() -> Self {
        Given { replicas: 2, least: 1, most: 10, metrics: json!([cpu(50)]), uses: Vec::new() }
    }
}

fn cpu(percent: i32) -> Json {
    json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}})
}

fn qps(average: &str) -> Json {
    json!({"type": "Pods", "pods": {"metric": {"name": "http_requests_per_second"}, "target": {"type": "AverageValue", "averageValue": average}}})
}

fn autoscaler(given: &Given) -> Json {
    json!({
        "metadata": {"name": "web", "generation": 1},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "minReplicas": given.least,
            "maxReplicas": given.most,
            "metrics": given.metrics,
        },
    })
}

fn deployment(replicas: i32) -> Json {
    json!({
        "metadata": {"name": "web"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}},
    })
}

fn pod(n: usize) -> Json {
    json!({
        "metadata": {"name": format!("web-{n}"), "labels": {"app": "web"}},
        "spec": {
            "nodeName": "node",
            "containers": [{"name": "app", "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}],
        },
        "status": {
            "phase": "Running",
            "startTime": "2029-12-31T00:00:00Z",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2029-12-31T00:00:01Z"}],
            "containerStatuses": [{"name": "app", "state": {"running": {"startedAt": "2029-12-31T00:00:01Z"}}}],
        },
    })
}

fn view(given: &Given, more: Vec<(&'static coracle_api::Kind, Json)>) -> Cluster {
    let mut objects = vec![
        (&kinds::HORIZONTAL_POD_AUTOSCALER, autoscaler(given)),
        (&kinds::DEPLOYMENT, deployment(given.replicas)),
    ];
    objects.extend((0..given.uses.len()).map(|n| (&kinds::POD, pod(n))));
    objects.extend(more);
    let mut cluster = cluster(objects);
    tell(&mut cluster, &given.uses);
    cluster
}

fn tell(cluster: &mut Cluster, uses: &[Use]) {
    let uid = |n: usize| format!("uid-web-{n}");
    let told = uses.iter().enumerate().filter_map(|(n, it)| {
        let (cpu, memory, requests) = (*it)?;
        let used = Used { cpu: cpu * 1_000_000, memory: memory << 20 };
        let traffic = Traffic { requests: Some(requests * 1000), ..Traffic::default() };
        let containers = [ContainerUsage { name: "app".into(), used }].into();
        let usage = PodUsage { window: 2000, containers, traffic };
        Some(PodReport { uid: uid(n), namespace: "ns".into(), usage })
    });
    let unknown = uses.iter().enumerate().filter(|(_, it)| it.is_none()).map(|(n, _)| uid(n));
    let report = Report {
        agent: "a".into(),
        number: 1,
        all: true,
        at: cluster.now,
        window: 1000,
        pods: told.collect(),
        unknown: unknown.collect(),
        ..Report::default()
    };
    cluster.metrics.apply("node", report, 100, cluster.now).expect("told");
}

fn look(cluster: &Cluster, memory: Option<&Memory>) -> Plan {
    HorizontalPodAutoscalerController.reconcile_with(cluster, &Key::new("ns", "web"), memory)
}

/// The replicas that are asked for, if they change.
fn asked(plan: &Plan) -> Option<i64> {
    patches(plan).iter().find_map(|(_, patch)| patch["spec"]["replicas"].as_i64())
}

/// `TYPE=STATUS/REASON` of each condition that is written.
fn conditions(plan: &Plan) -> String {
    let told =
        patches(plan).into_iter().find_map(|(_, patch)| patch["status"]["conditions"].as_array());
    let one = |it: &Json| {
        let text = |field: &str| it[field].as_str().unwrap_or_default().to_owned();
        format!("{}={}/{}", text("type"), text("status"), text("reason"))
    };
    told.into_iter().flatten().map(one).collect::<Vec<_>>().join(" ")
}

#[test]
fn what_comes_of_what_pods_use() {
    let some = |cpu: u64| Some((cpu, 10, cpu));
    let good = "AbleToScale=True/SucceededRescale ScalingActive=True/ValidMetricFound ScalingLimited=False/DesiredWithinRange";
    let still = "AbleToScale=True/ReadyForNewScale ScalingActive=True/ValidMetricFound ScalingLimited=False/DesiredWithinRange";
    let failed =
        |reason: &str| format!("AbleToScale=True/SucceededGetScale ScalingActive=False/{reason}");
    let object = json!({"type": "Object", "object": {"describedObject": {"kind": "Service", "name": "s"}, "metric": {"name": "m"}, "target": {"type": "Value", "value": "5"}}});
    let external = json!({"type": "External", "external": {"metric": {"name": "m"}, "target": {"type": "Value", "value": "5"}}});
    let memory = json!({"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "5Mi"}}});
    let container = |name: &str| json!({"type": "ContainerResource", "containerResource": {"name": "cpu", "container": name, "target": {"type": "Utilization", "averageUtilization": 50}}});
    let mut unknown = qps("10");
    unknown["pods"]["metric"]["name"] = "cats".into();
    for (given, replicas, expected) in [
        (Given { uses: vec![some(75), some(75)], ..Given::default() }, Some(3), good.to_owned()),
        (Given { uses: vec![some(50), some(54)], ..Given::default() }, None, still.to_owned()),
        (
            Given { uses: vec![some(300), some(300)], ..Given::default() },
            Some(4),
            good.replace("False/DesiredWithinRange", "True/ScaleUpLimit"),
        ),
        (
            Given { uses: vec![some(75), some(75)], most: 2, ..Given::default() },
            None,
            still.replace("False/DesiredWithinRange", "True/TooManyReplicas"),
        ),
        (
            Given { uses: vec![some(0), some(0)], ..Given::default() },
            None,
            still.replace("ReadyForNewScale", "ScaleDownStabilized"),
        ),
        (
            Given { uses: vec![some(75), some(75)], replicas: 0, ..Given::default() },
            None,
            failed("ScalingDisabled"),
        ),
        (
            Given { replicas: 20, ..Given::default() },
            Some(10),
            "AbleToScale=True/SucceededRescale".to_owned(),
        ),
        (
            Given { least: 3, ..Given::default() },
            Some(3),
            "AbleToScale=True/SucceededRescale".to_owned(),
        ),
        (
            Given { uses: vec![None, None], ..Given::default() },
            None,
            failed("FailedGetResourceMetric"),
        ),
        (Given::default(), None, failed("FailedGetResourceMetric")),
        // A Pod of which nothing is known may do nothing, or all that it may do.
        (Given { uses: vec![some(150), None], ..Given::default() }, Some(3), good.to_owned()),
        (Given { uses: vec![some(10), None], ..Given::default() }, None, still.to_owned()),
        (
            Given {
                uses: vec![some(75), some(75)],
                metrics: json!([qps("25")]),
                ..Given::default()
            },
            Some(4),
            good.replace("False/DesiredWithinRange", "True/ScaleUpLimit"),
        ),
        (
            Given {
                uses: vec![some(75), some(75)],
                metrics: json!([container("app")]),
                ..Given::default()
            },
            Some(3),
            good.to_owned(),
        ),
        (
            Given {
                uses: vec![some(75), some(75)],
                metrics: json!([container("db")]),
                ..Given::default()
            },
            None,
            failed("FailedGetContainerResourceMetric"),
        ),
        (
            Given { uses: vec![some(75), some(75)], metrics: json!([memory]), ..Given::default() },
            Some(4),
            good.to_owned(),
        ),
        (
            Given {
                uses: vec![some(75), some(75)],
                metrics: json!([object.clone()]),
                ..Given::default()
            },
            None,
            failed("FailedGetObjectMetric"),
        ),
        (
            Given {
                uses: vec![some(75), some(75)],
                metrics: json!([external]),
                ..Given::default()
            },
            None,
            failed("FailedGetExternalMetric"),
        ),
        (
            Given { uses: vec![some(75), some(75)], metrics: json!([unknown]), ..Given::default() },
            None,
            failed("FailedGetPodsMetric"),
        ),
        // One that tells nothing keeps others from shrinking, not from growing.
        (
            Given {
                uses: vec![some(75), some(75)],
                metrics: json!([object.clone(), cpu(50)]),
                ..Given::default()
            },
            Some(3),
            good.to_owned(),
        ),
        (
            Given {
                uses: vec![some(10), some(10)],
                metrics: json!([object, cpu(50)]),
                ..Given::default()
            },
            None,
            failed("FailedGetObjectMetric"),
        ),
    ] {
        let plan = look(&view(&given, Vec::new()), None);
        assert_eq!(
            (asked(&plan), conditions(&plan)),
            (replicas, expected),
            "{} {:?}",
            given.metrics,
            given.uses
        );
    }
}

#[test]
fn what_is_scaled_is_asked_for_first_and_told_of_after() {
    let given = Given { uses: vec![Some((75, 10, 1)); 2], ..Given::default() };
    let plan = look(&view(&given, Vec::new()), None);
    let [Write::Patch { kind, .. }, Write::Patch { subresource, .. }] = &plan.writes[..] else {
        panic!("{plan:?}")
    };
    assert_eq!((kind.kind, *subresource), ("Deployment", Some("status")));
    let [(_, _), (_, status)] = patches(&plan)[..] else { panic!("{plan:?}") };
    let status = &status["status"];
    assert_eq!(
        status["currentMetrics"],
        json!([{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 75, "averageValue": "75m"}}}])
    );
    assert_eq!((&status["currentReplicas"], &status["desiredReplicas"]), (&json!(2), &json!(3)));
    assert_eq!(status["lastScaleTime"], crate::tests::NOW);
    assert_eq!(plan.events[0].reason, "SuccessfulRescale");
    assert_eq!(
        plan.events[0].message,
        "New size: 3; reason: cpu resource utilization (percentage of request) above target"
    );
}

#[test]
fn what_cannot_be_scaled_is_told_in_upstreams_words() {
    let scaled = |api_version: &str, kind: &str, name: &str| {
        let mut object = autoscaler(&Given::default());
        object["spec"]["scaleTargetRef"] =
            json!({"apiVersion": api_version, "kind": kind, "name": name});
        let cluster = cluster([
            (&kinds::HORIZONTAL_POD_AUTOSCALER, object),
            (&kinds::DAEMON_SET, json!({"metadata": {"name": "web"}})),
        ]);
        let plan = look(&cluster, None);
        assert_eq!(conditions(&plan), "AbleToScale=False/FailedGetScale");
        assert_eq!(plan.events[0].reason, "FailedGetScale");
        plan.events[0].message.clone()
    };
    assert_eq!(scaled("apps/v1", "Deployment", "web"), "deployments.apps \"web\" not found");
    assert_eq!(scaled("apps/v1", "Boat", "web"), "no matches for kind \"Boat\" in group \"apps\"");
    assert_eq!(scaled("a/b/c", "Boat", "web"), "unexpected GroupVersion string: a/b/c");
    assert_eq!(
        scaled("apps/v1", "DaemonSet", "web"),
        "the server could not find the requested resource"
    );
}

/// A custom kind has its numbers where its definition says.
#[test]
fn custom_kinds_are_scaled_by_their_paths() {
    let given = Given { uses: vec![Some((100, 10, 1)); 2], ..Given::default() };
    let mut object = autoscaler(&given);
    object["spec"]["scaleTargetRef"] =
        json!({"apiVersion": "example.com/v1", "kind": "Fleet", "name": "web"});
    let mut objects = crate::tests::fleet(2).to_vec();
    objects.push((&kinds::HORIZONTAL_POD_AUTOSCALER, object));
    objects.extend((0..2).map(|n| (&kinds::POD, pod(n))));
    let mut cluster = cluster(objects);
    tell(&mut cluster, &given.uses);
    let plan = look(&cluster, None);
    let written = plan.writes.iter().find_map(|write| match write {
        Write::Patch { kind, patch, subresource: None, .. } => Some((kind.kind, patch.clone())),
        _ => None,
    });
    assert_eq!(written, Some(("Fleet", json!({"spec": {"size": {"boats": 4}}}))), "{plan:?}");
}

#[test]
fn two_autoscalers_of_the_same_pods_do_nothing() {
    let given = Given { uses: vec![Some((75, 10, 1)); 2], ..Given::default() };
    let mut other = autoscaler(&given);
    other["metadata"]["name"] = "other".into();
    let plan = look(&view(&given, vec![(&kinds::HORIZONTAL_POD_AUTOSCALER, other)]), None);
    assert_eq!(asked(&plan), None);
    assert_eq!(
        plan.events[0].message,
        "pods by selector app=web are controlled by more than one HPA (e.g. [ns/web ns/other])"
    );
}

/// Nodes tell every second, each of them: that must not be a look, nor a write, for each.
#[test]
fn looks_and_writes_are_bounded() {
    let given = Given { uses: vec![Some((50, 10, 1)); 2], ..Given::default() };
    let mut cluster = view(&given, Vec::new());
    let first = look(&cluster, None);
    // As the store would have it afterwards.
    let mut written = autoscaler(&given);
    written["metadata"]
        .as_object_mut()
        .expect("a map")
        .extend([("namespace".to_owned(), json!("ns")), ("uid".to_owned(), json!("uid-web"))]);
    written["status"] = patches(&first)[0].1["status"].clone();
    let written = Object::from_value(&kinds::HORIZONTAL_POD_AUTOSCALER, &written).expect("it");
    cluster.put(Arc::new(written));
    let mut memory = first.memory.expect("a memory");
    let mut step = |millis: i64, uses: u64| {
        cluster.now += SignedDuration::from_millis(millis);
        tell(&mut cluster, &[Some((uses, 10, 1)); 2]);
        let plan = look(&cluster, Some(&memory));
        memory = plan.memory.clone().expect("a memory");
        (plan.writes.len(), plan.requeue_after.expect("another look").as_millis())
    };
    assert_eq!(step(300, 100), (0, 700), "too soon");
    assert_eq!(step(700, 50), (0, 15_000), "nothing changes");
    assert_eq!(step(1000, 51), (0, 15_000), "only the value does");
    assert_eq!(step(4000, 51), (1, 15_000), "which is told in time");
    assert_eq!(step(1000, 100).0, 2, "this is not put off");
}
