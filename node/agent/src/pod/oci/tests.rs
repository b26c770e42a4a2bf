use serde_json::{Value, json};

use super::*;

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "web-1", "namespace": "shop", "uid": "u-1"}, "spec": spec,
    }))
    .unwrap()
}

fn made(spec: Value, run: Run) -> Result<Value, String> {
    let pod = pod(spec);
    let first = &pod.spec.as_ref().unwrap().containers[0];
    let facts = Facts { memory: 10 << 30, seccomp: "/nowhere".into() };
    let made = container(&pod, first, &run, Files::default(), &facts).map_err(|(_, why)| why)?;
    Ok(serde_json::to_value(made).unwrap())
}

/// One container and what of it has to be how.
fn check(spec: Value, image_user: &str, expected: Value) {
    let run = Run { user: Some(image_user.to_owned()).filter(|u| !u.is_empty()), ..Run::default() };
    let got = made(spec.clone(), run).unwrap();
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&got[field], value, "{field} of {spec}");
    }
}

fn refused(spec: Value, image_user: &str, words: &str) {
    let run = Run { user: Some(image_user.to_owned()).filter(|u| !u.is_empty()), ..Run::default() };
    let error = made(spec, run).unwrap_err();
    assert!(error.contains(words), "{error}");
}

fn with(of_pod: Value, own: Value) -> Value {
    json!({"securityContext": of_pod, "containers": [{"name": "c", "securityContext": own}]})
}

#[test]
fn who_runs_is_said_by_container_pod_and_image_in_this_order() {
    check(with(json!({}), json!({})), "app:grp", json!({"user": "app:grp"}));
    check(with(json!({"runAsUser": 5}), json!({})), "app:grp", json!({"user": "5"}));
    check(with(json!({"runAsUser": 5}), json!({"runAsUser": 6})), "app", json!({"user": "6"}));
    check(
        with(json!({"runAsUser": 5, "runAsGroup": 7}), json!({"runAsGroup": 8})),
        "",
        json!({"user": "5:8"}),
    );
    check(with(json!({"runAsGroup": 7}), json!({})), "app:grp", json!({"user": "app:7"}));
    let groups = json!({"supplementalGroups": [3, 4], "fsGroup": 2000, "supplementalGroupsPolicy": "Strict"});
    let expected = json!({"groups": [3, 4], "fs_group": 2000, "strict_groups": true});
    check(with(groups, json!({})), "", expected);
}

#[test]
fn who_must_not_be_root_is_not() {
    let strict = || json!({"runAsNonRoot": true});
    check(with(strict(), json!({"runAsUser": 9})), "", json!({"run_as_non_root": true}));
    check(with(strict(), json!({})), "101:101", json!({"user": "101:101"}));
    check(with(strict(), json!({"runAsNonRoot": false})), "", json!({"run_as_non_root": false}));
    refused(
        with(strict(), json!({})),
        "",
        "image will run as root (pod: \"web-1_shop(u-1)\", container: c)",
    );
    refused(with(strict(), json!({})), "0", "image will run as root");
    refused(with(strict(), json!({})), "app", "has non-numeric user (app)");
    refused(with(strict(), json!({"runAsUser": 0})), "5", "runAsUser breaks non-root policy");
}

#[test]
fn rights_are_those_of_the_security_context() {
    let plain = json!({"privileged": false, "no_new_privileges": false, "read_only": false,
        "unmasked": false, "seccomp": {"type": "RuntimeDefault"}});
    check(with(json!({}), json!({})), "", plain);
    let own = json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
        "procMount": "Unmasked", "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
        "seccompProfile": {"type": "Unconfined"}});
    let expected = json!({"no_new_privileges": true, "read_only": true, "unmasked": true,
        "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}, "seccomp": {"type": "Unconfined"}});
    check(with(json!({}), own), "", expected);
    let privileged = json!({"privileged": true, "seccompProfile": {"type": "RuntimeDefault"}});
    check(
        with(json!({}), privileged),
        "",
        json!({"privileged": true, "unmasked": true, "seccomp": {"type": "Unconfined"}}),
    );
    let of_pod = json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "../x.json"}});
    refused(with(of_pod, json!({})), "", "without \"..\"");
    let missing = json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "x.json"}});
    refused(with(missing, json!({})), "", "/nowhere/x.json");
}

#[test]
fn profiles_come_from_the_nodes_folder() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("p.json"), "{}").unwrap();
    let pod = pod(with(
        json!({}),
        json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "p.json"}}),
    ));
    let first = &pod.spec.as_ref().unwrap().containers[0];
    let facts = Facts { memory: 1, seccomp: dir.path().to_owned() };
    let made = container(&pod, first, &Run::default(), Files::default(), &facts).unwrap();
    assert_eq!(made.seccomp, coracle_sandbox::Seccomp::Localhost { profile: "{}".into() });
}

#[test]
fn memory_that_was_asked_for_is_taken_last() {
    let with = |resources: Value| json!({"containers": [{"name": "c", "resources": resources}]});
    let score = |adj: i32| json!({"oom_score_adj": adj});
    check(with(json!({})), "", score(1000));
    let full = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
    check(with(full), "", score(-997));
    // A tenth of the node's memory.
    check(with(json!({"requests": {"memory": "1Gi"}})), "", score(900));
    check(with(json!({"requests": {"cpu": "1"}})), "", score(999));
    check(with(json!({"requests": {"memory": "100Gi"}})), "", score(3));
    let mut critical = with(json!({}));
    critical["priorityClassName"] = "system-node-critical".into();
    check(critical, "", score(-997));
    let pages = json!({"limits": {"hugepages-2Mi": "4Mi", "memory": "1Gi"}});
    check(with(pages), "", json!({"hugepages": {"2MB": 4 << 20}}));
}

#[test]
fn a_pod_gets_the_namespaces_and_sysctls_that_it_may_have() {
    let of = |spec: Value| sandbox(&pod(spec), "/coracle/c/pod-u".into());
    let plain = of(json!({"containers": []})).unwrap();
    assert_eq!(plain.sysctls.get("net.ipv4.ip_unprivileged_port_start").unwrap(), "0");
    assert!(!plain.share_pids && !plain.host_pid && !plain.host_ipc && !plain.host_network);
    let shared = of(json!({"containers": [], "shareProcessNamespace": true, "hostNetwork": true,
        "hostPID": true, "hostIPC": true}))
    .unwrap();
    assert!(shared.share_pids && shared.host_pid && shared.host_ipc && shared.host_network);
    assert!(shared.sysctls.is_empty());
    let sysctl = |name: &str| json!({"sysctls": [{"name": name, "value": "1"}]});
    let safe = of(json!({"containers": [], "securityContext": sysctl("net/ipv4/tcp_syncookies")}));
    assert_eq!(safe.unwrap().sysctls.get("net.ipv4.tcp_syncookies").unwrap(), "1");
    let unsafe_ = of(json!({"containers": [], "securityContext": sysctl("kernel.msgmax")}));
    assert_eq!(unsafe_.unwrap_err(), "forbidden sysctl: \"kernel.msgmax\" not allowlisted");
    let hosts = json!({"containers": [], "hostNetwork": true, "securityContext": sysctl("net.ipv4.tcp_syncookies")});
    assert!(of(hosts).unwrap_err().contains("host net enabled"));
}
