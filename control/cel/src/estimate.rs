//! What an expression may cost at worst, worked out from how large its data may be: upstream refuses definitions by it.
//!
//! The walk keeps, for each part of an expression, its cost, the size of its value where that is known, and the declaration of the
//! data that it is, from which the sizes of what is in it follow. Numbers that do not fit are the largest there is.
//!
//! Source: `checker/cost.go` of cel-go, and `k8s.io/apiserver/pkg/cel/library/cost.go`.

use std::sync::Arc;

use crate::check::{Fold, FoldKind, Kind, Node};
use crate::functions::{CHARACTER, Cost, Overload, PATTERN};
use crate::types::{Decl, Shape, Type};

const LIST: u64 = 10;
const MAP: u64 = 30;
const OBJECT: u64 = 40;
/// Of what nobody knows the size.
const UNKNOWN: Size = Size { least: 0, most: u64::MAX };
/// The largest regular expression behind a named format, in characters.
const LARGEST_FORMAT: u64 = 128;

/// Bounds of a size.
#[derive(Debug, Clone, Copy)]
struct Size {
    least: u64,
    most: u64,
}

impl Size {
    fn of(size: usize) -> Self {
        let size = size as u64;
        Self { least: size, most: size }
    }

    fn or(self, other: Self) -> Self {
        Self { least: self.least.min(other.least), most: self.most.max(other.most) }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            least: self.least.saturating_add(other.least),
            most: self.most.saturating_add(other.most),
        }
    }

    fn times(self, other: Self) -> Self {
        Self {
            least: self.least.saturating_mul(other.least),
            most: self.most.saturating_mul(other.most),
        }
    }
}

/// What is known of a part.
struct Part {
    cost: u64,
    size: Option<Size>,
    decl: Option<Arc<Decl>>,
    /// Sizes of a list's items, or of a map's keys and values, that an expression makes.
    entries: Option<(Size, Size)>,
}

impl Part {
    fn cost(cost: u64) -> Self {
        Self { cost, size: None, decl: None, entries: None }
    }

    fn sized(self, size: Size) -> Self {
        Self { size: Some(size), ..self }
    }
}

/// What the expression costs at most; `variables` are how its variables look, where that is known.
pub(crate) fn most(root: &Node, variables: &[Option<Arc<Decl>>]) -> u64 {
    Walk { variables, locals: Vec::new() }.part(root).cost
}

struct Walk<'v> {
    variables: &'v [Option<Arc<Decl>>],
    /// Of macros: the declaration and the size of what they are bound to.
    locals: Vec<(Option<Arc<Decl>>, Option<Size>)>,
}

/// The size of data of that declaration.
fn size_of(decl: &Decl) -> Size {
    let most = match decl.shape {
        Shape::Object(_) | Shape::Open => i64::MAX as u64,
        Shape::Dyn => decl.max.unwrap_or(u64::MAX),
        _ => decl.max.unwrap_or(0),
    };
    Size { least: 0, most }
}

/// The size of a part, from whatever tells it.
fn size(part: &Part, ty: &Type) -> Size {
    if let Some(size) = part.size {
        return size;
    }
    if let Some(decl) = &part.decl {
        return size_of(decl);
    }
    if is_scalar(ty) { Size::of(1) } else { UNKNOWN }
}

fn is_scalar(ty: &Type) -> bool {
    match ty {
        Type::Bool
        | Type::Double
        | Type::Duration
        | Type::Int
        | Type::Timestamp
        | Type::Uint
        | Type::Null => true,
        Type::Optional(of) => is_scalar(of),
        _ => false,
    }
}

fn scaled(size: u64, factor: f64) -> u64 {
    // Conversion from what is too large gives the largest.
    (size as f64 * factor).ceil() as u64
}

fn walked(size: Size, times: f64) -> u64 {
    scaled(size.most, times * CHARACTER)
}

impl Walk<'_> {
    fn part(&mut self, node: &Node) -> Part {
        match &node.kind {
            Kind::Null | Kind::Bool(_) | Kind::Int(_) | Kind::Uint(_) | Kind::Double(_) => {
                Part::cost(0).sized(Size::of(1))
            }
            Kind::String(text) => Part::cost(0).sized(Size::of(text.chars().count())),
            Kind::Bytes(bytes) => Part::cost(0).sized(Size::of(bytes.len())),
            Kind::TypeName(_) => Part::cost(1),
            Kind::Variable(at) => {
                Part { decl: self.variables.get(*at).cloned().flatten(), ..Part::cost(1) }
            }
            Kind::Composed(_) => Part::cost(2),
            Kind::Local(at) => {
                let (decl, size) = self.locals.get(*at).cloned().unwrap_or_default();
                Part { decl, size, ..Part::cost(1) }
            }
            Kind::Select { operand, field, optional } => {
                let of = self.part(operand);
                let selects = *optional
                    || matches!(operand.ty, Type::Map(..) | Type::Object(_) | Type::Param(_));
                let decl = match *optional {
                    true => None,
                    false => of.decl.and_then(|decl| Some(decl.field(field)?.decl.clone())),
                };
                let cost = of.cost.saturating_add(u64::from(selects));
                Part { decl, ..Part::cost(cost) }
            }
            Kind::Has { operand, .. } => Part::cost(self.part(operand).cost),
            Kind::And(nodes) | Kind::Or(nodes) => {
                let [a, b] = nodes.each_ref().map(|node| self.part(node).cost);
                Part::cost(a.saturating_add(b)).sized(Size::of(1))
            }
            Kind::Conditional(nodes) => {
                let [condition, yes, no] = nodes.each_ref().map(|node| self.part(node));
                let sizes = size(&yes, &nodes[1].ty).or(size(&no, &nodes[2].ty));
                let cost = condition.cost.saturating_add(yes.cost.max(no.cost));
                let entries = yes.entries.zip(no.entries).map(|(a, b)| (a.0.or(b.0), a.1.or(b.1)));
                Part { entries, ..Part::cost(cost).sized(sizes) }
            }
            Kind::Call { overloads, args, .. } => self.call(overloads, args),
            Kind::List(items) => {
                let mut cost = LIST;
                let mut sizes: Option<Size> = None;
                for (item, _) in items {
                    let part = self.part(item);
                    let size = size(&part, &item.ty);
                    sizes = Some(sizes.map_or(size, |known| known.or(size)));
                    cost = cost.saturating_add(part.cost);
                }
                let entries = Some((Size::of(1), sizes.unwrap_or(Size::of(0))));
                Part { entries, ..Part::cost(cost).sized(Size::of(items.len())) }
            }
            Kind::Map(entries) => {
                let mut cost = MAP;
                let mut sizes: Option<(Size, Size)> = None;
                for (key_node, value_node, _) in entries {
                    let (key, value) = (self.part(key_node), self.part(value_node));
                    cost = cost.saturating_add(key.cost).saturating_add(value.cost);
                    let pair = (size(&key, &key_node.ty), size(&value, &value_node.ty));
                    sizes =
                        Some(sizes.map_or(pair, |known| (known.0.or(pair.0), known.1.or(pair.1))));
                }
                let sizes = sizes.unwrap_or((Size::of(0), Size::of(0)));
                Part { entries: Some(sizes), ..Part::cost(cost).sized(Size::of(entries.len())) }
            }
            Kind::Object(_, fields) => Part::cost(
                fields
                    .iter()
                    .fold(OBJECT, |cost, (_, node, _)| cost.saturating_add(self.part(node).cost)),
            ),
            Kind::Fold(fold) => self.fold(fold),
            Kind::Optional { target, body, .. } => {
                // hasValue() ? optional.of(bind(x, value(), …)) : optional.none()
                let of = self.part(target).cost;
                self.locals.push((None, None));
                let body = self.part(body).cost;
                self.locals.pop();
                let bound = of.saturating_mul(2).saturating_add(body);
                Part::cost(bound.saturating_add(3 + LIST))
            }
        }
    }

    /// Costs are those of upstream's expansion of the macros into loops over an accumulator.
    fn fold(&mut self, fold: &Fold) -> Part {
        let range = self.part(&fold.range);
        let count = size(&range, &fold.range.ty);
        let depth = self.locals.len();
        let (first, second) = bound(&range, &fold.range.ty, fold.two);
        self.locals.push(first);
        if fold.two {
            self.locals.push(second);
        }
        let filter = fold.filter.as_ref().map(|filter| self.part(filter).cost);
        let body = self.part(&fold.body);
        self.locals.truncate(depth);
        let step = match fold.over {
            FoldKind::All => 3,
            FoldKind::Exists => 4,
            FoldKind::ExistsOne => 2,
            FoldKind::List => 2 + LIST,
            FoldKind::Map => 3,
            FoldKind::Entries => 2,
        };
        let step = filter.unwrap_or(0).saturating_add(body.cost).saturating_add(step);
        let (start, end, sized) = match fold.over {
            FoldKind::All | FoldKind::Exists => (0, 1, Size::of(1)),
            FoldKind::ExistsOne => (0, 2, Size::of(1)),
            FoldKind::List => (LIST, 1, count),
            FoldKind::Map | FoldKind::Entries => (MAP, 1, count),
        };
        let item = size(&body, &fold.body.ty);
        let entries = (fold.over == FoldKind::List).then_some((Size::of(1), item));
        let rounds = count.most.saturating_mul(step);
        let cost = range.cost.saturating_add(rounds).saturating_add(start + end);
        Part { entries, ..Part::cost(cost).sized(sized) }
    }

    fn call(&mut self, overloads: &[&'static Overload], nodes: &[Node]) -> Part {
        let args: Vec<Part> = nodes.iter().map(|node| self.part(node)).collect();
        let given = args.iter().fold(0_u64, |cost, arg| cost.saturating_add(arg.cost));
        let (mut cost, mut sized, mut decl, mut entries) = (0, None, None, None);
        for overload in overloads {
            let found = one(overload, &args, nodes);
            cost = cost.max(found.cost);
            sized = match (sized, found.size) {
                (Some(a), Some(b)) => Some(Size::or(a, b)),
                (a, b) => a.or(b),
            };
            decl = decl.or(found.decl);
            entries = entries.or(found.entries);
        }
        Part { cost: given.saturating_add(cost), size: sized, decl, entries }
    }
}

type Local = (Option<Arc<Decl>>, Option<Size>);

/// What a macro's variables stand for.
fn bound(range: &Part, ty: &Type, two: bool) -> (Local, Local) {
    let (keys, values) = match range.entries {
        Some((keys, values)) => (Some(keys), Some(values)),
        None => (None, None),
    };
    let is_list = match &range.decl {
        Some(decl) => matches!(decl.shape, Shape::List(..)),
        None => matches!(ty, Type::List(_)),
    };
    let (key, value) = match range.decl.as_ref().map(|decl| &decl.shape) {
        Some(Shape::List(items, _)) => (None, Some(items.clone())),
        Some(Shape::Map(values)) => (Some(text()), Some(values.clone())),
        _ => (None, None),
    };
    match (two, is_list) {
        (true, true) => ((Some(Decl::of(Shape::Int)), Some(Size::of(1))), (value, values)),
        (false, true) => ((value, values), Local::default()),
        (_, false) => ((key, keys), (value, values)),
    }
}

/// A key of a map: it has no bound of its own.
fn text() -> Arc<Decl> {
    Arc::new(Decl { shape: Shape::String, max: Some(0), ..Decl::default() })
}

/// One overload's cost without that of its arguments, and what is known of its result.
fn one(overload: &Overload, args: &[Part], nodes: &[Node]) -> Part {
    let size = |at: usize| match (args.get(at), nodes.get(at)) {
        (Some(part), Some(node)) => size(part, &node.ty),
        _ => UNKNOWN,
    };
    let first = || size(0);
    let text = overload.params.first().is_some_and(|ty| matches!(ty, Type::String));
    match overload.name {
        "check" => Part::cost(350_000),
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" if !text => {
            let item = items(&args[0]);
            let deep = match overload.params.first() {
                Some(Type::List(of)) => match (&**of, &item) {
                    (Type::String | Type::Bytes, _) | (Type::Param(_), Some((true, _))) => {
                        walked(item.map_or(UNKNOWN, |(_, size)| size), 1.0)
                    }
                    _ => 0,
                },
                _ => 0,
            };
            Part::cost(first().most.saturating_mul(deep.saturating_add(1)))
        }
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" | "url" => {
            Part::cost(walked(first(), 1.0))
        }
        "lowerAscii" | "upperAscii" | "substring" | "trim" => {
            Part::cost(walked(first(), 1.0)).sized(first())
        }
        "replace" => {
            let made = replaced(first(), size(1), size(2));
            Part::cost(walked(first(), 2.0)).sized(made)
        }
        "split" => {
            let limit = match nodes.get(2).map(|node| &node.kind) {
                Some(Kind::Int(limit)) => u64::try_from(*limit).unwrap_or(first().most),
                _ => first().most,
            };
            Part::cost(walked(first(), 2.0)).sized(Size { least: 0, most: limit })
        }
        "join" => {
            let mut made = Size::of(0);
            if let Some((_, item)) = items(&args[0]) {
                made = first().times(item);
            }
            if args.len() > 1 {
                let between = Size {
                    least: first().least.saturating_sub(1),
                    most: first().most.saturating_sub(1),
                };
                made = made.plus(size(1).times(between));
            }
            Part::cost(walked(made, 1.0)).sized(made)
        }
        "find" | "findAll" | "matches" => {
            let cost = walked(first().plus(Size::of(1)), 1.0)
                .saturating_mul(scaled(size(1).most, PATTERN));
            let found = Size { least: 0, most: first().most };
            match overload.name {
                "matches" => Part::cost(cost),
                _ => Part::cost(cost).sized(found),
            }
        }
        "containsIP" | "containsCIDR" => {
            let mut cost = scaled(32, CHARACTER);
            if overload.name == "containsCIDR" {
                cost += scaled(16, CHARACTER) + 1;
            }
            if matches!(overload.params.get(1), Some(Type::String)) {
                cost = cost.saturating_add(walked(size(1), 1.0));
            }
            Part::cost(cost)
        }
        "validate" => {
            let pattern = scaled(LARGEST_FORMAT, PATTERN);
            Part::cost(walked(size(1), 1.0).saturating_mul(pattern))
        }
        "format" | "strings.quote" => {
            let quoted = Size { least: first().least, most: first().most.saturating_mul(2) };
            let made =
                if overload.name == "format" { None } else { Some(quoted.plus(Size::of(2))) };
            Part { size: made, ..Part::cost(walked(first(), 1.0)) }
        }
        "bytes" if text => {
            let made = Size { least: first().least, most: first().most.saturating_mul(4) };
            Part::cost(walked(first(), 1.0)).sized(made)
        }
        "string" if matches!(overload.params.first(), Some(Type::Bytes)) => {
            let made = Size { least: first().least / 4, most: first().most };
            Part::cost(walked(first(), 1.0)).sized(made)
        }
        "startsWith" | "endsWith" => Part::cost(walked(size(1), 1.0)),
        "contains" => Part::cost(walked(first(), 1.0).saturating_mul(walked(size(1), 1.0))),
        "@in" if matches!(overload.params.get(1), Some(Type::List(_))) => Part::cost(size(1).most),
        "_+_" if matches!(overload.params.first(), Some(Type::String | Type::Bytes)) => {
            let made = first().plus(size(1));
            Part::cost(walked(made, 1.0)).sized(made)
        }
        "_+_" if matches!(overload.params.first(), Some(Type::List(_))) => {
            let both = args[0].entries.zip(args[1].entries);
            let entries = both.map(|(a, b)| (a.0.or(b.0), a.1.or(b.1)));
            Part { entries, ..Part::cost(1).sized(first().plus(size(1))) }
        }
        "_==_" | "_!=_" => Part::cost(scaled(first().most.min(size(1).most), CHARACTER)),
        "_<_" | "_<=_" | "_>_" | "_>=_" if overload.cost == Cost::Smaller => {
            Part::cost(scaled(first().most.min(size(1).most), CHARACTER))
        }
        "_[_]" | "_[?_]" => {
            match (args[0].decl.as_ref().map(|decl| &decl.shape), args[0].entries) {
                (Some(Shape::List(of, _) | Shape::Map(of)), _) => {
                    Part { decl: Some(of.clone()), ..Part::cost(1) }
                }
                (_, Some((_, values))) => Part::cost(1).sized(values),
                _ => Part::cost(1),
            }
        }
        "dyn" => Part {
            decl: args[0].decl.clone(),
            entries: args[0].entries,
            ..Part { size: args[0].size, ..Part::cost(1) }
        },
        _ => match overload.cost {
            Cost::Product(times) => {
                let product = first().times(size(1)).most;
                Part::cost(scaled(product, times).saturating_add(1))
            }
            _ => Part::cost(1),
        },
    }
}

/// Whether a list's items are text or octets, and their size.
fn items(list: &Part) -> Option<(bool, Size)> {
    match (list.decl.as_ref().map(|decl| &decl.shape), list.entries) {
        (Some(Shape::List(items, _)), _) => {
            let deep = matches!(items.shape, Shape::String | Shape::Bytes);
            Some((deep, size_of(items)))
        }
        (_, Some((_, size))) => Some((false, size)),
        _ => None,
    }
}

/// The size of a text in which parts of one size are replaced by parts of another.
fn replaced(text: Size, from: Size, to: Size) -> Size {
    let most = if from.least == 0 {
        // Around every character.
        text.most.saturating_add(1).saturating_mul(to.most).saturating_add(text.most)
    } else if to.most <= from.least {
        text.most
    } else {
        text.most.div_ceil(from.least).saturating_mul(to.most)
    };
    let least = if from.most == 0 {
        text.least.saturating_add(1).saturating_mul(to.least).saturating_add(text.least)
    } else if from.most <= to.least {
        text.least
    } else {
        text.least.div_ceil(from.most).saturating_mul(to.least)
    };
    Size { least, most }
}
