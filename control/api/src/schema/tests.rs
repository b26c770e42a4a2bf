use serde_json::{Value, json};

use super::protobuf::{Envelope, ProtobufError, encode};
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

/// Bodies that kubectl 1.33 sent (`create configmap`, `create deployment --replicas=0`, …), beside what they mean.
#[test]
fn protobuf_bodies_of_kubectl() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/schema/testdata");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "bin") {
            continue;
        }
        let body = std::fs::read(&path).unwrap();
        let envelope = Envelope::parse(&body).unwrap();
        let (group, version) =
            envelope.api_version.rsplit_once('/').unwrap_or(("", envelope.api_version));
        let decoded = envelope.decode(schema(group, version, envelope.kind)).unwrap();
        if std::env::var_os("UPDATE_TESTDATA").is_some() {
            std::fs::write(
                path.with_extension("json"),
                serde_json::to_string_pretty(&decoded).unwrap() + "\n",
            )
            .unwrap();
        }
        let expected = std::fs::read_to_string(path.with_extension("json")).unwrap_or_default();
        assert_eq!(
            serde_json::to_string_pretty(&decoded).unwrap() + "\n",
            expected,
            "{}",
            path.display()
        );
        let again = check(decoded.clone(), schema(group, version, envelope.kind)).unwrap();
        assert_eq!((again.value, again.strict), (decoded, vec![]), "{}", path.display());
        for end in 0..body.len() {
            let cut = Envelope::parse(&body[..end]).and_then(|e| e.decode(pod()));
            assert!(end >= 4 || cut == Err(ProtobufError::NoMagic), "a cut body must not panic");
        }
        seen += 1;
    }
    assert!(seen >= 10, "the captured bodies are missing");
}

/// `tag` and a length-delimited payload.
fn lengthed(tag: u8, payload: &[u8]) -> Vec<u8> {
    [&[tag << 3 | 2, payload.len() as u8], payload].concat()
}

fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let meta = [lengthed(1, api_version.as_bytes()), lengthed(2, kind.as_bytes())].concat();
    [b"k8s\0".to_vec(), lengthed(1, &meta), lengthed(2, raw)].concat()
}

fn decode_pod(raw: &[u8]) -> Result<Value, ProtobufError> {
    let body = body("v1", "Pod", raw);
    Envelope::parse(&body)?.decode(pod())
}

#[test]
fn protobuf_forms() {
    // A volume's source is embedded (tag 2), its emptyDir (tag 2) a pointer to nothing; spec.nodeName is empty.
    let volume = [lengthed(1, b"v"), lengthed(2, &lengthed(2, b""))].concat();
    let spec = [lengthed(1, &volume), lengthed(10, b""), vec![4 << 3, 0]].concat();
    assert_eq!(
        decode_pod(&lengthed(2, &spec)),
        Ok(json!({"apiVersion": "v1", "kind": "Pod",
            "spec": {"volumes": [{"name": "v", "emptyDir": {}}], "terminationGracePeriodSeconds": 0}}))
    );
    // securityContext.supplementalGroups (tag 4 of tag 14), packed and not.
    let groups = [lengthed(4, &[1, 0x80, 1]), vec![4 << 3, 7]].concat();
    assert_eq!(
        decode_pod(&lengthed(2, &lengthed(14, &groups))).unwrap()["spec"],
        json!({"securityContext": {"supplementalGroups": [1, 128, 7]}})
    );
    // A probe's port by name, a quantity, a time.
    let port = [vec![1 << 3, 1], lengthed(3, b"web")].concat();
    let probe = lengthed(1, &lengthed(2, &lengthed(2, &port)));
    let limit = [lengthed(1, b"cpu"), lengthed(2, &lengthed(1, b"500m"))].concat();
    let container =
        [lengthed(1, b"c"), lengthed(8, &lengthed(1, &limit)), lengthed(10, &probe)].concat();
    let raw = [lengthed(2, &lengthed(2, &container)), lengthed(3, &lengthed(7, &[8, 60]))].concat();
    assert_eq!(
        decode_pod(&raw),
        Ok(
            json!({"apiVersion": "v1", "kind": "Pod", "status": {"startTime": "1970-01-01T00:01:00Z"}, "spec": {"containers": [
            {"name": "c", "resources": {"limits": {"cpu": "500m"}}, "livenessProbe": {"httpGet": {"port": "web"}}}]}})
        )
    );
}

#[test]
fn bad_protobuf_is_refused() {
    assert_eq!(Envelope::parse(b"{}").unwrap_err(), ProtobufError::NoMagic);
    let error = |raw: &[u8]| decode_pod(raw).unwrap_err().to_string();
    assert_eq!(
        error(&lengthed(2, &lengthed(10, b"\xff"))),
        "invalid protobuf message at spec.nodeName: text that is not UTF-8"
    );
    assert_eq!(
        error(&lengthed(2, &[10 << 3, 1])),
        "invalid protobuf message at spec.nodeName: expected text, bytes or a message"
    );
    assert_eq!(
        error(&lengthed(2, &[10 << 3 | 2, 9])),
        "invalid protobuf message at spec: truncated"
    );
    assert_eq!(error(&[0]), "invalid protobuf message: an invalid field number");
}

/// A value of a type that is not empty, made of what `random` says; `None` where it would nest too deeply.
fn arbitrary(
    ty: &Type,
    schema: Schema<'_>,
    random: &mut impl FnMut() -> u64,
    depth: usize,
) -> Option<Value> {
    let n = random() % 1000 + 1;
    Some(match ty {
        Type::Bool => true.into(),
        Type::Int32 | Type::Int64 => {
            (if n.is_multiple_of(7) { -(n as i64) } else { n as i64 }).into()
        }
        Type::Double => (n as f64 / 4.0).into(),
        Type::String => "ä".repeat(n as usize % 90 + 1).into(),
        Type::Bytes => ["AA==", "aGVsbG8="][n as usize % 2].into(),
        Type::IntOrString => {
            if n.is_multiple_of(2) {
                n.into()
            } else {
                format!("{n}%").into()
            }
        }
        Type::Quantity => format!("{n}m").into(),
        Type::Time => format!("20{:02}-03-04T05:06:07Z", n % 100).into(),
        Type::MicroTime => format!("19{:02}-03-04T05:06:07.{n:06}Z", n % 100).into(),
        Type::Any => json!({"any": [n]}),
        Type::Message(id) => arbitrary_message(schema.set().schema(*id), random, depth + 1)?,
        Type::List(item) => (0..n % 3 + 1)
            .map(|_| arbitrary(item, schema, random, depth))
            .collect::<Option<Vec<_>>>()?
            .into(),
        Type::Map(item) => {
            let mut map = serde_json::Map::new();
            for i in 0..n % 3 + 1 {
                map.insert(format!("k{i}"), arbitrary(item, schema, random, depth)?);
            }
            map.into()
        }
    })
}

fn arbitrary_message(
    schema: Schema<'_>,
    random: &mut impl FnMut() -> u64,
    depth: usize,
) -> Option<Value> {
    if depth > 6 {
        return None;
    }
    let mut out = serde_json::Map::new();
    for field in schema.message().fields() {
        let (name, chosen) = (&*field.name, !random().is_multiple_of(3));
        if !chosen || !on_wire(schema, name) {
            continue;
        }
        let any_schema = |random: &mut _| arbitrary_message(schema, random, depth + 1);
        let value = match (&field.ty, name) {
            (Type::Any, "additionalItems") => Some(false.into()),
            (Type::Any, "additionalProperties") => any_schema(random),
            (Type::Any, "items") => any_schema(random).map(|one| json!([one])),
            (Type::Map(_), "dependencies") => {
                any_schema(random).map(|one| json!({"a": one, "b": ["c"]}))
            }
            (ty, _) => arbitrary(ty, schema, random, depth),
        };
        out.extend(value.map(|value| (name.to_owned(), value)));
    }
    (!out.is_empty()).then_some(Value::Object(out))
}

/// Whether protobuf has a place for a field: not for the type of a whole object, which the envelope says, nor for the few
/// fields behind alpha features that the data has no tags of.
fn on_wire(schema: Schema<'_>, name: &str) -> bool {
    let embedded = |id| schema.set().schema(id);
    (0..128).filter_map(|tag| schema.message().tag(tag)).any(|tag| match tag {
        TagRef::Field(field) => field.name == name,
        TagRef::Embedded(id) => on_wire(embedded(id), name),
    })
}

/// Where two trees differ first; they are too large to print.
fn difference(a: &Value, b: &Value) -> Option<String> {
    let keyed: Vec<(String, &Value, &Value)> = match (a, b) {
        (Value::Object(a), Value::Object(b)) if a.keys().eq(b.keys()) => {
            a.iter().map(|(key, value)| (key.clone(), value, &b[key])).collect()
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().map(|(i, (a, b))| (i.to_string(), a, b)).collect()
        }
        (Value::Object(a), Value::Object(b)) => {
            let only = |a: &serde_json::Map<_, _>, b: &serde_json::Map<String, _>| {
                a.keys().find(|key| !b.contains_key(*key)).cloned()
            };
            return Some(format!(": only decoded {:?}, only encoded {:?}", only(a, b), only(b, a)));
        }
        _ if a == b => return None,
        _ => return Some(format!(": {a:.200} is not {b:.200}")),
    };
    keyed.iter().find_map(|(key, a, b)| Some(format!("{key}.{}", difference(a, b)?)))
}

#[test]
fn what_is_encoded_is_decoded() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 16
    };
    let mut kinds = 0;
    for schema in builtin().iter() {
        let Some(gvk) = &schema.message().gvk else { continue };
        kinds += 1;
        let api_version = if gvk.group.is_empty() {
            gvk.version.to_string()
        } else {
            format!("{}/{}", gvk.group, gvk.version)
        };
        for _ in 0..8 {
            let mut tree = arbitrary_message(schema, &mut random, 0).unwrap_or_else(|| json!({}));
            let body = encode::body(&api_version, &gvk.kind, &encode::message(&tree, schema));
            tree["kind"] = (*gvk.kind).into();
            tree["apiVersion"] = api_version.as_str().into();
            let envelope = Envelope::parse(&body).unwrap();
            assert_eq!((envelope.api_version, envelope.kind), (api_version.as_str(), &*gvk.kind));
            let decoded = envelope.decode(schema).expect("a readable body");
            assert_eq!(difference(&decoded, &tree), None, "{api_version} {}", gvk.kind);
        }
    }
    assert!(kinds > 70, "{kinds} kinds");
}

#[test]
fn lists_and_events_in_protobuf() {
    let meta = builtin().by_name("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta").unwrap();
    let item = |name: &str| encode::message(&json!({"metadata": {"name": name}}), pod());
    let list = encode::list(
        &json!({"resourceVersion": "7", "remainingItemCount": 3}),
        meta,
        ["a", "b"].map(item).into_iter(),
    );
    let name = |text: &[u8]| lengthed(2, &lengthed(1, &lengthed(1, text)));
    let expected =
        [lengthed(1, &[&lengthed(2, b"7")[..], &[4 << 3, 3]].concat()), name(b"a"), name(b"b")]
            .concat();
    assert_eq!(list, expected);
    let mut framed = Vec::new();
    encode::frame("ADDED", b"body", &mut framed);
    let event = [lengthed(1, b"ADDED"), lengthed(2, &lengthed(1, b"body"))].concat();
    assert_eq!(framed, [&(event.len() as u32).to_be_bytes()[..], &event].concat());
}
