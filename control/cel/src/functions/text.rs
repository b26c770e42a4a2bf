//! Regular expressions, versions, names in Kubernetes' formats, and mathematics.

use std::cmp::Ordering;
use std::rc::Rc;
use std::sync::LazyLock;

use coracle_api::names;
use regex::{Regex, RegexBuilder};
use semver::Version;

use super::{Cost, Line, Outcome, UNIT, int, text};
use crate::error::EvalError;
use crate::value::{Opaque, Val};

const ONCE: Cost = Cost::Text(1.0);

pub(super) const TABLE: &[Line] = &[
    ("string::matches(string) -> bool", Cost::Pattern, matches),
    ("matches(string, string) -> bool", Cost::Pattern, matches),
    ("string::find(string) -> string", Cost::Pattern, |args| {
        let found = pattern(text(args, 1)?)?.find(text(args, 0)?).map(|found| found.as_str());
        Ok(Val::string(found.unwrap_or_default()))
    }),
    ("string::findAll(string) -> list(string)", Cost::Pattern, |args| find_all(args, -1)),
    ("string::findAll(string, int) -> list(string)", Cost::Pattern, |args| {
        find_all(args, int(args, 2)?)
    }),
    ("semver(string) -> semver", ONCE, |args| version(text(args, 0)?, false)),
    ("semver(string, bool) -> semver", ONCE, |args| version(text(args, 0)?, normal(args))),
    ("isSemver(string) -> bool", ONCE, |args| {
        Ok(Val::Bool(version(text(args, 0)?, false).is_ok()))
    }),
    ("isSemver(string, bool) -> bool", ONCE, |args| {
        Ok(Val::Bool(version(text(args, 0)?, normal(args)).is_ok()))
    }),
    ("semver::major() -> int", UNIT, |args| number(args, |version| version.major)),
    ("semver::minor() -> int", UNIT, |args| number(args, |version| version.minor)),
    ("semver::patch() -> int", UNIT, |args| number(args, |version| version.patch)),
    ("semver::isGreaterThan(semver) -> bool", UNIT, |args| Ok(Val::Bool(precedence(args)? > 0))),
    ("semver::isLessThan(semver) -> bool", UNIT, |args| Ok(Val::Bool(precedence(args)? < 0))),
    ("semver::compareTo(semver) -> int", UNIT, |args| precedence(args).map(Val::Int)),
    ("format.named(string) -> optional(format)", UNIT, |args| {
        let name = text(args, 0)?;
        let found = FORMATS.iter().find(|format| format.name == name);
        Ok(found
            .map_or(Val::Optional(None), |format| Val::some(Val::Opaque(Opaque::Format(format)))))
    }),
    ("format.dns1123Label() -> format", UNIT, |_| named("dns1123Label")),
    ("format.dns1123Subdomain() -> format", UNIT, |_| named("dns1123Subdomain")),
    ("format.dns1035Label() -> format", UNIT, |_| named("dns1035Label")),
    ("format.dns1123LabelPrefix() -> format", UNIT, |_| named("dns1123LabelPrefix")),
    ("format.dns1123SubdomainPrefix() -> format", UNIT, |_| named("dns1123SubdomainPrefix")),
    ("format.dns1035LabelPrefix() -> format", UNIT, |_| named("dns1035LabelPrefix")),
    ("format.qualifiedName() -> format", UNIT, |_| named("qualifiedName")),
    ("format.labelValue() -> format", UNIT, |_| named("labelValue")),
    ("format.uri() -> format", UNIT, |_| named("uri")),
    ("format.uuid() -> format", UNIT, |_| named("uuid")),
    ("format.byte() -> format", UNIT, |_| named("byte")),
    ("format.date() -> format", UNIT, |_| named("date")),
    ("format.datetime() -> format", UNIT, |_| named("datetime")),
    ("format::validate(string) -> optional(list(string))", Cost::Fixed(10), validate),
    ("math.abs(int) -> int", UNIT, |args| match args[0] {
        Val::Int(n) => {
            n.checked_abs().map(Val::Int).ok_or_else(|| EvalError::new("integer overflow"))
        }
        _ => Err(EvalError::no_such_overload()),
    }),
    ("math.abs(uint) -> uint", UNIT, |args| Ok(args[0].clone())),
    ("math.abs(double) -> double", UNIT, |args| rounded(args, f64::abs)),
    ("math.ceil(double) -> double", UNIT, |args| rounded(args, f64::ceil)),
    ("math.floor(double) -> double", UNIT, |args| rounded(args, f64::floor)),
    ("math.round(double) -> double", UNIT, |args| rounded(args, f64::round)),
    ("math.trunc(double) -> double", UNIT, |args| rounded(args, f64::trunc)),
    ("math.isNaN(double) -> bool", UNIT, |args| Ok(Val::Bool(real(args)?.is_nan()))),
    ("math.isInf(double) -> bool", UNIT, |args| Ok(Val::Bool(real(args)?.is_infinite()))),
    ("math.isFinite(double) -> bool", UNIT, |args| Ok(Val::Bool(real(args)?.is_finite()))),
    ("math.sqrt(double) -> double", UNIT, |args| rounded(args, f64::sqrt)),
    ("math.sign(int) -> int", UNIT, |args| match args[0] {
        Val::Int(n) => Ok(Val::Int(n.signum())),
        _ => Err(EvalError::no_such_overload()),
    }),
    ("math.sign(double) -> double", UNIT, |args| {
        rounded(args, |n| if n == 0.0 || n.is_nan() { n } else { n.signum() })
    }),
    ("math.@max(int) -> int", UNIT, greatest),
    ("math.@max(uint) -> uint", UNIT, greatest),
    ("math.@max(double) -> double", UNIT, greatest),
    ("math.@max(int, int) -> int", UNIT, greatest),
    ("math.@max(int, uint) -> dyn", UNIT, greatest),
    ("math.@max(int, double) -> dyn", UNIT, greatest),
    ("math.@max(uint, int) -> dyn", UNIT, greatest),
    ("math.@max(uint, uint) -> uint", UNIT, greatest),
    ("math.@max(uint, double) -> dyn", UNIT, greatest),
    ("math.@max(double, int) -> dyn", UNIT, greatest),
    ("math.@max(double, uint) -> dyn", UNIT, greatest),
    ("math.@max(double, double) -> double", UNIT, greatest),
    ("math.@max(list(int)) -> int", Cost::Walk, greatest),
    ("math.@max(list(uint)) -> uint", Cost::Walk, greatest),
    ("math.@max(list(double)) -> double", Cost::Walk, greatest),
    ("math.@min(int) -> int", UNIT, least),
    ("math.@min(uint) -> uint", UNIT, least),
    ("math.@min(double) -> double", UNIT, least),
    ("math.@min(int, int) -> int", UNIT, least),
    ("math.@min(int, uint) -> dyn", UNIT, least),
    ("math.@min(int, double) -> dyn", UNIT, least),
    ("math.@min(uint, int) -> dyn", UNIT, least),
    ("math.@min(uint, uint) -> uint", UNIT, least),
    ("math.@min(uint, double) -> dyn", UNIT, least),
    ("math.@min(double, int) -> dyn", UNIT, least),
    ("math.@min(double, uint) -> dyn", UNIT, least),
    ("math.@min(double, double) -> double", UNIT, least),
    ("math.@min(list(int)) -> int", Cost::Walk, least),
    ("math.@min(list(uint)) -> uint", Cost::Walk, least),
    ("math.@min(list(double)) -> double", Cost::Walk, least),
    ("jsonpatch.escapeKey(string) -> string", ONCE, |args| {
        Ok(Val::string(text(args, 0)?.replace('~', "~0").replace('/', "~1")))
    }),
];

/// Compiled size of a regular expression, in bytes.
const PATTERN_SIZE: usize = 1 << 20;

/// A pattern in RE2's syntax.
pub(crate) fn pattern(text: &str) -> Result<Regex, EvalError> {
    let compiled = RegexBuilder::new(text).size_limit(PATTERN_SIZE).build();
    compiled.map_err(|why| EvalError::new(format!("error parsing regexp: {why}")))
}

fn matches<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    Ok(Val::Bool(pattern(text(args, 1)?)?.is_match(text(args, 0)?)))
}

fn find_all<'a>(args: &[Val<'a>], limit: i64) -> Outcome<'a> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let pattern = pattern(text(args, 1)?)?;
    let found = pattern.find_iter(text(args, 0)?).take(limit);
    Ok(Val::items(found.map(|found| Val::string(found.as_str())).collect()))
}

fn normal(args: &[Val<'_>]) -> bool {
    matches!(args[1], Val::Bool(true))
}

fn version<'a>(text: &str, normalize: bool) -> Outcome<'a> {
    let mut text = text.to_owned();
    if normalize {
        text = text.strip_prefix('v').unwrap_or(&text).to_owned();
        let end = text.find(['-', '+']).unwrap_or(text.len());
        let numbers: Vec<_> = text[..end].split('.').map(trim_zeros).collect();
        let missing = ["0", "0", "0"][numbers.len().min(3)..].iter();
        let numbers: Vec<_> = numbers.into_iter().chain(missing.copied()).collect();
        text = format!("{}{}", numbers.join("."), &text[end..]);
    }
    match Version::parse(&text) {
        Ok(version) => Ok(Val::Opaque(Opaque::Semver(Rc::new(version)))),
        Err(why) => Err(EvalError::new(wrong_version(&text).unwrap_or_else(|| why.to_string()))),
    }
}

/// What is wrong with a version, in the words of the library that upstream reads them with.
fn wrong_version(text: &str) -> Option<String> {
    if text.is_empty() {
        return Some("Version string empty".into());
    }
    let parts: Vec<&str> = text.splitn(3, '.').collect();
    let [major, minor, rest] = parts[..] else {
        return Some("No Major.Minor.Patch elements found".into());
    };
    let patch = rest.split(['-', '+']).next().unwrap_or_default();
    for (name, number) in [("Major", major), ("Minor", minor), ("Patch", patch)] {
        if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
            let name = name.to_ascii_lowercase();
            return Some(format!("Invalid character(s) found in {name} number {number:?}"));
        }
        if number.len() > 1 && number.starts_with('0') {
            return Some(format!("{name} number must not contain leading zeroes {number:?}"));
        }
    }
    None
}

fn trim_zeros(number: &str) -> &str {
    let trimmed = number.trim_start_matches('0');
    if trimmed.is_empty() && !number.is_empty() { "0" } else { trimmed }
}

fn semver<'v>(value: &'v Val<'_>) -> Result<&'v Version, EvalError> {
    match value {
        Val::Opaque(Opaque::Semver(version)) => Ok(version),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn number<'a>(args: &[Val<'a>], part: impl Fn(&Version) -> u64) -> Outcome<'a> {
    let part = part(semver(&args[0])?);
    i64::try_from(part).map(Val::Int).map_err(|_| EvalError::new("integer overflow"))
}

fn precedence(args: &[Val<'_>]) -> Result<i64, EvalError> {
    Ok(semver(&args[0])?.cmp_precedence(semver(&args[1])?) as i64)
}

/// A format that text may have.
#[derive(Debug)]
pub struct NamedFormat {
    name: &'static str,
    /// What is wrong with a text.
    problems: fn(&str) -> Vec<String>,
}

static FORMATS: LazyLock<Vec<NamedFormat>> = LazyLock::new(|| {
    let of = |name, problems| NamedFormat { name, problems };
    vec![
        of("dns1123Label", |text| one(names::label_1123(text))),
        of("dns1123Subdomain", |text| one(names::subdomain(text))),
        of("dns1035Label", |text| one(names::label_1035(text))),
        of("dns1123LabelPrefix", |text| one(names::label_1123(&prefix(text)))),
        of("dns1123SubdomainPrefix", |text| one(names::subdomain(&prefix(text)))),
        of("dns1035LabelPrefix", |text| one(names::label_1035(&prefix(text)))),
        of("qualifiedName", |text| one(names::qualified(text))),
        of("labelValue", |text| one(names::label_value(text))),
        of("uri", |text| one(super::url::parsed(text).err().map(|why| why.to_string()))),
        of("uuid", |text| {
            let groups: Vec<_> = text.split('-').map(str::len).collect();
            let hex = text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
            let uuid = hex && (groups == [8, 4, 4, 4, 12] || groups == [32]);
            one((!uuid).then(|| "does not match the UUID format".to_owned()))
        }),
        of("byte", |text| {
            use base64::Engine;
            let decoded = base64::engine::general_purpose::STANDARD.decode(text);
            one(decoded.err().map(|_| "invalid base64".to_owned()))
        }),
        of("date", |text| {
            let date = text.parse::<jiff::civil::Date>();
            one(date.err().map(|_| "invalid date".to_owned()))
        }),
        of("datetime", |text| {
            let at = super::time::parse_timestamp(text);
            one(at.is_none().then(|| "invalid datetime".to_owned()))
        }),
    ]
});

fn one(problem: names::Problem) -> Vec<String> {
    problem.into_iter().collect()
}

/// Names that will be generated may end with a dash: what follows it is fine.
fn prefix(text: &str) -> String {
    match text.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => format!("{rest}a"),
        _ => text.to_owned(),
    }
}

fn named<'a>(name: &str) -> Outcome<'a> {
    let found = FORMATS.iter().find(|format| format.name == name);
    found.map(|format| Val::Opaque(Opaque::Format(format))).ok_or_else(EvalError::no_such_overload)
}

fn validate<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let Val::Opaque(Opaque::Format(format)) = &args[0] else {
        return Err(EvalError::no_such_overload());
    };
    let problems = (format.problems)(text(args, 1)?);
    if problems.is_empty() {
        return Ok(Val::Optional(None));
    }
    Ok(Val::some(Val::items(problems.into_iter().map(Val::string).collect())))
}

fn real(args: &[Val<'_>]) -> Result<f64, EvalError> {
    match args[0] {
        Val::Double(double) => Ok(double),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn rounded<'a>(args: &[Val<'a>], how: impl Fn(f64) -> f64) -> Outcome<'a> {
    real(args).map(|double| Val::Double(how(double)))
}

fn greatest<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    extreme(args, "greatest", Ordering::Greater)
}

fn least<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    extreme(args, "least", Ordering::Less)
}

/// Of several numbers, whatever their types, or of those of a list.
fn extreme<'a>(args: &[Val<'a>], name: &str, wanted: Ordering) -> Outcome<'a> {
    let numbers = match args {
        [Val::List(list)] => list.iter().collect(),
        numbers => numbers.to_vec(),
    };
    let mut found: Option<Val<'a>> = None;
    for number in numbers {
        if !matches!(number, Val::Int(_) | Val::Uint(_) | Val::Double(_)) {
            return Err(EvalError::no_such_overload());
        }
        if found.as_ref().is_none_or(|known| number.compare(known) == Some(wanted)) {
            found = Some(number);
        }
    }
    found.ok_or_else(|| EvalError::new(format!("math.{name}(list) argument must not be empty")))
}
