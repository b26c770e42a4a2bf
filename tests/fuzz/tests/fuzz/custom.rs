//! Schemas of custom kinds and objects of theirs: pruned once is pruned, filled in once is filled in.

use coracle_api::custom::Structure;
use coracle_fuzz::{Random, cases};
use serde_json::{Map, Value, json};

const NAMES: &[&str] = &["a", "b", "c", "spec", "metadata", "kind", "é", "a.b"];

/// A schema, mostly structural; `odd` says when it is not.
fn schema(random: &mut Random, depth: usize) -> Value {
    let mut out = Map::new();
    let ty = *random.pick(&["object", "object", "array", "string", "integer", "number", "boolean"]);
    let ty =
        if depth == 0 { *random.pick(&["string", "integer", "number", "boolean"]) } else { ty };
    out.insert("type".into(), ty.into());
    match ty {
        "object" if random.once_in(4) => {
            let of = if random.once_in(3) { true.into() } else { schema(random, depth - 1) };
            out.insert("additionalProperties".into(), of);
        }
        "object" => {
            let mut properties = Map::new();
            for _ in 0..random.below(4) {
                properties.insert((*random.pick(NAMES)).into(), schema(random, depth - 1));
            }
            out.insert("properties".into(), properties.into());
            if random.once_in(3) {
                out.insert("required".into(), json!([random.pick(NAMES)]));
            }
        }
        "array" => {
            out.insert("items".into(), schema(random, depth - 1));
            if random.once_in(3) {
                out.insert(
                    "x-kubernetes-list-type".into(),
                    (*random.pick(&["set", "map", "atomic"])).into(),
                );
                out.insert("x-kubernetes-list-map-keys".into(), json!([random.pick(NAMES)]));
            }
        }
        _ => {}
    }
    for _ in 0..random.below(3) {
        let (name, value) = match random.below(14) {
            0 => ("nullable", json!(random.once_in(2))),
            1 => ("default", random.json(2)),
            2 => ("x-kubernetes-preserve-unknown-fields", json!(true)),
            3 => ("x-kubernetes-int-or-string", json!(true)),
            4 => ("x-kubernetes-embedded-resource", json!(true)),
            5 => ("enum", json!([random.json(1), random.json(1)])),
            6 => ("minimum", json!(random.number())),
            7 => ("multipleOf", json!(*random.pick(&[0.0, 1.0, 0.1, -3.0]))),
            8 => ("maxLength", json!(random.number())),
            9 => (
                "pattern",
                json!(*random.pick(&[
                    "^a+$",
                    "(",
                    "(a*)*b",
                    "\\p{L}",
                    "[[:alpha:]]",
                    "a{1000}{1000}"
                ])),
            ),
            10 => (
                "format",
                json!(*random.pick(&[
                    "date-time",
                    "int32",
                    "uuid",
                    "byte",
                    "email",
                    "cidr",
                    "other"
                ])),
            ),
            11 if depth > 0 => {
                ("anyOf", json!([schema(random, depth - 1), schema(random, depth - 1)]))
            }
            12 if depth > 0 => ("not", schema(random, depth - 1)),
            _ => ("uniqueItems", json!(true)),
        };
        out.insert(name.into(), value);
    }
    if random.once_in(40) {
        out.insert(
            (*random.pick(&["items", "properties", "allOf", "type"])).into(),
            random.json(2),
        );
    }
    Value::Object(out)
}

/// A value that often has the schema's form.
fn value(random: &mut Random, schema: &Value, depth: usize) -> Value {
    if depth == 0 || random.once_in(12) {
        return random.json(1);
    }
    match schema["type"].as_str() {
        Some("object") => {
            let mut out = Map::new();
            for (name, of) in schema["properties"].as_object().into_iter().flatten() {
                if !random.once_in(3) {
                    out.insert(name.clone(), value(random, of, depth - 1));
                }
            }
            for _ in 0..random.below(2) {
                let of = &schema["additionalProperties"];
                out.insert(random.text(), value(random, of, depth - 1));
            }
            out.into()
        }
        Some("array") => {
            (0..random.below(4)).map(|_| value(random, &schema["items"], depth - 1)).collect()
        }
        Some("integer") => random.number().into(),
        Some("number") => json!(random.fraction()),
        Some("boolean") => random.once_in(2).into(),
        Some("string") => random.text().into(),
        _ => random.json(1),
    }
}

#[test]
fn objects_by_their_schema() {
    cases("custom", |random| {
        let mut schema = schema(random, 4);
        schema["type"] = "object".into();
        let Ok(structure) = Structure::compile(&schema) else { return };
        let object = value(random, &schema, 6);
        if !object.is_object() {
            return;
        }
        let mut once = object.clone();
        structure.prune(&mut once);
        let mut twice = once.clone();
        let dropped = structure.prune(&mut twice);
        assert_eq!((&twice, dropped.len()), (&once, 0), "pruned by {schema}: {object}");
        structure.fill_in(&mut once);
        let mut twice = once.clone();
        structure.fill_in(&mut twice);
        assert_eq!(twice, once, "filled in by {schema}: {object}");
        let errors = structure.validate(&once, None);
        assert!(errors.len() <= 100);
        // What has not changed is not checked again, but for whole objects in it, as upstream.
        if !schema.to_string().contains("x-kubernetes-embedded-resource") {
            let again = structure.validate(&once, Some(&once));
            assert!(again.is_empty(), "{again:?} of {once} by {schema}");
        }
        let _ = structure.validate(&random.json(3), Some(&once));
    });
}

#[test]
fn any_json_for_a_schema() {
    cases("schemas", |random| {
        let mut schema = schema(random, 3);
        for _ in 0..random.below(3) {
            let name = *random.pick(&[
                "type",
                "items",
                "properties",
                "default",
                "enum",
                "required",
                "pattern",
                "maxLength",
                "x-kubernetes-list-map-keys",
                "additionalProperties",
                "allOf",
            ]);
            schema[name] = random.json(3);
        }
        let Ok(structure) = Structure::compile(&schema) else { return };
        let mut object = random.json(4);
        structure.prune(&mut object);
        structure.fill_in(&mut object);
        let _ = structure.validate(&object, None);
    });
}
