//! The three patches that are no apply.

use coracle_api::patch::{PatchError, PatchType, apply};
use coracle_api::schema::check;
use coracle_fuzz::{Random, cases};
use serde_json::{Map, Value, json};

use super::documents::{any_kind, message, object, schema_of};

/// RFC 7386, as it is written there.
fn merged(target: &Value, patch: &Value) -> Value {
    let Some(patch) = patch.as_object() else { return patch.clone() };
    let mut out = target.as_object().cloned().unwrap_or_default();
    for (name, value) in patch {
        if value.is_null() {
            out.remove(name);
        } else {
            let known = out.get(name).cloned().unwrap_or_default();
            out.insert(name.clone(), merged(&known, value));
        }
    }
    Value::Object(out)
}

/// The merge patch from one document to another; of what has no null in it.
fn difference(from: &Value, to: &Value) -> Value {
    let (Some(from), Some(to)) = (from.as_object(), to.as_object()) else { return to.clone() };
    let mut out = Map::new();
    for (name, value) in to {
        match from.get(name) {
            Some(known) if known == value => {}
            Some(known) if known.is_object() && value.is_object() => {
                out.insert(name.clone(), difference(known, value));
            }
            // What was no object before is replaced as a whole; one that was merges with nothing.
            _ => _ = out.insert(name.clone(), value.clone()),
        }
    }
    for name in from.keys().filter(|name| !to.contains_key(*name)) {
        out.insert(name.clone(), Value::Null);
    }
    Value::Object(out)
}

fn without_null(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(_, v)| !v.is_null());
            kept.map(|(k, v)| (k, without_null(v))).collect()
        }
        Value::Array(list) => list.into_iter().map(without_null).collect(),
        other => other,
    }
}

fn objects(random: &mut Random) -> Value {
    match random.json(4) {
        it @ Value::Object(_) => it,
        other => json!({"a": other}),
    }
}

#[test]
fn merge_patches() {
    let schema = schema_of(&coracle_api::kinds::POD);
    let patched = |from: &Value, patch: &Value| {
        apply(PatchType::Merge, from.clone(), patch.to_string().as_bytes(), schema).expect("merged")
    };
    cases("merge-patch", |random| {
        let (from, patch) = (objects(random), objects(random));
        assert_eq!(patched(&from, &patch), merged(&from, &patch));
        let (from, to) = (without_null(from), without_null(objects(random)));
        let patch = difference(&from, &to);
        assert_eq!(patched(&from, &patch), to, "{from} by {patch}");
    });
}

#[test]
fn json_patches() {
    let schema = schema_of(&coracle_api::kinds::POD);
    cases("json-patch", |random| {
        let from = random.json(4);
        let places = [
            "",
            "/",
            "/a",
            "/b",
            "/c",
            "/0",
            "/1",
            "/-",
            "/01",
            "/~0",
            "/~1",
            "/~",
            "/a~1b",
            "a",
            "/99999999999999999999",
        ];
        let patch: Vec<Value> = (0..random.below(6))
            .map(|_| {
                let op = *random.pick(&["add", "remove", "replace", "move", "copy", "test", "", "other"]);
                json!({"op": op, "path": random.of(&places, 3), "from": random.of(&places, 3), "value": random.json(2)})
            })
            .collect();
        let text = Value::from(patch).to_string();
        if let Ok(done) = apply(PatchType::Json, from.clone(), text.as_bytes(), schema) {
            // Nothing but tests changes nothing.
            let tests = json!([{"op": "test", "path": "", "value": done}]).to_string();
            assert_eq!(
                apply(PatchType::Json, done.clone(), tests.as_bytes(), schema).as_ref(),
                Ok(&done)
            );
        }
    });
    // Copies of copies double each time: there is an end to it.
    let copies: Vec<Value> =
        (0..64).map(|i| json!({"op": "copy", "from": "", "path": format!("/{i}")})).collect();
    let bomb = Value::from(copies).to_string();
    coracle_fuzz::cases_within(
        "json-patch-copies",
        coracle_fuzz::Bounds { memory: 256 << 20, ..Default::default() },
        |_| {
            let from = json!({"a": "x".repeat(1000)});
            let done = apply(PatchType::Json, from, bomb.as_bytes(), schema);
            assert!(
                matches!(done, Err(PatchError::TooLarge(_))),
                "{:?}",
                done.map(|v| v.to_string().len())
            );
        },
    );
}

#[test]
fn strategic_patches() {
    cases("strategic-patch", |random| {
        let kind = any_kind(random);
        let schema = schema_of(kind);
        let Ok(from) = check(object(random, kind, 0), schema) else { return };
        let from = from.value;
        let mut patch = message(random, schema, 0, 5);
        // Words that patches have and objects do not.
        if random.once_in(2) {
            let word = *random.pick(&[
                "$patch",
                "$retainKeys",
                "$setElementOrder/containers",
                "$deleteFromPrimitiveList/finalizers",
            ]);
            let value = match random.below(4) {
                0 => json!("delete"),
                1 => json!("replace"),
                2 => json!(["a", "b"]),
                _ => random.json(2),
            };
            let within = *random.pick(&["", "metadata", "spec"]);
            match within {
                "" => patch[word] = value,
                within if patch[within].is_object() => patch[within][word] = value,
                _ => {}
            }
        }
        let text = patch.to_string();
        let done = apply(PatchType::Strategic, from.clone(), text.as_bytes(), schema);
        if let Ok(done) = done {
            // What comes of it is checked like a body, and once done stays.
            if let Ok(checked) = check(done.clone(), schema) {
                let _ = (kind.validate)(&checked.value);
            }
        }
        // An empty patch is none.
        let none = apply(PatchType::Strategic, from.clone(), b"{}", schema);
        assert_eq!(none.as_ref(), Ok(&from), "{}", kind.kind);
        // Nor is one that says how it is.
        let same = apply(
            PatchType::Strategic,
            from.clone(),
            without_null(from.clone()).to_string().as_bytes(),
            schema,
        );
        if let Ok(same) = same {
            let again = apply(
                PatchType::Strategic,
                same.clone(),
                without_null(from).to_string().as_bytes(),
                schema,
            );
            assert_eq!(again, Ok(same), "{}", kind.kind);
        }
    });
}
