//! What mutations make: `Object`, whose parts are named by where they are (`Object.spec.template`), and `JSONPatch`.
//!
//! Nothing of the object is declared here, as upstream: any part may be given any field. That parts stand where their names say
//! shows when a value is made ([`Val::misnamed`]), and that the kind has such fields when it is applied.

use std::sync::{Arc, LazyLock};

use crate::types::{Decl, Shape, Type};
use crate::value::{Map, Val};

const OBJECT: &str = "Object";
const JSON_PATCH: &str = "JSONPatch";

static PATCH: LazyLock<Arc<Decl>> = LazyLock::new(|| {
    let text = || Decl::of(Shape::String);
    let fields = [("op", text()), ("path", text()), ("from", text()), ("value", Arc::default())];
    Decl::object(JSON_PATCH, fields)
});

/// The type of a whole object.
pub fn object() -> Type {
    Type::Object(part(OBJECT))
}

/// The type of a list of operations.
pub fn json_patches() -> Type {
    Type::list(PATCH.ty())
}

fn part(name: &str) -> Arc<Decl> {
    Arc::new(Decl { name: name.to_owned(), shape: Shape::Open, ..Decl::default() })
}

/// What may be made by that name.
pub(crate) fn declaration(name: &str) -> Option<Arc<Decl>> {
    let name = name.strip_prefix('.').unwrap_or(name);
    if name == JSON_PATCH {
        return Some(PATCH.clone());
    }
    let below = name.strip_prefix(OBJECT)?;
    (below.is_empty() || below.starts_with('.')).then(|| part(name))
}

impl Val<'_> {
    /// What is wrong with where the parts of a made object stand; nothing of what is none.
    pub fn misnamed(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if let Val::Map(Map::Object { name, .. }) = self {
            self.collect_misnamed(name, &mut wrong);
        }
        wrong
    }

    fn collect_misnamed(&self, expected: &str, wrong: &mut Vec<String>) {
        match self {
            Val::Map(Map::Object { name, fields }) => {
                if **name != *expected {
                    wrong.push(format!(
                        "unexpected type name {:?}, expected {expected:?}, which matches field name path from root Object type",
                        &**name
                    ));
                }
                for (field, value) in fields.iter() {
                    let field = field.as_str().unwrap_or_default();
                    value.collect_misnamed(&format!("{expected}.{field}"), wrong);
                }
            }
            // Lists and maps have no names of their own.
            Val::Map(Map::Made(entries)) => {
                entries.values().for_each(|value| value.collect_misnamed(expected, wrong));
            }
            Val::List(list) => {
                list.iter().for_each(|item| item.collect_misnamed(expected, wrong));
            }
            Val::Optional(Some(value)) => value.collect_misnamed(expected, wrong),
            _ => {}
        }
    }
}
