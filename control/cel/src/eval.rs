//! Evaluation of checked expressions, with a bill: what upstream charges for an operation is charged here, and an
//! expression that exceeds its limit stops.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::Activation;
use crate::check::{Fold, FoldKind, Kind, Node};
use crate::error::EvalError;
use crate::functions::{self, Cost, Overload, fits};
use crate::value::{Key, Map, Val};

const LIST: u64 = 10;
const MAP: u64 = 30;
const OBJECT: u64 = 40;

type Outcome<'a> = Result<Val<'a>, EvalError>;

/// One evaluation under way.
pub(crate) struct Machine<'a, 'e> {
    pub(crate) activation: &'e Activation<'a>,
    pub(crate) locals: Vec<Val<'a>>,
    pub(crate) cost: u64,
    pub(crate) limit: u64,
}

impl<'a> Machine<'a, '_> {
    fn charge(&mut self, cost: u64) -> Result<(), EvalError> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.limit { Err(EvalError::CostLimit) } else { Ok(()) }
    }

    pub(crate) fn run(&mut self, node: &'a Node) -> Outcome<'a> {
        match &node.kind {
            Kind::Null => Ok(Val::Null),
            Kind::Bool(bool) => Ok(Val::Bool(*bool)),
            Kind::Int(int) => Ok(Val::Int(*int)),
            Kind::Uint(uint) => Ok(Val::Uint(*uint)),
            Kind::Double(double) => Ok(Val::Double(*double)),
            Kind::String(text) => Ok(Val::str(text)),
            Kind::Bytes(bytes) => Ok(Val::Bytes(Rc::from(&bytes[..]))),
            Kind::TypeName(name) => {
                self.charge(1)?;
                Ok(Val::Type(name.clone().into()))
            }
            Kind::Variable(at) => {
                self.charge(1)?;
                self.activation.value(*at)
            }
            Kind::Composed(at) => {
                self.charge(2)?;
                let limit = self.limit - self.cost;
                let (value, cost) = self.activation.composed(*at, limit);
                self.charge(cost)?;
                value
            }
            Kind::Local(at) => {
                self.charge(1)?;
                self.locals.get(*at).cloned().ok_or_else(|| EvalError::new("no such attribute"))
            }
            Kind::Select { operand, field, optional } => self.select(operand, field, *optional),
            Kind::Has { operand, field } => self.has(operand, field),
            Kind::And(nodes) => self.and(nodes),
            Kind::Or(nodes) => self.or(nodes),
            Kind::Conditional(nodes) => {
                let [condition, yes, no] = &**nodes;
                match self.run(condition)? {
                    Val::Bool(true) => self.run(yes),
                    Val::Bool(false) => self.run(no),
                    _ => Err(EvalError::no_such_overload()),
                }
            }
            Kind::Call { overloads, args, regex } => self.call(overloads, args, regex.as_ref()),
            Kind::List(items) => self.list(items),
            Kind::Map(entries) => self.map(entries),
            Kind::Object(name, fields) => self.object(name, fields),
            Kind::Fold(fold) => self.fold(fold),
            Kind::Optional { target, body, flat } => self.opt_map(target, body, *flat),
        }
    }

    fn select(&mut self, operand: &'a Node, field: &'a str, optional: bool) -> Outcome<'a> {
        let value = self.run(operand)?;
        self.charge(1)?;
        match (&value, optional) {
            (Val::Optional(None), _) => Ok(Val::Optional(None)),
            (Val::Optional(Some(of)), _) => match &**of {
                Val::Map(map) => Ok(map.field(field).map_or(Val::Optional(None), Val::some)),
                _ => Err(EvalError::no_such_overload()),
            },
            (Val::Map(map), true) => Ok(map.field(field).map_or(Val::Optional(None), Val::some)),
            (Val::Map(map), false) => {
                map.field(field).ok_or_else(|| EvalError::new(format!("no such key: {field}")))
            }
            _ => Err(EvalError::no_such_overload()),
        }
    }

    fn has(&mut self, operand: &'a Node, field: &str) -> Outcome<'a> {
        let value = self.run(operand)?;
        self.charge(1)?;
        let of = match &value {
            Val::Optional(None) => return Ok(Val::Bool(false)),
            Val::Optional(Some(of)) => of,
            other => other,
        };
        match of {
            Val::Map(map) => Ok(Val::Bool(map.field(field).is_some())),
            _ => Err(EvalError::no_such_overload()),
        }
    }

    /// False if either is, whatever becomes of the other.
    fn and(&mut self, nodes: &'a [Node; 2]) -> Outcome<'a> {
        let left = self.condition(&nodes[0])?;
        if left == Ok(false) {
            return Ok(Val::Bool(false));
        }
        match (left, self.condition(&nodes[1])?) {
            (_, Ok(false)) => Ok(Val::Bool(false)),
            (Ok(true), Ok(true)) => Ok(Val::Bool(true)),
            (Err(why), _) | (_, Err(why)) => Err(why),
            (Ok(_), Ok(true)) => Ok(Val::Bool(false)),
        }
    }

    /// True if either is, whatever becomes of the other.
    fn or(&mut self, nodes: &'a [Node; 2]) -> Outcome<'a> {
        let left = self.condition(&nodes[0])?;
        if left == Ok(true) {
            return Ok(Val::Bool(true));
        }
        match (left, self.condition(&nodes[1])?) {
            (_, Ok(true)) => Ok(Val::Bool(true)),
            (Err(why), _) | (_, Err(why)) => Err(why),
            (Ok(_), Ok(false)) => Ok(Val::Bool(false)),
        }
    }

    /// What a condition came to; only an exceeded limit ends the evaluation.
    fn condition(&mut self, node: &'a Node) -> Result<Result<bool, EvalError>, EvalError> {
        match self.run(node) {
            Ok(Val::Bool(bool)) => Ok(Ok(bool)),
            Ok(_) => Ok(Err(EvalError::no_such_overload())),
            Err(EvalError::CostLimit) => Err(EvalError::CostLimit),
            Err(why) => Ok(Err(why)),
        }
    }

    fn call(
        &mut self,
        overloads: &'a [&'static Overload],
        args: &'a [Node],
        regex: Option<&'a regex::Regex>,
    ) -> Outcome<'a> {
        let mut values = Vec::with_capacity(args.len());
        for arg in args {
            values.push(self.run(arg)?);
        }
        let fitting =
            overloads.iter().find(|o| o.params.iter().zip(&values).all(|(p, v)| fits(v, p)));
        let overload = fitting.ok_or_else(EvalError::no_such_overload)?;
        // What is charged by the arguments is charged before the work is done.
        if overload.cost != Cost::Result {
            self.charge(overload.cost.of(&values, None))?;
        }
        let result = match (regex, &values[..]) {
            (Some(regex), [Val::String(text), Val::String(_)]) if overload.is_match() => {
                Ok(Val::Bool(regex.is_match(text)))
            }
            _ => (overload.body)(&values),
        }?;
        if overload.cost == Cost::Result {
            self.charge(overload.cost.of(&values, Some(&result)))?;
        }
        Ok(result)
    }

    fn list(&mut self, items: &'a [(Node, bool)]) -> Outcome<'a> {
        let mut values = Vec::with_capacity(items.len());
        for (item, optional) in items {
            let value = self.run(item)?;
            match value {
                Val::Optional(of) if *optional => values.extend(of.map(|of| (*of).clone())),
                value => values.push(value),
            }
        }
        self.charge(LIST)?;
        Ok(Val::items(values))
    }

    fn map(&mut self, entries: &'a [(Node, Node, bool)]) -> Outcome<'a> {
        let mut map = BTreeMap::new();
        for (key, value, optional) in entries {
            let key = self.run(key)?;
            let value = match self.run(value)? {
                Val::Optional(None) if *optional => continue,
                Val::Optional(Some(of)) if *optional => (*of).clone(),
                value => value,
            };
            functions::insert(&mut map, &key, value)?;
        }
        self.charge(MAP)?;
        Ok(Val::Map(Map::Made(Rc::new(map))))
    }

    fn object(&mut self, name: &'a str, fields: &'a [(String, Node, bool)]) -> Outcome<'a> {
        let mut map = BTreeMap::new();
        for (field, value, optional) in fields {
            let value = match self.run(value)? {
                Val::Optional(None) if *optional => continue,
                Val::Optional(Some(of)) if *optional => (*of).clone(),
                value => value,
            };
            functions::insert(&mut map, &Val::str(field), value)?;
        }
        self.charge(OBJECT)?;
        Ok(Val::Map(Map::Object { name: name.into(), fields: Rc::new(map) }))
    }

    fn opt_map(&mut self, target: &'a Node, body: &'a Node, flat: bool) -> Outcome<'a> {
        let Val::Optional(of) = self.run(target)? else {
            return Err(EvalError::no_such_overload());
        };
        self.charge(1)?;
        let Some(of) = of else { return Ok(Val::Optional(None)) };
        self.locals.push((*of).clone());
        let value = self.run(body);
        self.locals.pop();
        if flat { value } else { value.map(Val::some) }
    }

    /// Charges are those of upstream's expansion of the macros into loops over an accumulator.
    fn fold(&mut self, fold: &'a Fold) -> Outcome<'a> {
        let range = self.run(&fold.range)?;
        let mut state = State::new(fold.over);
        self.charge(match fold.over {
            FoldKind::List => LIST,
            FoldKind::Map | FoldKind::Entries => MAP,
            _ => 0,
        })?;
        match &range {
            Val::List(list) => {
                for at in 0..list.len() {
                    let Some(item) = list.get(at) else { break };
                    let done = if fold.two {
                        self.round(fold, [Val::Int(at as i64), item], &mut state)?
                    } else {
                        self.round(fold, [item], &mut state)?
                    };
                    if done {
                        break;
                    }
                }
            }
            Val::Map(map) => {
                for (key, value) in map.entries() {
                    let done = if fold.two {
                        self.round(fold, [key.value(), value], &mut state)?
                    } else {
                        self.round(fold, [key.value()], &mut state)?
                    };
                    if done {
                        break;
                    }
                }
            }
            _ => return Err(EvalError::no_such_overload()),
        }
        self.charge(if fold.over == FoldKind::ExistsOne { 2 } else { 1 })?;
        state.result()
    }

    /// One item's turn; true when no other matters.
    fn round<const N: usize>(
        &mut self,
        fold: &'a Fold,
        bound: [Val<'a>; N],
        state: &mut State<'a>,
    ) -> Result<bool, EvalError> {
        let depth = self.locals.len();
        let first = bound[0].clone();
        self.locals.extend(bound);
        let done = self.turn(fold, first, state);
        self.locals.truncate(depth);
        done
    }

    fn turn(
        &mut self,
        fold: &'a Fold,
        first: Val<'a>,
        state: &mut State<'a>,
    ) -> Result<bool, EvalError> {
        if let Some(filter) = &fold.filter {
            match self.run(filter)? {
                Val::Bool(true) => {}
                Val::Bool(false) => {
                    self.charge(1)?;
                    return Ok(false);
                }
                _ => return Err(EvalError::no_such_overload()),
            }
        }
        match state {
            State::Decide { wanted, failed } => {
                self.charge(if *wanted { 4 } else { 3 })?;
                match self.condition(&fold.body)? {
                    Ok(bool) if bool == *wanted => {
                        self.charge(if *wanted { 3 } else { 2 })?;
                        *state = State::Decided(bool);
                        return Ok(true);
                    }
                    Ok(_) => {}
                    Err(why) => *failed = Some(why),
                }
            }
            State::Decided(_) => return Ok(true),
            State::Count(count) => match self.run(&fold.body)? {
                Val::Bool(true) => {
                    self.charge(2)?;
                    *count += 1;
                }
                Val::Bool(false) => self.charge(1)?,
                _ => return Err(EvalError::no_such_overload()),
            },
            State::List(items) => {
                let value = self.run(&fold.body)?;
                self.charge(2 + LIST)?;
                items.push(value);
            }
            State::Map(map) if fold.over == FoldKind::Map => {
                let value = self.run(&fold.body)?;
                self.charge(3)?;
                functions::insert(map, &first, value)?;
            }
            State::Map(map) => {
                let Val::Map(entries) = self.run(&fold.body)? else {
                    return Err(EvalError::no_such_overload());
                };
                self.charge(2)?;
                for (key, value) in entries.entries() {
                    functions::insert(map, &key.value(), value)?;
                }
            }
        }
        Ok(false)
    }
}

/// What a fold has come to.
enum State<'a> {
    /// `all` waits for a false, `exists` for a true.
    Decide {
        wanted: bool,
        failed: Option<EvalError>,
    },
    Decided(bool),
    Count(usize),
    List(Vec<Val<'a>>),
    Map(BTreeMap<Key<'a>, Val<'a>>),
}

impl<'a> State<'a> {
    fn new(over: FoldKind) -> Self {
        match over {
            FoldKind::All => State::Decide { wanted: false, failed: None },
            FoldKind::Exists => State::Decide { wanted: true, failed: None },
            FoldKind::ExistsOne => State::Count(0),
            FoldKind::List => State::List(Vec::new()),
            FoldKind::Map | FoldKind::Entries => State::Map(BTreeMap::new()),
        }
    }

    fn result(self) -> Outcome<'a> {
        Ok(match self {
            State::Decide { failed: Some(why), .. } => return Err(why),
            State::Decide { wanted, failed: None } => Val::Bool(!wanted),
            State::Decided(bool) => Val::Bool(bool),
            State::Count(count) => Val::Bool(count == 1),
            State::List(items) => Val::items(items),
            State::Map(map) => Val::Map(Map::Made(Rc::new(map))),
        })
    }
}
