//! Declarations of kinds, built-in ones and custom ones, from their schemas: what policies' expressions are checked against.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use coracle_api::schema::{ListType, Schema, Type};
use coracle_cel::{Decl, Field, Identity, Shape, escape};

/// How objects of that schema look to expressions.
pub(super) fn declare(schema: Schema<'_>) -> Arc<Decl> {
    Walk::default().message(schema)
}

#[derive(Default)]
struct Walk {
    /// Messages by name; those that are under way, which contain themselves, are `None`.
    known: HashMap<String, Option<Arc<Decl>>>,
}

impl Walk {
    fn message(&mut self, schema: Schema<'_>) -> Arc<Decl> {
        let message = schema.message();
        let name = message.name.to_string();
        match self.known.get(&name) {
            Some(Some(known)) => return known.clone(),
            Some(None) => return Decl::of(Shape::Dyn),
            None => {}
        }
        self.known.insert(name.clone(), None);
        let mut fields = BTreeMap::new();
        for field in message.fields() {
            let decl = self.ty(schema, &field.ty, field.list.as_ref());
            let json = field.name.to_string();
            // By either name: that of the documentation, and the one that works where nothing is declared.
            if let Some(escaped) = escape(&json) {
                fields.insert(escaped, Field { json: json.clone(), decl: decl.clone() });
            }
            fields.insert(json.clone(), Field { json, decl });
        }
        if message.gvk.is_some() {
            for field in ["apiVersion", "kind"] {
                let decl = Decl::of(Shape::String);
                fields.insert(field.into(), Field { json: field.into(), decl });
            }
        }
        let shape = Shape::Object(fields);
        let decl = Arc::new(Decl { name: name.clone(), shape, ..Decl::default() });
        self.known.insert(name, Some(decl.clone()));
        decl
    }

    fn ty(&mut self, schema: Schema<'_>, ty: &Type, list: Option<&ListType>) -> Arc<Decl> {
        Decl::of(match ty {
            Type::Bool => Shape::Bool,
            Type::Double => Shape::Double,
            Type::String => Shape::String,
            Type::Bytes => Shape::Bytes,
            Type::Time | Type::MicroTime => Shape::Timestamp,
            Type::IntOrString | Type::Quantity | Type::Any => Shape::Dyn,
            Type::Message(id) => return self.message(schema.set().schema(*id)),
            Type::List(items) => {
                let identity = match list {
                    Some(ListType::Set) => Identity::Set,
                    Some(ListType::Map(keys)) => {
                        Identity::Map(keys.iter().map(ToString::to_string).collect())
                    }
                    _ => Identity::Atomic,
                };
                Shape::List(self.ty(schema, items, None), identity)
            }
            Type::Map(values) => Shape::Map(self.ty(schema, values, None)),
            _ => Shape::Int,
        })
    }
}
