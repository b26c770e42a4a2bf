//! What an expression's parts are: CEL's types, and declarations of JSON values, from which types follow.
//!
//! A [`Decl`] says how a JSON value looks to an expression (a string that is a timestamp, a list that is a set) and how
//! large it may be; a [`Type`] is what the checker reasons with. Only objects need to be looked up again by the checker, so
//! their type is their declaration.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A type of CEL.
#[derive(Debug, Clone)]
pub enum Type {
    /// Whatever it is, it shows at run time.
    Dyn,
    /// Of what was found wrong already.
    Error,
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool,
    /// 64 bits with a sign.
    Int,
    /// 64 bits without.
    Uint,
    /// 64 bits of IEEE 754.
    Double,
    /// Unicode text.
    String,
    /// Octets.
    Bytes,
    /// A moment.
    Timestamp,
    /// A length of time.
    Duration,
    /// A list of one type.
    List(Arc<Type>),
    /// A map from one type to another.
    Map(Arc<Type>, Arc<Type>),
    /// An object with declared fields.
    Object(Arc<Decl>),
    /// A value or none.
    Optional(Arc<Type>),
    /// A type as a value; of what, if known.
    TypeOf(Option<Arc<Type>>),
    /// What a library made: a quantity, a URL, an authorizer.
    Opaque(&'static str),
    /// To be found by unification.
    Param(u32),
}

impl Type {
    /// A list of `items`.
    pub fn list(items: Type) -> Self {
        Type::List(Arc::new(items))
    }

    /// A map.
    pub fn map(keys: Type, values: Type) -> Self {
        Type::Map(Arc::new(keys), Arc::new(values))
    }

    /// A value or none.
    pub fn optional(of: Type) -> Self {
        Type::Optional(Arc::new(of))
    }

    pub(crate) fn is_dyn_or_error(&self) -> bool {
        matches!(self, Type::Dyn | Type::Error)
    }
}

impl PartialEq for Type {
    fn eq(&self, other: &Self) -> bool {
        use Type::*;
        match (self, other) {
            (List(a), List(b)) | (Optional(a), Optional(b)) => a == b,
            (Map(a, b), Map(c, d)) => a == c && b == d,
            (Object(a), Object(b)) => a.name == b.name,
            (TypeOf(_), TypeOf(_)) => true,
            (Opaque(a), Opaque(b)) => a == b,
            (Param(a), Param(b)) => a == b,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Dyn => f.write_str("dyn"),
            Type::Error => f.write_str("!error!"),
            Type::Null => f.write_str("null"),
            Type::Bool => f.write_str("bool"),
            Type::Int => f.write_str("int"),
            Type::Uint => f.write_str("uint"),
            Type::Double => f.write_str("double"),
            Type::String => f.write_str("string"),
            Type::Bytes => f.write_str("bytes"),
            Type::Timestamp => f.write_str("timestamp"),
            Type::Duration => f.write_str("duration"),
            Type::List(items) => write!(f, "list({items})"),
            Type::Map(keys, values) => write!(f, "map({keys}, {values})"),
            Type::Object(decl) => f.write_str(&decl.name),
            Type::Optional(of) => write!(f, "optional_type({of})"),
            Type::TypeOf(None) => f.write_str("type"),
            Type::TypeOf(Some(of)) => write!(f, "type({of})"),
            Type::Opaque(name) => f.write_str(name),
            Type::Param(n) => write!(f, "_var{n}"),
        }
    }
}

/// How a JSON value looks to expressions, and how large it may be.
#[derive(Debug, Clone, Default)]
pub struct Decl {
    /// The type's name, for objects.
    pub name: String,
    /// What it is.
    pub shape: Shape,
    /// Most octets of text, items of a list or entries of a map; estimates need it.
    pub max: Option<u64>,
    /// Octets of the shortest JSON that such a value has; estimates need it.
    pub min: u64,
}

/// What a declared JSON value is.
#[derive(Debug, Clone, Default)]
pub enum Shape {
    /// Anything.
    #[default]
    Dyn,
    /// `null`, and nothing else.
    Null,
    /// A boolean.
    Bool,
    /// A whole number.
    Int,
    /// A number; whole ones are doubles too.
    Double,
    /// A string.
    String,
    /// A string in base64.
    Bytes,
    /// A string of RFC 3339, or a date of it.
    Timestamp,
    /// A string such as `1h30m`.
    Duration,
    /// A list, and what tells its items apart.
    List(Arc<Decl>, Identity),
    /// An object whose keys are data.
    Map(Arc<Decl>),
    /// An object with these fields, by the name that expressions use.
    Object(BTreeMap<String, Field>),
    /// An object that an expression makes, with whatever fields it gives it.
    Open,
}

/// A field of an object.
#[derive(Debug, Clone)]
pub struct Field {
    /// Its name in JSON.
    pub json: String,
    /// What it holds.
    pub decl: Arc<Decl>,
}

/// What tells a list's items apart (`x-kubernetes-list-type`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Identity {
    /// Their place.
    #[default]
    Atomic,
    /// Their value.
    Set,
    /// The values of these fields.
    Map(Vec<String>),
}

impl Decl {
    /// A declaration without a bound.
    pub fn of(shape: Shape) -> Arc<Self> {
        Arc::new(Self { shape, ..Self::default() })
    }

    /// An object of this name with these fields.
    pub fn object(
        name: &str,
        fields: impl IntoIterator<Item = (&'static str, Arc<Decl>)>,
    ) -> Arc<Self> {
        let field = |(name, decl): (&str, _)| (name.into(), Field { json: name.into(), decl });
        let fields = fields.into_iter().map(field).collect();
        Arc::new(Self { name: name.into(), shape: Shape::Object(fields), ..Self::default() })
    }

    /// The type of values so declared.
    pub fn ty(self: &Arc<Self>) -> Type {
        match &self.shape {
            Shape::Dyn => Type::Dyn,
            Shape::Null => Type::Null,
            Shape::Bool => Type::Bool,
            Shape::Int => Type::Int,
            Shape::Double => Type::Double,
            Shape::String => Type::String,
            Shape::Bytes => Type::Bytes,
            Shape::Timestamp => Type::Timestamp,
            Shape::Duration => Type::Duration,
            Shape::List(items, _) => Type::list(items.ty()),
            Shape::Map(values) => Type::map(Type::String, values.ty()),
            Shape::Object(_) | Shape::Open => Type::Object(self.clone()),
        }
    }

    pub(crate) fn field(&self, name: &str) -> Option<&Field> {
        match &self.shape {
            Shape::Object(fields) => fields.get(name),
            _ => None,
        }
    }
}
