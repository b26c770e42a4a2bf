//! Expressions that mean harm: deep, long, large, or no expressions at all. Whatever they are, nothing panics, nothing
//! overflows the stack, and nothing runs without end.

use serde_json::json;

use crate::{Activation, CALL_LIMIT, Env, Type, Val};

/// Compiles and runs it, on a thread with as little stack as a server's worker has.
fn survives(text: String) -> Option<String> {
    let run = move || {
        let env = Env::new().variable("o", Type::Dyn);
        let object =
            json!({"s": "x".repeat(1000), "l": (0..100).collect::<Vec<_>>(), "m": {"a": {"a": 1}}});
        let program = env.compile(&text).map_err(|why| why.to_string());
        program.and_then(|program| {
            let (result, _) =
                program.evaluate(&Activation::new(vec![Val::of(&object)]), CALL_LIMIT);
            result.map(drop).map_err(|why| why.to_string())
        })
    };
    let thread = std::thread::Builder::new().stack_size(512 << 10).spawn(run);
    thread.expect("a thread").join().expect("no panic").err()
}

#[test]
fn depth_is_bounded() {
    let refused = "ERROR: <input>:1:1: expression recursion limit exceeded: 250";
    for text in [
        "(".repeat(40_000) + "1" + &")".repeat(40_000),
        "[".repeat(5_000) + &"]".repeat(5_000),
        "1".to_owned() + &"+1".repeat(40_000),
        "o".to_owned() + &".a".repeat(40_000),
        "o".to_owned() + &"[0]".repeat(30_000),
        "true ? 1 : ".repeat(5_000) + "2",
        "{'a':".repeat(5_000) + "1" + &"}".repeat(5_000),
        "o.f(".repeat(15_000) + "1" + &")".repeat(15_000),
    ] {
        let why = survives(text).unwrap_or_default();
        assert!(why.starts_with(refused), "{}", &why[..why.len().min(200)]);
    }
    // Below the limit it works, and && is no depth.
    assert_eq!(survives("1".to_owned() + &"+1".repeat(200)), None);
    assert_eq!(survives("(".repeat(60) + "1" + &")".repeat(60)), None);
    assert_eq!(survives("true".to_owned() + &" && true".repeat(2_000)), None);
    let long = survives(format!("'{}'", "x".repeat(200_000))).unwrap_or_default();
    assert!(long.contains("expression code point size exceeds limit"), "{long}");
}

#[test]
fn work_is_bounded() {
    let nested = "o.l.map(a, o.l.map(b, o.l.map(c, o.l.map(d, a + b + c + d))))";
    let limit = Some("operation cancelled: actual cost limit exceeded".to_owned());
    assert_eq!(survives(nested.into()), limit);
    assert_eq!(survives("o.l.all(a, o.l.all(b, o.l.all(c, o.s.contains(o.s))))".into()), limit);
    for text in [
        "lists.range(9223372036854775807)",
        "o.s.replace('', o.s).replace('', o.s).replace('', o.s)",
        "o.s.matches('(x+x+)+y')",
        "o.s.matches('(((((x{100}){100}){100}){100}){100})')",
        "'%.999999999f'.format([1.0])",
        "-9223372036854775808 / -1",
        "-9223372036854775808 % -1",
        "duration('99999999999999999999999999h')",
        "timestamp('-999999999-01-01T00:00:00Z')",
        "timestamp(9223372036854775807)",
        "'x'.substring(-1) + 'x'.charAt(-9223372036854775808)",
        "[1][-9223372036854775808]",
        "[1][1e300]",
        "'ä'.lastIndexOf('ß', 1)",
        "'äöü'.lastIndexOf('ö', 1)",
        "cidr('10.0.0.0/99999999999999')",
        "quantity('999999999999999999999999999999999999E').add(quantity('1E'))",
        "quantity('-9223372036854775807').sub(9223372036854775807)",
        "semver('99999999999999999999.0.0')",
        "'abc'.split('', -9223372036854775808)",
        "'abc'.findAll('b', -9223372036854775808)",
        "timestamp('2020-01-01T00:00:00Z').getHours('99:99')",
        "url('https://[')",
        "math.abs(-9223372036854775808)",
        "[0.0 / 0.0, 1.0].sort()",
    ] {
        let _ = survives(text.into());
    }
}

/// Random tokens, and random cuts of good expressions, from a fixed seed.
#[test]
fn nonsense_is_refused() {
    const PIECES: &[&str] = &[
        "o",
        ".",
        "a",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        "?",
        "+",
        "-",
        "*",
        "/",
        "%",
        "!",
        "&&",
        "||",
        "==",
        "<",
        "in",
        "1",
        "2u",
        "1.5",
        "'x'",
        "b'y'",
        "\"",
        "'''",
        "true",
        "null",
        ".all(x, x)",
        ".map(x, x + 1)",
        ".?s",
        "[?0]",
        "has(o.s)",
        "size(",
        "duration('1h')",
        "timestamp('2020-01-01T00:00:00Z')",
        "\\",
        "\u{0}",
        "ä",
        "🐱",
        "//",
        "\n",
        "Object{a: 1}",
        ".optMap(y, y)",
        "9223372036854775808",
        "0x",
        "1e999",
        "`",
        "r'",
        "@",
        ".s.matches('x')",
        ".exists_one(k, v, k)",
        "dyn(",
        "type(",
        ".format([1])",
        "ip('::1')",
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let mut texts = Vec::new();
    for _ in 0..400 {
        let count = 1 + next(12);
        texts.push((0..count).map(|_| PIECES[next(PIECES.len())]).collect::<Vec<_>>().join(" "));
    }
    let good = "o.l.filter(x, x > 1).map(x, {'k': [x, 'é']}).exists(m, m.k[0] == 2 || has(m.q)) ? o.?s : optional.none()";
    let places: Vec<usize> = good.char_indices().map(|(at, _)| at).collect();
    for _ in 0..200 {
        let (a, b) = (places[next(places.len())], places[next(places.len())]);
        texts.push(good[a.min(b)..a.max(b)].to_owned());
    }
    let run = move || {
        for text in texts {
            let env = Env::new().variable("o", Type::Dyn);
            let object = json!({"s": "x", "l": [1, 2]});
            if let Ok(program) = env.compile(&text) {
                let _ = program.evaluate(&Activation::new(vec![Val::of(&object)]), CALL_LIMIT);
            }
        }
    };
    let thread = std::thread::Builder::new().stack_size(512 << 10).spawn(run);
    thread.expect("a thread").join().expect("no panic");
}
