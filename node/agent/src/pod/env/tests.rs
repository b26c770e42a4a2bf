use super::*;
use crate::pod::spec::container;
use serde_json::{Value, json};

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "web-1", "namespace": "shop", "uid": "u-1", "labels": {"app": "web"}},
        "spec": spec,
    }))
    .unwrap()
}

#[test]
fn environments_come_from_every_source_in_order() {
    let pod = pod(json!({"nodeName": "n1", "containers": [{
        "name": "c",
        "command": ["run", "$(MODE)", "$$(MODE)", "$(NONE)"],
        "args": ["$"],
        "resources": {"limits": {"memory": "64Mi", "cpu": "1500m"}},
        "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}}, {"secretRef": {"name": "gone", "optional": true}}],
        "env": [
            {"name": "MODE", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "mode"}}},
            {"name": "URL", "value": "http://$(P_mode)/$(MODE)"},
            {"name": "PASS", "valueFrom": {"secretKeyRef": {"name": "s", "key": "pass"}}},
            {"name": "SKIPPED", "valueFrom": {"secretKeyRef": {"name": "s", "key": "no", "optional": true}}},
            {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
        ],
    }]}));
    let map = serde_json::from_value(json!({"data": {"mode": "fast"}})).unwrap();
    let secret = serde_json::from_value(json!({"data": {"pass": "aHVudGVy"}})).unwrap();
    let sources = Sources {
        config_maps: [("m".to_owned(), Arc::new(map))].into(),
        secrets: [("s".to_owned(), Arc::new(secret))].into(),
    };
    let facts = NodeFacts { pod_ip: "10.1.0.9".into(), ..NodeFacts::default() };
    let container = container(&pod, "c").unwrap();
    let env = environment(&pod, &container, &sources, &facts).unwrap();
    let expected = [
        ("HOSTNAME", "web-1"),
        ("P_mode", "fast"),
        ("MODE", "fast"),
        ("URL", "http://fast/fast"),
        ("PASS", "hunter"),
        ("POD", "web-1"),
        ("APP", "web"),
        ("IP", "10.1.0.9"),
        ("MEM", "64"),
        ("CPU", "2"),
    ];
    let expected: Vec<_> = expected.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    assert_eq!(env, expected);
    assert_eq!(arguments(&container, &env, "x"), ["run", "fast", "$(MODE)", "$(NONE)", "$"]);
}

#[test]
fn what_an_environment_lacks_is_named() {
    for (from, message) in [
        (json!({"configMapKeyRef": {"name": "m", "key": "k"}}), "configmap \"m\" not found"),
        (
            json!({"secretKeyRef": {"name": "s", "key": "k"}}),
            "couldn't find key k in Secret shop/s",
        ),
        (
            json!({"fieldRef": {"fieldPath": "status.phase"}}),
            "environment variable A: unsupported fieldPath \"status.phase\"",
        ),
    ] {
        let pod =
            pod(json!({"containers": [{"name": "c", "env": [{"name": "A", "valueFrom": from}]}]}));
        let sources =
            Sources { secrets: [("s".to_owned(), Arc::default())].into(), ..Sources::default() };
        let container = container(&pod, "c").unwrap();
        let error = environment(&pod, &container, &sources, &NodeFacts::default()).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn services_are_told_of_last_and_never_override() {
    let service = |namespace: &str,
                   name: &str,
                   ip: &str,
                   ports: Value|
     -> k8s_openapi::api::core::v1::Service {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterIP": ip, "ports": ports},
        }))
        .unwrap()
    };
    let master =
        service("default", "kubernetes", "10.96.0.1", json!([{"name": "https", "port": 443}]));
    let own = [
        service(
            "shop",
            "my-db",
            "10.96.0.7",
            json!([{"port": 5432}, {"name": "admin-x", "port": 53, "protocol": "UDP"}]),
        ),
        service("shop", "headless", "None", json!([{"port": 80}])),
    ];
    let text = |links: bool| {
        let variables = service_variables("shop", links, own.iter(), Some(&master));
        variables.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")
    };
    let api = "KUBERNETES_SERVICE_HOST=10.96.0.1 KUBERNETES_SERVICE_PORT=443 KUBERNETES_SERVICE_PORT_HTTPS=443 \
               KUBERNETES_PORT=tcp://10.96.0.1:443 KUBERNETES_PORT_443_TCP=tcp://10.96.0.1:443 \
               KUBERNETES_PORT_443_TCP_PROTO=tcp KUBERNETES_PORT_443_TCP_PORT=443 \
               KUBERNETES_PORT_443_TCP_ADDR=10.96.0.1";
    assert_eq!(text(false), api);
    let db = "MY_DB_SERVICE_HOST=10.96.0.7 MY_DB_SERVICE_PORT=5432 MY_DB_SERVICE_PORT_ADMIN_X=53 \
              MY_DB_PORT=tcp://10.96.0.7:5432 MY_DB_PORT_5432_TCP=tcp://10.96.0.7:5432 MY_DB_PORT_5432_TCP_PROTO=tcp \
              MY_DB_PORT_5432_TCP_PORT=5432 MY_DB_PORT_5432_TCP_ADDR=10.96.0.7 \
              MY_DB_PORT_53_UDP=udp://10.96.0.7:53 MY_DB_PORT_53_UDP_PROTO=udp MY_DB_PORT_53_UDP_PORT=53 \
              MY_DB_PORT_53_UDP_ADDR=10.96.0.7";
    assert_eq!(text(true), format!("{db} {api}"));

    let facts = NodeFacts {
        services: service_variables("shop", true, own.iter(), Some(&master)),
        ..NodeFacts::default()
    };
    let pod = pod(json!({"containers": [{"name": "c", "env": [
        {"name": "MY_DB_SERVICE_HOST", "value": "elsewhere"},
        {"name": "API", "value": "$(KUBERNETES_SERVICE_HOST):$(KUBERNETES_SERVICE_PORT)"},
    ]}]}));
    let container = container(&pod, "c").unwrap();
    let env = environment(&pod, &container, &Sources::default(), &facts).unwrap();
    assert_eq!(find(&env, "MY_DB_SERVICE_HOST"), Some("elsewhere"));
    assert_eq!(find(&env, "API"), Some("10.96.0.1:443"));
    assert_eq!(find(&env, "MY_DB_SERVICE_PORT"), Some("5432"));
}

#[test]
fn files_of_variables_are_read_from_volumes() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("v")).unwrap();
    let text = "# made by init\nA='1'\n\nexport B='two\nlines' # more\nA='3'\n";
    std::fs::write(dir.path().join("v/env"), text).unwrap();
    std::fs::write(dir.path().join("v/bad"), "A='1'\nB=2\n").unwrap();
    std::fs::write(dir.path().join("secret"), "A='1'\n").unwrap();
    std::os::unix::fs::symlink("../secret", dir.path().join("v/link")).unwrap();
    for (path, key, optional, expected) in [
        ("env", "A", false, Ok(Some("3"))),
        ("env", "B", false, Ok(Some("two\nlines"))),
        ("env", "C", true, Ok(None)),
        ("none", "A", true, Ok(None)),
        ("env", "C", false, Err("couldn't find key C in file env of volume \"v\": no such key")),
        ("bad", "A", false, Err("line 2 is not of the form KEY='VALUE'")),
        ("link", "A", false, Err("the path leads out of the volume")),
    ] {
        let wanted = k8s_openapi::api::core::v1::FileKeySelector {
            key: key.into(),
            path: path.into(),
            volume_name: "v".into(),
            optional: Some(optional),
        };
        let value = file::value(&wanted, dir.path()).map_err(|e| e.to_string());
        match expected {
            Ok(expected) => assert_eq!(value, Ok(expected.map(str::to_owned)), "{path} {key}"),
            Err(part) => assert!(value.unwrap_err().contains(part), "{path} {key}"),
        }
    }
}

#[test]
fn all_labels_are_lines_with_values_quoted_as_go_does() {
    let mut pod = pod(json!({"containers": []}));
    pod.metadata.annotations = Some(
        [("a", "plain"), ("b", "tab\t \"quoted\" \\ \u{1}")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
    );
    let text = field(&pod, "metadata.annotations", &NodeFacts::default()).unwrap();
    assert_eq!(text, "a=\"plain\"\nb=\"tab\\t \\\"quoted\\\" \\\\ \\x01\"");
}
