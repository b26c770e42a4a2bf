use serde_json::json;

use super::*;

fn standard(level: Level) -> Standard {
    Standard { level, minor: None }
}

fn check(standard: Standard, pod: Value, expected: &str) {
    assert_eq!(told(&standard.evaluate(&pod)), expected, "{standard} {pod}");
}

fn pod(spec: Value) -> Value {
    let mut pod = json!({"metadata": {}, "spec": {"containers": [{"name": "c"}]}});
    for (field, value) in spec.as_object().unwrap() {
        pod["spec"][field] = value.clone();
    }
    pod
}

fn contained(context: Value) -> Value {
    pod(json!({"containers": [{"name": "c", "securityContext": context}]}))
}

#[test]
fn baseline_refuses_what_escapes() {
    let baseline = standard(Level::Baseline);
    for (pod, expected) in [
        (pod(json!({})), ""),
        (
            pod(json!({"hostNetwork": true, "hostPID": true})),
            "host namespaces (hostNetwork=true, hostPID=true)",
        ),
        (
            pod(
                json!({"containers": [{"name": "c", "ports": [{"hostPort": 80}, {"hostPort": 443}]}]}),
            ),
            "hostPort (container \"c\" uses hostPorts 443, 80)",
        ),
        (
            contained(json!({"privileged": true})),
            "privileged (container \"c\" must not set securityContext.privileged=true)",
        ),
        (
            contained(json!({"capabilities": {"add": ["NET_ADMIN", "CHOWN"]}})),
            "non-default capabilities (container \"c\" must not include \"NET_ADMIN\" in securityContext.capabilities.add)",
        ),
        (
            pod(
                json!({"volumes": [{"name": "a", "hostPath": {"path": "/"}}, {"name": "b", "hostPath": {"path": "/"}}]}),
            ),
            "hostPath volumes (volumes \"a\", \"b\")",
        ),
        (
            pod(json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax"}]}})),
            "forbidden sysctls (kernel.msgmax)",
        ),
        (
            contained(json!({"procMount": "Unmasked"})),
            "procMount (container \"c\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        (
            pod(json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}})),
            "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        (
            contained(json!({"seLinuxOptions": {"type": "spc_t", "user": "u"}})),
            "seLinuxOptions (container \"c\" set forbidden securityContext.seLinuxOptions: type \"spc_t\"; user may not be set)",
        ),
        (
            contained(json!({"appArmorProfile": {"type": "Unconfined"}})),
            "forbidden AppArmor profile (container \"c\" must not set AppArmor profile type to \"Unconfined\")",
        ),
        (
            pod(
                json!({"containers": [{"name": "c", "livenessProbe": {"httpGet": {"host": "10.0.0.1"}}}]}),
            ),
            "probe or lifecycle host (container \"c\" uses probe or lifecycle host \"10.0.0.1\")",
        ),
        (
            pod(
                json!({"ephemeralContainers": [{"name": "e", "securityContext": {"privileged": true}}]}),
            ),
            "privileged (container \"e\" must not set securityContext.privileged=true)",
        ),
    ] {
        check(baseline, pod, expected);
    }
}

#[test]
fn restricted_wants_everything_said() {
    let restricted = standard(Level::Restricted);
    check(
        restricted,
        pod(json!({})),
        "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), \
         unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), \
         runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), \
         seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
    );
    let own = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    let whole = json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
    let mut good = contained(own.clone());
    good["spec"]["securityContext"] = whole;
    check(restricted, good.clone(), "");
    let mut root = good.clone();
    root["spec"]["securityContext"]["runAsUser"] = 0.into();
    check(restricted, root, "runAsUser=0 (pod must not set runAsUser=0)");
    let mut volumes = good.clone();
    volumes["spec"]["volumes"] = json!([{"name": "v", "nfs": {}}, {"name": "w", "emptyDir": {}}]);
    check(
        restricted,
        volumes,
        "restricted volume types (volume \"v\" uses restricted volume type \"nfs\")",
    );
    let mut adds = good.clone();
    adds["spec"]["containers"][0]["securityContext"]["capabilities"]["add"] =
        json!(["NET_BIND_SERVICE", "CHOWN"]);
    check(
        restricted,
        adds,
        "unrestricted capabilities (container \"c\" must not include \"CHOWN\" in securityContext.capabilities.add)",
    );
    let mut loud = good;
    loud["spec"]["containers"][0]["securityContext"]["runAsNonRoot"] = false.into();
    check(
        restricted,
        loud,
        "runAsNonRoot != true (container \"c\" must not set securityContext.runAsNonRoot=false)",
    );
    // As it was then.
    let old = Standard { level: Level::Restricted, minor: Some(7) };
    check(
        old,
        pod(json!({})),
        "runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true)",
    );
}

#[test]
fn labels_say_which_standard_holds() {
    let of = |labels: &[(&str, &str)]| {
        let labels =
            labels.iter().map(|(key, value)| (format!("{PREFIX}{key}"), (*value).to_owned()));
        let policy = Policy::of(&labels.collect());
        let errors: Vec<_> = policy.errors.iter().map(ToString::to_string).collect();
        (policy.enforce.to_string(), policy.warn.to_string(), errors)
    };
    let none = Vec::<String>::new();
    assert_eq!(of(&[]), ("privileged:latest".into(), "privileged:latest".into(), none.clone()));
    let labels = [("enforce", "baseline"), ("enforce-version", "v1.24"), ("warn", "restricted")];
    assert_eq!(of(&labels), ("baseline:v1.24".into(), "restricted:latest".into(), none));
    let (enforce, warn, errors) =
        of(&[("enforce", "strict"), ("warn", "strict"), ("warn-version", "1.2")]);
    assert_eq!((enforce.as_str(), warn.as_str()), ("restricted:latest", "privileged:latest"));
    assert_eq!(
        errors,
        [
            "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of privileged, baseline, restricted",
            "metadata.labels[pod-security.kubernetes.io/warn]: Invalid value: \"strict\": must be one of privileged, baseline, restricted",
            "metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: \"1.2\": must be \"latest\" or \"v1.x\"",
        ]
    );
}
