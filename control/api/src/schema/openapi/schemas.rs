//! Definitions: every message that the paths reach, under its upstream name.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use super::super::{Field, ListType, Message, Schema, Type, builtin};
use super::{Version, custom, gvk};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";
const MICRO_TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime";

/// Collects definitions as they are referred to.
pub(super) struct Schemas<'a> {
    version: Version,
    done: Map<String, Value>,
    waiting: Vec<Schema<'a>>,
}

impl<'a> Schemas<'a> {
    pub(super) fn new(version: Version) -> Self {
        Schemas { version, done: Map::new(), waiting: Vec::new() }
    }

    /// A reference to a message, which is thereby defined.
    pub(super) fn refer(&mut self, schema: Schema<'a>) -> Value {
        let name = &*schema.message().name;
        if !self.done.contains_key(name) {
            self.done.insert(name.to_owned(), Value::Null); // taken, so that it waits once only
            self.waiting.push(schema);
        }
        json!({"$ref": self.version.reference(name)})
    }

    /// A reference to one of the API machinery's own messages.
    pub(super) fn refer_meta(&mut self, name: &str) -> Value {
        match builtin().by_name(&format!("{META}.{name}")) {
            Some(schema) => self.refer(schema),
            None => json!({"type": "object"}),
        }
    }

    /// A reference to the list of a kind; lists are alike, so there is no data for them.
    pub(super) fn refer_list(&mut self, schema: Schema<'a>) -> Value {
        let message = schema.message();
        let name = format!("{}List", message.name);
        if !self.done.contains_key(&name) {
            let item = self.refer(schema);
            let text = |what: &str| json!({"description": what, "type": "string"});
            let metadata = self.refer_meta("ListMeta");
            let mut list = json!({
                "description": format!("{}List is a list of {} objects.", message.short_name(), message.short_name()),
                "type": "object",
                "required": ["items"],
                "properties": {
                    "apiVersion": text("APIVersion defines the versioned schema of this representation of an object."),
                    "kind": text("Kind is a string value representing the REST resource this object represents."),
                    "items": {"description": "The objects.", "type": "array", "items": self.wrapped(item, true)},
                    "metadata": self.wrapped(metadata, true),
                },
            });
            if let (Some(id), Some(kind)) = (&message.gvk, &message.list_kind) {
                list["x-kubernetes-group-version-kind"] =
                    json!([gvk(&id.group, &id.version, kind)]);
            }
            self.done.insert(name.clone(), list);
        }
        json!({"$ref": self.version.reference(&name)})
    }

    /// All definitions, once everything is referred to.
    pub(super) fn finish(mut self) -> Map<String, Value> {
        while let Some(schema) = self.waiting.pop() {
            let definition = self.define(schema);
            self.done.insert(schema.message().name.to_string(), definition);
        }
        self.done
    }

    fn define(&mut self, schema: Schema<'a>) -> Value {
        let message = schema.message();
        if let Some(published) = &message.published {
            return self.published(published, message);
        }
        let mut out = Map::new();
        describe(&mut out, message.description.get());
        out.insert("type".into(), "object".into());
        let properties: Map<_, _> = message
            .fields()
            .iter()
            .map(|f| (f.name.to_string(), self.property(f, schema)))
            .collect();
        if !properties.is_empty() {
            out.insert("properties".into(), properties.into());
        }
        let required: Vec<_> =
            message.fields().iter().filter(|f| f.required).map(|f| &*f.name).collect();
        if !required.is_empty() {
            out.insert("required".into(), required.into());
        }
        if message.atomic {
            out.insert("x-kubernetes-map-type".into(), "atomic".into());
        }
        if let Some(kinds) = kinds_of(message) {
            out.insert("x-kubernetes-group-version-kind".into(), kinds);
        }
        out.into()
    }

    /// A custom kind as its definition has it, with what every object has.
    fn published(&mut self, schema: &Value, message: &Message) -> Value {
        let mut out = match self.version {
            Version::V2 if custom::is_open(schema) => {
                let mut out = json!({"type": "object"});
                if let Some(kinds) = kinds_of(message) {
                    out["x-kubernetes-group-version-kind"] = kinds;
                }
                return out;
            }
            Version::V2 => custom::for_v2(schema),
            Version::V3 => schema.clone(),
        };
        let metadata = self.refer_meta("ObjectMeta");
        let mut metadata = self.wrapped(metadata, false);
        custom::add_meta(&mut out, &mut metadata);
        if let Some(kinds) = kinds_of(message) {
            out["x-kubernetes-group-version-kind"] = kinds;
        }
        out
    }

    fn property(&mut self, field: &'a Field, schema: Schema<'a>) -> Value {
        let mut out = self.type_of(&field.ty, schema, field.pointer);
        let Value::Object(map) = &mut out else { return out };
        describe(map, field.description.get());
        if let Some(default) =
            field.default.as_ref().and_then(|text| serde_json::from_str(text).ok())
        {
            map.insert("default".into(), default);
        }
        match &field.list {
            Some(ListType::Atomic) => {
                _ = map.insert("x-kubernetes-list-type".into(), "atomic".into())
            }
            Some(ListType::Set) => _ = map.insert("x-kubernetes-list-type".into(), "set".into()),
            Some(ListType::Map(keys)) => {
                map.insert("x-kubernetes-list-type".into(), "map".into());
                map.insert("x-kubernetes-list-map-keys".into(), json!(keys));
            }
            None => {}
        }
        if field.atomic {
            map.insert("x-kubernetes-map-type".into(), "atomic".into());
        }
        if let Some(key) = &field.merge_key {
            map.insert("x-kubernetes-patch-merge-key".into(), json!(key));
        }
        let s = field.strategy;
        let names = [(s.merge, "merge"), (s.replace, "replace"), (s.retain_keys, "retainKeys")];
        let names: Vec<_> = names.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
        if !names.is_empty() {
            map.insert("x-kubernetes-patch-strategy".into(), names.join(",").into());
        }
        out
    }

    fn type_of(&mut self, ty: &'a Type, schema: Schema<'a>, pointer: bool) -> Value {
        match ty {
            Type::Bool => json!({"type": "boolean"}),
            Type::Int32 => json!({"type": "integer", "format": "int32"}),
            Type::Int64 => json!({"type": "integer", "format": "int64"}),
            Type::Double => json!({"type": "number", "format": "double"}),
            Type::String => json!({"type": "string"}),
            Type::Bytes => json!({"type": "string", "format": "byte"}),
            Type::Any => json!({"x-kubernetes-preserve-unknown-fields": true}),
            Type::IntOrString => self.scalar(INT_OR_STRING),
            Type::Quantity => self.scalar(QUANTITY),
            Type::Time => self.scalar(TIME),
            Type::MicroTime => self.scalar(MICRO_TIME),
            Type::Message(id) => {
                let reference = self.refer(schema.set().schema(*id));
                self.wrapped(reference, !pointer)
            }
            Type::List(item) => {
                json!({"type": "array", "items": self.type_of(item, schema, false)})
            }
            Type::Map(item) => {
                json!({"type": "object", "additionalProperties": self.type_of(item, schema, false)})
            }
        }
    }

    /// A reference in a form that takes a description beside it, which a bare `$ref` of v3 does not.
    fn wrapped(&self, reference: Value, empty_by_default: bool) -> Value {
        match (self.version, empty_by_default) {
            (Version::V2, _) => reference,
            (Version::V3, true) => json!({"allOf": [reference], "default": {}}),
            (Version::V3, false) => json!({"allOf": [reference]}),
        }
    }

    /// A type that is a scalar to us and has a definition upstream.
    fn scalar(&mut self, name: &str) -> Value {
        if !self.done.contains_key(name) {
            let definition = match (name, self.version) {
                (INT_OR_STRING, Version::V2) => {
                    json!({"type": "string", "format": "int-or-string"})
                }
                (INT_OR_STRING, Version::V3) => {
                    json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
                }
                (QUANTITY, Version::V2) => json!({"type": "string"}),
                (QUANTITY, Version::V3) => {
                    json!({"oneOf": [{"type": "string"}, {"type": "number"}]})
                }
                _ => json!({"type": "string", "format": "date-time"}),
            };
            self.done.insert(name.to_owned(), definition);
        }
        let reference = json!({"$ref": self.version.reference(name)});
        self.wrapped(reference, false)
    }
}

fn describe(map: &mut Map<String, Value>, text: Cow<'static, str>) {
    if !text.is_empty() {
        map.insert("description".into(), text.into());
    }
}

fn kinds_of(message: &Message) -> Option<Value> {
    let id = message.gvk.as_ref()?;
    Some(json!([gvk(&id.group, &id.version, &id.kind)]))
}
