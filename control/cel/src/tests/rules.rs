//! Rules of schemas: what objects break, and what is wrong with rules themselves.

use serde_json::{Value, json};

use crate::Rules;

/// A schema with rules on its root, its spec, list items and map values.
fn schema(rules: Value) -> Value {
    let mut schema = json!({
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "properties": {
                    "replicas": {"type": "integer"},
                    "most": {"type": "integer"},
                    "name": {"type": "string"},
                    "a-b.c": {"type": "string"},
                    "namespace": {"type": "string"},
                    "port": {"x-kubernetes-int-or-string": true},
                    "until": {"type": "string", "format": "date-time"},
                    "items": {
                        "type": "array",
                        "x-kubernetes-list-type": "map",
                        "x-kubernetes-list-map-keys": ["k"],
                        "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}}},
                    },
                    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                },
            },
        },
    });
    for (at, rules) in rules.as_object().into_iter().flatten() {
        let mut level = &mut schema;
        for step in at.split('/').filter(|step| !step.is_empty()) {
            level = &mut level[step];
        }
        level["x-kubernetes-validations"] = rules.clone();
    }
    schema
}

/// What checking `new` (and `old`) finds, one line for each.
fn found(rules: Value, new: Value, old: Value) -> Vec<String> {
    let (rules, wrong) = Rules::compile(&schema(rules), "");
    // What would be refused for its cost when it is written runs all the same once it is there.
    let of_cost = |why: &str| why.contains("exceeds budget") || why.contains("contributed to");
    assert!(wrong.iter().all(|error| of_cost(&error.detail)), "{wrong:?}");
    let found = rules.check(&new, Some(&old).filter(|old| !old.is_null()));
    found.iter().map(ToString::to_string).collect()
}

#[test]
fn rules_see_values_by_their_schema() {
    let spec = "properties/spec";
    let cases = [
        (spec, json!({"rule": "self.replicas <= self.most"}), None),
        (
            spec,
            json!({"rule": "self.replicas > self.most"}),
            Some("spec: Invalid value: \"object\": failed rule: self.replicas > self.most"),
        ),
        (
            spec,
            json!({"rule": "false", "message": "no"}),
            Some("spec: Invalid value: \"object\": no"),
        ),
        (
            spec,
            json!({"rule": "false", "messageExpression": "'has ' + string(self.replicas)"}),
            Some("spec: Invalid value: \"object\": has 2"),
        ),
        (
            spec,
            json!({"rule": "false", "reason": "FieldValueForbidden", "message": "no"}),
            Some("spec: Forbidden: no"),
        ),
        (
            spec,
            json!({"rule": "false", "fieldPath": ".labels['x']", "message": "no"}),
            Some("spec.labels[x]: Invalid value: \"object\": no"),
        ),
        (
            spec,
            json!({"rule": "self.a__dash__b__dot__c == 'x' && self.__namespace__ == 'n'"}),
            None,
        ),
        (spec, json!({"rule": "self.port == 80 || self.port == '80'"}), None),
        (spec, json!({"rule": "self.until > timestamp('2020-01-01T00:00:00Z')"}), None),
        (
            spec,
            json!({"rule": "self.name.size() / (self.replicas - 2) > 0"}),
            Some(
                "spec: Invalid value: \"object\": division by zero evaluating rule: self.name.size() / (self.replicas - 2) > 0",
            ),
        ),
        (
            spec,
            json!({"rule": "self.port + 1 > 0"}),
            Some(
                "spec: Invalid value: \"object\": 'no such overload': call arguments did not match a supported operator, function or macro signature for rule: self.port + 1 > 0",
            ),
        ),
        (
            "",
            json!({"rule": "self.metadata.name == 'x' && self.kind == 'K'"}),
            Some(
                "<nil>: Invalid value: \"object\": failed rule: self.metadata.name == 'x' && self.kind == 'K'",
            ),
        ),
        (
            "properties/spec/properties/items/items",
            json!({"rule": "self.v > 1", "message": "small"}),
            Some("spec.items[0]: Invalid value: \"object\": small"),
        ),
        (
            "properties/spec/properties/labels/additionalProperties",
            json!({"rule": "self != ''", "message": "empty"}),
            Some("spec.labels[x]: Invalid value: \"string\": empty"),
        ),
        (
            spec,
            json!({"rule": "self.items.all(a, self.items.all(b, self.items.all(c, self.items.all(d, self.items.all(e, lists.range(100000).all(x, x >= 0))))))"}),
            Some(
                "spec: Invalid value: \"object\": 'operation cancelled: actual cost limit exceeded': no further validation rules will be run due to call cost exceeds limit for rule: self.items.all(a, self.items.all(b, self.items.all(c, self.items.all(d, self.items.all(e, lists.range(100000).all(x, x >= 0))))))",
            ),
        ),
    ];
    let object = json!({
        "kind": "K", "metadata": {"name": "y"},
        "spec": {
            "replicas": 2, "most": 2, "name": "n", "a-b.c": "x", "namespace": "n", "port": "80",
            "until": "2030-01-01T00:00:00Z", "items": [{"k": "a", "v": 1}, {"k": "b", "v": 2}], "labels": {"x": ""},
        },
    });
    for (at, rule, expected) in cases {
        let text = rule["rule"].to_string();
        let rules = json!({at: [rule]});
        let expected: Vec<String> = expected.into_iter().map(str::to_owned).collect();
        assert_eq!(found(rules, object.clone(), Value::Null), expected, "{text}");
    }
}

#[test]
fn transitions_are_checked_where_there_is_something_to_compare() {
    let spec = |spec: Value| json!({"spec": spec});
    let fixed = json!({"properties/spec/properties/name": [{"rule": "self == oldSelf", "message": "fixed"}]});
    let error = "spec.name: Invalid value: \"string\": fixed".to_owned();
    assert_eq!(found(fixed.clone(), spec(json!({"name": "a"})), Value::Null), Vec::<String>::new());
    assert_eq!(
        found(fixed.clone(), spec(json!({"name": "a"})), spec(json!({}))),
        Vec::<String>::new()
    );
    assert_eq!(found(fixed, spec(json!({"name": "a"})), spec(json!({"name": "b"}))), [error]);

    // Items of a list with keys have their past, wherever they stand now.
    let items = json!({"properties/spec/properties/items/items": [{"rule": "self.v >= oldSelf.v", "message": "shrinks"}]});
    let old = spec(json!({"items": [{"k": "a", "v": 1}, {"k": "b", "v": 5}]}));
    let new = spec(json!({"items": [{"k": "b", "v": 4}, {"k": "a", "v": 1}, {"k": "c", "v": 0}]}));
    assert_eq!(found(items, new, old), ["spec.items[0]: Invalid value: \"object\": shrinks"]);

    // With `optionalOldSelf` new values are checked, too.
    let once = json!({"properties/spec": [{
        "rule": "oldSelf.hasValue() || self.replicas == 1", "optionalOldSelf": true, "message": "begin with one",
    }]});
    assert_eq!(
        found(once.clone(), spec(json!({"replicas": 2})), Value::Null),
        ["spec: Invalid value: \"object\": begin with one"]
    );
    let old = spec(json!({"replicas": 1}));
    assert_eq!(found(once, spec(json!({"replicas": 2})), old), Vec::<String>::new());
}

#[test]
fn what_has_not_changed_is_forgiven() {
    let rules = json!({"properties/spec/properties/name": [{"rule": "self != 'bad'", "message": "bad name"}]});
    let old = json!({"spec": {"name": "bad", "replicas": 1}});
    let new = json!({"spec": {"name": "bad", "replicas": 2}});
    let error = "spec.name: Invalid value: \"string\": bad name";
    assert_eq!(found(rules.clone(), new.clone(), Value::Null), [error]);
    assert_eq!(found(rules, new, old), Vec::<String>::new());
}

#[test]
fn rules_that_do_not_compile_are_told_with_their_place() {
    let at = "spec.validation.openAPIV3Schema";
    let wrong = |rules: Value| {
        let (_, errors) = Rules::compile(&schema(rules), at);
        errors.iter().map(|error| format!("{}: {}", error.path, error.detail)).collect::<Vec<_>>()
    };
    let spec = |rule: Value| json!({"properties/spec": [rule]});
    let here = "spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0]";
    assert_eq!(
        wrong(spec(json!({"rule": "self.nope > 1"}))),
        [format!(
            "{here}.rule: compilation failed: ERROR: <input>:1:5: undefined field 'nope'\n | self.nope > 1\n | ....^"
        )]
    );
    assert_eq!(
        wrong(spec(json!({"rule": "self.replicas"}))),
        [format!("{here}.rule: cel expression must evaluate to a bool")]
    );
    assert_eq!(
        wrong(spec(json!({"rule": "true", "messageExpression": "1"}))),
        [format!("{here}.messageExpression: messageExpression must evaluate to a string")]
    );
    assert_eq!(
        wrong(spec(json!({"rule": "true", "fieldPath": ".nope"}))),
        [format!(
            "{here}.fieldPath: fieldPath must be a valid path: does not refer to a valid field"
        )]
    );
    let items = json!({"properties/spec/properties/items/items": [{"rule": "self.v == 'x'"}]});
    assert_eq!(wrong(items).len(), 1);
}
