//! One schema structure for every kind, built in or custom.
//!
//! Strict decoding, protobuf decoding, strategic and server-side apply and OpenAPI each walk this structure with one
//! piece of code, so a kind needs no code of its own for any of them. A [`Schemas`] set owns its messages and links
//! them by [`MessageId`], because schemas are recursive; [`Schema`] is the cheap handle that walks it.
//!
//! Built-in kinds are data, written by `tools/gen_schema.py` and parsed once ([`builtin`]).

mod custom;
pub mod openapi;
mod parse;
pub mod protobuf;
mod scalars;
mod validate;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::{Map, Value};

pub use validate::{DecodeError, Decoded, MAX_DEPTH, cannot_be_handled, check, decode_json};

/// The message of `metadata`.
pub const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// Text that built-in kinds borrow from the binary and custom kinds own.
pub type Str = Cow<'static, str>;

/// The schemas of Kubernetes 1.36's built-in kinds at their stable versions.
pub fn builtin() -> &'static Schemas {
    static BUILTIN: LazyLock<Schemas> = LazyLock::new(|| {
        parse::parse(include_str!("builtin.txt")).expect("the generated schema data is well formed")
    });
    &BUILTIN
}

/// A closed set of messages: every [`Type::Message`] in it refers to a message of the same set.
#[derive(Debug, Default)]
pub struct Schemas {
    messages: Vec<Message>,
    names: HashMap<Str, MessageId>,
    /// Kind to the messages of that name; few kinds exist in more than one group or version.
    kinds: HashMap<Str, Vec<MessageId>>,
    /// Server-side apply merges objects of any JSON field by field; if not, they are one value.
    deduced: bool,
}

/// The index of a message within its [`Schemas`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MessageId(u32);

impl Schemas {
    /// The schema of a kind; the core group is `""`. `DeleteOptions` is the same in every group.
    pub fn by_gvk(&self, group: &str, version: &str, kind: &str) -> Option<Schema<'_>> {
        if kind == "DeleteOptions" {
            return self.by_name("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions");
        }
        let wanted = |id: &&MessageId| {
            let gvk = self.get(**id).gvk.as_ref();
            gvk.is_some_and(|g| g.group == group && g.version == version)
        };
        self.kinds.get(kind)?.iter().find(wanted).map(|id| self.schema(*id))
    }

    /// The schema of a message by its OpenAPI name, such as `io.k8s.api.core.v1.PodSpec`.
    pub fn by_name(&self, name: &str) -> Option<Schema<'_>> {
        self.names.get(name).map(|id| self.schema(*id))
    }

    /// Every message, in the order of its name; embedded ones ([`Message::embedded`]) last.
    pub fn iter(&self) -> impl Iterator<Item = Schema<'_>> {
        (0..self.messages.len()).map(|i| self.schema(MessageId(i as u32)))
    }

    /// Whether server-side apply looks into [`Type::Any`].
    pub fn is_deduced(&self) -> bool {
        self.deduced
    }

    /// The message with this id.
    pub fn get(&self, id: MessageId) -> &Message {
        &self.messages[id.0 as usize]
    }

    /// The message with this id, as a handle.
    pub fn schema(&self, id: MessageId) -> Schema<'_> {
        Schema { set: self, message: self.get(id) }
    }
}

/// A message together with the set that resolves its references: what every walker takes.
#[derive(Clone, Copy, Debug)]
pub struct Schema<'a> {
    set: &'a Schemas,
    message: &'a Message,
}

impl<'a> Schema<'a> {
    /// The message itself.
    pub fn message(&self) -> &'a Message {
        self.message
    }

    /// The set that the message belongs to.
    pub fn set(&self) -> &'a Schemas {
        self.set
    }

    /// The field with this JSON name.
    pub fn field(&self, name: &str) -> Option<&'a Field> {
        self.message.field(name)
    }

    /// The schema behind a type, if it is a message; lists and maps are not looked into.
    pub fn resolve(&self, ty: &Type) -> Option<Schema<'a>> {
        match ty {
            Type::Message(id) => Some(self.set.schema(*id)),
            _ => None,
        }
    }
}

/// An object with named fields.
#[derive(Debug, Clone)]
pub struct Message {
    /// OpenAPI name, such as `io.k8s.api.core.v1.Pod`.
    pub name: Str,
    /// Set on kinds, not on their parts.
    pub gvk: Option<Gvk>,
    /// Kind of the list of these, such as `PodList`; none if the kind cannot be listed.
    pub list_kind: Option<Str>,
    /// Server-side apply treats the whole object as one value.
    pub atomic: bool,
    /// A Go struct embedded in others: it exists in protobuf only, its fields are the parent's in JSON.
    pub embedded: bool,
    /// What fields hold that have no name here; none if there are no such fields.
    pub rest: Option<Type>,
    /// The OpenAPI schema of a custom kind as its definition has it, in place of one made from the fields.
    pub published: Option<Box<Value>>,
    /// What the API reference says.
    pub description: Text,
    /// Sorted by JSON name.
    fields: Vec<Field>,
    /// Open-addressed hash table of JSON names, at most half full: every field of every write is looked up here.
    index: Box<[u16]>,
    /// Sorted by protobuf tag.
    tags: Vec<(u32, Tag)>,
}

/// FNV-1a.
fn hash(name: &str) -> usize {
    let hash =
        name.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    (hash ^ (hash >> 15)) as usize
}

impl Message {
    /// All fields, sorted by JSON name.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The field with this JSON name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        let mut at = hash(name);
        loop {
            let field = self
                .fields
                .get(usize::from(*self.index.get(at & (self.index.len().wrapping_sub(1)))?))?;
            if field.name == name {
                return Some(field);
            }
            at += 1;
        }
    }

    /// Sorts the fields and makes the look-up tables: called once, when all fields are there.
    fn seal(&mut self) {
        self.fields.sort_by(|a, b| a.name.cmp(&b.name));
        self.fields.shrink_to_fit();
        let tagged = self.fields.iter().enumerate().filter(|(_, f)| f.tag != 0);
        self.tags.extend(tagged.map(|(i, f)| (f.tag, Tag::Field(i as u16))));
        self.tags.sort_by_key(|(tag, _)| *tag);
        self.index = vec![u16::MAX; (self.fields.len() * 2).next_power_of_two()].into();
        for (i, field) in self.fields.iter().enumerate() {
            let mut at = hash(&field.name);
            while self.index[at & (self.index.len() - 1)] != u16::MAX {
                at += 1;
            }
            self.index[at & (self.index.len() - 1)] = i as u16;
        }
    }

    /// What a protobuf tag stands for.
    pub fn tag(&self, tag: u32) -> Option<TagRef<'_>> {
        let i = self.tags.binary_search_by_key(&tag, |(t, _)| *t).ok()?;
        Some(match self.tags[i].1 {
            Tag::Field(f) => TagRef::Field(&self.fields[f as usize]),
            Tag::Embedded(id) => TagRef::Embedded(id),
        })
    }

    /// The last part of the name, which is the Go struct's name: `Pod`.
    pub fn short_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }

    /// The name as Go prints it in errors: `v1.Pod`.
    pub fn go_name(&self) -> &str {
        let mut dots = self.name.rmatch_indices('.').skip(1);
        dots.next().map_or(&*self.name, |(i, _)| &self.name[i + 1..])
    }
}

/// Group, version and kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Gvk {
    /// API group; empty for the core group.
    pub group: Str,
    /// API version, such as `v1`.
    pub version: Str,
    /// Kind, such as `Pod`.
    pub kind: Str,
}

impl Gvk {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        match &*self.group {
            "" => self.version.to_string(),
            group => format!("{group}/{}", self.version),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Tag {
    Field(u16),
    Embedded(MessageId),
}

/// What a protobuf tag stands for within its message.
#[derive(Clone, Copy, Debug)]
pub enum TagRef<'a> {
    /// A field.
    Field(&'a Field),
    /// An embedded struct, whose fields belong to the parent in JSON.
    Embedded(MessageId),
}

/// One field of a message.
#[derive(Debug, Clone)]
pub struct Field {
    /// JSON name.
    pub name: Str,
    /// Protobuf tag; 0 if the field is not on the wire by itself (`kind`, or part of an embedded struct).
    pub tag: u32,
    /// What it holds.
    pub ty: Type,
    /// The field must be given, says the API reference. Decoding does not insist; validation does.
    pub required: bool,
    /// A pointer in Go: an empty value is a value, not an absence.
    pub pointer: bool,
    /// On the wire, the list is a message of its own with the items in field 1.
    pub wrapped: bool,
    /// For lists: how server-side apply merges it. None means atomic.
    pub list: Option<ListType>,
    /// For maps and objects: server-side apply treats it as one value.
    pub atomic: bool,
    /// How strategic merge patch treats it.
    pub strategy: Strategy,
    /// For merged lists of objects: the field that names an item.
    pub merge_key: Option<Str>,
    /// The Go type's name where it is not the plain one, as in errors: `v1.PullPolicy`.
    pub go_type: Option<Str>,
    /// Default as published in OpenAPI, in JSON.
    pub default: Option<Str>,
    /// What the API reference says.
    pub description: Text,
}

/// How server-side apply sees a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListType {
    /// One value, replaced as a whole.
    Atomic,
    /// Unique scalars.
    Set,
    /// Objects told apart by these fields.
    Map(Vec<Str>),
}

/// How strategic merge patch treats a field; all false is the default: objects merge, lists are replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strategy {
    /// The list is merged by its merge key, or as a set of scalars.
    pub merge: bool,
    /// The object or list is replaced.
    pub replace: bool,
    /// Only keys named in `$retainKeys` survive.
    pub retain_keys: bool,
}

/// What a field or element holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// `true` or `false`
    Bool,
    /// 32-bit integer
    Int32,
    /// 64-bit integer
    Int64,
    /// Floating point number
    Double,
    /// Text
    String,
    /// Base64 in JSON, plain bytes in protobuf
    Bytes,
    /// An integer or text; which of the two is kept
    IntOrString,
    /// A resource quantity, such as `500m`
    Quantity,
    /// RFC 3339 with seconds
    Time,
    /// RFC 3339 with microseconds
    MicroTime,
    /// Any JSON
    Any,
    /// An object
    Message(MessageId),
    /// A list of these
    List(Box<Type>),
    /// A map from text to these
    Map(Box<Type>),
}

impl Type {
    /// Go's zero value, which `null` stands for as a list's or map's element.
    fn zero(&self) -> Value {
        match self {
            Type::Bool => false.into(),
            Type::Int32 | Type::Int64 | Type::Double | Type::IntOrString => 0.into(),
            Type::String | Type::Bytes => "".into(),
            Type::Quantity => "0".into(),
            Type::Message(_) => Value::Object(Map::new()),
            Type::Time | Type::MicroTime | Type::Any | Type::List(_) | Type::Map(_) => Value::Null,
        }
    }
}

/// A description: a line of the generated file, looked up when asked for, or owned text.
#[derive(Clone, Debug, Default)]
pub enum Text {
    /// Nothing is said.
    #[default]
    None,
    /// A line of `descriptions.txt`.
    Line(u32),
    /// A custom kind's text.
    Owned(Box<str>),
}

impl Text {
    /// The text; empty if there is none.
    pub fn get(&self) -> Str {
        static LINES: LazyLock<Vec<&'static str>> =
            LazyLock::new(|| include_str!("descriptions.txt").lines().collect());
        match self {
            Text::None => Cow::Borrowed(""),
            Text::Line(line) => {
                parse::unescape(LINES.get(*line as usize).copied().unwrap_or_default())
            }
            Text::Owned(text) => Cow::Owned(text.to_string()),
        }
    }
}
