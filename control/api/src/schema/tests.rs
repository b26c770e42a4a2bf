use serde_json::{Value, json};

use super::*;

fn schema(group: &str, version: &str, kind: &str) -> Schema<'static> {
    builtin().by_gvk(group, version, kind).expect("a built-in kind")
}

fn pod() -> Schema<'static> {
    schema("", "v1", "Pod")
}

#[test]
fn data_is_whole() {
    let set = builtin();
    for (group, version, kind) in [
        ("", "v1", "Pod"),
        ("", "v1", "Event"),
        ("apps", "v1", "Deployment"),
        ("autoscaling", "v2", "HorizontalPodAutoscaler"),
        ("autoscaling", "v1", "Scale"),
        ("policy", "v1", "Eviction"),
        ("apiextensions.k8s.io", "v1", "CustomResourceDefinition"),
        ("apps", "v1", "DeleteOptions"),
        ("authorization.k8s.io", "v1", "SelfSubjectAccessReview"),
    ] {
        assert!(set.by_gvk(group, version, kind).is_some(), "{group}/{version} {kind}");
    }
    assert!(set.by_gvk("", "v1", "Deployment").is_none());
    for schema in set.iter() {
        let message = schema.message();
        assert!(message.fields().is_sorted_by_key(|f| &f.name), "{}", message.name);
        if let Some(gvk) = &message.gvk {
            let found = set.by_gvk(&gvk.group, &gvk.version, &gvk.kind).map(|s| &s.message().name);
            assert_eq!(found, Some(&message.name));
        }
        for field in message.fields() {
            if let Some(default) = &field.default {
                serde_json::from_str::<Value>(default).expect("a default is JSON");
            }
        }
    }
}

#[test]
fn fields_know_how_they_merge() {
    let container = builtin().by_name("io.k8s.api.core.v1.Container").unwrap();
    let ports = container.field("ports").unwrap();
    assert_eq!(ports.list, Some(ListType::Map(vec!["containerPort".into(), "protocol".into()])));
    assert_eq!(ports.merge_key.as_deref(), Some("containerPort"));
    assert!(ports.strategy.merge);
    assert_eq!(ports.tag, 6);
    assert_eq!(
        ports.description.get(),
        "List of ports to expose from the container. Not specifying a port here DOES NOT prevent that port from being exposed. Any port which is listening on the default \"0.0.0.0\" address inside a container will be accessible from the network. Modifying this array with strategic merge patch may corrupt the data. For more information See https://github.com/kubernetes/kubernetes/issues/108255. Cannot be updated."
    );
    let volumes =
        builtin().by_name("io.k8s.api.core.v1.PodSpec").unwrap().field("volumes").unwrap();
    assert!(volumes.strategy.merge && volumes.strategy.retain_keys);
    let protocol =
        builtin().by_name("io.k8s.api.core.v1.ServicePort").unwrap().field("protocol").unwrap();
    assert_eq!(protocol.default.as_deref(), Some("\"TCP\""));
    let volume = builtin().by_name("io.k8s.api.core.v1.Volume").unwrap();
    assert!(matches!(volume.message().tag(2), Some(TagRef::Embedded(_))));
}

fn accepts(schema: Schema<'_>, given: &str, expected: Value, strict: &[&str]) {
    let decoded = decode_json(given.as_bytes(), schema).unwrap_or_else(|e| panic!("{given}: {e}"));
    assert_eq!(decoded.value, expected, "{given}");
    assert_eq!(decoded.strict, strict, "{given}");
    let checked = check(serde_json::from_str(given).unwrap(), schema).unwrap();
    assert_eq!(checked.value, expected, "checked {given}");
}

fn refuses(schema: Schema<'_>, given: &str, expected: &str) {
    let error = decode_json(given.as_bytes(), schema).map(|d| d.value).expect_err(given);
    assert_eq!(error.to_string(), expected, "{given}");
}

#[test]
fn strict_complaints_carry_paths() {
    accepts(
        pod(),
        r#"{"spec":{"foo":1,"containers":[{"name":"a"},{"name":"b","name":"c","bar":{"deep":[1]}}]}}"#,
        json!({"spec": {"containers": [{"name": "a"}, {"name": "c"}]}}),
        &[
            r#"unknown field "spec.foo""#,
            r#"duplicate field "spec.containers[1].name""#,
            r#"unknown field "spec.containers[1].bar""#,
        ],
    );
    accepts(
        pod(),
        r#"{"metadata":{"labels":{"a":"1","a":"2"},"Name":"x"}}"#,
        json!({"metadata": {"labels": {"a": "2"}}}),
        &[r#"duplicate field "metadata.labels.a""#, r#"unknown field "metadata.Name""#],
    );
}

#[test]
fn null_is_absence() {
    accepts(
        pod(),
        r#"{"metadata":{"creationTimestamp":null,"labels":{"a":null}},"spec":{"containers":[null],"nodeName":null}}"#,
        json!({"metadata": {"labels": {"a": ""}}, "spec": {"containers": [{}]}}),
        &[],
    );
}

#[test]
fn scalars_keep_their_form() {
    accepts(
        pod(),
        r#"{"spec":{"containers":[{"livenessProbe":{"httpGet":{"port":"web"}},"resources":{"limits":{"cpu":2,"memory":"1Gi"}}},
            {"livenessProbe":{"httpGet":{"port":80}}}]},"status":{"startTime":"2024-01-02T03:04:05.678+01:00"}}"#,
        json!({"spec": {"containers": [
            {"livenessProbe": {"httpGet": {"port": "web"}}, "resources": {"limits": {"cpu": "2", "memory": "1Gi"}}},
            {"livenessProbe": {"httpGet": {"port": 80}}}]}, "status": {"startTime": "2024-01-02T02:04:05Z"}}),
        &[],
    );
    accepts(
        schema("coordination.k8s.io", "v1", "Lease"),
        r#"{"spec":{"renewTime":"2024-01-02T03:04:05Z"}}"#,
        json!({"spec": {"renewTime": "2024-01-02T03:04:05.000000Z"}}),
        &[],
    );
    accepts(
        schema("", "v1", "Secret"),
        r#"{"data":{"a":"aGVs\nbG8="}}"#,
        json!({"data": {"a": "aGVsbG8="}}),
        &[],
    );
}

#[test]
fn type_errors_read_as_gos() {
    for (given, expected) in [
        (
            r#"{"spec":{"terminationGracePeriodSeconds":"x"}}"#,
            "json: cannot unmarshal string into Go struct field PodSpec.spec.terminationGracePeriodSeconds of type int64",
        ),
        (
            r#"{"spec":{"containers":[{"env":[{"name":"a","value":1}]}]}}"#,
            "json: cannot unmarshal number into Go struct field EnvVar.spec.containers.env.value of type string",
        ),
        (
            r#"{"spec":{"containers":{}}}"#,
            "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            r#"{"metadata":{"labels":{"a":true}}}"#,
            "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            r#"{"spec":{"priority":3000000000}}"#,
            "json: cannot unmarshal number 3000000000 into Go struct field PodSpec.spec.priority of type int32",
        ),
        (
            r#"{"spec":[]}"#,
            "json: cannot unmarshal array into Go struct field Pod.spec of type v1.PodSpec",
        ),
        (r#"[]"#, "json: cannot unmarshal array into Go value of type v1.Pod"),
        (r#"{"spec":{"#, "unexpected end of JSON input"),
        (
            r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":"lots"}}}]}}"#,
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
    ] {
        refuses(pod(), given, expected);
    }
    refuses(
        schema("", "v1", "Secret"),
        r#"{"data":{"a":"?"}}"#,
        "illegal base64 data at input byte 0",
    );
    let error = decode_json(br#"{"spec":1}"#, pod()).unwrap_err();
    assert_eq!(
        cannot_be_handled("v1", "Pod", &error),
        "Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal number into Go struct field \
         Pod.spec of type v1.PodSpec"
    );
}

#[test]
fn deep_documents_are_refused() {
    let crd = schema("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let deep = |n: usize| {
        format!(
            r#"{{"spec":{}{}{}}}"#,
            r#"{"versions":[{"schema":{"openAPIV3Schema":"#,
            r#"{"not":"#.repeat(n) + "{}" + &"}".repeat(n),
            "}}]}"
        )
    };
    assert!(decode_json(deep(100).as_bytes(), crd).is_ok());
    refuses(crd, &deep(119), "exceeded max depth of 120");
}
