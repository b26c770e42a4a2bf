use super::*;

fn annotations(pairs: &[(&str, &str)]) -> Annotations {
    pairs.iter().map(|(k, v)| (format!("{PREFIX}{k}"), (*v).to_owned())).collect()
}

fn read(pod: &[(&str, &str)], namespace: &[(&str, &str)]) -> Result<Settings, String> {
    let (pod, namespace) = (annotations(pod), annotations(namespace));
    settings(Source { pod: &pod, namespace: &namespace }, "app").map_err(|e| e.to_string())
}

#[test]
fn every_setting_is_read() {
    let found = read(
        &[
            ("request-timeout", "1m30s"),
            ("max-concurrent-requests", "8"),
            ("max-queued-requests", "0"),
            ("max-request-body", "1Mi"),
            ("max-response-body", "10M"),
            ("access-log", "true"),
            ("reuse-instances", "50"),
            ("grants", "http, clocks"),
            ("log-max-size", "64Ki"),
            ("log-max-files", "2"),
            ("imports", "what nobody reads"),
        ],
        &[("grants", "none"), ("access-log", "false")],
    );
    let expected = Settings {
        http: HttpSpec {
            timeout_seconds: Some(90),
            max_active: Some(8),
            max_waiting: Some(0),
            max_request_bytes: Some(1 << 20),
            max_response_bytes: Some(10_000_000),
            reuse: Some(Reuse { max_requests: 50, idle_milliseconds: 1000 }),
            access_log: true,
        },
        grants: Grants { http: true, sockets: false, names: false, clocks: true },
        log_limit: Some(LogLimit { bytes: 64 << 10, files: 2 }),
    };
    assert_eq!(found, Ok(expected));
    assert_eq!(read(&[], &[]), Ok(Settings::default()));
}

#[test]
fn a_container_goes_before_its_pod_and_the_pod_before_its_namespace() {
    let pod = [
        ("access-log", "true"),
        ("access-log.app", "false"),
        ("access-log.other", "nonsense that is another's"),
        ("grants.app", "all"),
    ];
    let found = read(&pod, &[("grants", "nonsense that is not looked at")]).unwrap();
    assert!(!found.http.access_log);
    assert_eq!(found.grants, Grants::default());
    // Only some have a default in the Namespace.
    let found = read(&[], &[("grants", "none"), ("access-log", "true")]).unwrap();
    assert!(!found.http.access_log && !found.grants.http);
}

#[test]
fn a_value_that_cannot_be_used_is_named() {
    for (name, value) in [
        ("request-timeout", "soon"),
        ("request-timeout", "10"),
        ("request-timeout", "300ms"),
        ("request-timeout", "-5s"),
        ("max-concurrent-requests", "0"),
        ("max-concurrent-requests", "+3"),
        ("max-concurrent-requests", "99999999999"),
        ("max-queued-requests", ""),
        ("max-request-body", "-1"),
        ("max-request-body", "1 Mi"),
        ("access-log", "yes"),
        ("reuse-instances", "0"),
        ("grants", ""),
        ("grants", "http,files"),
        ("log-max-size", "10"),
        ("log-max-files", "33"),
    ] {
        let error = read(&[(name, value)], &[]).unwrap_err();
        let wanted =
            format!("annotation \"coracle.dev/{name}\" of the Pod: {value:?} is not allowed");
        assert!(error.starts_with(&wanted), "{error}");
    }
    let error = read(&[("access-log.app", "1")], &[]).unwrap_err();
    let wanted = "annotation \"coracle.dev/access-log.app\" of the Pod: \"1\" is not allowed; it takes \"true\" or \"false\"";
    assert_eq!(error, wanted);
    let error = read(&[], &[("grants", "everything")]).unwrap_err();
    assert!(error.starts_with("annotation \"coracle.dev/grants\" of the Namespace: "), "{error}");
}

#[test]
fn isolation_is_the_pods_choice_or_its_namespaces() {
    let check = |pod: &[(&str, &str)], namespace: &[(&str, &str)]| {
        let (pod, namespace) = (annotations(pod), annotations(namespace));
        isolation(Source { pod: &pod, namespace: &namespace }).ok()
    };
    assert_eq!(check(&[], &[]), Some(Isolation::Shared));
    assert_eq!(check(&[], &[("isolation", "namespace")]), Some(Isolation::Namespace));
    assert_eq!(check(&[("isolation", "pod")], &[("isolation", "namespace")]), Some(Isolation::Pod));
    assert_eq!(check(&[("isolation", "vm")], &[]), None);
}

#[test]
fn durations_are_gos() {
    for (text, expected) in [
        ("1h30m", Some(5_400_000)),
        ("1.5s", Some(1500)),
        (".5s", Some(500)),
        ("300ms", Some(300)),
        ("1m0.25s", Some(60_250)),
        ("0", Some(0)),
        ("", None),
        ("5", None),
        (".s", None),
        ("1.2.3s", None),
        ("1d", None),
        ("-1s", None),
        ("9999999999999h", None),
    ] {
        assert_eq!(duration(text).map(|d| d.as_millis()), expected, "{text}");
    }
}
