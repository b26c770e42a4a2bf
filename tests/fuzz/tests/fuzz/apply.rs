//! Server-side apply: who owns what.

use coracle_api::fields::{ApplyError, FieldSet, Managers, Writer, compare, field_set};
use coracle_api::schema::{Schema, check};
use coracle_fuzz::{Random, cases};
use serde_json::{Value, json};

use super::documents::{any_kind, object, schema_of};

fn writer<'a>(manager: &'a str, version: &'a str, none: &'a FieldSet) -> Writer<'a> {
    Writer {
        manager,
        api_version: version,
        subresource: "",
        ignored: none,
        now: "2024-01-01T00:00:00Z",
    }
}

/// What both are after an apply.
fn applied(
    managers: &Managers,
    writer: &Writer<'_>,
    live: &Value,
    config: &Value,
    schema: Schema<'_>,
    force: bool,
) -> Option<(Value, Managers)> {
    match managers.apply(writer, live, config, schema, force) {
        Ok(applied) => Some((applied.object, applied.managers)),
        Err(ApplyError::Invalid(_)) => None,
        Err(ApplyError::Conflicts(conflicts)) => {
            assert!(!force, "{conflicts:?}, though forced");
            assert!(conflicts.iter().all(|it| !it.manager.is_empty() && it.path.starts_with('.')));
            None
        }
    }
}

fn config(random: &mut Random, kind: &coracle_api::Kind) -> Option<Value> {
    let made = object(random, kind, 0);
    let mut config = check(made, schema_of(kind)).ok()?.value;
    let name = config["metadata"]["name"].clone();
    config["metadata"] = json!({"name": name, "labels": {"a": random.text()}});
    config.as_object_mut()?.remove("status");
    Some(config)
}

#[test]
fn applies() {
    cases("apply", |random| {
        let kind = any_kind(random);
        let (schema, version, none) = (schema_of(kind), kind.api_version(), FieldSet::default());
        let (one, two) = (writer("one", &version, &none), writer("two", &version, &none));
        let (Some(first), Some(second)) = (config(random, kind), config(random, kind)) else {
            return;
        };
        let nothing = json!({});
        let Some((live, managers)) =
            applied(&Managers::default(), &one, &nothing, &first, schema, false)
        else {
            return;
        };
        // What is told of owners is read back.
        let told = managers.encode();
        assert_eq!(Managers::decode(&told).as_ref(), Ok(&managers), "{told}");
        // Applied again, nothing changes, whoever forces it.
        for force in [false, true] {
            let again = applied(&managers, &one, &live, &first, schema, force);
            let Some((same, owners)) = again else { panic!("refused the second time: {first}") };
            assert!(compare(&live, &same, schema).is_same(), "{} by {first}", kind.kind);
            assert_eq!(owners.encode(), told, "{}", kind.kind);
        }
        // Forced by another, all that it says is so, and is the other's.
        let Some((forced, owners)) = applied(&managers, &two, &live, &second, schema, true) else {
            return;
        };
        let again = applied(&owners, &two, &forced, &second, schema, false);
        let Some((same, _)) = again else { panic!("refused what it had forced: {second}") };
        assert!(compare(&forced, &same, schema).is_same(), "{}", kind.kind);
        let told = owners.encode();
        assert_eq!(Managers::decode(&told).as_ref(), Ok(&owners), "{told}");
        // Who gives up everything leaves nothing of its own behind.
        let least = json!({"kind": kind.kind, "apiVersion": version, "metadata": {"name": "a"}});
        let Some((_, left)) = applied(&owners, &two, &forced, &least, schema, false) else {
            return;
        };
        let left = left.encode();
        let of_two = left.as_array().into_iter().flatten().filter(|it| it["manager"] == "two");
        assert!(of_two.into_iter().all(|it| it["fieldsV1"] == json!({})), "{left}");
    });
}

#[test]
fn sets_of_fields() {
    cases("field-sets", |random| {
        let kind = any_kind(random);
        let schema = schema_of(kind);
        let (one, two) = (object(random, kind, 0), object(random, kind, 0));
        let (Ok(one), Ok(two)) = (check(one, schema), check(two, schema)) else { return };
        let (a, b) = (field_set(&one.value, schema), field_set(&two.value, schema));
        let json = a.to_json();
        assert_eq!(FieldSet::from_json(&json).as_ref(), Ok(&a), "{json}");
        let mut both = a.clone();
        both.unite(&b);
        let mut again = both.clone();
        again.unite(&a);
        assert_eq!(again, both);
        assert_eq!(both.intersection(&a), a);
        let mut rest = both.clone();
        rest.subtract(&a);
        assert!(rest.intersection(&a).is_empty());
        // Any JSON is such a set, or is refused.
        let _ = FieldSet::from_json(&random.json(4));
        let _ = Managers::decode(
            &json!([{"manager": "m", "operation": "Apply", "fieldsType": "FieldsV1", "fieldsV1": random.json(4)}]),
        );
    });
}
