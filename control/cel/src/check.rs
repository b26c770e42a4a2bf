//! From syntax tree to [`Node`]s: names are resolved, macros expanded, overloads chosen, types unified, as upstream's
//! checker does it and with its words. Everything wrong is reported, not only the first.

mod unify;

use std::sync::Arc;

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SelectExpr, SourceInfo};

use crate::functions::{self, Function, Overload};
use crate::parse::DEPTH;
use crate::types::{Shape, Type};
use crate::value::Val;
use crate::{CompileError, Env};
use unify::Unifier;

/// A checked expression.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) ty: Type,
}

impl Node {
    /// Levels of the tree.
    pub(crate) fn depth(&self) -> usize {
        1 + self.children().into_iter().map(Node::depth).max().unwrap_or(0)
    }

    /// Whether the variable at this place is named.
    pub(crate) fn names(&self, at: usize) -> bool {
        matches!(self.kind, Kind::Variable(of) if of == at)
            || self.children().into_iter().any(|child| child.names(at))
    }

    fn children(&self) -> Vec<&Node> {
        match &self.kind {
            Kind::Select { operand, .. } | Kind::Has { operand, .. } => vec![operand],
            Kind::And(nodes) | Kind::Or(nodes) => nodes.iter().collect(),
            Kind::Conditional(nodes) => nodes.iter().collect(),
            Kind::Call { args, .. } => args.iter().collect(),
            Kind::List(items) => items.iter().map(|(item, _)| item).collect(),
            Kind::Map(entries) => entries.iter().flat_map(|(k, v, _)| [k, v]).collect(),
            Kind::Object(_, fields) => fields.iter().map(|(_, value, _)| value).collect(),
            Kind::Fold(fold) => [&fold.range, &fold.body].into_iter().chain(&fold.filter).collect(),
            Kind::Optional { target, body, .. } => vec![target, body],
            _ => Vec::new(),
        }
    }
}

/// What a checked expression does.
#[derive(Debug)]
pub(crate) enum Kind {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(String),
    Bytes(Vec<u8>),
    /// A type's name as a value.
    TypeName(String),
    /// A declared variable, by its place in the environment.
    Variable(usize),
    /// A composed variable, by its place.
    Composed(usize),
    /// A macro's variable, by its place from the outermost.
    Local(usize),
    Select {
        operand: Box<Node>,
        field: String,
        optional: bool,
    },
    Has {
        operand: Box<Node>,
        field: String,
    },
    And(Box<[Node; 2]>),
    Or(Box<[Node; 2]>),
    Conditional(Box<[Node; 3]>),
    /// Of these overloads the first that fits the values.
    Call {
        overloads: Vec<&'static Overload>,
        args: Vec<Node>,
        regex: Option<regex::Regex>,
    },
    /// Items, and which are optional.
    List(Vec<(Node, bool)>),
    /// Keys, values, and which are optional.
    Map(Vec<(Node, Node, bool)>),
    /// An object of this type: fields in JSON, values, and which are optional.
    Object(String, Vec<(String, Node, bool)>),
    Fold(Box<Fold>),
    /// `optMap`, `optFlatMap`.
    Optional {
        target: Box<Node>,
        body: Box<Node>,
        flat: bool,
    },
}

/// A macro that goes through a list or map.
#[derive(Debug)]
pub(crate) struct Fold {
    pub(crate) over: FoldKind,
    pub(crate) range: Node,
    /// Whether it binds key and value; else the item, or the key.
    pub(crate) two: bool,
    pub(crate) filter: Option<Node>,
    /// The predicate or what is made of each item.
    pub(crate) body: Node,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FoldKind {
    All,
    Exists,
    ExistsOne,
    /// `map`, `filter` and `transformList`.
    List,
    /// `transformMap`.
    Map,
    /// `transformMapEntry`.
    Entries,
}

/// Types that have a name.
const TYPE_NAMES: &[(&str, &str, Type)] = &[
    ("bool", "bool", Type::Bool),
    ("bytes", "bytes", Type::Bytes),
    ("double", "double", Type::Double),
    ("int", "int", Type::Int),
    ("list", "list", Type::Dyn),
    ("map", "map", Type::Dyn),
    ("null_type", "null_type", Type::Null),
    ("string", "string", Type::String),
    ("type", "type", Type::Dyn),
    ("uint", "uint", Type::Uint),
    ("google.protobuf.Timestamp", "google.protobuf.Timestamp", Type::Timestamp),
    ("google.protobuf.Duration", "google.protobuf.Duration", Type::Duration),
    ("optional_type", "optional_type", Type::Dyn),
    ("kubernetes.Quantity", "kubernetes.Quantity", Type::Opaque("kubernetes.Quantity")),
    ("kubernetes.URL", "kubernetes.URL", Type::Opaque("kubernetes.URL")),
    ("kubernetes.Semver", "kubernetes.Semver", Type::Opaque("kubernetes.Semver")),
    ("net.IP", "net.IP", Type::Opaque("net.IP")),
    ("net.CIDR", "net.CIDR", Type::Opaque("net.CIDR")),
];

/// Checks a syntax tree against what is declared.
pub(crate) fn check(
    env: &Env,
    tree: &IdedExpr,
    source: &SourceInfo,
    expected: &[Type],
) -> Result<Node, CompileError> {
    let mut checker = Checker {
        env,
        source,
        found: Vec::new(),
        unifier: Unifier::default(),
        locals: Vec::new(),
        depth: 0,
        literals: Vec::new(),
        formats: 0,
    };
    let mut node = checker.check(tree);
    node.ty = checker.unifier.resolve(&node.ty, true);
    if checker.found.is_empty() {
        checker.check_literals();
    }
    if checker.found.is_empty() && !expected.is_empty() && !expected.contains(&node.ty) {
        return Err(CompileError::result(expected, &node.ty));
    }
    if checker.found.is_empty() {
        Ok(node)
    } else {
        Err(CompileError::new(&source.source, checker.found))
    }
}

struct Checker<'e> {
    env: &'e Env,
    source: &'e SourceInfo,
    found: Vec<((usize, usize), String)>,
    unifier: Unifier,
    /// Macros' variables in scope, the innermost last.
    locals: Vec<(String, Type)>,
    depth: usize,
    /// Elements of each list, keys of each map, values of each map that is written out: they must be of one type.
    literals: Vec<Vec<(u64, Type)>>,
    /// How many calls of `format` are around, whose values may be of any types.
    formats: usize,
}

impl Checker<'_> {
    /// Finds what is written out with elements of several types; what is not declared may be of any.
    fn check_literals(&mut self) {
        for elements in std::mem::take(&mut self.literals) {
            let mut types = elements.iter().map(|(id, ty)| (*id, self.unifier.resolve(ty, true)));
            let Some((_, first)) = types.next() else { continue };
            let odd = types.find(|(_, ty)| !unify::alike(&first, ty));
            if let Some((id, ty)) = odd {
                self.wrong(id, format!("expected type '{first}' but found '{ty}'"));
            }
        }
    }

    fn wrong(&mut self, id: u64, why: String) -> Node {
        let offset = self.source.offset_for(id).map_or(0, |(start, _)| start as usize);
        let before = self.source.source.get(..offset).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count());
        self.found.push(((line, column), why));
        Node { kind: Kind::Null, ty: Type::Error }
    }

    fn check(&mut self, e: &IdedExpr) -> Node {
        self.depth += 1;
        let node = if self.depth > DEPTH {
            self.wrong(e.id, format!("expression recursion limit exceeded: {DEPTH}"))
        } else {
            self.check_kind(e)
        };
        self.depth -= 1;
        node
    }

    fn check_kind(&mut self, e: &IdedExpr) -> Node {
        match &e.expr {
            Expr::Literal(literal) => self::literal(literal),
            Expr::Ident(name) => self.ident(e.id, name),
            Expr::Select(select) => self.select(e, select),
            Expr::Call(call) => self.call(e.id, call),
            Expr::List(list) => {
                let mut ty = None;
                let (mut items, mut types) = (Vec::new(), Vec::new());
                for (at, item) in list.elements.iter().enumerate() {
                    let optional = list.optional_indices.contains(&at);
                    let node = self.check(item);
                    let item_ty = self.unwrap(item.id, &node.ty, optional);
                    types.push((item.id, item_ty.clone()));
                    ty = Some(self.join(ty, item_ty));
                    items.push((node, optional));
                }
                self.one_type([types]);
                let ty = ty.unwrap_or_else(|| self.unifier.fresh());
                Node { kind: Kind::List(items), ty: Type::list(ty) }
            }
            Expr::Map(map) => {
                let (mut keys, mut values) = (None, None);
                let mut entries = Vec::new();
                let mut types = [Vec::new(), Vec::new()];
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else { continue };
                    let key = self.check(&entry.key);
                    types[0].push((entry.key.id, key.ty.clone()));
                    keys = Some(self.join(keys, key.ty.clone()));
                    let value = self.check(&entry.value);
                    let ty = self.unwrap(entry.value.id, &value.ty, entry.optional);
                    types[1].push((entry.value.id, ty.clone()));
                    values = Some(self.join(values, ty));
                    entries.push((key, value, entry.optional));
                }
                self.one_type(types);
                let keys = keys.unwrap_or_else(|| self.unifier.fresh());
                let values = values.unwrap_or_else(|| self.unifier.fresh());
                Node { kind: Kind::Map(entries), ty: Type::map(keys, values) }
            }
            Expr::Struct(object) => self.object(e.id, &object.type_name, &object.entries),
            // Macros are expanded here, so the parser makes neither.
            Expr::Comprehension(_) | Expr::Unspecified => {
                self.wrong(e.id, "unsupported expression".into())
            }
        }
    }

    /// The type within an optional element.
    fn unwrap(&mut self, id: u64, ty: &Type, optional: bool) -> Type {
        if !optional {
            return ty.clone();
        }
        match self.unifier.resolve(ty, false) {
            Type::Optional(of) => (*of).clone(),
            ty if ty.is_dyn_or_error() => ty,
            ty => {
                let wanted = Type::optional(ty.clone());
                self.wrong(id, format!("expected type '{wanted}' but found '{ty}'"));
                Type::Error
            }
        }
    }

    /// Notes elements that must be of one type.
    fn one_type(&mut self, elements: impl IntoIterator<Item = Vec<(u64, Type)>>) {
        if self.formats == 0 {
            self.literals.extend(elements);
        }
    }

    /// The common type of elements; `dyn` if there is none.
    fn join(&mut self, known: Option<Type>, next: Type) -> Type {
        match known {
            None => next,
            Some(known) if self.unifier.assignable(&known, &next) => unify::general(known, next),
            Some(_) => Type::Dyn,
        }
    }

    fn variable(&self, name: &str) -> Option<Node> {
        let name = name.strip_prefix('.').unwrap_or(name);
        if let Some(at) = self.locals.iter().rposition(|(known, _)| known == name) {
            return Some(Node { kind: Kind::Local(at), ty: self.locals[at].1.clone() });
        }
        if let Some(at) = self.env.variables.iter().position(|(known, _)| known == name) {
            return Some(Node { kind: Kind::Variable(at), ty: self.env.variables[at].1.clone() });
        }
        let (_, shown, of) = TYPE_NAMES.iter().find(|(known, ..)| *known == name)?;
        let ty = Type::TypeOf(Some(Arc::new(of.clone())));
        Some(Node { kind: Kind::TypeName((*shown).into()), ty })
    }

    fn ident(&mut self, id: u64, name: &str) -> Node {
        match self.variable(name) {
            Some(node) => node,
            None => self.wrong(id, format!("undeclared reference to '{name}' (in container '')")),
        }
    }

    fn select(&mut self, e: &IdedExpr, select: &SelectExpr) -> Node {
        if let Some(name) = qualified(e)
            && !self.is_local(&name)
            && let Some(node) = self.variable(&name)
        {
            return node;
        }
        if let Some(node) = self.composed(e.id, &select.operand, &select.field) {
            return node;
        }
        let operand = self.check(&select.operand);
        let ty = self.field(e.id, &operand.ty, &select.field, false);
        let field = select.field.clone();
        Node { kind: Kind::Select { operand: Box::new(operand), field, optional: false }, ty }
    }

    /// Whether the first part of a qualified name is a macro's variable, which hides others.
    fn is_local(&self, name: &str) -> bool {
        let first = name.split('.').next().unwrap_or_default();
        self.locals.iter().any(|(known, _)| known == first)
    }

    /// `variables.name`.
    fn composed(&mut self, id: u64, operand: &IdedExpr, field: &str) -> Option<Node> {
        let Expr::Ident(name) = &operand.expr else { return None };
        if name != "variables" || !self.env.composes || self.is_local(name) {
            return None;
        }
        Some(match self.env.composed.iter().position(|(known, _)| known == field) {
            Some(at) => Node { kind: Kind::Composed(at), ty: self.env.composed[at].1.clone() },
            None => self.wrong(id, format!("undefined field '{field}'")),
        })
    }

    fn field(&mut self, id: u64, of: &Type, field: &str, optional: bool) -> Type {
        let of = self.unifier.resolve(of, false);
        let (target, is_optional) = match &of {
            Type::Optional(of) => ((**of).clone(), true),
            _ => (of, false),
        };
        let ty = match &target {
            Type::Map(_, values) => (**values).clone(),
            Type::Object(decl) => match decl.field(field) {
                Some(field) => field.decl.ty(),
                None if matches!(decl.shape, Shape::Open) => Type::Dyn,
                None => {
                    self.wrong(id, format!("undefined field '{field}'"));
                    Type::Error
                }
            },
            Type::Param(_) => {
                self.unifier.assignable(&Type::Dyn, &target);
                Type::Dyn
            }
            other => {
                if !other.is_dyn_or_error() {
                    let why = format!("type '{other}' does not support field selection");
                    self.wrong(id, why);
                }
                Type::Dyn
            }
        };
        if optional || is_optional { Type::optional(ty) } else { ty }
    }

    fn call(&mut self, id: u64, call: &CallExpr) -> Node {
        let name = call.func_name.as_str();
        if let Some(node) = self.expand(id, call) {
            return node;
        }
        match (name, &call.args[..]) {
            ("_?._", [operand, field]) => {
                let Expr::Literal(LiteralValue::String(field)) = &field.expr else {
                    return self.wrong(id, "unsupported optional field selection".into());
                };
                let field = field.inner().to_owned();
                let operand = self.check(operand);
                let ty = self.field(id, &operand.ty, &field, true);
                let operand = Box::new(operand);
                return Node { kind: Kind::Select { operand, field, optional: true }, ty };
            }
            ("_&&_" | "_||_", [a, b]) => {
                let nodes = Box::new([self.boolean(a), self.boolean(b)]);
                let kind = if name == "_&&_" { Kind::And(nodes) } else { Kind::Or(nodes) };
                return Node { kind, ty: Type::Bool };
            }
            ("_?_:_", [condition, yes, no]) => {
                let nodes = [self.check(condition), self.check(yes), self.check(no)];
                let [condition, yes, no] = &nodes;
                let fits = self.unifier.assignable(&condition.ty, &Type::Bool)
                    && self.unifier.assignable(&yes.ty, &no.ty);
                if !fits {
                    let types = nodes.each_ref().map(|node| node.ty.clone());
                    return self.no_overload(id, name, &types, false);
                }
                let ty = unify::general(yes.ty.clone(), no.ty.clone());
                return Node { kind: Kind::Conditional(Box::new(nodes)), ty };
            }
            _ => {}
        }
        let mut args: Vec<Node> = Vec::new();
        if let Some(target) = &call.target {
            if let Some(prefix) = qualified(target)
                && prefix == "math"
                && !self.is_local("math")
                && let Some(function) = math_function(name)
            {
                return self.extreme(id, name, function, &call.args);
            }
            if let Some(prefix) = qualified(target)
                && !self.is_local(&prefix)
                && let Some(function) = self.env.function(&format!("{prefix}.{name}"))
            {
                args.extend(call.args.iter().map(|arg| self.check(arg)));
                return self.resolve(id, function, false, args);
            }
            args.push(self.check(target));
        }
        let formats = usize::from(name == "format");
        self.formats += formats;
        args.extend(call.args.iter().map(|arg| self.check(arg)));
        self.formats -= formats;
        match self.env.function(name) {
            Some(function) => {
                let node = self.resolve(id, function, call.target.is_some(), args);
                self.literal_time(node, call)
            }
            None => self.wrong(id, format!("undeclared reference to '{name}' (in container '')")),
        }
    }

    /// Finds moments and lengths of time that are written out and are none.
    fn literal_time(&mut self, node: Node, call: &CallExpr) -> Node {
        let name = call.func_name.as_str();
        if let Kind::Call { overloads, args, .. } = &node.kind
            && matches!(name, "duration" | "timestamp")
            && let ([overload], [arg]) = (&overloads[..], &args[..])
            && let Kind::String(text) = &arg.kind
            && (overload.body)(&[Val::str(text)]).is_err()
        {
            let id = call.args.first().map_or(0, |arg| arg.id);
            return self.wrong(id, format!("invalid {name} argument"));
        }
        node
    }

    fn boolean(&mut self, e: &IdedExpr) -> Node {
        let node = self.check(e);
        if !self.unifier.assignable(&node.ty, &Type::Bool) {
            let ty = self.unifier.resolve(&node.ty, true);
            return self.wrong(e.id, format!("expected type 'bool' but found '{ty}'"));
        }
        node
    }

    fn resolve(
        &mut self,
        id: u64,
        function: &'static Function,
        member: bool,
        args: Vec<Node>,
    ) -> Node {
        let types: Vec<Type> = args.iter().map(|arg| arg.ty.clone()).collect();
        let mut result: Option<Type> = None;
        let mut overloads = Vec::new();
        for overload in &function.overloads {
            if overload.member != member || overload.params.len() != types.len() {
                continue;
            }
            let (params, returns) = self.unifier.instantiate(&overload.params, &overload.result);
            if !self.unifier.all_assignable(&types, &params) {
                continue;
            }
            overloads.push(overload);
            let returns = self.unifier.resolve(&returns, false);
            result = Some(match result {
                None => returns,
                Some(known) if known == returns => known,
                Some(_) => Type::Dyn,
            });
        }
        let Some(ty) = result else {
            return self.no_overload(id, function.name, &types, member);
        };
        let mut regex = None;
        if matches!(function.name, "matches" | "find" | "findAll")
            && let Some(Node { kind: Kind::String(pattern), .. }) = args.get(1)
        {
            match functions::pattern(pattern) {
                Ok(compiled) => regex = Some(compiled),
                Err(why) => return self.wrong(id, why.to_string()),
            }
        }
        Node { kind: Kind::Call { overloads, args, regex }, ty }
    }

    fn no_overload(&mut self, id: u64, name: &str, types: &[Type], member: bool) -> Node {
        let shown: Vec<String> =
            types.iter().map(|ty| self.unifier.resolve(ty, true).to_string()).collect();
        let signature = match (member, &shown[..]) {
            (true, [target, args @ ..]) => format!("{target}.({})", args.join(", ")),
            _ => format!("({})", shown.join(", ")),
        };
        self.wrong(id, format!("found no matching overload for '{name}' applied to '{signature}'"))
    }

    /// `math.greatest` and `math.least`, of one number or list, of two numbers, or of a list of more.
    fn extreme(&mut self, id: u64, name: &str, function: &str, given: &[IdedExpr]) -> Node {
        if given.is_empty() {
            return self.wrong(id, format!("math.{name}() requires at least one argument"));
        }
        for arg in given {
            let odd = match &arg.expr {
                Expr::Literal(literal) => !matches!(
                    literal,
                    LiteralValue::Int(_) | LiteralValue::UInt(_) | LiteralValue::Double(_)
                ),
                Expr::List(_) => given.len() > 1,
                Expr::Map(_) | Expr::Struct(_) => true,
                _ => false,
            };
            if odd {
                let why = match given.len() {
                    1 => format!("math.{name}() invalid single argument value"),
                    _ => format!("math.{name}() simple literal arguments must be numeric"),
                };
                return self.wrong(arg.id, why);
            }
        }
        let mut args: Vec<Node> = given.iter().map(|arg| self.check(arg)).collect();
        if args.len() > 2 {
            let mut ty = None;
            for arg in &args {
                ty = Some(self.join(ty, arg.ty.clone()));
            }
            let ty = Type::list(ty.unwrap_or(Type::Dyn));
            let items = args.into_iter().map(|arg| (arg, false)).collect();
            args = vec![Node { kind: Kind::List(items), ty }];
        }
        match self.env.function(function) {
            Some(function) => self.resolve(id, function, false, args),
            None => self.wrong(id, format!("undeclared reference to '{name}' (in container '')")),
        }
    }

    /// A macro's meaning, if the call is of one.
    fn expand(&mut self, id: u64, call: &CallExpr) -> Option<Node> {
        let args = &call.args[..];
        let Some(target) = &call.target else {
            let ("has", [argument]) = (call.func_name.as_str(), args) else { return None };
            return Some(self.has(id, argument));
        };
        let (over, two, filter, body) = match (call.func_name.as_str(), args) {
            ("all", [_, body]) => (FoldKind::All, false, None, Some(body)),
            ("all", [_, _, body]) => (FoldKind::All, true, None, Some(body)),
            ("exists", [_, body]) => (FoldKind::Exists, false, None, Some(body)),
            ("exists", [_, _, body]) => (FoldKind::Exists, true, None, Some(body)),
            ("exists_one" | "existsOne", [_, body]) => {
                (FoldKind::ExistsOne, false, None, Some(body))
            }
            ("exists_one" | "existsOne", [_, _, body]) => {
                (FoldKind::ExistsOne, true, None, Some(body))
            }
            ("map", [_, body]) => (FoldKind::List, false, None, Some(body)),
            ("map", [_, filter, body]) => (FoldKind::List, false, Some(filter), Some(body)),
            ("filter", [item, filter]) => (FoldKind::List, false, Some(filter), Some(item)),
            ("transformList", [_, _, body]) => (FoldKind::List, true, None, Some(body)),
            ("transformList", [_, _, filter, body]) => {
                (FoldKind::List, true, Some(filter), Some(body))
            }
            ("transformMap", [_, _, body]) => (FoldKind::Map, true, None, Some(body)),
            ("transformMap", [_, _, filter, body]) => {
                (FoldKind::Map, true, Some(filter), Some(body))
            }
            ("transformMapEntry", [_, _, body]) => (FoldKind::Entries, true, None, Some(body)),
            ("transformMapEntry", [_, _, filter, body]) => {
                (FoldKind::Entries, true, Some(filter), Some(body))
            }
            ("optMap" | "optFlatMap", [variable, body]) => {
                let flat = call.func_name == "optFlatMap";
                return Some(self.opt_map(id, target, variable, body, flat));
            }
            _ => return None,
        };
        Some(self.fold(target, &args[..1 + usize::from(two)], over, filter, body?))
    }

    fn has(&mut self, id: u64, argument: &IdedExpr) -> Node {
        let Expr::Select(select) = &argument.expr else {
            return self.wrong(argument.id, "invalid argument to has() macro".into());
        };
        if let Some(node) = self.composed(id, &select.operand, &select.field) {
            let known = node.ty != Type::Error;
            return Node { kind: Kind::Bool(known), ty: Type::Bool };
        }
        let operand = self.check(&select.operand);
        self.field(id, &operand.ty, &select.field, false);
        let kind = Kind::Has { operand: Box::new(operand), field: select.field.clone() };
        Node { kind, ty: Type::Bool }
    }

    fn name(&mut self, e: &IdedExpr) -> String {
        match &e.expr {
            Expr::Ident(name) => name.clone(),
            _ => {
                self.wrong(e.id, "argument must be a simple name".into());
                String::new()
            }
        }
    }

    fn fold(
        &mut self,
        target: &IdedExpr,
        names: &[IdedExpr],
        over: FoldKind,
        filter: Option<&IdedExpr>,
        body: &IdedExpr,
    ) -> Node {
        let range = self.check(target);
        let two = names.len() == 2;
        let (first, second) = match self.unifier.resolve(&range.ty, false) {
            Type::List(items) if two => (Type::Int, (*items).clone()),
            Type::List(items) => ((*items).clone(), Type::Dyn),
            Type::Map(keys, values) => ((*keys).clone(), (*values).clone()),
            param @ Type::Param(_) => {
                self.unifier.assignable(&Type::Dyn, &param);
                (Type::Dyn, Type::Dyn)
            }
            Type::Dyn | Type::Error => (Type::Dyn, Type::Dyn),
            other => {
                let why = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                self.wrong(target.id, why);
                (Type::Error, Type::Error)
            }
        };
        let types = [first.clone(), second];
        for (name, ty) in names.iter().zip(types) {
            let name = self.name(name);
            if two
                && self.locals.last().is_some_and(|(known, _)| *known == name)
                && !name.is_empty()
            {
                self.wrong(names[1].id, format!("duplicate variable name: {name}"));
            }
            self.locals.push((name, ty));
        }
        let filter = filter.map(|filter| self.boolean_overload(filter, "_?_:_"));
        let body_node = match over {
            FoldKind::All => self.boolean(body),
            FoldKind::Exists => self.boolean(body),
            FoldKind::ExistsOne => self.boolean_overload(body, "_?_:_"),
            _ => self.check(body),
        };
        self.locals.truncate(self.locals.len() - names.len());
        let ty = match over {
            FoldKind::All | FoldKind::Exists | FoldKind::ExistsOne => Type::Bool,
            FoldKind::List => Type::list(body_node.ty.clone()),
            FoldKind::Map => Type::map(first, body_node.ty.clone()),
            FoldKind::Entries => {
                let any = Type::map(self.unifier.fresh(), self.unifier.fresh());
                if !self.unifier.assignable(&body_node.ty, &any) {
                    self.no_overload(
                        body.id,
                        "cel.@mapInsert",
                        &[any.clone(), body_node.ty.clone()],
                        false,
                    );
                }
                self.unifier.resolve(&any, false)
            }
        };
        let fold = Fold { over, range, two, filter, body: body_node };
        Node { kind: Kind::Fold(Box::new(fold)), ty }
    }

    /// A condition that upstream's expansion puts into a conditional, whose overload then does not match.
    fn boolean_overload(&mut self, e: &IdedExpr, name: &str) -> Node {
        let node = self.check(e);
        if !self.unifier.assignable(&node.ty, &Type::Bool) {
            let types = [node.ty.clone(), Type::Dyn, Type::Dyn];
            return self.no_overload(e.id, name, &types, false);
        }
        node
    }

    fn opt_map(
        &mut self,
        id: u64,
        target: &IdedExpr,
        variable: &IdedExpr,
        body: &IdedExpr,
        flat: bool,
    ) -> Node {
        let target = self.check(target);
        let of = match self.unifier.resolve(&target.ty, false) {
            Type::Optional(of) => (*of).clone(),
            ty if ty.is_dyn_or_error() || matches!(ty, Type::Param(_)) => Type::Dyn,
            ty => return self.no_overload(id, "hasValue", &[ty], true),
        };
        let name = self.name(variable);
        self.locals.push((name, of));
        let body_node = self.check(body);
        self.locals.pop();
        let ty = if flat {
            match self.unifier.resolve(&body_node.ty, false) {
                ty @ Type::Optional(_) => ty,
                ty if ty.is_dyn_or_error() => Type::Dyn,
                ty => {
                    let types = [Type::Bool, ty, Type::optional(Type::Dyn)];
                    return self.no_overload(body.id, "_?_:_", &types, false);
                }
            }
        } else {
            Type::optional(body_node.ty.clone())
        };
        let (target, body) = (Box::new(target), Box::new(body_node));
        Node { kind: Kind::Optional { target, body, flat }, ty }
    }

    fn object(&mut self, id: u64, name: &str, entries: &[cel::common::ast::IdedEntryExpr]) -> Node {
        let Some(decl) = self.env.object(name) else {
            return self.wrong(id, format!("undeclared reference to '{name}' (in container '')"));
        };
        let mut fields = Vec::new();
        for entry in entries {
            let EntryExpr::StructField(field) = &entry.expr else { continue };
            let value = self.check(&field.value);
            let given = self.unwrap(field.value.id, &value.ty, field.optional);
            let (json, wanted) = match decl.field(&field.field) {
                Some(known) => (known.json.clone(), known.decl.ty()),
                None if matches!(decl.shape, Shape::Open) => (field.field.clone(), Type::Dyn),
                None => {
                    self.wrong(entry.id, format!("undefined field '{}'", field.field));
                    continue;
                }
            };
            if !self.unifier.assignable(&wanted, &given) {
                let given = self.unifier.resolve(&given, true);
                let why = format!(
                    "expected type of field '{}' is '{wanted}' but provided type is '{given}'",
                    field.field
                );
                self.wrong(entry.id, why);
            }
            fields.push((json, value, field.optional));
        }
        Node { kind: Kind::Object(decl.name.clone(), fields), ty: Type::Object(decl) }
    }
}

/// The function behind a macro of `math`.
fn math_function(name: &str) -> Option<&'static str> {
    match name {
        "greatest" => Some("math.@max"),
        "least" => Some("math.@min"),
        _ => None,
    }
}

fn literal(literal: &LiteralValue) -> Node {
    let (kind, ty) = match literal {
        LiteralValue::Boolean(bool) => (Kind::Bool(*bool.inner()), Type::Bool),
        LiteralValue::Bytes(bytes) => (Kind::Bytes(bytes.inner().to_vec()), Type::Bytes),
        LiteralValue::Double(double) => (Kind::Double(*double.inner()), Type::Double),
        LiteralValue::Int(int) => (Kind::Int(*int.inner()), Type::Int),
        LiteralValue::Null => (Kind::Null, Type::Null),
        LiteralValue::String(text) => (Kind::String(text.inner().to_owned()), Type::String),
        LiteralValue::UInt(uint) => (Kind::Uint(*uint.inner()), Type::Uint),
    };
    Node { kind, ty }
}

/// `a.b.c`, if the expression is only that.
fn qualified(e: &IdedExpr) -> Option<String> {
    match &e.expr {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select(select) if !select.test => {
            Some(format!("{}.{}", qualified(&select.operand)?, select.field))
        }
        _ => None,
    }
}
