//! The JSON paths of printer columns and of scale: kubectl's dialect, as far as it selects values
//! (`k8s.io/client-go/util/jsonpath`).

use serde_json::Value;

/// Steps of one path; more make no sense for a column.
const MAX_STEPS: usize = 64;

/// A parsed path, such as `.status.conditions[?(@.type=="Ready")].status`.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    /// `*`
    All,
    /// `..`, followed by a field
    Below,
    Slice {
        from: Option<i64>,
        to: Option<i64>,
        by: i64,
    },
    Index(i64),
    Filter {
        path: JsonPath,
        is: Comparison,
        value: Value,
    },
    Exists(JsonPath),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl JsonPath {
    /// Reads a path.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser { rest: text.strip_prefix('$').unwrap_or(text), steps: Vec::new() };
        while !parser.rest.is_empty() {
            parser.step().map_err(|why| format!("{text}: {why}"))?;
            if parser.steps.len() > MAX_STEPS {
                return Err(format!("{text}: more than {MAX_STEPS} steps"));
            }
        }
        Ok(Self(parser.steps))
    }

    /// All values that the path selects.
    pub fn find<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        let mut found = vec![value];
        for step in &self.0 {
            found = found.into_iter().flat_map(|value| step.select(value)).collect();
        }
        found
    }

    /// The first value that the path selects.
    pub fn first<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        self.find(value).into_iter().next()
    }

    /// The names of a path that consists of fields only.
    pub fn fields(&self) -> Option<Vec<&str>> {
        let names = self.0.iter().map(|step| match step {
            Step::Field(name) => Some(name.as_str()),
            _ => None,
        });
        names.collect()
    }
}

impl Step {
    fn select<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
        let count = items.len() as i64;
        let at = |index: i64| if index < 0 { index + count } else { index };
        match self {
            Step::Field(name) => value.get(name).into_iter().collect(),
            Step::All => match value {
                Value::Object(map) => map.values().collect(),
                _ => items.iter().collect(),
            },
            Step::Below => {
                let mut all = vec![value];
                let mut next = 0;
                while let Some(value) = all.get(next).copied() {
                    match value {
                        Value::Object(map) => all.extend(map.values()),
                        Value::Array(list) => all.extend(list),
                        _ => {}
                    }
                    next += 1;
                }
                all
            }
            Step::Index(index) => {
                usize::try_from(at(*index)).ok().and_then(|i| items.get(i)).into_iter().collect()
            }
            Step::Slice { from, to, by } => {
                let from = at(from.unwrap_or(0)).clamp(0, count);
                let to = at(to.unwrap_or(count)).clamp(0, count);
                if from >= to {
                    return Vec::new();
                }
                let by = usize::try_from(*by).unwrap_or(1).max(1);
                items[from as usize..to as usize].iter().step_by(by).collect()
            }
            Step::Exists(path) => items.iter().filter(|item| path.first(item).is_some()).collect(),
            Step::Filter { path, is, value } => {
                let passes = |item: &&Value| path.first(item).is_some_and(|v| is.holds(v, value));
                items.iter().filter(passes).collect()
            }
        }
    }
}

impl Comparison {
    fn holds(self, left: &Value, right: &Value) -> bool {
        let order = match (left, right) {
            (Value::Number(left), Value::Number(right)) => {
                left.as_f64().partial_cmp(&right.as_f64())
            }
            (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
            (left, right) => (left == right).then_some(std::cmp::Ordering::Equal),
        };
        match self {
            Self::Equal => order.is_some_and(|o| o.is_eq()),
            Self::Unequal => order.is_none_or(|o| o.is_ne()),
            Self::Less => order.is_some_and(|o| o.is_lt()),
            Self::LessOrEqual => order.is_some_and(|o| o.is_le()),
            Self::Greater => order.is_some_and(|o| o.is_gt()),
            Self::GreaterOrEqual => order.is_some_and(|o| o.is_ge()),
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
    steps: Vec<Step>,
}

impl Parser<'_> {
    fn step(&mut self) -> Result<(), String> {
        if let Some(rest) = self.rest.strip_prefix("..") {
            self.rest = rest;
            self.steps.push(Step::Below);
            return if rest.starts_with('[') { Ok(()) } else { self.field() };
        }
        if let Some(rest) = self.rest.strip_prefix('.') {
            self.rest = rest;
            return if rest.is_empty() || rest.starts_with('[') { Ok(()) } else { self.field() };
        }
        if let Some(rest) = self.rest.strip_prefix('[') {
            let end = closing(rest).ok_or("unterminated array")?;
            let (inner, rest) = (&rest[..end], &rest[end + 1..]);
            let step = bracket(inner.trim())?;
            self.rest = rest;
            self.steps.push(step);
            return Ok(());
        }
        self.field()
    }

    fn field(&mut self) -> Result<(), String> {
        let mut name = String::new();
        let mut end = self.rest.len();
        let mut chars = self.rest.char_indices();
        while let Some((i, c)) = chars.next() {
            match c {
                '\\' => name.extend(chars.next().map(|(_, c)| c)),
                '.' | '[' => {
                    end = i;
                    break;
                }
                c => name.push(c),
            }
        }
        if name.is_empty() {
            return Err(format!("a field is missing before {:?}", self.rest));
        }
        self.rest = &self.rest[end..];
        self.steps.push(if name == "*" { Step::All } else { Step::Field(name) });
        Ok(())
    }
}

/// Where the bracket ends that was opened before the text.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0;
    let mut quote = None;
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if open == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(i),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn bracket(text: &str) -> Result<Step, String> {
    if text == "*" {
        return Ok(Step::All);
    }
    if let Some(name) = quoted(text) {
        return Ok(Step::Field(name.to_owned()));
    }
    if let Some(filter) = text.strip_prefix("?(").and_then(|t| t.strip_suffix(')')) {
        return filter_of(filter.trim());
    }
    let number = |text: &str| match text.trim() {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| format!("invalid array index {text}")),
    };
    let parts: Vec<_> = text.split(':').collect();
    match parts[..] {
        [index] => number(index)?.map(Step::Index).ok_or_else(|| "an index is missing".to_owned()),
        [from, to] => Ok(Step::Slice { from: number(from)?, to: number(to)?, by: 1 }),
        [from, to, by] => {
            let by = number(by)?.unwrap_or(1);
            Ok(Step::Slice { from: number(from)?, to: number(to)?, by })
        }
        _ => Err(format!("invalid array index {text}")),
    }
}

fn filter_of(text: &str) -> Result<Step, String> {
    let path = |text: &str| {
        let text = text.trim();
        JsonPath::parse(text.strip_prefix('@').unwrap_or(text))
    };
    let operators = [
        ("==", Comparison::Equal),
        ("!=", Comparison::Unequal),
        ("<=", Comparison::LessOrEqual),
        (">=", Comparison::GreaterOrEqual),
        ("<", Comparison::Less),
        (">", Comparison::Greater),
    ];
    for (operator, is) in operators {
        let Some((left, right)) = text.split_once(operator) else { continue };
        let right = right.trim();
        let value = match quoted(right) {
            Some(text) => Value::from(text),
            None => {
                serde_json::from_str(right).map_err(|_| format!("cannot compare with {right:?}"))?
            }
        };
        return Ok(Step::Filter { path: path(left)?, is, value });
    }
    Ok(Step::Exists(path(text)?))
}

fn quoted(text: &str) -> Option<&str> {
    ['"', '\'']
        .into_iter()
        .find_map(|q| text.strip_prefix(q)?.strip_suffix(q).filter(|inner| !inner.contains(q)))
}
