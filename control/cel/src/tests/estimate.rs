//! What rules may cost at worst. The numbers are upstream's, as its estimates for these schemas are.

use serde_json::{Value, json};

use crate::declare::declare;
use crate::{Env, Rules, Type};

/// The estimate of a rule over values of a schema.
fn worst(schema: &Value, rule: &str) -> u64 {
    let decl = declare(schema, false, "self").expect("a schema that can be named");
    let env = Env::new().variable("self", decl.ty()).variable("oldSelf", decl.ty());
    let program = env.compile_to(rule, &[Type::Bool]).expect(rule);
    program.most(&[Some(decl.clone()), Some(decl)])
}

#[test]
fn sizes_follow_from_schemas_and_requests() {
    let list = |items: Value| json!({"type": "array", "items": items});
    let text = || json!({"type": "string"});
    let bounded = |field: &str, max: u64, of: Value| {
        let mut of = of;
        of[field] = max.into();
        of
    };
    let map = json!({"type": "object", "additionalProperties": {"type": "string"}});
    let nested = json!({
        "type": "object", "required": ["items"],
        "properties": {"items": bounded("maxItems", 10, list(bounded("maxLength", 5, text())))},
    });
    let all = "self.all(x, true)";
    for (schema, rule, expected) in [
        // As many as a request holds, three for each round.
        (list(json!({"type": "number"})), all, 4_718_591),
        (list(text()), all, 3_145_727),
        (list(json!({"type": "boolean"})), all, 1_887_437),
        (bounded("maxItems", 10, list(text())), all, 32),
        (
            list(json!({"type": "object", "required": ["a"], "properties": {"a": text()}})),
            all,
            943_718,
        ),
        (map.clone(), all, 1_179_647),
        (bounded("maxProperties", 10, map), all, 32),
        // Text is walked.
        (text(), "self.contains('test')", 314_574),
        (text(), "self.matches('x')", 314_574),
        (text(), "self == 'abc'", 2),
        (bounded("maxLength", 10, text()), "self.contains('0123456789a')", 4 * 2 + 1),
        (bounded("maxLength", 10, text()), "self.upperAscii() == self", 1 + 4 + 4 + 1),
        (json!({"type": "string", "enum": ["a", "abc"]}), "self == self", 1 + 1 + 1),
        (json!({"type": "string", "format": "date-time"}), "self > self", 1 + 1 + 1),
        (json!({"type": "integer"}), "self + 1 > 2", 3),
        // What is inside of what.
        (nested.clone(), "self.items.all(x, x.contains('a'))", 2 + 10 * (3 + 1 + 2) + 1),
        (
            nested.clone(),
            "self.items.all(x, self.items.all(y, x == y))",
            2 + 10 * (3 + (2 + 10 * (3 + 2 + 2) + 1)) + 1,
        ),
        (nested.clone(), "self.items.map(x, x).size() == 3", 2 + 10 + 10 * (12 + 1) + 1 + 1 + 1),
        (
            nested.clone(),
            "self.items.filter(x, x == 'a').all(x, true)",
            2 + 10 + 10 * (12 + 1 + 2) + 1 + 10 * 3 + 1,
        ),
        (nested.clone(), "has(self.items) ? self.items[0] == 'a' : false", 1 + 2 + 1 + 1),
        (
            nested,
            "'a' in self.items && [1, 2].exists(x, x == 1)",
            2 + 10 + 10 + 2 * (4 + 1 + 1) + 1,
        ),
    ] {
        assert_eq!(worst(&schema, rule), expected, "{rule} over {schema}");
    }
}

/// What is said of a schema.
fn said(schema: &Value) -> Vec<String> {
    let (_, errors) = Rules::compile(schema, "schema");
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn what_may_cost_too_much_is_refused() {
    let hint = "(try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)";
    let nested = "self.all(x, self.all(y, x == y))";
    let ruled = |rule: &str| {
        json!({
            "type": "array", "items": {"type": "string"},
            "x-kubernetes-validations": [{"rule": rule}],
        })
    };
    let of = |field: Value| json!({"type": "object", "properties": {"list": field}});
    let at = "schema.properties[list].x-kubernetes-validations[0].rule";
    let total = format!(
        "x-kubernetes-validations estimated rule & messageExpression cost total for entire OpenAPIv3 schema exceeds budget by factor of more than 100x {hint}"
    );
    let contributed = "contributed to estimated rule & messageExpression cost total exceeding cost limit for entire OpenAPIv3 schema";
    assert_eq!(
        said(&of(ruled(nested))),
        [
            format!(
                "{at}: Forbidden: estimated rule cost exceeds budget by factor of more than 100x {hint}"
            ),
            format!("{at}: Forbidden: {contributed}"),
            format!("schema: Forbidden: {total}"),
        ]
    );
    let mut bounded = ruled(nested);
    bounded["maxItems"] = 100.into();
    bounded["items"]["maxLength"] = 100.into();
    assert_eq!(said(&of(bounded)), Vec::<String>::new());

    // A rule counts for each place that it may stand at: for as many as lists above it bound, or as fit into a request.
    let mut inner = json!({"type": "string", "maxLength": 1000, "x-kubernetes-validations": [{"rule": "self.contains('x')"}]});
    let list = |items: &Value| json!({"type": "array", "items": items});
    let unbounded = said(&of(list(&inner)));
    let why = format!("estimated rule cost exceeds budget by factor of 42.0x {hint}");
    let items = "schema.properties[list].items.x-kubernetes-validations[0].rule";
    assert_eq!(unbounded[0], format!("{items}: Forbidden: {why}"));
    let mut bounded = list(&inner);
    bounded["maxItems"] = 1000.into();
    assert_eq!(said(&of(bounded)), Vec::<String>::new());
    inner["x-kubernetes-validations"][0]["messageExpression"] =
        "self.split('').map(x, self.split('').map(y, self.matches('aaaaaaaaaaaaaaaaaaaaaaa')).size())[0] == 1 ? 'a' : 'b'".into();
    let costly = said(&inner);
    assert_eq!(costly.len(), 4, "{costly:?}");
    assert!(costly[0].starts_with("schema.x-kubernetes-validations[0].messageExpression: Forbidden: estimated messageExpression cost exceeds budget by factor of "), "{costly:?}");
}
