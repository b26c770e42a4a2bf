//! JSON, YAML and protobuf as they are sent.

use coracle_api::schema::protobuf::{Envelope, encode};
use coracle_api::schema::{DecodeError, MAX_DEPTH, builtin, check, decode_json};
use coracle_fuzz::{bytes, cases};
use serde_json::{Value, json};

use super::documents::{any_kind, message, object, schema_of};

const POD: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","labels":{"a":"b"},"creationTimestamp":null},
"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":80}],"resources":{"limits":{"cpu":"100m","memory":1e3}}}]}}"#;
const WORDS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\ud800",
    "\\udc00\\ud800",
    "\\u0000",
    "1e999",
    "-0",
    "1E+400",
    "00",
    "nul",
    "NaN",
    "\u{feff}",
    "\"spec\":",
    "\"metadata\":{\"name\":\"a\",\"name\":\"b\"}",
    "[[[[",
    "{\"a\":{\"a\":",
    "99999999999999999999",
    "\u{0}",
    "// x",
    "0.1e-400",
];

/// What is depth: the most that a document may have, plainly.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

#[test]
fn json_bodies() {
    let schema = builtin().by_gvk("", "v1", "Pod").expect("Pods");
    bytes("json", &[POD.as_bytes(), b"{}", b"null", b"[1]"], WORDS, |input| {
        let plain = serde_json::from_slice::<Value>(input);
        match decode_json(input, schema) {
            Ok(decoded) => {
                let plain = plain.expect("what is read as a Pod is JSON");
                assert!(depth(&decoded.value) <= MAX_DEPTH + 1);
                // What was decoded is decoded to itself, without complaints.
                let text = decoded.value.to_string();
                let again = decode_json(text.as_bytes(), schema).expect("its own text");
                assert_eq!(again.value, decoded.value);
                assert!(again.strict.is_empty(), "{:?}", again.strict);
                // And a parsed tree is checked like the text, but that it has no duplicates.
                if decoded.strict.is_empty() {
                    let checked = check(plain, schema).expect("the same tree");
                    assert_eq!(checked.value, decoded.value);
                }
            }
            Err(DecodeError::Syntax(_)) => {}
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    });
}

#[test]
fn objects_in_json_and_protobuf() {
    cases("objects", |random| {
        let kind = any_kind(random);
        let schema = schema_of(kind);
        let odd = *random.pick(&[0, 0, 3]);
        let written = object(random, kind, odd);
        let Ok(decoded) = check(written.clone(), schema) else { return };
        let tree = decoded.value;
        let again = check(tree.clone(), schema).expect("what was checked");
        assert_eq!(again.value, tree, "{}", kind.kind);
        assert!(again.strict.is_empty(), "{:?} of {tree}", again.strict);
        let text = decode_json(tree.to_string().as_bytes(), schema).expect("its text");
        assert_eq!(text.value, tree);
        // Protobuf says less: what is empty is absent. So what comes back is the same from then on.
        let body = |tree: &Value| {
            encode::body(&kind.api_version(), kind.kind, &encode::message(tree, schema))
        };
        let once =
            Envelope::parse(&body(&tree)).and_then(|it| it.decode(schema)).expect("its protobuf");
        let (once_more, twice) = {
            let bytes = body(&once);
            let twice = Envelope::parse(&bytes).and_then(|it| it.decode(schema)).expect("again");
            (bytes, twice)
        };
        assert_eq!(once, twice, "{}", kind.kind);
        assert_eq!(body(&twice), once_more, "{}", kind.kind);
    });
}

#[test]
fn protobuf_bodies() {
    let kinds = ["Pod", "Secret", "Service", "Node", "Event"];
    let mut random = coracle_fuzz::Random::new(1);
    let mut good = Vec::new();
    for kind in coracle_api::kinds::ALL {
        let schema = schema_of(kind);
        let tree = object(&mut random, kind, 0);
        if let Ok(checked) = check(tree, schema) {
            let message = encode::message(&checked.value, schema);
            good.push(encode::body(&kind.api_version(), kind.kind, &message));
        }
    }
    let good: Vec<&[u8]> = good.iter().map(Vec::as_slice).collect();
    bytes("protobuf", &good, &["k8s\u{0}", "\u{12}\u{7f}", "\n\u{0}", "\u{8}"], |input| {
        let Ok(envelope) = Envelope::parse(input) else { return };
        for kind in kinds {
            let schema = builtin().by_gvk("", "v1", kind).expect("a kind");
            // What it is read as, it is not always; what comes of it is never deeper than what JSON may be.
            if let Ok(tree) = envelope.decode(schema) {
                assert!(depth(&tree) <= 4 * MAX_DEPTH, "{}", depth(&tree));
                let _ = check(tree, schema);
            }
        }
    });
}

#[test]
fn yaml_bodies() {
    let good: &[&[u8]] = &[
        b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  a: |\n    b\n  c: >-\n    d\n  'e': \"f\\n\"\n",
        b"- 1\n- 0x1f\n- 1_000\n- ~\n- yes\n- !!str 1\n- 2001-01-01\n- .inf\n",
        b"a: &a [1, 2]\nb: *a\nc: {<<: {d: 1}}\n",
    ];
    let words = [
        "&a ",
        "*a ",
        "&a [*a,*a]",
        "- ",
        "? ",
        ": ",
        "<<: *a",
        "!!binary ",
        "---\n",
        "...\n",
        "{",
        "[",
        "\t",
        "%YAML 1.1\n",
        "|2\n",
        "a: &b [*b, *b, *b, *b, *b, *b, *b, *b, *b]\n",
    ];
    let schema = builtin().by_gvk("", "v1", "ConfigMap").expect("ConfigMaps");
    bytes("yaml", good, &words, |input| {
        let Ok(tree) = serde_saphyr::from_slice::<Value>(input) else { return };
        let _ = check(tree, schema);
    });
}

#[test]
fn messages_of_every_schema() {
    cases("messages", |random| {
        let all: Vec<_> = builtin().iter().collect();
        let schema = *random.pick(&all);
        let tree = message(random, schema, 0, 1);
        if let Ok(decoded) = check(tree, schema) {
            let again = check(decoded.value.clone(), schema).expect("what was checked");
            assert_eq!(again.value, decoded.value, "{}", schema.message().name);
        }
        let _ = check(json!(random.json(3)), schema);
    });
}
