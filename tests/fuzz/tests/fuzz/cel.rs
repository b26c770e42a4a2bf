//! Expressions: whatever is written, it is refused or it compiles; whatever compiles ends within its cost.

use std::time::Duration;

use coracle_cel::{Activation, CALL_LIMIT, Env, Rules, Type, Val};
use coracle_fuzz::{Bounds, Random, bytes, cases_within};
use serde_json::{Value, json};

const PIECES: &[&str] = &[
    "o",
    ".a",
    ".s",
    ".l",
    ".m",
    "[0]",
    "['a']",
    "(",
    ")",
    " + ",
    " - ",
    " * ",
    " / ",
    " % ",
    " == ",
    " != ",
    " < ",
    " >= ",
    " && ",
    " || ",
    "!",
    "-",
    " ? ",
    " : ",
    " in ",
    "1",
    "0",
    "-9223372036854775808",
    "9223372036854775807",
    "1u",
    "18446744073709551615u",
    "1.5",
    "'a'",
    "b'a'",
    "r'\\d'",
    "\"é\"",
    "true",
    "null",
    "[",
    "]",
    "{",
    "}",
    ", ",
    "'k': ",
    "size(o.l)",
    "o.l.map(x, x)",
    "o.l.all(x, x > 1)",
    "o.l.exists(x, x == 2)",
    "o.l.filter(x, true)",
    "has(o.a)",
    "o.s.matches('a+')",
    "duration('1h')",
    "timestamp('2024-01-01T00:00:00Z')",
    "int(o.s)",
    "string(1)",
    "bytes('a')",
    "double('1e400')",
    "dyn(1)",
    "type(o)",
    "quantity('1Gi')",
    "url('https://a/b')",
    "ip('10.0.0.1')",
    "cidr('10.0.0.0/8')",
    "isQuantity('x')",
    "o.s.split(',')",
    "o.l.sum()",
    "o.l.sort()",
    "o.s.replace('a', 'bb')",
    "o.s.format([1])",
    "'%.99999f'.format([1.0])",
    "optional.of(1)",
    "o.?a.orValue(2)",
    "cel.bind(x, o.l, x)",
    "lists.range(5)",
    "sets.contains([1], [2])",
    ".getFullYear()",
    ".lowerAscii()",
    ".indexOf('a')",
    ".substring(1)",
    "semver('1.2.3')",
    "format.dns1123Label()",
    "math.greatest(1, 2)",
];

fn object() -> Value {
    json!({"a": 1, "s": "a,b".repeat(50), "l": (0..50).collect::<Vec<_>>(), "m": {"a": {"b": [true, null, 1.5]}}})
}

fn evaluated(text: &str) {
    let env = Env::new().variable("o", Type::Dyn);
    let object = object();
    match env.compile(text) {
        Ok(program) => {
            let (result, cost) =
                program.evaluate(&Activation::new(vec![Val::of(&object)]), CALL_LIMIT);
            match result {
                Ok(value) => {
                    assert!(cost <= CALL_LIMIT, "{cost}");
                    let _ = value.to_json();
                }
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// What an expression may take at its limit: a million steps without optimisation.
const BOUNDS: Bounds = Bounds { memory: 256 << 20, time: Duration::from_secs(10) };

fn expression(random: &mut Random, depth: usize) -> String {
    if depth == 0 {
        return (*random.pick(&[
            "o", "o.a", "o.s", "o.l", "1", "2u", "1.5", "'a'", "true", "null", "[1, 2]",
            "{'a': 1}", "x",
        ]))
        .to_owned();
    }
    let mut inner = || expression(random, depth - 1);
    let (a, b) = (inner(), inner());
    match random.below(12) {
        0 => format!("({a} + {b})"),
        1 => format!("({a} == {b})"),
        2 => format!("({a} && {b})"),
        3 => format!("({a} ? {b} : {a})"),
        4 => format!("[{a}, {b}]"),
        5 => format!("{{{a}: {b}}}"),
        6 => format!("{a}.map(x, {b})"),
        7 => format!("{a}.all(x, {b})"),
        8 => format!("{a}.filter(x, {b})"),
        9 => format!("{a}[{b}]"),
        10 => format!("({a} in {b})"),
        _ => format!(
            "{}({a})",
            random.pick(&["size", "string", "int", "dyn", "type", "double", "-", "!"])
        ),
    }
}

#[test]
fn expressions() {
    bytes("cel", &[b"o.l.map(x, x * 2).exists(y, y == 4) && o.s.size() > 1"], PIECES, |input| {
        if let Ok(text) = std::str::from_utf8(input) {
            evaluated(text);
        }
    });
}

#[test]
fn expressions_of_pieces() {
    cases_within("cel-pieces", BOUNDS, |random| evaluated(&random.of(PIECES, 12)));
}

#[test]
fn expressions_of_expressions() {
    cases_within("cel-trees", BOUNDS, |random| {
        let depth = random.below(5);
        evaluated(&expression(random, depth));
    });
}

#[test]
fn rules_of_schemas() {
    cases_within("cel-rules", BOUNDS, |random| {
        let rule = match random.below(3) {
            0 => random.of(PIECES, 6).replace('o', "self"),
            1 => "self.a == oldSelf.a".to_owned(),
            _ => expression(random, 3).replace('o', "self"),
        };
        let of = |ty: &str| json!({"type": ty});
        let schema = json!({"type": "object", "properties": {
            "a": of("integer"), "s": {"type": "string", "maxLength": random.number()},
            "l": {"type": "array", "maxItems": random.below(1000), "items": of("integer")},
            "m": {"type": "object", "additionalProperties": of("string")},
        }, "x-kubernetes-validations": [{"rule": rule, "message": random.text()}]});
        let (rules, _) = Rules::compile(&schema, "spec");
        let (new, old) = (random.json(3), random.json(3));
        let _ = rules.check(&new, Some(&old));
        let _ = rules.check(&object(), None);
    });
}
