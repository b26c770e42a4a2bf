//! `[sig-api-machinery] CRDValidationRatcheting`: values that a schema came to forbid may stay where it can be told that they are
//! the same.

use super::*;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const OBJECTS: &str = "/apis/example.com/v1/namespaces/default/ratchets";

fn definition(schema: Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "ratchets.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "ratchets", "singular": "ratchet", "kind": "Ratchet"},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
            }],
        },
    })
}

struct Ratchet(Fixture);

impl Ratchet {
    /// A kind that takes anything, with an object.
    async fn new(object: Value) -> Self {
        let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let it = Self(Fixture::defining(definition(open)).await);
        if !object.is_null() {
            assert_eq!(it.apply("test", object).await.code, 201);
        }
        it
    }

    async fn apply(&self, name: &str, mut object: Value) -> Answer {
        object["apiVersion"] = "example.com/v1".into();
        object["kind"] = "Ratchet".into();
        object["metadata"]["name"] = name.into();
        object["metadata"]["namespace"] = "default".into();
        let path = format!("{OBJECTS}/{name}?fieldManager=manager");
        self.0.call("PATCH", &path, "application/apply-patch+yaml", object.to_string()).await
    }

    /// Gives the kind another schema, and waits for it as upstream's test does: by an object in which more is wrong.
    async fn narrow(&self, mut properties: Value) {
        properties["sentinel"] = json!({"type": "string", "enum": ["a-name-of-its-own"]});
        let schema = json!({"type": "object", "properties": properties});
        let path = format!("{DEFINITIONS}/ratchets.example.com");
        let versions = definition(schema)["spec"]["versions"].clone();
        let changed = self.0.merge(&path, json!({"spec": {"versions": versions}})).await;
        assert_eq!(changed.code, 200, "{}", changed.body);
        for _ in 0..500 {
            let wrong = json!({
                "metadata": {"finalizers": ["unqualified"], "labels": {"#inv/($%)/alid=": ">htt$://"}},
                "sentinel": "x",
            });
            let answer = self.apply("sentinel", wrong).await;
            assert_eq!(answer.code, 422, "{}", answer.body);
            if answer.message().contains("a-name-of-its-own") {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("the schema is not changed");
    }

    /// What is said against an object, which must name each of these.
    async fn refuses(&self, object: Value, paths: &[&str]) {
        let answer = self.apply("test", object).await;
        assert_eq!(answer.code, 422, "{}", answer.body);
        for path in paths {
            let message = answer.message();
            assert!(message.contains(&format!("{path}: ")), "{path} is not in {message}");
        }
    }

    async fn takes(&self, object: Value) {
        let answer = self.apply("test", object).await;
        assert_eq!(answer.code, 200, "{}", answer.body);
    }
}

/// One field in each place that can be told to be the same one.
fn fields(value: &str) -> Value {
    let field = json!({"field": value});
    json!({
        "field": value,
        "struct": field,
        "list": [{"key": "foo", "field": value}, {"key": "bar", "field": value}],
        "map": {"foo": field, "bar": field},
    })
}

/// Schemas of [`fields`], with one for the field.
fn correlatable(field: Value) -> Value {
    let other = json!({"type": "string"});
    let holder = json!({"type": "object", "properties": {"field": field, "otherField": other}});
    let mut item = holder.clone();
    item["properties"]["key"] = other.clone();
    item["required"] = json!(["key"]);
    json!({
        "field": field,
        "otherField": other,
        "struct": holder,
        "list": {
            "type": "array", "maxItems": 5, "items": item,
            "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["key"],
        },
        "map": {"type": "object", "maxProperties": 5, "additionalProperties": holder},
    })
}

fn labelled(mut object: Value) -> Value {
    object["metadata"]["labels"]["foo"] = "bar".into();
    object
}

const SCHEMA_PATHS: [&str; 6] =
    ["field", "struct.field", "list[0].field", "list[1].field", "map.foo.field", "map.bar.field"];
const RULE_PATHS: [&str; 6] =
    ["field", "struct.field", "list[0].field", "list[1].field", "map[foo].field", "map[bar].field"];

#[tokio::test]
async fn what_a_schema_forbids_may_stay_but_not_come() {
    let it = Ratchet::new(fields("foo")).await;
    it.narrow(correlatable(json!({"type": "string", "enum": ["notfoo"]}))).await;
    it.takes(labelled(fields("foo"))).await;
    it.refuses(fields("bar"), &SCHEMA_PATHS).await;
    it.takes(fields("notfoo")).await;
    it.refuses(fields("foo"), &SCHEMA_PATHS).await;
}

#[tokio::test]
async fn what_a_rule_forbids_may_stay_but_not_come() {
    let it = Ratchet::new(fields("notfoo")).await;
    let rule = json!({"type": "string", "x-kubernetes-validations": [{"rule": "self == \"foo\""}]});
    let mut unbounded = correlatable(rule);
    for (field, bound) in [("list", "maxItems"), ("map", "maxProperties")] {
        unbounded[field].as_object_mut().expect("a map").remove(bound);
    }
    it.narrow(unbounded).await;
    let mut more = fields("notfoo");
    for holder in ["", "/struct", "/list/0", "/list/1", "/map/foo", "/map/bar"] {
        more.pointer_mut(holder).expect("a place")["otherField"] = "any".into();
    }
    let new = json!({"key": "baz", "field": "foo", "otherField": "any"});
    more["list"].as_array_mut().expect("a list").push(new);
    it.takes(more).await;
    it.refuses(fields("neither"), &RULE_PATHS).await;
}

#[tokio::test]
async fn items_of_sets_and_atomic_lists_are_new_whenever_the_list_is() {
    let lists = |items: &[&str]| json!({"setArray": items, "atomicArray": items});
    let of = |item: Value| {
        let list = json!({"type": "array", "items": item});
        let mut set = list.clone();
        set["x-kubernetes-list-type"] = "set".into();
        json!({"setArray": set, "atomicArray": list})
    };
    let it = Ratchet::new(lists(&["foo", "bar", "baz"])).await;
    it.narrow(of(json!({"type": "string", "enum": ["notfoo", "notbar", "notbaz"]}))).await;
    it.takes(labelled(lists(&["foo", "bar", "baz"]))).await;
    let more = labelled(lists(&["foo", "bar", "baz", "notfoo"]));
    it.refuses(more.clone(), &["setArray[0]", "atomicArray[0]"]).await;
    it.narrow(of(
        json!({"type": "string", "x-kubernetes-validations": [{"rule": "self != \"foo\""}]}),
    ))
    .await;
    it.refuses(more, &["setArray[0]", "atomicArray[0]"]).await;
}

#[tokio::test]
async fn rules_about_changes_are_asked_again() {
    let it = Ratchet::new(fields("foo")).await;
    let rule =
        |rule: Value| json!({"type": "string", "maxLength": 5, "x-kubernetes-validations": [rule]});
    it.narrow(correlatable(rule(json!({"rule": "self != oldSelf"})))).await;
    it.refuses(labelled(fields("foo")), &RULE_PATHS).await;

    let it = Ratchet::new(Value::Null).await;
    let optional = json!({
        "rule": "!oldSelf.hasValue() || self != oldSelf.value()", "optionalOldSelf": true,
    });
    it.narrow(correlatable(rule(optional))).await;
    assert_eq!(it.apply("test", fields("foo")).await.code, 201);
    it.refuses(labelled(fields("foo")), &RULE_PATHS).await;
    it.takes(fields("new")).await;
}
