//! What expressions may call: operators, the standard library, and Kubernetes' own.
//!
//! Each line of a table is one overload: its signature, what a call costs while it runs, and what it does. The checker
//! picks overloads by declared types; where those are `dyn`, the evaluator picks again by the values.

pub(crate) mod authorizer;
mod convert;
mod lists;
mod net;
mod operators;
mod optional;
mod sets;
mod strings;
mod text;
pub(crate) mod time;
mod url;

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::error::EvalError;
use crate::types::Type;
use crate::value::Val;

pub(crate) use lists::insert;
pub use text::NamedFormat;
pub(crate) use text::pattern;
pub use url::Url;

pub(crate) type Outcome<'a> = Result<Val<'a>, EvalError>;
pub(crate) type Body = for<'a> fn(&[Val<'a>]) -> Outcome<'a>;
type Line = (&'static str, Cost, Body);

/// What a call costs, by what it was given and what came of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Cost {
    /// The same for all calls.
    Fixed(u64),
    /// A walk over the first argument's text, so many times.
    Text(f64),
    /// A walk over the resulting text, twice.
    Result,
    /// As many as the second argument has items.
    Items,
    /// The smaller of two sizes, walked.
    Smaller,
    /// Both sizes, walked.
    Both,
    /// Text times pattern.
    Pattern,
    /// Text times text.
    Contained,
    /// A walk over a list and what is in it.
    Walk,
    /// The product of two sizes, so many times.
    Product(f64),
    /// Whether an address lies in a network, which may have to be read first.
    Address,
    /// Whether a network lies in another, which is masked for that.
    Network,
}

pub(crate) const UNIT: Cost = Cost::Fixed(1);
/// Cost of a character, against that of an operation.
pub(crate) const CHARACTER: f64 = 0.1;
/// Cost of a character of a regular expression: about four make a state.
pub(crate) const PATTERN: f64 = 0.25;

impl Cost {
    pub(crate) fn of(self, args: &[Val<'_>], result: Option<&Val<'_>>) -> u64 {
        let size = |value: Option<&Val<'_>>| {
            value.map_or(1.0, |value| value.size().map_or(1.0, |size| size as f64))
        };
        let (first, second) = (size(args.first()), size(args.get(1)));
        let ceil = |cost: f64| cost.ceil() as u64;
        match self {
            Cost::Fixed(cost) => cost,
            Cost::Text(times) => ceil(first * times * CHARACTER),
            Cost::Result => ceil(size(result) * 2.0 * CHARACTER),
            Cost::Items => second as u64,
            Cost::Smaller => ceil(first.min(second) * CHARACTER),
            Cost::Both => ceil((first + second) * CHARACTER),
            Cost::Pattern => ceil((1.0 + first) * CHARACTER).saturating_mul(ceil(second * PATTERN)),
            Cost::Contained => ceil(first * CHARACTER).saturating_mul(ceil(second * CHARACTER)),
            Cost::Walk => args.first().map_or(0, walk),
            Cost::Product(times) => ceil(first * second * times) + 1,
            Cost::Address | Cost::Network => {
                let masked = (self == Cost::Network).then(|| ceil(first * CHARACTER) + 1);
                let is_read = matches!(args.get(1), Some(Val::String(_)));
                let read = is_read.then(|| ceil(second * CHARACTER));
                ceil(2.0 * first * CHARACTER) + masked.unwrap_or(0) + read.unwrap_or(0)
            }
        }
    }
}

fn walk(value: &Val<'_>) -> u64 {
    match value {
        // Of bytes, and not rounded up, as upstream.
        Val::String(text) => (text.len() as f64 * CHARACTER) as u64,
        Val::Bytes(bytes) => (bytes.len() as f64 * CHARACTER) as u64,
        Val::List(list) => list.iter().map(|item| walk(&item)).sum(),
        Val::Map(map) => {
            map.entries().iter().map(|(key, value)| walk(&key.value()) + walk(value)).sum()
        }
        _ => 1,
    }
}

/// One way to call a function.
#[derive(Debug)]
pub(crate) struct Overload {
    /// Of the function.
    pub(crate) name: &'static str,
    /// Called on its first parameter (`x.f(y)`).
    pub(crate) member: bool,
    pub(crate) params: Vec<Type>,
    pub(crate) result: Type,
    pub(crate) cost: Cost,
    pub(crate) body: Body,
}

impl Overload {
    /// `matches`, whose pattern may be compiled already.
    pub(crate) fn is_match(&self) -> bool {
        self.cost == Cost::Pattern && matches!(self.result, Type::Bool)
    }
}

/// All ways to call what has one name.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: &'static str,
    pub(crate) overloads: Vec<Overload>,
}

static FUNCTIONS: LazyLock<HashMap<&'static str, Function>> = LazyLock::new(|| {
    let tables = [
        operators::TABLE,
        convert::TABLE,
        strings::TABLE,
        text::TABLE,
        url::TABLE,
        lists::TABLE,
        sets::TABLE,
        net::TABLE,
        time::TABLE,
        optional::TABLE,
        authorizer::TABLE,
    ];
    let mut all = HashMap::new();
    for (signature, cost, body) in tables.into_iter().flatten() {
        let (name, overload) = overload(signature, *cost, *body);
        let function = all.entry(name).or_insert_with(|| Function { name, overloads: Vec::new() });
        function.overloads.push(overload);
    }
    all
});

/// The function of a name.
pub(crate) fn find(name: &str) -> Option<&'static Function> {
    FUNCTIONS.get(name)
}

/// `receiver::name(params) -> result`, or without a receiver. Only our own tables are parsed.
fn overload(signature: &'static str, cost: Cost, body: Body) -> (&'static str, Overload) {
    let (call, result) = signature.rsplit_once(" -> ").unwrap_or((signature, "dyn"));
    let (receiver, call) = match call.split_once("::") {
        Some((receiver, call)) => (Some(receiver), call),
        None => (None, call),
    };
    let (name, params) = call.split_once('(').unwrap_or((call, ")"));
    let params = params.strip_suffix(')').unwrap_or(params);
    let params = receiver.into_iter().chain(split(params)).map(ty).collect();
    (name, Overload { name, member: receiver.is_some(), params, result: ty(result), cost, body })
}

/// Parts between commas that lie in no parentheses.
fn split(text: &'static str) -> Vec<&'static str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth -= 1,
            b',' if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    let last = text[start..].trim();
    if !last.is_empty() {
        parts.push(last);
    }
    parts
}

fn ty(text: &'static str) -> Type {
    if let Some((name, of)) = text.strip_suffix(')').and_then(|text| text.split_once('(')) {
        let mut of = split(of).into_iter().map(ty);
        let mut next = || of.next().unwrap_or(Type::Dyn);
        return match name {
            "list" => Type::list(next()),
            "map" => Type::map(next(), next()),
            _ => Type::optional(next()),
        };
    }
    match text {
        "dyn" => Type::Dyn,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "null" => Type::Null,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        "type" => Type::TypeOf(None),
        "quantity" => Type::Opaque("kubernetes.Quantity"),
        "url" => Type::Opaque("kubernetes.URL"),
        "ip" => Type::Opaque("net.IP"),
        "cidr" => Type::Opaque("net.CIDR"),
        "semver" => Type::Opaque("kubernetes.Semver"),
        "format" => Type::Opaque("kubernetes.NamedFormat"),
        "Authorizer" => Type::Opaque(authorizer::AUTHORIZER),
        "PathCheck" => Type::Opaque(authorizer::PATH),
        "GroupCheck" => Type::Opaque(authorizer::GROUP),
        "ResourceCheck" => Type::Opaque(authorizer::RESOURCE),
        "Decision" => Type::Opaque(authorizer::DECISION),
        letter => Type::Param(letter.bytes().next().map_or(0, u32::from)),
    }
}

/// Whether a value may be given for a parameter; what is inside of lists and maps shows when it is used.
pub(crate) fn fits(value: &Val<'_>, param: &Type) -> bool {
    match (param, value) {
        (Type::Dyn | Type::Error | Type::Param(_), _)
        | (Type::Null, Val::Null)
        | (Type::Bool, Val::Bool(_))
        | (Type::Int, Val::Int(_))
        | (Type::Uint, Val::Uint(_))
        | (Type::Double, Val::Double(_))
        | (Type::String, Val::String(_))
        | (Type::Bytes, Val::Bytes(_))
        | (Type::Timestamp, Val::Timestamp(_))
        | (Type::Duration, Val::Duration(_))
        | (Type::List(_), Val::List(_))
        | (Type::Map(..) | Type::Object(_), Val::Map(_))
        | (Type::TypeOf(_), Val::Type(_)) => true,
        (Type::Optional(of), Val::Optional(value)) => match value {
            Some(value) => fits(value, of),
            None => true,
        },
        (Type::Opaque(name), Val::Opaque(opaque)) => opaque.type_name() == *name,
        _ => false,
    }
}

/// A text argument.
pub(crate) fn text<'v>(args: &'v [Val<'_>], at: usize) -> Result<&'v str, EvalError> {
    args.get(at).and_then(Val::as_str).ok_or_else(EvalError::no_such_overload)
}

/// An int argument.
fn int(args: &[Val<'_>], at: usize) -> Result<i64, EvalError> {
    match args.get(at) {
        Some(Val::Int(int)) => Ok(*int),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// A list argument.
fn list<'v, 'a>(args: &'v [Val<'a>], at: usize) -> Result<&'v crate::value::List<'a>, EvalError> {
    match args.get(at) {
        Some(Val::List(list)) => Ok(list),
        _ => Err(EvalError::no_such_overload()),
    }
}
