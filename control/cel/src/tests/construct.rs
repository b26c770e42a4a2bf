//! What mutations are written in: objects and patches that expressions make.

use serde_json::json;

use crate::{Activation, CALL_LIMIT, Env, Type, Val, json_patches, object_type};

/// What an expression of that type makes of `o`, as JSON, or what is wrong with it.
fn made(text: &str, to: &Type) -> String {
    let env = Env::new().variable("o", Type::Dyn).patching();
    let program = match env.compile_to(text, std::slice::from_ref(to)) {
        Ok(program) => program,
        Err(why) => return why.detail().lines().next().unwrap_or_default().to_owned(),
    };
    let object = json!({"replicas": 2, "labels": {"a": "b"}});
    let (result, _) = program.evaluate(&Activation::new(vec![Val::of(&object)]), CALL_LIMIT);
    match result {
        Err(why) => why.to_string(),
        Ok(value) => match value.misnamed()[..] {
            [] => value.to_json().map_or("no data".into(), |json| json.to_string()),
            ref wrong => wrong.join("; "),
        },
    }
}

fn check(to: &Type, cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        assert_eq!(made(text, to), *expected, "{text}");
    }
}

#[test]
fn objects_are_made_of_parts_that_are_named_by_their_place() {
    check(
        &object_type(),
        &[
            ("Object{}", "{}"),
            ("Object{spec: Object.spec{replicas: o.replicas + 1}}", r#"{"spec":{"replicas":3}}"#),
            (
                "Object{spec: Object.spec{containers: [Object.spec.containers{name: 'a', env: {'x': 'y'}}]}}",
                r#"{"spec":{"containers":[{"env":{"x":"y"},"name":"a"}]}}"#,
            ),
            (
                "Object{metadata: Object.metadata{labels: o.labels}}",
                r#"{"metadata":{"labels":{"a":"b"}}}"#,
            ),
            (
                "Object{spec: Object.spec{?replicas: o.?missing, ?most: o.?replicas}}",
                r#"{"spec":{"most":2}}"#,
            ),
            ("o.replicas > 1 ? Object{a: 1} : Object{}", r#"{"a":1}"#),
            (
                "Object{spec: Object.specx{replicas: 1}}",
                "unexpected type name \"Object.specx\", expected \"Object.spec\", which matches field name path from root Object type",
            ),
            (
                "Object{spec: Object.spec{l: [Object.spec.m{}], m: {'k': Object.spec.m{}}}}",
                "unexpected type name \"Object.spec.m\", expected \"Object.spec.l\", which matches field name path from root Object type",
            ),
            ("'a teapot'", "must evaluate to Object but got string"),
            ("Object.spec{}", "must evaluate to Object but got Object.spec"),
            (
                "Objects{}",
                "compilation failed: ERROR: <input>:1:8: undeclared reference to 'Objects' (in container '')",
            ),
        ],
    );
}

#[test]
fn patches_are_lists_of_operations() {
    check(
        &json_patches(),
        &[
            (
                "[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a.b/c~d'), value: 'x'}]",
                r#"[{"op":"add","path":"/metadata/labels/a.b~1c~0d","value":"x"}]"#,
            ),
            ("o.replicas > 5 ? [JSONPatch{op: 'remove', path: '/x'}] : []", "[]"),
            (
                "o.replicas > 5 ? [] : [JSONPatch{op: 'remove', path: '/x'}]",
                r#"[{"op":"remove","path":"/x"}]"#,
            ),
            (
                "[JSONPatch{op: 'add', path: '/', value: {'same': string(JSONPatch{op: 'a'} == JSONPatch{op: 'a'}), \
                 'other': string(JSONPatch{op: 'a'} == JSONPatch{op: 'b'}), 'set': string(has(JSONPatch{op: 'a'}.op)), \
                 'unset': string(has(JSONPatch{}.value)), 'of': JSONPatch{path: 'p'}.path}}]",
                r#"[{"op":"add","path":"/","value":{"of":"p","other":"false","same":"true","set":"true","unset":"false"}}]"#,
            ),
            ("'x'", "must evaluate to list(JSONPatch) but got string"),
            ("[Object{}]", "must evaluate to list(JSONPatch) but got list(Object)"),
            (
                "[JSONPatch{op: 1}]",
                "compilation failed: ERROR: <input>:1:14: expected type of field 'op' is 'string' but provided type is 'int'",
            ),
            (
                "[JSONPatch{operation: 'add'}]",
                "compilation failed: ERROR: <input>:1:21: undefined field 'operation'",
            ),
        ],
    );
}

#[test]
fn only_mutations_make_objects() {
    let why = Env::new().compile("Object{}").map(drop).unwrap_err().to_string();
    assert!(why.contains("undeclared reference to 'Object'"), "{why}");
    // Of different parts, even the same fields are not the same.
    let env = Env::new().patching();
    for (text, expected) in [
        ("Object{a: 1} == Object{a: 1}", true),
        ("Object{a: 1} == Object{a: 2}", false),
        ("dyn(Object.a{x: 1}) == dyn(Object.b{x: 1})", false),
        ("dyn(Object.a{x: 1}) == dyn({'x': 1})", false),
    ] {
        let program = env.compile(text).expect(text);
        let (result, _) = program.evaluate(&Activation::new(Vec::new()), CALL_LIMIT);
        assert_eq!(result.ok().and_then(|value| value.as_bool()), Some(expected), "{text}");
    }
}
