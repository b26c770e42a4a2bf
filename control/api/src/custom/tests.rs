//! What a schema makes of values, as data.

use serde_json::{Value, json};

use super::*;

/// Checks `{"spec": value}` by `{"spec": schema}`.
#[track_caller]
fn check(schema: Value, value: Value, expected: &[&str]) {
    let whole = json!({"type": "object", "properties": {"spec": schema}});
    let structure = Structure::compile(&whole).expect("a schema");
    let errors = structure.validate(&json!({"spec": value}), None);
    let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(errors, expected, "{whole} of {value}");
}

fn mistyped(found: &str, wanted: &str) -> String {
    format!("spec: Invalid value: {found:?}: spec in body must be of type {wanted}: {found:?}")
}

#[test]
fn types() {
    let values = json!([1, 1.5, "a", true, {}, []]);
    let names = ["integer", "number", "string", "boolean", "object", "array"];
    for ty in names {
        for (value, found) in values.as_array().unwrap().iter().zip(names) {
            let fits = ty == found || (ty, found) == ("number", "integer");
            let told = mistyped(found, ty);
            let expected: &[&str] = if fits { &[] } else { &[&told] };
            check(json!({"type": ty}), value.clone(), expected);
        }
        check(json!({"type": ty}), Value::Null, &[&mistyped("null", ty)]);
        check(json!({"type": ty, "nullable": true}), Value::Null, &[]);
    }
    check(json!({"type": "integer"}), json!(2.0), &[]);
    let either = json!({"x-kubernetes-int-or-string": true});
    check(either.clone(), json!("a"), &[]);
    check(either, json!(true), &[&mistyped("boolean", "integer,string")]);
}

#[test]
fn bounds_and_patterns() {
    let says =
        |value: &str, what: &str| format!("spec: Invalid value: {value}: spec in body {what}");
    let number = |more: Value| {
        let mut schema = json!({"type": "number"});
        schema.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        schema
    };
    let at_most = number(json!({"maximum": 10}));
    check(at_most.clone(), json!(10), &[]);
    check(at_most, json!(11), &[&says("11", "should be less than or equal to 10")]);
    let more_than = number(json!({"minimum": 0.5, "exclusiveMinimum": true}));
    check(more_than, json!(0.5), &[&says("0.5", "should be greater than 0.5")]);
    check(number(json!({"multipleOf": 0.1})), json!(0.3), &[]);
    check(number(json!({"multipleOf": 5})), json!(7), &[&says("7", "should be a multiple of 5")]);
    check(
        json!({"type": "integer", "format": "int32"}),
        json!(3_000_000_000_i64),
        &[
            "<nil>: Invalid value: \"\": Checked value must be of type integer with format int32 in spec",
        ],
    );
    let text = json!({"type": "string", "minLength": 2, "maxLength": 3, "pattern": "^[a-zü]*$"});
    check(text.clone(), json!("üüü"), &[]);
    check(text.clone(), json!("a"), &[&says("\"a\"", "should be at least 2 chars long")]);
    let long = "spec: Too long: may not be more than 3 bytes";
    check(text, json!("ABCD"), &[long, &says("\"ABCD\"", "should match '^[a-zü]*$'")]);
    check(
        json!({"type": "string", "enum": ["red", "green"]}),
        json!("blue"),
        &["spec: Unsupported value: \"blue\": supported values: \"red\", \"green\""],
    );
    let list = json!({"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2});
    check(list.clone(), json!([]), &[&says("0", "should have at least 1 items")]);
    check(list.clone(), json!([1, 2, 3]), &["spec: Too many: 3: must have at most 2 items"]);
    let item = mistyped("string", "integer").replace("spec", "spec[1]");
    check(list, json!([1, "a"]), &[&item]);
    let map =
        json!({"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": 1});
    let field = mistyped("integer", "string").replace("spec", "spec.a");
    let many = "spec: Too many: 2: must have at most 1 item";
    check(map, json!({"a": 1, "b": "c"}), &[many, &field]);
    let needed = json!({"type": "object", "required": ["a", "b"]});
    check(needed, json!({"b": 1}), &["spec.a: Required value"]);
}

#[test]
fn formats() {
    for (format, fits, others) in [
        ("date-time", &["2024-02-29T12:00:00Z", "2024-02-29T12:00:00.5+01:00"][..], &["today"][..]),
        ("date", &["2024-02-29"], &["2023-02-29", "24-2-9"]),
        ("duration", &["1h30m", "0", "1.5h", "300ms"], &["1 parsec", "h"]),
        ("ipv4", &["10.0.0.1"], &["10.0.0", "::1"]),
        ("ipv6", &["::1"], &["10.0.0.1"]),
        ("cidr", &["10.0.0.0/8", "fd00::/8"], &["10.0.0.0", "10.0.0.0/33"]),
        ("mac", &["00:00:5e:00:53:01"], &["00:00"]),
        ("uri", &["https://example.com/a", "/a"], &["a b", "none"]),
        ("email", &["a@example.com"], &["@example.com"]),
        ("hostname", &["a.example.com"], &["-a", "a..b"]),
        ("uuid", &["123e4567-e89b-12d3-a456-426614174000"], &["123e4567"]),
        (
            "uuid4",
            &["123e4567-e89b-42d3-a456-426614174000"],
            &["123e4567-e89b-12d3-a456-426614174000"],
        ),
        ("byte", &["aGVsbG8="], &["%"]),
        ("isbn13", &["978-3-16-148410-0"], &["978-3-16-148410-1"]),
        ("isbn10", &["0-306-40615-2"], &["0-306-40615-3"]),
        ("creditcard", &["4111 1111 1111 1111"], &["4111 1111 1111 1112"]),
        ("hexcolor", &["#fff"], &["#ff"]),
        ("rgbcolor", &["rgb(1, 2, 255)"], &["rgb(1,2,256)"]),
        ("made-up", &["anything"], &[]),
    ] {
        for text in fits {
            check(json!({"type": "string", "format": format}), json!(text), &[]);
        }
        for text in others {
            let schema = json!({"type": "string", "format": format});
            check(schema, json!(text), &[&mistyped(text, format)]);
        }
    }
}

#[test]
fn compositions() {
    let says = |what: &str| format!("<nil>: Invalid value: \"\": \"spec\" must {what}");
    let needs = |name: &str| json!({"required": [name]});
    let object = |junctor: &str, all: Value| {
        let mut schema = json!({"type": "object"});
        schema[junctor] = all;
        schema
    };
    let any = object("anyOf", json!([needs("a"), needs("b")]));
    check(any.clone(), json!({"b": 1}), &[]);
    let missing = "spec.a: Required value";
    check(any, json!({}), &[&says("validate at least one schema (anyOf)"), missing]);
    let one = object("oneOf", json!([needs("a"), needs("b")]));
    check(one.clone(), json!({"a": 1}), &[]);
    let none = says("validate one and only one schema (oneOf). Found none valid");
    check(one.clone(), json!({}), &[&none, missing]);
    let two = says("validate one and only one schema (oneOf). Found 2 valid alternatives");
    check(one, json!({"a": 1, "b": 1}), &[&two]);
    let all = object("allOf", json!([needs("a"), needs("b")]));
    check(all.clone(), json!({"a": 1, "b": 1}), &[]);
    let some = says("validate all the schemas (allOf)");
    check(all.clone(), json!({"b": 1}), &[missing, &some]);
    let none = says("validate all the schemas (allOf). None validated");
    check(all, json!({}), &[missing, "spec.b: Required value", &none]);
    let not = object("not", needs("a"));
    check(not.clone(), json!({}), &[]);
    check(not, json!({"a": 1}), &[&says("not validate the schema (not)")]);
}

#[test]
fn lists_that_tell_items_apart() {
    let set =
        json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"});
    check(set, json!(["a", "b", "a"]), &["spec[2]: Duplicate value: \"a\""]);
    let keyed = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a"],
        "items": {"type": "object", "properties": {"a": {"type": "string"}}}});
    check(keyed.clone(), json!([{"a": "x"}, {"a": "y"}]), &[]);
    let twice = json!([{"a": "x", "b": 1}, {"a": "x", "b": 0}]);
    check(keyed, twice, &["spec[1]: Duplicate value: {\"a\":\"x\"}"]);
    let embedded = json!({"type": "object", "x-kubernetes-embedded-resource": true,
        "x-kubernetes-preserve-unknown-fields": true});
    let told = "spec.apiVersion: Required value: must not be empty";
    check(embedded, json!({"kind": "Pod"}), &[told]);
}

#[test]
fn what_has_not_changed_is_not_checked() {
    let small = json!({"type": "integer", "maximum": 1});
    let schema = json!({"type": "object", "properties": {
        "a": small, "b": {"type": "string"},
        "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": small}}}}});
    let structure = Structure::compile(&schema).expect("a schema");
    let old = json!({"a": 5, "list": [{"k": "x", "v": 5}], "b": "old"});
    let moved = json!({"a": 5, "list": [{"k": "y", "v": 1}, {"k": "x", "v": 5}], "b": "new"});
    assert_eq!(structure.validate(&moved, Some(&old)), []);
    let worse = json!({"a": 6, "list": [{"k": "x", "v": 6}], "b": "new"});
    let paths = structure.validate(&worse, Some(&old)).into_iter().map(|error| error.path);
    assert_eq!(paths.collect::<Vec<_>>(), ["a", "list[0].v"]);
}

#[test]
fn pruning_and_defaults() {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "default": {}, "properties": {
        "a": {"type": "string", "default": "x"},
        "deep": {"type": "object", "properties": {"b": {"type": "integer", "default": 1}}},
        "items": {"type": "array", "items": {"type": "object", "properties": {"c": {"type": "string", "default": "y"}}}},
        "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"d": {"type": "boolean", "default": true}}}},
        "gone": {"type": "string"},
        "null": {"type": "string", "nullable": true},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
            "properties": {"known": {"type": "object", "properties": {"e": {"type": "string"}}}}},
    }}}});
    let structure = Structure::compile(&schema).expect("a schema");
    let meta = json!({"any": 1});
    for (given, kept, dropped) in [
        (json!({"metadata": meta}), json!({"metadata": meta, "spec": {"a": "x"}}), &[][..]),
        (
            json!({"spec": {"a": null, "deep": {}, "items": [{}, {"c": "z", "q": 1}], "map": {"k": {}}, "gone": null, "null": null}}),
            json!({"spec": {"a": "x", "deep": {"b": 1}, "items": [{"c": "y"}, {"c": "z"}], "map": {"k": {"d": true}}, "null": null}}),
            &["spec.items[1].q"],
        ),
        (
            json!({"other": 1, "spec": {"free": {"x": {"y": [1]}, "known": {"e": "f", "g": 1}}}}),
            json!({"spec": {"a": "x", "free": {"x": {"y": [1]}, "known": {"e": "f"}}}}),
            &["other", "spec.free.known.g"],
        ),
    ] {
        let mut value = given.clone();
        assert_eq!(structure.prune(&mut value), dropped, "{given}");
        structure.fill_in(&mut value);
        assert_eq!(value, kept, "{given}");
    }
}

#[test]
fn patterns_are_gos() {
    for (pattern, fits, others) in [
        (r"^\d+$", "12", "١٢"),
        (r"^[\w.-]+$", "a_b.c-", "ü"),
        (r"^[[]x[]]$", "[x]", "x"),
        (r"^[^[:space:]]+$", "a", "a b"),
        (r"^[a&&b]+$", "a&b", "c"),
        (r"^{a}$", "{a}", "a"),
        (r"^a{2,3}$", "aaa", "a"),
        (r"\bfoo\b", "a foo b", "food"),
        (r"^\s*$", " \t", "\u{a0}"),
    ] {
        let schema = json!({"type": "string", "pattern": pattern});
        let structure = Structure::compile(&schema).expect("a pattern");
        assert_eq!(structure.validate(&json!(fits), None), [], "{pattern} {fits}");
        assert_eq!(structure.validate(&json!(others), None).len(), 1, "{pattern} {others}");
    }
    assert!(Structure::compile(&json!({"pattern": "("})).is_err());
    assert!(Structure::compile(&json!({"pattern": "((a{100}){100}){100}"})).is_err(), "too large");
}

#[test]
fn json_paths() {
    let value = json!({"a": {"b.c": [1, 2, {"d": "x"}], "e/f": true},
        "conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False", "n": 5}]});
    for (path, found) in [
        (".a.b\\.c[0]", json!([1])),
        (".a['b.c'][-1].d", json!(["x"])),
        (".a.b\\.c[0:2]", json!([1, 2])),
        (".a.e/f", json!([true])),
        (".conditions[?(@.type==\"Ready\")].status", json!(["True"])),
        (".conditions[?(@.type=='Other')].status", json!(["False"])),
        (".conditions[?(@.n>4)].type", json!(["Other"])),
        (".conditions[?(@.n)].type", json!(["Other"])),
        (".conditions[*].type", json!(["Ready", "Other"])),
        ("..d", json!(["x"])),
        (".none.at.all", json!([])),
    ] {
        let parsed = JsonPath::parse(path).expect(path);
        let all: Value = parsed.find(&value).into_iter().cloned().collect();
        assert_eq!(all, found, "{path}");
    }
    for bad in [".a[", ".a[x]", ".a..", ".a[?(@.b==)]"] {
        assert!(JsonPath::parse(bad).is_err(), "{bad}");
    }
    assert_eq!(JsonPath::parse(".spec.a").unwrap().fields(), Some(vec!["spec", "a"]));
    assert_eq!(JsonPath::parse(".spec[0]").unwrap().fields(), None);
}

#[test]
fn versions_by_maturity() {
    let mut versions = ["foo10", "v1", "v2beta1", "v1alpha1", "v10", "foo1", "v1beta2", "v2"];
    versions.sort_by(|a, b| Definition::by_maturity(a, b));
    let sorted = ["v10", "v2", "v1", "v2beta1", "v1beta2", "v1alpha1", "foo1", "foo10"];
    assert_eq!(versions, sorted);
}
