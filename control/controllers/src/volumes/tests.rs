use super::*;
use crate::tests::{cluster, patches};

fn volume(name: &str, size: &str, more: Value) -> Value {
    let mut volume = json!({
        "metadata": {"name": name},
        "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/d"},
            "persistentVolumeReclaimPolicy": "Retain", "volumeMode": "Filesystem"},
        "status": {"phase": "Available", "lastPhaseTransitionTime": "2029-01-01T00:00:00Z"},
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        volume["spec"][field] = value.clone();
    }
    volume
}

fn claim(more: Value) -> Value {
    let mut claim = json!({
        "metadata": {"name": "data", "annotations": {}},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}, "volumeMode": "Filesystem"},
        "status": {"phase": "Pending"},
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        claim["spec"][field] = value.clone();
    }
    claim
}

fn claimed(world: &Cluster) -> Plan {
    ClaimController.reconcile(world, &Key::new("ns", "data"))
}

#[test]
fn the_smallest_volume_that_fits_is_bound() {
    let for_other = json!({"claimRef": {"namespace": "ns", "name": "other"}});
    let world = cluster([
        (&PERSISTENT_VOLUME, volume("large", "10Gi", json!({}))),
        (&PERSISTENT_VOLUME, volume("fits", "2Gi", json!({}))),
        (&PERSISTENT_VOLUME, volume("small", "1Gi", json!({}))),
        (&PERSISTENT_VOLUME, volume("classy", "2Gi", json!({"storageClassName": "fast"}))),
        (&PERSISTENT_VOLUME, volume("read", "2Gi", json!({"accessModes": ["ReadOnlyMany"]}))),
        (&PERSISTENT_VOLUME, volume("block", "2Gi", json!({"volumeMode": "Block"}))),
        (&PERSISTENT_VOLUME, volume("kept", "2Gi", for_other)),
        (&PERSISTENT_VOLUME_CLAIM, claim(json!({}))),
    ]);
    let plan = claimed(&world);
    let [("fits", given), ("data", taken)] = patches(&plan)[..] else { panic!("{plan:?}") };
    assert_eq!(given["spec"]["claimRef"]["uid"], "uid-data");
    assert_eq!(given["metadata"]["annotations"][BOUND_HERE], "yes");
    assert_eq!(taken["spec"]["volumeName"], "fits");
    assert_eq!(taken["metadata"]["annotations"], json!({BOUND_HERE: "yes", COMPLETED: "yes"}));
}

#[test]
fn a_volume_that_is_kept_for_a_claim_is_its() {
    let kept = json!({"claimRef": {"namespace": "ns", "name": "data"}, "storageClassName": "x"});
    let world = cluster([
        (&PERSISTENT_VOLUME, volume("fits", "2Gi", json!({}))),
        (&PERSISTENT_VOLUME, volume("kept", "1Gi", kept)),
        (&PERSISTENT_VOLUME_CLAIM, claim(json!({}))),
    ]);
    let plan = claimed(&world);
    let [("kept", given), ("data", taken)] = patches(&plan)[..] else { panic!("{plan:?}") };
    assert!(given["metadata"].is_null(), "it was not bound here: {given}");
    assert_eq!(taken["spec"]["volumeName"], "kept");
}

#[test]
fn what_is_bound_says_so() {
    let of = json!({"claimRef": {"namespace": "ns", "name": "data", "uid": "uid-data"}});
    let mut bound = claim(json!({"volumeName": "v"}));
    bound["metadata"]["annotations"][COMPLETED] = "yes".into();
    let world = cluster([
        (&PERSISTENT_VOLUME, volume("v", "3Gi", of)),
        (&PERSISTENT_VOLUME_CLAIM, bound.clone()),
    ]);
    let plan = claimed(&world);
    let [("data", status)] = patches(&plan)[..] else { panic!("{plan:?}") };
    assert_eq!(
        status["status"],
        json!({"phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "3Gi"}})
    );
    let plan = VolumeController.reconcile(&world, &Key::new("", "v"));
    let [("v", status)] = patches(&plan)[..] else { panic!("{plan:?}") };
    assert_eq!(status["status"]["phase"], "Bound");

    let gone = cluster([(&PERSISTENT_VOLUME_CLAIM, bound)]);
    let plan = claimed(&gone);
    assert_eq!(patches(&plan)[0].1["status"]["phase"], "Lost");
}

#[test]
fn a_claim_without_a_volume_says_what_it_waits_for() {
    let class = |name: &str, provisioner: &str, mode: &str| json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode});
    for (name, reason, message) in [
        (
            "",
            "FailedBinding",
            "no persistent volumes available for this claim and no storage class is set",
        ),
        ("missing", "ProvisioningFailed", "storageclass.storage.k8s.io \"missing\" not found"),
        ("late", "WaitForFirstConsumer", "waiting for first consumer to be created before binding"),
        (
            "none",
            "ProvisioningFailed",
            "no volume plugin matched name: kubernetes.io/no-provisioner",
        ),
        (
            "csi",
            "ExternalProvisioning",
            "Waiting for a volume to be created either by the external provisioner 'example.com/p'",
        ),
    ] {
        let world = cluster([
            (&STORAGE_CLASS, class("late", "example.com/p", "WaitForFirstConsumer")),
            (&STORAGE_CLASS, class("none", NO_PROVISIONER, "Immediate")),
            (&STORAGE_CLASS, class("csi", "example.com/p", "Immediate")),
            (&PERSISTENT_VOLUME_CLAIM, claim(json!({"storageClassName": name}))),
        ]);
        let plan = claimed(&world);
        assert_eq!(plan.events[0].reason, reason, "{name}");
        assert!(plan.events[0].message.starts_with(message), "{name}: {plan:?}");
        assert_eq!(patches(&plan).len(), usize::from(name == "csi"), "{name}");
    }
}

#[test]
fn a_volume_outlives_its_claim_as_it_is_told_to() {
    for (policy, provisioned, phase) in [
        ("Retain", false, "Released"),
        ("Delete", true, "Released"),
        ("Delete", false, "Failed"),
        ("Recycle", false, "Failed"),
    ] {
        let of = json!({
            "claimRef": {"namespace": "ns", "name": "data", "uid": "an-earlier-one"},
            "persistentVolumeReclaimPolicy": policy,
        });
        let mut volume = volume("v", "1Gi", of);
        if provisioned {
            volume["metadata"]["annotations"] = json!({PROVISIONED_BY: "example.com"});
        }
        let world =
            cluster([(&PERSISTENT_VOLUME, volume), (&PERSISTENT_VOLUME_CLAIM, claim(json!({})))]);
        let plan = VolumeController.reconcile(&world, &Key::new("", "v"));
        assert_eq!(patches(&plan)[0].1["status"]["phase"], phase, "{policy}");
    }
}

#[test]
fn what_is_in_use_stays() {
    let mut going = claim(json!({}));
    going["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z".into();
    going["metadata"]["finalizers"] = json!([CLAIM_PROTECTION, "example.com/other"]);
    let pod = |node: &str| {
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": node, "containers": [], "volumes": [
            {"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}})
    };
    let with =
        |node| cluster([(&PERSISTENT_VOLUME_CLAIM, going.clone()), (&kinds::POD, pod(node))]);
    assert!(claimed(&with("n1")).is_empty());
    let plan = claimed(&cluster([(&PERSISTENT_VOLUME_CLAIM, going.clone())]));
    assert_eq!(patches(&plan)[0].1["metadata"]["finalizers"], json!(["example.com/other"]));

    let mut volume = volume("v", "1Gi", json!({}));
    volume["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z".into();
    volume["metadata"]["finalizers"] = json!([VOLUME_PROTECTION]);
    let plan =
        VolumeController.reconcile(&cluster([(&PERSISTENT_VOLUME, volume)]), &Key::new("", "v"));
    assert_eq!(patches(&plan)[0].1["metadata"]["finalizers"], json!([]));
}
