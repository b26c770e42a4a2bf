//! `authorizer`: asking whether somebody may do something, step by step, as the expression puts the question together.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use super::{Cost, Line, Outcome, UNIT, text};
use crate::error::EvalError;
use crate::value::{Opaque, Val};

pub(super) const AUTHORIZER: &str = "kubernetes.authorization.Authorizer";
pub(super) const PATH: &str = "kubernetes.authorization.PathCheck";
pub(super) const GROUP: &str = "kubernetes.authorization.GroupCheck";
pub(super) const RESOURCE: &str = "kubernetes.authorization.ResourceCheck";
pub(super) const DECISION: &str = "kubernetes.authorization.Decision";

/// Costs so much that an expression can ask twice.
const CHECK: Cost = Cost::Fixed(350_000);

pub(super) const TABLE: &[Line] = &[
    ("Authorizer::path(string) -> PathCheck", UNIT, |args| {
        let path = text(args, 1)?;
        if path.is_empty() {
            return Err(EvalError::new("path must not be empty"));
        }
        next(args, AUTHORIZER, PATH, |query| query.path = Some(path.into()))
    }),
    ("Authorizer::serviceAccount(string, string) -> Authorizer", UNIT, |args| {
        let user = (text(args, 1)?.to_owned(), text(args, 2)?.to_owned());
        next(args, AUTHORIZER, AUTHORIZER, |query| query.service_account = Some(user))
    }),
    ("Authorizer::group(string) -> GroupCheck", UNIT, |args| {
        let group = text(args, 1)?.to_owned();
        next(args, AUTHORIZER, GROUP, |query| query.group = group)
    }),
    ("GroupCheck::resource(string) -> ResourceCheck", UNIT, |args| {
        let resource = text(args, 1)?.to_owned();
        next(args, GROUP, RESOURCE, |query| query.resource = resource)
    }),
    ("ResourceCheck::subresource(string) -> ResourceCheck", UNIT, |args| {
        let subresource = text(args, 1)?.to_owned();
        next(args, RESOURCE, RESOURCE, |query| query.subresource = subresource)
    }),
    ("ResourceCheck::namespace(string) -> ResourceCheck", UNIT, |args| {
        let namespace = text(args, 1)?.to_owned();
        next(args, RESOURCE, RESOURCE, |query| query.namespace = namespace)
    }),
    ("ResourceCheck::name(string) -> ResourceCheck", UNIT, |args| {
        let name = text(args, 1)?.to_owned();
        next(args, RESOURCE, RESOURCE, |query| query.name = name)
    }),
    ("ResourceCheck::fieldSelector(string) -> ResourceCheck", UNIT, |args| {
        let selector = text(args, 1)?.to_owned();
        let put = |query: &mut Query| query.selectors.insert("fieldSelector", selector);
        next(args, RESOURCE, RESOURCE, |query| drop(put(query)))
    }),
    ("ResourceCheck::labelSelector(string) -> ResourceCheck", UNIT, |args| {
        let selector = text(args, 1)?.to_owned();
        let put = |query: &mut Query| query.selectors.insert("labelSelector", selector);
        next(args, RESOURCE, RESOURCE, |query| drop(put(query)))
    }),
    ("PathCheck::check(string) -> Decision", CHECK, |args| check(args, PATH)),
    ("ResourceCheck::check(string) -> Decision", CHECK, |args| check(args, RESOURCE)),
    ("Decision::allowed() -> bool", UNIT, |args| Ok(Val::Bool(decision(args)?.allowed))),
    ("Decision::reason() -> string", UNIT, |args| Ok(Val::string(&*decision(args)?.reason))),
    ("Decision::errored() -> bool", UNIT, |args| Ok(Val::Bool(decision(args)?.error.is_some()))),
    ("Decision::error() -> string", UNIT, |args| {
        Ok(Val::string(decision(args)?.error.as_deref().unwrap_or_default()))
    }),
];

/// Who answers.
pub trait Authorizer {
    /// Whether the request's user, or the service account that the query names, may do it.
    fn authorize(&self, query: &Query) -> Decision;
}

/// What an expression asks.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// What is to be done.
    pub verb: String,
    /// Not for the request's user but for this service account: namespace and name.
    pub service_account: Option<(String, String)>,
    /// A path that is no resource's.
    pub path: Option<String>,
    /// API group.
    pub group: String,
    /// Resource of it.
    pub resource: String,
    /// Part of it, or none.
    pub subresource: String,
    /// Where.
    pub namespace: String,
    /// Which.
    pub name: String,
    /// Selectors, by which kind they are.
    pub selectors: BTreeMap<&'static str, String>,
}

/// The answer.
#[derive(Debug, Clone, Default)]
pub struct Decision {
    /// May they?
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// What kept the question from being answered.
    pub error: Option<String>,
}

/// A question as far as it is put together, or its answer.
#[derive(Clone)]
pub struct Step {
    stage: &'static str,
    query: Rc<Query>,
    answer: Option<Rc<Decision>>,
    authorizer: Rc<dyn Authorizer>,
}

impl Step {
    /// The variable `authorizer`.
    pub fn new(authorizer: Rc<dyn Authorizer>) -> Self {
        Self { stage: AUTHORIZER, query: Rc::default(), answer: None, authorizer }
    }

    /// The variable `authorizer.requestResource`: asks about the request's own resource.
    pub fn request_resource(authorizer: Rc<dyn Authorizer>, query: Query) -> Self {
        Self { stage: RESOURCE, query: Rc::new(query), answer: None, authorizer }
    }

    pub(crate) fn type_name(&self) -> &'static str {
        self.stage
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(self.stage).field("query", &self.query).finish_non_exhaustive()
    }
}

fn step<'v>(args: &'v [Val<'_>], stage: &str) -> Result<&'v Step, EvalError> {
    match &args[0] {
        Val::Opaque(Opaque::Authorizer(step)) if step.stage == stage => Ok(step),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn next<'a>(
    args: &[Val<'a>],
    from: &str,
    to: &'static str,
    put: impl FnOnce(&mut Query),
) -> Outcome<'a> {
    let mut step = step(args, from)?.clone();
    put(Rc::make_mut(&mut step.query));
    step.stage = to;
    Ok(Val::Opaque(Opaque::Authorizer(step)))
}

fn check<'a>(args: &[Val<'a>], stage: &str) -> Outcome<'a> {
    let mut step = step(args, stage)?.clone();
    Rc::make_mut(&mut step.query).verb = text(args, 1)?.to_owned();
    step.answer = Some(Rc::new(step.authorizer.authorize(&step.query)));
    step.stage = DECISION;
    Ok(Val::Opaque(Opaque::Authorizer(step)))
}

fn decision<'v>(args: &'v [Val<'_>]) -> Result<&'v Decision, EvalError> {
    step(args, DECISION)?.answer.as_deref().ok_or_else(EvalError::no_such_overload)
}
