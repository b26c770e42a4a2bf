//! What bindings do about failed validations: they deny, warn, note for the audit log, or several of these; what is said about
//! it, and what policies note of their own.

use http::header::WARNING;

use super::audits::{audited, events};
use super::policies::{BINDINGS, OF_MAPS, POLICIES, binding, policy};
use super::*;

const FAILURE: &str = "validation.policy.admission.k8s.io/validation_failure";

impl Answer {
    fn warnings(&self) -> Vec<&str> {
        let all = self.headers.get_all(WARNING).iter();
        all.map(|it| it.to_str().expect("text")).collect()
    }
}

/// What the audit log says of the last request that made something.
fn noted(log: &std::path::Path) -> Value {
    let is_made = |event: &Value| event["verb"] == "create" && event["stage"] == "ResponseComplete";
    let last = events(log).into_iter().rev().find(is_made).expect("an event");
    last["annotations"].clone()
}

fn failure(annotations: &Value) -> Value {
    let text = annotations[FAILURE].as_str();
    text.map_or(Value::Null, |text| serde_json::from_str(text).expect("JSON"))
}

#[tokio::test]
async fn each_set_of_actions_is_done_and_no_other() {
    let (it, log, _dir) = audited(None).await;
    let rules = json!({"validations": [
        {"expression": "true"},
        {"expression": "object.data.a == 'c'", "message": " a should be c "},
    ]});
    it.create(POLICIES, policy("p.example.com", OF_MAPS, rules)).await;
    let path = format!("{BINDINGS}/p.example.com-binding");
    for (at, actions) in [
        &["Deny"][..],
        &["Warn"],
        &["Audit"],
        &["Deny", "Audit"],
        &["Audit", "Deny"],
        &["Warn", "Audit"],
        &["Audit", "Warn"],
    ]
    .into_iter()
    .enumerate()
    {
        it.create(BINDINGS, binding("p.example.com", json!({"validationActions": actions}))).await;
        let answer = it.post(CONFIG_MAPS, config_map(&format!("m{at}"))).await;
        let with = "ValidatingAdmissionPolicy 'p.example.com' with binding 'p.example.com-binding'";
        if actions.contains(&"Deny") {
            let message =
                format!("configmaps \"m{at}\" is forbidden: {with} denied request: a should be c");
            assert_eq!((answer.code, answer.message()), (422, &*message), "{actions:?}");
        } else {
            assert_eq!(answer.code, 201, "{actions:?}");
        }
        let warning = format!("299 - \"Validation failed for {with}: a should be c\"");
        let warnings = if actions.contains(&"Warn") { vec![&*warning] } else { vec![] };
        assert_eq!(answer.warnings(), warnings, "{actions:?}");
        let expected = if actions.contains(&"Audit") {
            json!([{
                "message": "a should be c",
                "policy": "p.example.com",
                "binding": "p.example.com-binding",
                "expressionIndex": 1,
                "validationActions": actions,
            }])
        } else {
            Value::Null
        };
        assert_eq!(failure(&noted(&log)), expected, "{actions:?}");
        // What holds is neither warned of nor noted.
        let mut holds = config_map(&format!("h{at}"));
        holds["data"]["a"] = "c".into();
        let answer = it.post(CONFIG_MAPS, holds).await;
        assert_eq!((answer.code, answer.warnings()), (201, vec![]), "{actions:?}");
        assert_eq!(failure(&noted(&log)), Value::Null, "{actions:?}");
        assert_eq!(it.delete(&path).await.code, 200);
    }
}

#[tokio::test]
async fn sets_of_actions_that_make_no_sense_are_refused() {
    let it = Fixture::new().await;
    let both = "spec.validationActions: Invalid value: [\"Deny\",\"Warn\"]: must not contain both Deny and Warn (repeating the \
                same validation failure information in the API response and headers serves no purpose)";
    for (actions, why) in [
        (
            json!([]),
            "spec.validationActions: Required value: at least one validation action is required",
        ),
        (json!(["Deny", "Warn"]), both),
        (json!(["Warn", "Warn"]), "spec.validationActions[1]: Duplicate value: \"Warn\""),
        (
            json!(["Stop"]),
            "spec.validationActions[0]: Unsupported value: \"Stop\": supported values: \"Audit\", \"Deny\", \"Warn\"",
        ),
    ] {
        let answer = it
            .post(BINDINGS, binding("p.example.com", json!({"validationActions": actions})))
            .await;
        let message = format!(
            "ValidatingAdmissionPolicyBinding.admissionregistration.k8s.io \"p.example.com-binding\" is invalid: {why}"
        );
        assert_eq!((answer.code, answer.message()), (422, &*message));
    }
}

/// Several bindings of several policies: the first refusal is told, every warning, and the first failure is noted.
#[tokio::test]
async fn bindings_act_each_for_itself() {
    let (it, log, _dir) = audited(None).await;
    for (name, message) in [("a.example.com", "not a"), ("b.example.com", "not b")] {
        let rules = json!({"validations": [{"expression": "object == null", "message": message}]});
        it.create(POLICIES, policy(name, OF_MAPS, rules)).await;
    }
    let named = |policy: &str, name: &str, actions: Value| {
        let mut binding = binding(policy, json!({"validationActions": actions}));
        binding["metadata"]["name"] = name.into();
        binding
    };
    it.create(BINDINGS, named("a.example.com", "soft", json!(["Warn", "Audit"]))).await;
    it.create(BINDINGS, named("b.example.com", "soft-b", json!(["Warn", "Audit"]))).await;
    let answer = it.post(CONFIG_MAPS, config_map("m")).await;
    let warning = |policy: &str, binding: &str, why: &str| {
        format!(
            "299 - \"Validation failed for ValidatingAdmissionPolicy '{policy}' with binding '{binding}': {why}\""
        )
    };
    let soft =
        [warning("a.example.com", "soft", "not a"), warning("b.example.com", "soft-b", "not b")];
    assert_eq!((answer.code, answer.warnings()), (201, soft.iter().map(String::as_str).collect()));
    let noted_first = failure(&noted(&log));
    assert_eq!(
        (&noted_first[0]["policy"], &noted_first[1]),
        (&json!("a.example.com"), &Value::Null)
    );

    it.create(BINDINGS, named("b.example.com", "hard-b", json!(["Deny", "Audit"]))).await;
    let refused = it.post(CONFIG_MAPS, config_map("n")).await;
    let message = "configmaps \"n\" is forbidden: ValidatingAdmissionPolicy 'b.example.com' with binding 'hard-b' denied request: not b";
    assert_eq!((refused.code, refused.message()), (422, message));
    assert_eq!(refused.warnings(), soft, "what is refused is warned of as well");
}

/// `messageExpression` says why, unless what it makes is nothing a message could be.
#[tokio::test]
async fn messages_that_expressions_make() {
    let it = Fixture::new().await;
    it.create(BINDINGS, binding("m.example.com", json!({}))).await;
    for (at, (expression, message, said)) in [
        ("'a is ' + object.data.a", "plain", "a is b"),
        ("'  a is ' + object.data.a + ' '", "plain", "a is b"),
        ("''", "plain", "plain"),
        ("'  '", " plain ", "plain"),
        ("'two\\nlines'", "plain", "plain"),
        ("string(object.data.none)", "plain", "plain"),
        ("string(object.data.none)", "", "failed expression: object.data.a == 'c'"),
        ("string(object.data.long)", "plain", "plain"),
        ("variables.b + ' of ' + request.userInfo.username", "plain", "b! of admin"),
        ("request.operation + ' ' + string(oldObject == null)", "plain", "CREATE true"),
    ]
    .into_iter()
    .enumerate()
    {
        let rules = json!({
            "variables": [{"name": "b", "expression": "object.data.a + '!'"}],
            "validations": [{
                "expression": " object.data.a == 'c' ",
                "message": message,
                "messageExpression": expression,
            }],
        });
        it.create(POLICIES, policy("m.example.com", OF_MAPS, rules)).await;
        let mut map = config_map(&format!("m{at}"));
        map["data"]["long"] = "x".repeat((5 << 10) + 1).into();
        let answer = it.post(CONFIG_MAPS, map).await;
        let expected = format!(
            "configmaps \"m{at}\" is forbidden: ValidatingAdmissionPolicy 'm.example.com' with binding \
             'm.example.com-binding' denied request: {said}"
        );
        assert_eq!((answer.code, answer.message()), (422, &*expected), "{expression}");
        assert_eq!(it.delete(&format!("{POLICIES}/m.example.com")).await.code, 200);
    }
}

#[tokio::test]
async fn policies_note_what_they_are_asked_to() {
    let (it, log, _dir) = audited(None).await;
    let rules = json!({"auditAnnotations": [
        {"key": "said", "valueExpression": "'  a is ' + object.data.a + ' '"},
        {"key": "nothing", "valueExpression": "null"},
        {"key": "empty", "valueExpression": "'  '"},
        {"key": "long", "valueExpression": "string(object.data.long)"},
    ]});
    it.create(POLICIES, policy("n.example.com", OF_MAPS, rules)).await;
    it.create(BINDINGS, binding("n.example.com", json!({"validationActions": ["Audit"]}))).await;
    let mut map = config_map("m");
    map["data"]["long"] = "é".repeat(6 << 10).into();
    it.create(CONFIG_MAPS, map).await;
    let all = noted(&log);
    assert_eq!(all["n.example.com/said"], "a is b");
    assert_eq!((all.get("n.example.com/nothing"), all.get("n.example.com/empty")), (None, None));
    assert_eq!(all["n.example.com/long"].as_str().map(str::len), Some(10 << 10));
    assert_eq!(all.get(FAILURE), None);

    // One that fails refuses, whatever the binding wants done, unless failures are to be ignored.
    let answer = it.post(CONFIG_MAPS, config_map("n")).await;
    let why = "configmaps \"n\" is forbidden: ValidatingAdmissionPolicy 'n.example.com' with binding 'n.example.com-binding' \
               denied request: expression 'string(object.data.long)' resulted in error: no such key: long";
    assert_eq!((answer.code, answer.message()), (422, why));
    let path = format!("{POLICIES}/n.example.com");
    assert_eq!(it.merge(&path, json!({"spec": {"failurePolicy": "Ignore"}})).await.code, 200);
    it.create(CONFIG_MAPS, config_map("n")).await;
    let all = noted(&log);
    assert_eq!(
        (&all["n.example.com/said"], all.get("n.example.com/long")),
        (&json!("a is b"), None)
    );
}

/// With several params or bindings there are several values for one key.
#[tokio::test]
async fn notes_of_several_params_stand_together() {
    let (it, log, _dir) = audited(None).await;
    for (name, max) in [("p1", "1"), ("p2", "2"), ("p3", "2")] {
        let labels = json!({"for": "notes"});
        let map = json!({"metadata": {"name": name, "labels": labels}, "data": {"max": max}});
        it.create(CONFIG_MAPS, map).await;
    }
    let rules = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "auditAnnotations": [
            {"key": "max", "valueExpression": "'max is ' + params.data.max"},
            {"key": "of", "valueExpression": "'of ' + object.metadata.name"},
        ],
    });
    it.create(POLICIES, policy("s.example.com", OF_MAPS, rules)).await;
    let selected = json!({
        "validationActions": ["Audit"],
        "paramRef": {"selector": {"matchLabels": {"for": "notes"}}, "parameterNotFoundAction": "Deny"},
    });
    it.create(BINDINGS, binding("s.example.com", selected)).await;
    it.create(CONFIG_MAPS, config_map("m")).await;
    let all = noted(&log);
    assert_eq!(all["s.example.com/max"], "max is 1, max is 2");
    assert_eq!(all["s.example.com/of"], "of m");
}
