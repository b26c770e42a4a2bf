//! CEL, the Common Expression Language, as Kubernetes has it: policies, validation rules and match conditions.
//!
//! An [`Env`] declares variables; [`Env::compile`] makes an expression a [`Program`], checked and resolved once; an
//! [`Activation`] gives the variables values, borrowed from JSON; [`Program::evaluate`] runs it within a cost limit.
//! The syntax is the `cel` crate's business. Evaluation is ours, because limits on cost, declared types of JSON and
//! upstream's messages reach into every operation.
//!
//! Source: the language definition at github.com/google/cel-spec; costs and messages as cel-go and Kubernetes 1.36 have them.

mod check;
mod construct;
mod declare;
mod error;
mod estimate;
mod eval;
mod functions;
mod parse;
mod rules;
mod types;
mod value;

#[cfg(test)]
mod tests;

use std::cell::OnceCell;
use std::sync::Arc;

use eval::Machine;
use functions::Function;

pub use construct::{json_patches, object as object_type};
pub use error::{CompileError, EvalError};
pub use functions::authorizer::{Authorizer, Decision, Query, Step};
pub use functions::{NamedFormat, Url};
pub use rules::Rules;
pub use types::{Decl, Field, Identity, Shape, Type};
pub use value::{Fields, Key, List, Map, Opaque, Str, Val};

/// What one evaluation of one expression may cost.
pub const CALL_LIMIT: u64 = 1_000_000;
/// What all expressions of one object's rules, or of one policy, may cost together.
pub const BUDGET: u64 = 10_000_000;
/// What a rule of a schema may cost by its estimate, for all places that it may stand at in one object.
pub const ESTIMATED_RULE: u64 = 10_000_000;
/// What all rules of a schema may cost together by their estimates.
pub const ESTIMATED_SCHEMA: u64 = 100_000_000;
/// Names of the types of `authorizer` and `authorizer.requestResource`.
pub const AUTHORIZER_TYPES: [Type; 2] = [
    Type::Opaque("kubernetes.authorization.Authorizer"),
    Type::Opaque("kubernetes.authorization.ResourceCheck"),
];

/// Evaluation of deep expressions runs on a stack of its own: so many bytes for a level, generously.
const LEVEL: usize = 16 << 10;
/// Compilation, on a stack of its own too: the generated parser takes about ten frames for a bracket.
const COMPILE_STACK: usize = 64 << 20;

/// The name under which expressions find a property: names that are no identifiers, or words of the language, are
/// escaped (`a-b` is `a__dash__b`). `None` for those that cannot be named at all.
pub fn escape(name: &str) -> Option<String> {
    if coracle_api::kinds::CEL_RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let mut chars = name.chars();
    let starts = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
    if !starts || !chars.all(allowed) {
        return None;
    }
    let escaped = name.replace("__", "__underscores__").replace('.', "__dot__");
    Some(escaped.replace('-', "__dash__").replace('/', "__slash__"))
}

/// What expressions may name.
#[derive(Debug, Clone, Default)]
pub struct Env {
    variables: Vec<(String, Type)>,
    composes: bool,
    composed: Vec<(String, Type)>,
    patches: bool,
}

impl Env {
    /// Nothing but the language and its libraries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Declares a variable; its values are given in the same order.
    pub fn variable(mut self, name: &str, ty: Type) -> Self {
        self.variables.push((name.into(), ty));
        self
    }

    /// Allows `variables.NAME`, of which there are none yet.
    pub fn composing(mut self) -> Self {
        self.composes = true;
        self
    }

    /// Declares `variables.NAME` for expressions compiled from now on.
    pub fn compose(&mut self, name: &str, ty: Type) {
        self.composed.push((name.into(), ty));
    }

    /// Allows what mutations are written in to be made: `Object{…}`, `Object.spec{…}`, `JSONPatch{…}`.
    pub fn patching(mut self) -> Self {
        self.patches = true;
        self
    }

    fn function(&self, name: &str) -> Option<&'static Function> {
        functions::find(name)
    }

    fn object(&self, name: &str) -> Option<Arc<Decl>> {
        self.patches.then(|| construct::declaration(name)).flatten()
    }

    /// Compiles an expression of any type.
    pub fn compile(&self, text: &str) -> Result<Program, CompileError> {
        self.compile_to(text, &[])
    }

    /// Compiles an expression that must come to one of these types; `dyn` is none, as upstream.
    pub fn compile_to(&self, text: &str, expected: &[Type]) -> Result<Program, CompileError> {
        stacker::grow(COMPILE_STACK, || {
            let (tree, source) = parse::parse(text)?;
            let root = check::check(self, &tree, &source, expected)?;
            let depth = root.depth();
            Ok(Program { root, depth })
        })
    }
}

/// A compiled expression.
#[derive(Debug)]
pub struct Program {
    root: check::Node,
    depth: usize,
}

impl Program {
    /// The type of what it comes to.
    pub fn ty(&self) -> &Type {
        &self.root.ty
    }

    /// Whether it names the environment's variable at this place.
    fn names(&self, at: usize) -> bool {
        stacker::maybe_grow(self.depth * LEVEL, 2 * self.depth * LEVEL, || self.root.names(at))
    }

    /// What the expression may cost at most, if its variables are so declared.
    fn most(&self, variables: &[Option<Arc<Decl>>]) -> u64 {
        let need = self.depth * LEVEL;
        stacker::maybe_grow(need, 2 * need, || estimate::most(&self.root, variables))
    }

    /// What the expression comes to, and what that cost. `limit` bounds the cost.
    pub fn evaluate<'a>(
        &'a self,
        activation: &Activation<'a>,
        limit: u64,
    ) -> (Result<Val<'a>, EvalError>, u64) {
        let mut machine = Machine { activation, locals: Vec::new(), cost: 0, limit };
        let need = self.depth * LEVEL;
        let result = stacker::maybe_grow(need, 2 * need, || machine.run(&self.root));
        (result, machine.cost)
    }
}

/// Values of an environment's variables, in their order.
#[derive(Debug, Default)]
pub struct Activation<'a> {
    values: Vec<Val<'a>>,
    composed: Vec<Composed<'a>>,
}

/// A variable that is worked out when it is first asked for.
#[derive(Debug)]
struct Composed<'a> {
    program: Option<&'a Program>,
    value: OnceCell<Result<Val<'a>, EvalError>>,
}

impl<'a> Activation<'a> {
    /// These variables, in the order of their declaration.
    pub fn new(values: Vec<Val<'a>>) -> Self {
        Self { values, composed: Vec::new() }
    }

    /// Adds `variables.NAME`, in the order of their declaration; `None` for one that does not compile.
    pub fn compose(&mut self, program: Option<&'a Program>) {
        self.composed.push(Composed { program, value: OnceCell::new() });
    }

    fn value(&self, at: usize) -> Result<Val<'a>, EvalError> {
        let missing = || EvalError::new("no such attribute");
        self.values.get(at).cloned().ok_or_else(missing)
    }

    /// The value and what it cost now; one that is known costs nothing.
    fn composed(&self, at: usize, limit: u64) -> (Result<Val<'a>, EvalError>, u64) {
        let Some(composed) = self.composed.get(at) else {
            return (Err(EvalError::new("no such attribute")), 0);
        };
        if let Some(known) = composed.value.get() {
            return (known.clone(), 0);
        }
        let Some(program) = composed.program else {
            return (Err(EvalError::new("variable does not compile")), 0);
        };
        let (value, cost) = program.evaluate(self, limit);
        // Variables only name those before them, so nobody else can have set it meanwhile.
        (composed.value.get_or_init(|| value).clone(), cost)
    }
}
