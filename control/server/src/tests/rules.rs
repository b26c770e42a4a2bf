//! Rules in the schemas of definitions, from the definition's being written to what objects may become.

use super::*;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const GAUGES: &str = "/apis/example.com/v1/namespaces/default/gauges";

fn definition(rules: Value) -> Value {
    json!({
        "metadata": {"name": "gauges.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {"plural": "gauges", "singular": "gauge", "kind": "Gauge", "listKind": "GaugeList"},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "properties": {"spec": {
                        "type": "object",
                        "x-kubernetes-validations": rules,
                        "properties": {
                            "least": {"type": "integer"},
                            "most": {"type": "integer"},
                            "unit": {
                                "type": "string",
                                "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "is immutable"}],
                            },
                        },
                    }},
                }},
            }],
        },
    })
}

fn gauge(spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Gauge", "metadata": {"name": "g"}, "spec": spec})
}

#[tokio::test]
async fn objects_keep_to_their_definitions_rules() {
    let server = Fixture::with(|config| config.scheduler = false).await;
    let rules = json!([{
        "rule": "self.least <= self.most",
        "messageExpression": "'%d is more than %d'.format([self.least, self.most])",
        "fieldPath": ".least",
    }]);
    server.create(DEFINITIONS, definition(rules)).await;
    let path = format!("{DEFINITIONS}/gauges.example.com");
    let mut events = server.watch(&format!("{DEFINITIONS}?watch=true")).await;
    while let Some(event) = events.next().await {
        let conditions = event["object"]["status"]["conditions"].as_array().cloned();
        let established = |c: &Value| c["type"] == "Established" && c["status"] == "True";
        if conditions.is_some_and(|all| all.iter().any(established)) {
            break;
        }
    }

    let refused = server.post(GAUGES, gauge(json!({"least": 3, "most": 2}))).await;
    assert_eq!(refused.code, 422, "{}", refused.body);
    assert_eq!(
        refused.message(),
        "Gauge.example.com \"g\" is invalid: spec.least: Invalid value: \"object\": 3 is more than 2"
    );
    // What is wrong with the schema keeps rules from being looked at.
    let refused = server.post(GAUGES, gauge(json!({"least": "x", "most": 2}))).await;
    assert!(
        refused
            .message()
            .contains("some validation rules were not checked because the object was invalid"),
        "{}",
        refused.body
    );
    server.create(GAUGES, gauge(json!({"least": 1, "most": 2, "unit": "m"}))).await;
    let one = format!("{GAUGES}/g");
    let refused = server.merge(&one, json!({"spec": {"unit": "s"}})).await;
    assert!(
        refused.message().ends_with("spec.unit: Invalid value: \"string\": is immutable"),
        "{}",
        refused.body
    );
    assert_eq!(server.merge(&one, json!({"spec": {"least": 2}})).await.code, 200);

    // A changed rule holds from then on.
    let stricter = json!([{"rule": "self.most > 10", "message": "too little"}]);
    let version = definition(stricter)["spec"]["versions"].clone();
    assert_eq!(server.merge(&path, json!({"spec": {"versions": version}})).await.code, 200);
    let refused = server.merge(&one, json!({"spec": {"least": 1}})).await;
    assert!(
        refused.message().ends_with("spec: Invalid value: \"object\": too little"),
        "{}",
        refused.body
    );
}

#[tokio::test]
async fn definitions_whose_rules_do_not_compile_are_refused() {
    let server = Fixture::new().await;
    let refused =
        server.post(DEFINITIONS, definition(json!([{"rule": "self.lesat <= self.most"}]))).await;
    assert_eq!(refused.code, 422, "{}", refused.body);
    let cause = &refused.body["details"]["causes"][0];
    let at = "spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule";
    assert_eq!(cause["field"], at);
    let message = cause["message"].as_str().unwrap_or_default();
    let why = "compilation failed: ERROR: <input>:1:5: undefined field 'lesat'\n | self.lesat <= self.most\n | ....^";
    assert!(message.ends_with(why), "{message}");
}
