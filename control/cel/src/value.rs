//! Values while an expression runs. What comes from JSON is borrowed, and looked at through its declaration only where an
//! expression goes; nothing of an object is copied to be selected from.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coracle_api::go_duration;
use jiff::Timestamp;
use serde_json::Value;

use crate::functions::time;
use crate::functions::{NamedFormat, authorizer};
use crate::types::{Decl, Identity, Shape};

static ANY: LazyLock<Arc<Decl>> = LazyLock::new(Arc::default);

/// A value of an expression.
#[derive(Debug, Clone)]
pub enum Val<'a> {
    /// `null`.
    Null,
    /// A boolean.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number without a sign.
    Uint(u64),
    /// A number.
    Double(f64),
    /// Text.
    String(Str<'a>),
    /// Octets.
    Bytes(Rc<[u8]>),
    /// A moment.
    Timestamp(Timestamp),
    /// A length of time, in nanoseconds.
    Duration(i64),
    /// A list.
    List(List<'a>),
    /// A map, or an object.
    Map(Map<'a>),
    /// A value or none.
    Optional(Option<Rc<Val<'a>>>),
    /// A type, by its name.
    Type(Cow<'static, str>),
    /// What a library made.
    Opaque(Opaque),
}

/// Values of the libraries' own types.
#[derive(Debug, Clone)]
pub enum Opaque {
    /// `quantity('1Gi')`.
    Quantity(coracle_api::Quantity),
    /// `url('https://…')`.
    Url(Rc<crate::functions::Url>, Rc<str>),
    /// `ip('::1')`.
    Ip(std::net::IpAddr),
    /// `cidr('10.0.0.0/8')`: the address as written, and its network.
    Cidr(ipnet::IpNet),
    /// `semver('1.2.3')`.
    Semver(Rc<semver::Version>),
    /// `format.dns1123Label()`.
    Format(&'static NamedFormat),
    /// `authorizer`, or a check that is being put together, or its outcome.
    Authorizer(authorizer::Step),
}

impl Opaque {
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Opaque::Quantity(_) => "kubernetes.Quantity",
            Opaque::Url(..) => "kubernetes.URL",
            Opaque::Ip(_) => "net.IP",
            Opaque::Cidr(_) => "net.CIDR",
            Opaque::Semver(_) => "kubernetes.Semver",
            Opaque::Format(_) => "kubernetes.NamedFormat",
            Opaque::Authorizer(step) => step.type_name(),
        }
    }

    fn same(&self, other: &Opaque) -> bool {
        match (self, other) {
            (Opaque::Quantity(a), Opaque::Quantity(b)) => a == b,
            (Opaque::Url(a, _), Opaque::Url(b, _)) => a == b,
            (Opaque::Ip(a), Opaque::Ip(b)) => a == b,
            (Opaque::Cidr(a), Opaque::Cidr(b)) => a == b,
            (Opaque::Semver(a), Opaque::Semver(b)) => a.cmp_precedence(b) == Ordering::Equal,
            (Opaque::Format(a), Opaque::Format(b)) => std::ptr::eq(*a, *b),
            _ => false,
        }
    }
}

/// Text, borrowed or shared.
#[derive(Clone)]
pub enum Str<'a> {
    /// Of the object or of the program.
    Borrowed(&'a str),
    /// Made while evaluating.
    Shared(Rc<str>),
}

impl Deref for Str<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Str::Borrowed(text) => text,
            Str::Shared(text) => text,
        }
    }
}

impl fmt::Debug for Str<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl<'a> Val<'a> {
    /// The value of undeclared JSON.
    pub fn of(value: &'a Value) -> Self {
        Self::declared(value, &ANY)
    }

    /// The value of JSON that a declaration describes. What does not fit it shows as what it is.
    pub fn declared(value: &'a Value, decl: &'a Arc<Decl>) -> Self {
        match (value, &decl.shape) {
            (Value::Null, _) => Val::Null,
            (Value::Bool(bool), _) => Val::Bool(*bool),
            (Value::Number(number), shape) => match (number.as_i64(), shape) {
                (Some(int), Shape::Double) => Val::Double(int as f64),
                (Some(int), _) => Val::Int(int),
                (None, Shape::Int) => {
                    let double = number.as_f64().unwrap_or_default();
                    let whole = double.fract() == 0.0 && double.abs() < 9e18;
                    if whole { Val::Int(double as i64) } else { Val::Double(double) }
                }
                (None, _) => Val::Double(number.as_f64().unwrap_or_default()),
            },
            (Value::String(text), Shape::Timestamp) => {
                time::parse_timestamp_or_date(text).map_or_else(|| Val::str(text), Val::Timestamp)
            }
            (Value::String(text), Shape::Duration) => {
                go_duration::parse(text).map_or_else(|| Val::str(text), Val::Duration)
            }
            (Value::String(text), Shape::Bytes) => {
                STANDARD.decode(text).map_or_else(|_| Val::str(text), |b| Val::Bytes(b.into()))
            }
            (Value::String(text), _) => Val::str(text),
            (Value::Array(items), Shape::List(decl, identity)) => {
                Val::List(List::Json { items, decl, identity })
            }
            (Value::Array(items), _) => {
                Val::List(List::Json { items, decl: &ANY, identity: &Identity::Atomic })
            }
            (Value::Object(fields), Shape::Map(values)) => {
                Val::Map(Map::Json { fields, decl: Fields::Of(values) })
            }
            (Value::Object(fields), Shape::Object(_)) => {
                Val::Map(Map::Json { fields, decl: Fields::Declared(decl) })
            }
            (Value::Object(fields), _) => Val::Map(Map::Json { fields, decl: Fields::Of(&ANY) }),
        }
    }

    /// Borrowed text.
    pub fn str(text: &'a str) -> Self {
        Val::String(Str::Borrowed(text))
    }

    /// Text of its own.
    pub fn string(text: impl Into<Rc<str>>) -> Self {
        Val::String(Str::Shared(text.into()))
    }

    pub(crate) fn items(items: Vec<Val<'a>>) -> Self {
        Val::List(List::Made(Rc::new(items)))
    }

    pub(crate) fn some(value: Val<'a>) -> Self {
        Val::Optional(Some(Rc::new(value)))
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Val::String(text) => Some(text),
            _ => None,
        }
    }

    /// The boolean, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Val::Bool(bool) => Some(*bool),
            _ => None,
        }
    }

    /// The name of its type.
    pub fn type_name(&self) -> &str {
        match self {
            Val::Null => "null_type",
            Val::Bool(_) => "bool",
            Val::Int(_) => "int",
            Val::Uint(_) => "uint",
            Val::Double(_) => "double",
            Val::String(_) => "string",
            Val::Bytes(_) => "bytes",
            Val::Timestamp(_) => "google.protobuf.Timestamp",
            Val::Duration(_) => "google.protobuf.Duration",
            Val::List(_) => "list",
            Val::Map(Map::Json { decl: Fields::Declared(decl), .. }) => &decl.name,
            Val::Map(Map::Object { name, .. }) => name,
            Val::Map(_) => "map",
            Val::Optional(_) => "optional_type",
            Val::Type(_) => "type",
            Val::Opaque(opaque) => opaque.type_name(),
        }
    }

    /// Code points of text, octets, items or entries; `None` for what has no size.
    pub(crate) fn size(&self) -> Option<usize> {
        match self {
            Val::String(text) => Some(text.chars().count()),
            Val::Bytes(bytes) => Some(bytes.len()),
            Val::List(list) => Some(list.len()),
            Val::Map(map) => Some(map.len()),
            Val::Opaque(Opaque::Ip(ip)) => Some(if ip.is_ipv4() { 4 } else { 16 }),
            Val::Opaque(Opaque::Cidr(net)) => Some(usize::from(net.prefix_len()).div_ceil(8)),
            _ => None,
        }
    }

    /// CEL's equality: numbers by value whatever their type, everything else by type and content.
    pub(crate) fn equals(&self, other: &Val<'a>) -> bool {
        match (self, other) {
            (Val::Null, Val::Null) => true,
            (Val::Bool(a), Val::Bool(b)) => a == b,
            (Val::String(a), Val::String(b)) => **a == **b,
            (Val::Bytes(a), Val::Bytes(b)) => a == b,
            (Val::Timestamp(a), Val::Timestamp(b)) => a == b,
            (Val::Duration(a), Val::Duration(b)) => a == b,
            (Val::Type(a), Val::Type(b)) => a == b,
            (Val::List(a), Val::List(b)) => a.equals(b),
            (Val::Map(a), Val::Map(b)) => a.equals(b),
            (Val::Optional(None), Val::Optional(None)) => true,
            (Val::Optional(Some(a)), Val::Optional(Some(b))) => a.equals(b),
            (Val::Opaque(a), Val::Opaque(b)) => a.same(b),
            _ => numbers(self, other) == Some(Ordering::Equal),
        }
    }

    /// The order of two values of comparable types; `None` where there is none.
    pub(crate) fn compare(&self, other: &Val<'a>) -> Option<Ordering> {
        match (self, other) {
            (Val::Bool(a), Val::Bool(b)) => Some(a.cmp(b)),
            (Val::String(a), Val::String(b)) => Some((**a).cmp(&**b)),
            (Val::Bytes(a), Val::Bytes(b)) => Some(a.cmp(b)),
            (Val::Timestamp(a), Val::Timestamp(b)) => Some(a.cmp(b)),
            (Val::Duration(a), Val::Duration(b)) => Some(a.cmp(b)),
            _ => numbers(self, other),
        }
    }

    /// As JSON: what JSON cannot say is text, as protobuf's JSON has it. `None` for what is no data.
    pub fn to_json(&self) -> Option<Value> {
        Some(match self {
            Val::Null | Val::Optional(None) => Value::Null,
            Val::Bool(bool) => (*bool).into(),
            Val::Int(int) => (*int).into(),
            Val::Uint(uint) => (*uint).into(),
            Val::Double(double) => (*double).into(),
            Val::String(text) => (**text).into(),
            Val::Bytes(bytes) => STANDARD.encode(bytes).into(),
            Val::Timestamp(at) => time::format_timestamp(*at).into(),
            Val::Duration(nanos) => time::format_duration(*nanos).into(),
            Val::List(list) => list.iter().map(|item| item.to_json()).collect::<Option<_>>()?,
            Val::Map(Map::Json { fields, .. }) => Value::Object((*fields).clone()),
            Val::Map(map) => {
                let mut object = serde_json::Map::new();
                for (key, value) in map.entries() {
                    object.insert(key.as_str()?.to_owned(), value.to_json()?);
                }
                Value::Object(object)
            }
            Val::Optional(Some(value)) => value.to_json()?,
            Val::Opaque(Opaque::Quantity(quantity)) => quantity.to_string().into(),
            Val::Type(_) | Val::Opaque(_) => return None,
        })
    }
}

/// The order of two numbers, exactly, whatever their types.
fn numbers(a: &Val<'_>, b: &Val<'_>) -> Option<Ordering> {
    use Val::{Double, Int, Uint};
    let int_uint = |a: i64, b: u64| i128::from(a).cmp(&i128::from(b));
    Some(match (a, b) {
        (Int(a), Int(b)) => a.cmp(b),
        (Uint(a), Uint(b)) => a.cmp(b),
        (Int(a), Uint(b)) => int_uint(*a, *b),
        (Uint(a), Int(b)) => int_uint(*b, *a).reverse(),
        (Double(a), Double(b)) => return a.partial_cmp(b),
        (Int(a), Double(b)) => return whole_double(i128::from(*a), *b),
        (Uint(a), Double(b)) => return whole_double(i128::from(*a), *b),
        (Double(a), Int(b)) => return whole_double(i128::from(*b), *a).map(Ordering::reverse),
        (Double(a), Uint(b)) => return whole_double(i128::from(*b), *a).map(Ordering::reverse),
        _ => return None,
    })
}

fn whole_double(whole: i128, double: f64) -> Option<Ordering> {
    if double.is_nan() {
        return None;
    }
    // Beyond 2^100 no 64-bit number reaches; below, the integral part is exact.
    if double.abs() > 1e30 {
        return Some(if double > 0.0 { Ordering::Less } else { Ordering::Greater });
    }
    let order = whole.cmp(&(double.trunc() as i128));
    Some(order.then(0.0_f64.partial_cmp(&double.fract()).unwrap_or(Ordering::Equal)))
}

/// A list.
#[derive(Debug, Clone)]
pub enum List<'a> {
    /// Of JSON, with its items' declaration.
    Json {
        /// As they are.
        items: &'a [Value],
        /// What they are.
        decl: &'a Arc<Decl>,
        /// What tells them apart.
        identity: &'a Identity,
    },
    /// Made while evaluating.
    Made(Rc<Vec<Val<'a>>>),
}

impl<'a> List<'a> {
    /// How many items.
    pub fn len(&self) -> usize {
        match self {
            List::Json { items, .. } => items.len(),
            List::Made(items) => items.len(),
        }
    }

    /// None.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The item at a place.
    pub fn get(&self, at: usize) -> Option<Val<'a>> {
        match self {
            List::Json { items, decl, .. } => items.get(at).map(|v| Val::declared(v, decl)),
            List::Made(items) => items.get(at).cloned(),
        }
    }

    /// All items.
    pub fn iter(&self) -> impl Iterator<Item = Val<'a>> + '_ {
        (0..self.len()).filter_map(|at| self.get(at))
    }

    pub(crate) fn contains(&self, item: &Val<'a>) -> bool {
        self.iter().any(|known| known.equals(item))
    }

    fn identity(&self) -> &'a Identity {
        match self {
            List::Json { identity, .. } => identity,
            List::Made(_) => &Identity::Atomic,
        }
    }

    fn equals(&self, other: &List<'a>) -> bool {
        if self.len() != other.len() {
            return false;
        }
        match (self.identity(), other.identity()) {
            (Identity::Set, _) | (_, Identity::Set) => {
                self.iter().all(|item| other.contains(&item))
            }
            (Identity::Map(keys), _) | (_, Identity::Map(keys)) => self.iter().all(|item| {
                let mut others = other.iter();
                others.any(|other| same_key(&item, &other, keys) && item.equals(&other))
            }),
            _ => self.iter().zip(other.iter()).all(|(a, b)| a.equals(&b)),
        }
    }

    /// Both lists' items; of sets and list maps those that are new, and in place of those that are known.
    pub(crate) fn concat(&self, other: &List<'a>) -> Vec<Val<'a>> {
        let mut items: Vec<_> = self.iter().collect();
        match self.identity() {
            Identity::Atomic => items.extend(other.iter()),
            Identity::Set => {
                for item in other.iter() {
                    if !items.iter().any(|known| known.equals(&item)) {
                        items.push(item);
                    }
                }
            }
            Identity::Map(keys) => {
                for item in other.iter() {
                    match items.iter_mut().find(|known| same_key(known, &item, keys)) {
                        Some(known) => *known = item,
                        None => items.push(item),
                    }
                }
            }
        }
        items
    }
}

fn same_key<'a>(a: &Val<'a>, b: &Val<'a>, keys: &[String]) -> bool {
    let (Val::Map(a), Val::Map(b)) = (a, b) else { return false };
    keys.iter().all(|key| match (a.field(key), b.field(key)) {
        (Some(a), Some(b)) => a.equals(&b),
        (a, b) => a.is_none() && b.is_none(),
    })
}

/// A map or an object.
#[derive(Debug, Clone)]
pub enum Map<'a> {
    /// Of JSON.
    Json {
        /// As it is.
        fields: &'a serde_json::Map<String, Value>,
        /// What it holds.
        decl: Fields<'a>,
    },
    /// Made while evaluating.
    Made(Rc<BTreeMap<Key<'a>, Val<'a>>>),
    /// An object made while evaluating (`Object.spec{…}`).
    Object {
        /// Of which type.
        name: Rc<str>,
        /// Its fields, by their names in JSON.
        fields: Rc<BTreeMap<Key<'a>, Val<'a>>>,
    },
}

/// What a JSON object holds.
#[derive(Debug, Clone, Copy)]
pub enum Fields<'a> {
    /// Values of this kind under any key.
    Of(&'a Arc<Decl>),
    /// These fields.
    Declared(&'a Arc<Decl>),
}

/// A key of a map. Whole numbers are equal whatever their type.
#[derive(Debug, Clone)]
pub enum Key<'a> {
    /// A boolean.
    Bool(bool),
    /// A whole number, and whether it is a uint.
    Whole(i128, bool),
    /// Text.
    String(Str<'a>),
}

impl Ord for Key<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let rank = |key: &Key<'_>| match key {
            Key::Bool(_) => 0,
            Key::Whole(..) => 1,
            Key::String(_) => 2,
        };
        match (self, other) {
            (Key::Bool(a), Key::Bool(b)) => a.cmp(b),
            (Key::Whole(a, _), Key::Whole(b, _)) => a.cmp(b),
            (Key::String(a), Key::String(b)) => (**a).cmp(&**b),
            _ => rank(self).cmp(&rank(other)),
        }
    }
}

impl PartialOrd for Key<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Key<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Key<'_> {}

impl<'a> Key<'a> {
    /// The key that a value is, if it may be one; a whole double finds whole numbers.
    pub(crate) fn of(value: &Val<'a>) -> Option<Self> {
        Some(match value {
            Val::Bool(bool) => Key::Bool(*bool),
            Val::Int(int) => Key::Whole((*int).into(), false),
            Val::Uint(uint) => Key::Whole((*uint).into(), true),
            Val::Double(double) if double.fract() == 0.0 && double.abs() < 2e19 => {
                Key::Whole(*double as i128, false)
            }
            Val::String(text) => Key::String(text.clone()),
            _ => return None,
        })
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Key::String(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn value(&self) -> Val<'a> {
        match self {
            Key::Bool(bool) => Val::Bool(*bool),
            Key::Whole(whole, true) => Val::Uint(u64::try_from(*whole).unwrap_or_default()),
            Key::Whole(whole, false) => Val::Int(i64::try_from(*whole).unwrap_or_default()),
            Key::String(text) => Val::String(text.clone()),
        }
    }
}

impl<'a> Map<'a> {
    /// How many entries.
    pub fn len(&self) -> usize {
        match self {
            Map::Json { fields, .. } => fields.len(),
            Map::Made(entries) | Map::Object { fields: entries, .. } => entries.len(),
        }
    }

    /// None.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value under a text key, or of a field.
    pub fn field(&self, name: &str) -> Option<Val<'a>> {
        match self {
            Map::Json { fields, decl: Fields::Of(decl) } => {
                fields.get(name).map(|value| Val::declared(value, decl))
            }
            Map::Json { fields, decl: Fields::Declared(decl) } => {
                let field = decl.field(name)?;
                fields.get(&field.json).map(|value| Val::declared(value, &field.decl))
            }
            Map::Made(entries) | Map::Object { fields: entries, .. } => {
                // A borrowed key that lives as long as the call is looked up as a shared one.
                entries.get(&Key::String(Str::Shared(name.into()))).cloned()
            }
        }
    }

    pub(crate) fn get(&self, key: &Val<'a>) -> Option<Val<'a>> {
        match (self, key) {
            (_, Val::String(name)) => self.field(name),
            (Map::Made(entries), key) => entries.get(&Key::of(key)?).cloned(),
            _ => None,
        }
    }

    /// All entries.
    pub fn entries(&self) -> Vec<(Key<'a>, Val<'a>)> {
        match self {
            Map::Json { fields, decl: Fields::Of(decl) } => fields
                .iter()
                .map(|(k, v)| (Key::String(Str::Borrowed(k)), Val::declared(v, decl)))
                .collect(),
            Map::Json { fields, decl: Fields::Declared(decl) } => match &decl.shape {
                Shape::Object(known) => known
                    .iter()
                    .filter_map(|(name, field)| {
                        let value = Val::declared(fields.get(&field.json)?, &field.decl);
                        Some((Key::String(Str::Borrowed(name)), value))
                    })
                    .collect(),
                _ => Vec::new(),
            },
            Map::Made(entries) | Map::Object { fields: entries, .. } => {
                entries.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
            }
        }
    }

    fn equals(&self, other: &Map<'a>) -> bool {
        match (self, other) {
            (Map::Object { name: a, .. }, Map::Object { name: b, .. }) if a == b => {}
            (Map::Object { .. }, _) | (_, Map::Object { .. }) => return false,
            _ => {}
        }
        let mine = self.entries();
        mine.len() == other.entries().len()
            && mine
                .iter()
                .all(|(key, value)| other.get(&key.value()).is_some_and(|v| v.equals(value)))
    }
}
