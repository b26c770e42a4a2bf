//! The messages of a custom kind, made from its structure: what server-side apply, patches and OpenAPI walk.
//!
//! Metadata is the built-in message, copied, because a set of messages is closed. What a definition lets through unknown is
//! any JSON, whose objects merge field by field and whose lists are replaced, as upstream deduces it.

use std::collections::HashMap;

use serde_json::Value;

use super::{
    Field, Gvk, ListType, Message, MessageId, OBJECT_META, Schemas, Str, Strategy, Tag, Text, Type,
    builtin,
};
use crate::custom::structure::{Additional, Structure, Ty};
use crate::kinds::Kind;

impl Schemas {
    /// The set of one custom kind in one version. `published` is its `openAPIV3Schema`, as written.
    pub(crate) fn of_structure(
        kind: &Kind,
        list_kind: &str,
        structure: &Structure,
        published: &Value,
    ) -> Self {
        let mut maker =
            Maker { set: Schemas { deduced: true, ..Schemas::default() }, copied: HashMap::new() };
        // `com.example.stable.v1.CronTab`
        let mut parts: Vec<&str> = kind.group.split('.').rev().collect();
        parts.extend([kind.version, kind.kind]);
        let root = maker.message(&parts.join("."), structure, true);
        let mut set = maker.set;
        let message = &mut set.messages[root.0 as usize];
        message.gvk = Some(Gvk {
            group: kind.group.into(),
            version: kind.version.into(),
            kind: kind.kind.into(),
        });
        message.list_kind = Some(list_kind.to_owned().into());
        message.published = Some(Box::new(published.clone()));
        set.kinds.insert(kind.kind.into(), vec![root]);
        set
    }
}

struct Maker {
    set: Schemas,
    copied: HashMap<MessageId, MessageId>,
}

impl Maker {
    /// Reserves a place, so that messages may refer to what is not made yet.
    fn add(&mut self, message: Message) -> MessageId {
        let id = MessageId(self.set.messages.len() as u32);
        self.set.names.insert(message.name.clone(), id);
        self.set.messages.push(message);
        id
    }

    fn message(&mut self, name: &str, structure: &Structure, is_object: bool) -> MessageId {
        let id = self.add(Message {
            name: name.to_owned().into(),
            gvk: None,
            list_kind: None,
            atomic: structure.atomic,
            embedded: false,
            rest: structure.preserve.then_some(Type::Any),
            published: None,
            description: Text::None,
            fields: Vec::new(),
            index: Box::default(),
            tags: Vec::new(),
        });
        let mut fields = Vec::new();
        if is_object || structure.embedded {
            let meta = builtin().names[OBJECT_META];
            let meta = Type::Message(self.copy(meta));
            for (name, ty) in
                [("apiVersion", Type::String), ("kind", Type::String), ("metadata", meta)]
            {
                fields.push(field(name, ty));
            }
        }
        for (property, child) in &structure.properties {
            if fields.iter().any(|known: &Field| *known.name == **property) {
                continue;
            }
            let ty = self.type_of(&format!("{name}.{property}"), child);
            let mut field = field(property, ty);
            field.list.clone_from(&child.list);
            field.atomic = child.atomic;
            field.default = child.default.as_ref().map(|default| default.to_string().into());
            fields.push(field);
        }
        let message = &mut self.set.messages[id.0 as usize];
        message.fields = fields;
        message.seal();
        id
    }

    fn type_of(&mut self, name: &str, structure: &Structure) -> Type {
        if structure.int_or_string {
            return Type::IntOrString;
        }
        match structure.ty {
            Some(Ty::Boolean) => Type::Bool,
            Some(Ty::Integer) => Type::Int64,
            Some(Ty::Number) => Type::Double,
            Some(Ty::String) => Type::String,
            Some(Ty::Array) => match &structure.items {
                Some(item) => Type::List(Box::new(self.type_of(&format!("{name}[]"), item))),
                None => Type::Any,
            },
            Some(Ty::Object) => match &structure.additional {
                Some(Additional::Of(of)) => {
                    Type::Map(Box::new(self.type_of(&format!("{name}{{}}"), of)))
                }
                Some(Additional::Any) => Type::Any,
                None if structure.preserve
                    && structure.properties.is_empty()
                    && !structure.embedded =>
                {
                    Type::Any
                }
                None => Type::Message(self.message(name, structure, false)),
            },
            None => Type::Any,
        }
    }

    /// A built-in message and all that it refers to, in this set.
    fn copy(&mut self, id: MessageId) -> MessageId {
        if let Some(known) = self.copied.get(&id) {
            return *known;
        }
        let message = builtin().get(id).clone();
        let new = self.add(message);
        self.copied.insert(id, new);
        let mut message = builtin().get(id).clone();
        for field in &mut message.fields {
            self.refer(&mut field.ty);
        }
        for (_, tag) in &mut message.tags {
            if let Tag::Embedded(embedded) = tag {
                *embedded = self.copy(*embedded);
            }
        }
        self.set.messages[new.0 as usize] = message;
        new
    }

    fn refer(&mut self, ty: &mut Type) {
        match ty {
            Type::Message(id) => *id = self.copy(*id),
            Type::List(item) | Type::Map(item) => self.refer(item),
            _ => {}
        }
    }
}

fn field(name: &str, ty: Type) -> Field {
    Field {
        name: Str::from(name.to_owned()),
        tag: 0,
        ty,
        required: false,
        pointer: true,
        wrapped: false,
        list: None::<ListType>,
        atomic: false,
        strategy: Strategy::default(),
        merge_key: None,
        go_type: None,
        default: None,
        description: Text::None,
    }
}
