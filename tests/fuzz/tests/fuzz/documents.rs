//! Documents of kinds: what the schema allows, mostly.

use coracle_api::schema::{Schema, Type, builtin};
use coracle_fuzz::Random;
use serde_json::{Map, Value, json};

/// One of the built-in kinds.
pub(crate) fn any_kind(random: &mut Random) -> &'static coracle_api::Kind {
    coracle_api::kinds::ALL[random.below(coracle_api::kinds::ALL.len())]
}

/// Its schema.
pub(crate) fn schema_of(kind: &coracle_api::Kind) -> Schema<'static> {
    builtin().by_gvk(kind.group, kind.version, kind.kind).expect("each kind has a schema")
}

/// An object of a kind, with odd values in it; `odd` of them in a hundred are of the wrong type.
pub(crate) fn object(random: &mut Random, kind: &coracle_api::Kind, odd: usize) -> Value {
    let mut object = message(random, schema_of(kind), 0, odd);
    object["kind"] = kind.kind.into();
    object["apiVersion"] = kind.api_version().into();
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    object["metadata"]["name"] = "a".into();
    if kind.namespaced {
        object["metadata"]["namespace"] = "default".into();
    }
    object
}

/// A message with some of its fields.
pub(crate) fn message(random: &mut Random, schema: Schema<'_>, depth: usize, odd: usize) -> Value {
    let mut map = Map::new();
    let fields = schema.message().fields();
    if fields.is_empty() || depth > 12 {
        return Value::Object(map);
    }
    // Few deep down, so that it ends.
    let count = random.below(if depth < 3 { fields.len().min(8) + 1 } else { 3 });
    for _ in 0..count {
        let field = random.pick(fields);
        let name = field.name.to_string();
        if random.below(100) < odd {
            map.insert(name, random.json(2));
        } else {
            map.insert(name, value(random, schema, &field.ty, depth, odd));
        }
    }
    Value::Object(map)
}

fn value(random: &mut Random, schema: Schema<'_>, ty: &Type, depth: usize, odd: usize) -> Value {
    match ty {
        Type::Bool => random.once_in(2).into(),
        Type::Int32 => (random.number() as i32).into(),
        Type::Int64 => random.number().into(),
        Type::Double => json!(random.fraction()),
        Type::String => text(random).into(),
        Type::Bytes => (*random.pick(&["", "YQ==", "AAECAw=="])).into(),
        Type::IntOrString if random.once_in(2) => (random.number() as i32).into(),
        Type::IntOrString => (*random.pick(&["http", "50%", "-1%", ""])).into(),
        Type::Quantity => (*random.pick(&["1", "100m", "1Gi", "0", "-1", "1e3", "1.5"])).into(),
        Type::Time => "2024-01-01T00:00:00Z".into(),
        Type::MicroTime => "2024-01-01T00:00:00.000001Z".into(),
        Type::Any => random.json(2),
        Type::Message(_) => {
            schema.resolve(ty).map_or(Value::Null, |inner| message(random, inner, depth + 1, odd))
        }
        Type::List(of) => {
            (0..random.below(4)).map(|_| value(random, schema, of, depth + 1, odd)).collect()
        }
        Type::Map(of) => {
            let mut map = Map::new();
            for _ in 0..random.below(4) {
                let inner = value(random, schema, of, depth + 1, odd);
                map.insert(text(random), inner);
            }
            map.into()
        }
    }
}

/// What stands in objects, rather than anything: names that meet, and words of the API.
fn text(random: &mut Random) -> String {
    const WORDS: &[&str] = &[
        "a",
        "b",
        "c",
        "app",
        "default",
        "a.example.com/b",
        "TCP",
        "UDP",
        "Always",
        "Never",
        "RollingUpdate",
        "ClusterIP",
        "NodePort",
        "None",
        "Exists",
        "In",
        "* * * * *",
        "@every 1h",
        "10.0.0.1",
        "10.0.0.0/8",
        "::1",
        "cpu",
        "memory",
        "True",
        "Recreate",
        "ConfigMap",
        "Pod",
        "v1",
        "apps/v1",
        "1h",
        "Europe/Berlin",
        "/a/b",
        "self.x == 1",
    ];
    if random.once_in(4) { random.text() } else { (*random.pick(WORDS)).to_owned() }
}
