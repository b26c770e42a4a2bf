use coracle_api::plan::Write;

use super::*;
use crate::tests::{cluster, created, json_merge, owner, patches};

fn template(image: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": "db"}},
        "spec": {"containers": [{"name": "c", "image": image}]},
    })
}

fn set(spec: Value, image: &str, status: Value) -> Value {
    let mut set = json!({
        "metadata": {"name": "db", "generation": 1},
        "spec": {
            "replicas": 3, "serviceName": "dbs", "podManagementPolicy": "OrderedReady",
            "selector": {"matchLabels": {"app": "db"}},
            "template": template(image),
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
        },
        "status": status,
    });
    json_merge(&mut set["spec"], spec);
    set
}

fn revision(image: &str, number: i64) -> Value {
    let mut template = template(image);
    template["$patch"] = "replace".into();
    json!({
        "metadata": {"name": format!("db-{image}"), "labels": {"app": "db"}, "ownerReferences": owner(&kinds::STATEFUL_SET, "db")},
        "data": {"spec": {"template": template}},
        "revision": number,
    })
}

/// `0:a` is Pod db-0 of image `a`, ready; `-` after it not ready, `!` failed, `x` going.
fn pod(text: &str) -> Value {
    let (number, image) = text.split_once(':').expect("number:image");
    let state = image.chars().nth(1).unwrap_or('+');
    let mut pod = json!({
        "metadata": {"name": format!("db-{number}"), "labels": {"app": "db", POD_NAME: format!("db-{number}"), HASH: format!("db-{}", &image[..1])}, "ownerReferences": owner(&kinds::STATEFUL_SET, "db")},
        "spec": {"nodeName": "n1"},
        "status": {"phase": if state == '!' { "Failed" } else { "Running" }, "conditions": [{"type": "Ready", "status": if state == '-' { "False" } else { "True" }, "lastTransitionTime": "2029-12-31T00:00:00Z"}]},
    });
    if state == 'x' {
        pod["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:10Z");
    }
    pod
}

fn plan(set: Value, pods: &str) -> Plan {
    let mut objects = vec![
        (&kinds::STATEFUL_SET, set),
        (&kinds::CONTROLLER_REVISION, revision("a", 1)),
        (&kinds::CONTROLLER_REVISION, revision("b", 2)),
    ];
    objects.extend(pods.split_whitespace().map(|text| (&kinds::POD, pod(text))));
    StatefulSetController.reconcile(&cluster(objects), &Key::new("ns", "db"))
}

/// `+db-0` is created, `-db-1` deleted.
fn moves(plan: &Plan) -> String {
    let mut moves: Vec<String> = plan
        .writes
        .iter()
        .filter_map(|write| match write {
            Write::Delete { name, .. } => Some(format!("-{name}")),
            _ => None,
        })
        .collect();
    moves.extend(
        created(plan)
            .iter()
            .map(|pod| format!("+{}", pod["metadata"]["name"].as_str().unwrap_or(""))),
    );
    moves.join(" ")
}

/// What is planned for Pods when image `b` is declared and `a` was before.
#[test]
fn one_step() {
    let was = json!({"currentRevision": "db-a", "updateRevision": "db-b"});
    for (spec, pods, expected) in [
        (json!({}), "", "+db-0"),
        (json!({}), "0:b-", ""),
        (json!({}), "0:b", "+db-1"),
        (json!({"podManagementPolicy": "Parallel"}), "1:b-", "+db-0 +db-2"),
        (json!({"ordinals": {"start": 5}}), "", "+db-5"),
        (json!({}), "0:b 1:b 2:b", ""),
        // One that failed is made again; the others wait for it.
        (json!({}), "0:b! 2:b", "-db-0"),
        (json!({}), "0:bx 1:b", ""),
        // Too many: from the highest down, once all others are well.
        (json!({"replicas": 1}), "0:b 1:b 2:b", "-db-2"),
        (json!({"replicas": 1}), "0:b- 1:b 2:b", ""),
        (json!({"replicas": 1}), "0:b 1:b 2:b-", "-db-2"),
        (json!({"replicas": 1}), "0:b 1:bx 2:b", "-db-2"),
        (json!({"replicas": 1}), "0:b 1:b 2:bx", ""),
        (
            json!({"replicas": 0, "podManagementPolicy": "Parallel"}),
            "0:b- 1:b 2:b",
            "-db-2 -db-1 -db-0",
        ),
        // An update: from the highest down, one at a time.
        (json!({}), "0:a 1:a 2:a", "-db-2"),
        (json!({}), "0:a 1:a 2:b-", ""),
        (json!({}), "0:a 1:a 2:b", "-db-1"),
        (json!({"updateStrategy": {"rollingUpdate": {"partition": 2}}}), "0:a 1:a 2:b", ""),
        // The partition counts from where the numbers start.
        (
            json!({"ordinals": {"start": 5}, "updateStrategy": {"rollingUpdate": {"partition": 2}}}),
            "5:a 6:a 7:b",
            "",
        ),
        (
            json!({"ordinals": {"start": 5}, "updateStrategy": {"rollingUpdate": {"partition": 1}}}),
            "5:a 6:a 7:b",
            "-db-6",
        ),
        (
            json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 2}}}),
            "0:a 1:a 2:a",
            "-db-2 -db-1",
        ),
        (json!({"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}}), "0:a 1:a 2:a", ""),
    ] {
        let mut object = set(spec.clone(), "b", was.clone());
        if object["spec"]["updateStrategy"]["rollingUpdate"].is_null() {
            object["spec"]["updateStrategy"] = json!({"type": "OnDelete"});
        }
        assert_eq!(moves(&plan(object, pods)), expected, "{spec} with {pods}");
    }
}

#[test]
fn pods_have_names_and_the_template_that_is_theirs() {
    let was = json!({"currentRevision": "db-a", "updateRevision": "db-b"});
    let partition = json!({"podManagementPolicy": "Parallel", "updateStrategy": {"rollingUpdate": {"partition": 1}}});
    let plan = plan(set(partition, "b", was), "");
    let pods = created(&plan);
    let of = |at: usize, path: &str| pods[at].pointer(path).cloned().unwrap_or_default();
    assert_eq!(of(0, "/spec/containers/0/image"), "a");
    assert_eq!(of(1, "/spec/containers/0/image"), "b");
    assert_eq!(of(0, "/metadata/labels/controller-revision-hash"), "db-a");
    assert_eq!(of(2, "/spec/hostname"), "db-2");
    assert_eq!(of(2, "/spec/subdomain"), "dbs");
    assert_eq!(of(2, "/metadata/labels/apps.kubernetes.io~1pod-index"), "2");
    assert_eq!(of(2, "/metadata/labels/statefulset.kubernetes.io~1pod-name"), "db-2");
}

#[test]
fn statuses() {
    let was = json!({"currentRevision": "db-a", "updateRevision": "db-b"});
    let status = |pods: &str| {
        let plan = plan(set(json!({}), "b", was.clone()), pods);
        let of_set = patches(&plan).into_iter().find(|(name, _)| *name == "db");
        of_set.map(|(_, patch)| patch["status"].clone()).unwrap_or_default()
    };
    let rolling = status("0:a 1:a 2:b-");
    let counts = ["replicas", "readyReplicas", "currentReplicas", "updatedReplicas"]
        .map(|f| rolling[f].as_i64().unwrap_or(0));
    assert_eq!((counts, &rolling["currentRevision"]), ([3, 2, 2, 1], &json!("db-a")));
    let done = status("0:b 1:b 2:b");
    assert_eq!((&done["currentRevision"], &done["currentReplicas"]), (&json!("db-b"), &json!(3)));
}

#[test]
fn a_pod_gets_the_claims_of_its_number() {
    let claims = |when: &str| {
        json!({
            "volumeClaimTemplates": [{
                "metadata": {"name": "data", "labels": {"own": "yes"}},
                "spec": {"accessModes": ["ReadWriteOnce"]},
            }],
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": when},
        })
    };
    let kept = plan(set(claims("Retain"), "b", json!({})), "");
    let [claim, pod] = created(&kept)[..] else { panic!("{kept:?}") };
    assert_eq!(pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"], "data-db-0");
    assert_eq!(claim["metadata"]["name"], "data-db-0");
    assert_eq!(claim["metadata"]["labels"]["own"], "yes");
    assert_eq!(claim["spec"], json!({"accessModes": ["ReadWriteOnce"]}));
    assert!(claim["metadata"]["ownerReferences"].is_null());
    let messages: Vec<_> = kept.events.iter().map(|event| event.message.as_str()).collect();
    assert_eq!(messages[0], "create Claim data-db-0 Pod db-0 in StatefulSet db success");
    let owned = plan(set(claims("Delete"), "b", json!({})), "");
    assert_eq!(created(&owned)[0]["metadata"]["ownerReferences"][0]["kind"], "StatefulSet");
}

/// What a claim is owned by, by policy and by whether its Pod is beyond the declared number.
#[test]
fn claims_go_with_whom_the_policy_says() {
    let owners = |claim_owner: Value, deleted: &str, scaled: &str, replicas: i64| {
        let spec = json!({
            "replicas": replicas,
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}],
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted, "whenScaled": scaled},
        });
        let claim = json!({"metadata": {"name": "data-db-1", "ownerReferences": claim_owner}});
        let objects = vec![
            (
                &kinds::STATEFUL_SET,
                set(spec, "b", json!({"currentRevision": "db-b", "updateRevision": "db-b"})),
            ),
            (&kinds::CONTROLLER_REVISION, revision("b", 2)),
            (&kinds::POD, pod("0:b")),
            (&kinds::POD, pod("1:b")),
            (&kinds::PERSISTENT_VOLUME_CLAIM, claim),
        ];
        let plan = StatefulSetController.reconcile(&cluster(objects), &Key::new("ns", "db"));
        let at = |found: fn(&Write) -> bool| plan.writes.iter().position(found);
        let patched = at(|w| matches!(w, Write::Patch { name, .. } if name == "data-db-1"));
        let gone = at(|w| matches!(w, Write::Delete { .. }));
        // Who is deleted first would take nothing along.
        assert!(patched.is_none() || gone.is_none() || patched < gone, "{plan:?}");
        let known = patches(&plan).into_iter().find(|(name, _)| *name == "data-db-1");
        let list = known.map(|(_, patch)| patch["metadata"]["ownerReferences"].clone());
        let kinds = list.map(|list| {
            let kinds = list.as_array().into_iter().flatten().map(|o| o["kind"].to_string());
            kinds.collect::<Vec<_>>().join(" ").replace('"', "")
        });
        kinds.unwrap_or_else(|| "as before".to_owned())
    };
    let of_set = || owner(&kinds::STATEFUL_SET, "db");
    let of_pod = || owner(&kinds::POD, "db-1");
    let of_another = || owner(&kinds::STATEFUL_SET, "other");
    for (before, deleted, scaled, replicas, expected) in [
        (json!([]), "Retain", "Retain", 2, "as before"),
        (json!([]), "Retain", "Retain", 1, "as before"),
        (json!([]), "Delete", "Retain", 2, "StatefulSet"),
        (json!([]), "Delete", "Retain", 1, "StatefulSet"),
        (json!([]), "Retain", "Delete", 2, "as before"),
        (json!([]), "Retain", "Delete", 1, "Pod"),
        (of_set(), "Delete", "Delete", 2, "as before"),
        (of_set(), "Delete", "Delete", 1, "Pod"),
        // The policy changed, or it is wanted again.
        (of_set(), "Retain", "Retain", 2, ""),
        (of_pod(), "Retain", "Delete", 2, ""),
        (of_pod(), "Delete", "Delete", 2, "StatefulSet"),
        (of_another(), "Delete", "Delete", 1, "as before"),
    ] {
        let what = format!("{before} {deleted} {scaled} {replicas}");
        assert_eq!(owners(before, deleted, scaled, replicas), expected, "{what}");
    }
}

#[test]
fn a_pod_waits_for_a_claim_that_goes_with_one_before_it() {
    let spec = json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]});
    let claim =
        json!({"metadata": {"name": "data-db-0", "ownerReferences": owner(&kinds::POD, "db-0")}});
    let objects = vec![
        (&kinds::STATEFUL_SET, set(spec, "b", json!({}))),
        (&kinds::CONTROLLER_REVISION, revision("b", 2)),
        (&kinds::PERSISTENT_VOLUME_CLAIM, claim),
    ];
    let plan = StatefulSetController.reconcile(&cluster(objects), &Key::new("ns", "db"));
    assert_eq!((moves(&plan), plan.requeue_after), (String::new(), Some(STALE)));
}

#[test]
fn adopted_pods_get_the_label_of_their_name() {
    let mut adopted = pod("0:b");
    adopted["metadata"]["labels"] = json!({"app": "db", HASH: "db-b"});
    let objects = vec![
        (&kinds::STATEFUL_SET, set(json!({"replicas": 1}), "b", json!({}))),
        (&kinds::CONTROLLER_REVISION, revision("b", 2)),
        (&kinds::POD, adopted),
    ];
    let plan = StatefulSetController.reconcile(&cluster(objects), &Key::new("ns", "db"));
    let of_pod = patches(&plan).into_iter().find(|(name, _)| *name == "db-0");
    assert_eq!(of_pod.expect("a patch").1["metadata"]["labels"][POD_NAME], "db-0");
}
