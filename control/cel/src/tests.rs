//! Expressions as data: what they come to, or what is wrong with them.

mod construct;
mod estimate;
mod hostile;
mod library;
mod rules;

use std::rc::Rc;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::{
    Activation, Authorizer, CALL_LIMIT, Decision, Decl, Env, EvalError, Identity, Opaque, Query,
    Shape, Step, Type, Val,
};

/// The value as an expression would write it, more or less.
fn shown(value: &Val<'_>) -> String {
    match value {
        Val::String(text) => format!("{:?}", &**text),
        Val::Uint(n) => format!("{n}u"),
        Val::Double(n) => format!("{n:?}"),
        Val::Bytes(bytes) => format!("b{:?}", String::from_utf8_lossy(bytes)),
        Val::List(list) => {
            let items: Vec<_> = list.iter().map(|item| shown(&item)).collect();
            format!("[{}]", items.join(", "))
        }
        Val::Map(map) => {
            let entries = map.entries();
            let entry = |(key, value): &(crate::Key<'_>, Val<'_>)| {
                format!("{}: {}", shown(&key.value()), shown(value))
            };
            format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
        Val::Optional(None) => "none".into(),
        Val::Optional(Some(of)) => format!("some({})", shown(of)),
        Val::Type(name) => name.to_string(),
        Val::Opaque(Opaque::Quantity(quantity)) => quantity.to_string(),
        Val::Opaque(Opaque::Ip(ip)) => ip.to_string(),
        Val::Opaque(Opaque::Cidr(net)) => net.to_string(),
        Val::Null => "null".into(),
        Val::Bool(bool) => bool.to_string(),
        Val::Int(n) => n.to_string(),
        Val::Timestamp(at) => at.to_string(),
        Val::Duration(nanos) => format!("{nanos}ns"),
        other => format!("{other:?}"),
    }
}

fn object() -> Value {
    json!({
        "name": "a", "n": 3, "f": 1.5, "big": 3.0, "nothing": null, "list": [1, 2, 3], "words": ["x", "y"],
        "map": {"a": 1, "b": 2}, "nested": [{"k": "x", "v": 1}, {"k": "y", "v": 2}],
    })
}

/// The schema of [`typed`]: every shape once.
fn schema() -> Arc<Decl> {
    let item = Decl::object(
        "self.items.@idx",
        [("k", Decl::of(Shape::String)), ("v", Decl::of(Shape::Int))],
    );
    let keys = Identity::Map(vec!["k".into()]);
    Decl::object(
        "self",
        [
            ("name", Decl::of(Shape::String)),
            ("n", Decl::of(Shape::Int)),
            ("d", Decl::of(Shape::Double)),
            ("at", Decl::of(Shape::Timestamp)),
            ("took", Decl::of(Shape::Duration)),
            ("raw", Decl::of(Shape::Bytes)),
            ("any", Decl::of(Shape::Dyn)),
            ("set", Decl::of(Shape::List(Decl::of(Shape::Int), Identity::Set))),
            ("items", Decl::of(Shape::List(item, keys))),
            ("labels", Decl::of(Shape::Map(Decl::of(Shape::String)))),
            ("unset", Decl::of(Shape::String)),
        ],
    )
}

fn typed() -> Value {
    json!({
        "name": "a", "n": 3, "d": 2, "at": "2024-01-02T03:04:05Z", "took": "1h30m", "raw": "aGk=",
        "any": {"x": [1]}, "set": [1, 2], "items": [{"k": "x", "v": 1}, {"k": "y", "v": 2}],
        "labels": {"a": "b"},
    })
}

/// The value of an expression over `o` (undeclared) and `self` (declared), or what is wrong.
fn eval(text: &str) -> String {
    let schema = schema();
    let env = Env::new()
        .variable("o", Type::Dyn)
        .variable("self", schema.ty())
        .variable("authorizer", Type::Opaque("kubernetes.authorization.Authorizer"));
    let program = match env.compile(text) {
        Ok(program) => program,
        Err(why) => return why.to_string(),
    };
    let (object, typed) = (object(), typed());
    let step = Val::Opaque(Opaque::Authorizer(Step::new(Rc::new(OnlyAda))));
    let activation = Activation::new(vec![Val::of(&object), Val::declared(&typed, &schema), step]);
    let (result, _) = program.evaluate(&activation, CALL_LIMIT);
    result.map_or_else(|why| why.to_string(), |value| shown(&value))
}

/// Lets `get pods` in namespace `ada`, and nothing else.
struct OnlyAda;

impl Authorizer for OnlyAda {
    fn authorize(&self, query: &Query) -> Decision {
        let allowed = query.namespace == "ada" && query.resource == "pods" && query.verb == "get";
        Decision { allowed, reason: format!("{} {}", query.verb, query.resource), error: None }
    }
}

fn check(cases: &[(&str, &str)]) {
    let wrong: Vec<_> = cases
        .iter()
        .filter_map(|(text, expected)| {
            let found = eval(text);
            (found != *expected).then(|| format!("{text}\n   is {found}\n  not {expected}"))
        })
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn numbers_keep_their_types_and_do_not_wrap() {
    check(&[
        ("1 + 2 * 3", "7"),
        ("-(3 - 5)", "2"),
        ("7 / 2", "3"),
        ("-7 % 4", "-3"),
        ("7u / 2u", "3u"),
        ("1.5 + 2.0", "3.5"),
        ("1 / 0", "division by zero"),
        ("1 % 0", "modulus by zero"),
        ("1.0 / 0.0 > 100.0", "true"),
        ("9223372036854775807 + 1", "integer overflow"),
        ("-9223372036854775808 - 1", "integer overflow"),
        ("-(-9223372036854775807 - 1)", "integer overflow"),
        ("1u - 2u", "unsigned integer overflow"),
        ("9223372036854775807 < 9223372036854775808u", "true"),
        ("1 < 1.5 && 1u < 1.5 && 2.5 > 2", "true"),
        ("dyn(1) == 1.0 && dyn(1u) == 1 && dyn(1) != 1.5", "true"),
        ("int('42') + int(3.9) + int(2u)", "47"),
        ("int(1e99)", "integer overflow"),
        ("uint(-1)", "unsigned integer overflow"),
        ("double('1.5')", "1.5"),
        ("int('x')", "strconv.ParseInt: parsing \"x\": invalid syntax"),
        ("string(1.0) + string(1e30) + string(-2)", "\"11e+30-2\""),
        ("0x1F", "31"),
        ("math.abs(-3) + int(math.ceil(1.2))", "5"),
        ("math.isNaN(0.0 / 0.0)", "true"),
        ("math.greatest(1, 3, 2) + math.least([4, 5])", "7"),
        ("math.greatest(1, 2.5)", "2.5"),
        ("math.least(3u, 2)", "2"),
        ("math.greatest(o.list) + math.least(o.n)", "6"),
        ("math.greatest(o.words)", "no such overload"),
        ("math.least(o.list.filter(x, x > 9))", "math.least(list) argument must not be empty"),
        (
            "math.greatest('x')",
            "ERROR: <input>:1:15: math.greatest() invalid single argument value\n | math.greatest('x')\n | ..............^",
        ),
        (
            "math.least(1, 'x')",
            "ERROR: <input>:1:15: math.least() simple literal arguments must be numeric\n | math.least(1, 'x')\n | ..............^",
        ),
    ]);
}

#[test]
fn text_and_bytes() {
    check(&[
        ("'a' + \"b\" + r'\\n'", "\"ab\\\\n\""),
        ("size('äß') == 2 && 'äß'.size() == 2", "true"),
        ("size(b'äß')", "4"),
        ("'hello'.contains('ell') && 'hello'.startsWith('he') && 'hello'.endsWith('lo')", "true"),
        ("'hello'.matches('^h.*o$')", "true"),
        (
            "'hello'.matches('(')",
            "ERROR: <input>:1:16: error parsing regexp: regex parse error:\n    (\n    ^\nerror: unclosed group\n | 'hello'.matches('(')\n | ...............^",
        ),
        ("'hello'.charAt(1)", "\"e\""),
        ("'hello'.charAt(9)", "index out of range: 9"),
        ("'hello'.indexOf('l') + 'hello'.lastIndexOf('l')", "5"),
        ("'hello'.indexOf('l', 3)", "3"),
        ("'TacoCat'.lowerAscii() + 'TacoCat'.upperAscii()", "\"tacocatTACOCAT\""),
        ("'hello'.substring(1, 3)", "\"el\""),
        ("'hello'.substring(4, 3)", "invalid substring range. start: 4, end: 3"),
        ("'a,b,c'.split(',')", "[\"a\", \"b\", \"c\"]"),
        ("'a,b,c'.split(',', 2)", "[\"a\", \"b,c\"]"),
        ("'abc'.split('')", "[\"a\", \"b\", \"c\"]"),
        ("['a', 'b'].join('-')", "\"a-b\""),
        ("'hello'.replace('l', 'L', 1)", "\"heLlo\""),
        ("'  x '.trim()", "\"x\""),
        ("'%s has %d, %.2f, %x'.format(['a', 3, 1.5, 255])", "\"a has 3, 1.50, ff\""),
        ("'%s'.format([[1, 'a', {'k': true}]])", "\"[1, a, {k: true}]\""),
        (
            "'%d'.format(['a'])",
            "error during formatting: decimal clause can only be used on integers, was given string",
        ),
        ("'abc 123 def 456'.find('[0-9]+')", "\"123\""),
        ("'abc 123 def 456'.findAll('[0-9]+')", "[\"123\", \"456\"]"),
        ("base64.encode(b'hi') + string(base64.decode('aGk'))", "\"aGk=hi\""),
        ("'a' < 'b' && b'a' < b'b'", "true"),
    ]);
}

#[test]
fn lists_maps_and_macros() {
    check(&[
        ("[1, 2] + [3]", "[1, 2, 3]"),
        ("[1, 2, 3][1]", "2"),
        ("[1, 2, 3][3]", "index out of bounds: 3"),
        ("2 in [1, 2] && !('c' in {'a': 1})", "true"),
        ("{'a': 1, 'b': 2}.b", "2"),
        ("{'a': 1}.b", "no such key: b"),
        ("{'a': 1}['c']", "no such key: c"),
        ("{1: 'x', 2: 'y'}[1]", "\"x\""),
        ("{'a': 1, 'a': 2}", "insert failed: key a already exists"),
        ("[dyn(1), 2.0, dyn('x')]", "[1, 2.0, \"x\"]"),
        ("[[1], [2]] == [[1], [2]] && {'a': [1]} == {'a': [1]}", "true"),
        (
            "[1, 2, 3].all(x, x > 0) && [1, 2].exists(x, x == 2) && [1, 2].exists_one(x, x > 1)",
            "true",
        ),
        ("[1, 2, 3].map(x, x * 2)", "[2, 4, 6]"),
        ("[1, 2, 3].map(x, x > 1, x * 2)", "[4, 6]"),
        ("[1, 2, 3].filter(x, x % 2 == 1)", "[1, 3]"),
        ("{'a': 1, 'b': 2}.all(k, k < 'c')", "true"),
        ("[3, 4].all(i, v, v == i + 3)", "true"),
        ("{'a': 1}.exists(k, v, k == 'a' && v == 1)", "true"),
        ("[5, 6].transformList(i, v, i * v)", "[0, 6]"),
        ("[5, 6].transformMap(i, v, v > 5, v + 1)", "{1: 7}"),
        ("{'a': 'x'}.transformMapEntry(k, v, {v: k})", "{\"x\": \"a\"}"),
        // An error decides nothing where another item does.
        ("[1, 0].all(x, 1 / x > 5)", "false"),
        ("[0, 1].exists(x, 1 / x == 1)", "true"),
        ("[0, 1].all(x, 1 / x == 1)", "division by zero"),
        ("1 / 0 == 1 || true", "true"),
        ("1 / 0 == 1 && false", "false"),
        ("[[1, 2], [3]].map(x, x.map(y, y + size(x)))", "[[3, 4], [4]]"),
        ("[1, 2, 3].isSorted() && ![2, 1].isSorted()", "true"),
        ("[1, 2, 3].sum() + [4, 1].min() + [4, 1].max()", "11"),
        ("['1h', '30m'].map(x, duration(x)).sum() == duration('90m')", "true"),
        ("[].map(x, x).sum() == 0", "true"),
        ("[1, 2, 1].indexOf(1) + [1, 2, 1].lastIndexOf(1)", "2"),
        (
            "sets.contains([1, 2], [2]) && sets.intersects([1], [1, 3]) && sets.equivalent([1, 1], [1])",
            "true",
        ),
        ("[1, 2, 3].slice(1, 3)", "[2, 3]"),
        ("[[[1]], [[2, 3]]].flatten()", "[[1], [2, 3]]"),
        ("[2, 1, 2].distinct().sort()", "[1, 2]"),
        ("lists.range(3).reverse()", "[2, 1, 0]"),
        ("size([1, 2]) + size({'a': 1}) + size('abc')", "6"),
    ]);
}

#[test]
fn optional_values() {
    check(&[
        ("optional.of(1).value()", "1"),
        ("optional.none().orValue(2)", "2"),
        ("optional.none().value()", "optional.none() dereference"),
        ("o.?name", "some(\"a\")"),
        ("o.?missing.?deeper.orValue('x')", "\"x\""),
        ("o.?map.a", "some(1)"),
        ("o.list[?5].hasValue()", "false"),
        ("[?o.?missing, 1, ?optional.of(2)]", "[1, 2]"),
        ("{?'a': o.?missing, 'b': 1}", "{\"b\": 1}"),
        ("o.?n.optMap(x, x + 1)", "some(4)"),
        ("o.?map.optFlatMap(m, m.?a)", "some(1)"),
        ("optional.ofNonZeroValue('').or(optional.of('z')).value()", "\"z\""),
        ("has(o.?missing.x)", "false"),
        // As upstream's policy that keeps Pods' users to their nodes has it.
        ("{'a': ['x']}[?'a'][0].orValue('')", "\"x\""),
        ("{'a': ['x']}[?'b'][0].orValue('none')", "\"none\""),
        ("{'a': ['x']}[?'a'][?3].orValue('none')", "\"none\""),
        ("o[?'map']['a']", "some(1)"),
    ]);
}

#[test]
fn objects_without_a_schema() {
    check(&[
        ("o.name + string(o.n)", "\"a3\""),
        ("o.f + 1.0", "2.5"),
        ("o.n + 1.5", "no such overload"),
        ("o.nothing == null", "true"),
        ("has(o.name) && !has(o.other)", "true"),
        ("o.other", "no such key: other"),
        ("o.list.all(x, x > 0) && o.words.exists(w, w == 'y')", "true"),
        ("o.nested.filter(x, x.v > 1)[0].k", "\"y\""),
        ("o.map.map(k, k)", "[\"a\", \"b\"]"),
        ("'a' in o.map && o.map['b'] == 2", "true"),
        ("type(o.name) == string && type(o.n) == int && type(o.list) == list", "true"),
        ("o.name.foo", "no such overload"),
        ("o.name ? 1 : 2", "no such overload"),
    ]);
}

#[test]
fn objects_with_a_schema() {
    check(&[
        ("self.n + 1", "4"),
        ("self.d / 4.0", "0.5"),
        ("self.at.getFullYear() == 2024 && self.at < timestamp('2025-01-01T00:00:00Z')", "true"),
        ("self.took == duration('90m')", "true"),
        ("self.raw", "b\"hi\""),
        ("self.any.x[0]", "1"),
        ("self.set == [2, 1]", "true"),
        ("self.set + [2, 3]", "[1, 2, 3]"),
        ("self.items + self.items == self.items", "true"),
        ("self.items.exists(i, i.k == 'y' && i.v == 2)", "true"),
        ("has(self.unset)", "false"),
        ("self.unset", "no such key: unset"),
        ("self.labels.a", "\"b\""),
        ("self.nope", "ERROR: <input>:1:5: undefined field 'nope'\n | self.nope\n | ....^"),
        (
            "has(self.nope)",
            "ERROR: <input>:1:4: undefined field 'nope'\n | has(self.nope)\n | ...^",
        ),
        (
            "self.n.x",
            "ERROR: <input>:1:7: type 'int' does not support field selection\n | self.n.x\n | ......^",
        ),
        (
            "self.items.all(i, i.z == 1)",
            "ERROR: <input>:1:20: undefined field 'z'\n | self.items.all(i, i.z == 1)\n | ...................^",
        ),
    ]);
}

#[test]
fn what_does_not_compile_is_said_in_upstreams_words() {
    check(&[
        (
            "foo",
            "ERROR: <input>:1:1: undeclared reference to 'foo' (in container '')\n | foo\n | ^",
        ),
        (
            "1 + 'a'",
            "ERROR: <input>:1:3: found no matching overload for '_+_' applied to '(int, string)'\n | 1 + 'a'\n | ..^",
        ),
        (
            "'a'.contains(1)",
            "ERROR: <input>:1:13: found no matching overload for 'contains' applied to 'string.(int)'\n | 'a'.contains(1)\n | ............^",
        ),
        (
            "nope(1)",
            "ERROR: <input>:1:5: undeclared reference to 'nope' (in container '')\n | nope(1)\n | ....^",
        ),
        (
            "1 && true",
            "ERROR: <input>:1:1: expected type 'bool' but found 'int'\n | 1 && true\n | ^",
        ),
        (
            "1.all(x, true)",
            "ERROR: <input>:1:1: expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)\n | 1.all(x, true)\n | ^",
        ),
        (
            "[1].all(1, true)",
            "ERROR: <input>:1:9: argument must be a simple name\n | [1].all(1, true)\n | ........^",
        ),
        (
            "true ? 1 : 'a'",
            "ERROR: <input>:1:6: found no matching overload for '_?_:_' applied to '(bool, int, string)'\n | true ? 1 : 'a'\n | .....^",
        ),
        (
            "\n  bar",
            "ERROR: <input>:2:3: undeclared reference to 'bar' (in container '')\n |   bar\n | ..^",
        ),
        (
            "o.n in [1, 'a']",
            "ERROR: <input>:1:12: expected type 'int' but found 'string'\n | o.n in [1, 'a']\n | ...........^",
        ),
        (
            "{'a': 1, 'b': [2]}",
            "ERROR: <input>:1:15: expected type 'int' but found 'list(int)'\n | {'a': 1, 'b': [2]}\n | ..............^",
        ),
        (
            "duration('1x') < duration('1h')",
            "ERROR: <input>:1:10: invalid duration argument\n | duration('1x') < duration('1h')\n | .........^",
        ),
        (
            "'ä' + bar",
            "ERROR: <input>:1:7: undeclared reference to 'bar' (in container '')\n | 'ä' + bar\n | .\u{ff0e}....^",
        ),
    ]);
    let syntax = eval("self.n = 42");
    assert!(
        syntax.starts_with("ERROR: <input>:1:8: Syntax error: token recognition error at: '= '"),
        "{syntax}"
    );
    let syntax = eval("self.n ==");
    assert!(
        syntax.starts_with("ERROR: <input>:1:10: Syntax error: mismatched input '<EOF>' expecting"),
        "{syntax}"
    );
}

#[test]
fn time_and_length_of_time() {
    check(&[
        ("timestamp('2023-01-01T00:00:00Z') + duration('1h')", "2023-01-01T01:00:00Z"),
        (
            "timestamp('2023-01-02T00:00:00Z') - timestamp('2023-01-01T00:00:00Z') == duration('24h')",
            "true",
        ),
        ("timestamp('2023-06-01T00:00:00Z').getHours('Europe/Berlin')", "2"),
        ("timestamp('2023-06-01T00:00:00Z').getHours('-02:00')", "22"),
        ("timestamp('2023-06-04T00:00:00Z').getDayOfWeek()", "0"),
        ("timestamp('' + 'x')", "parsing time \"x\": cannot parse as RFC 3339"),
        ("duration('1.5h').getMinutes()", "90"),
        ("string(duration('1m1.5s'))", "\"61.5s\""),
        ("duration('' + '1x')", "time: invalid duration \"1x\""),
        ("duration('9000000' + 'h')", "time: invalid duration \"9000000h\""),
        ("timestamp('9999-12-30T21:00:00Z') + duration('24h')", "timestamp overflow"),
    ]);
}

#[test]
fn kubernetes_libraries() {
    check(&[
        ("quantity('1Gi').isGreaterThan(quantity('1G'))", "true"),
        ("quantity('1').add(quantity('500m')).asApproximateFloat()", "1.5"),
        ("quantity('200M').compareTo(quantity('0.2G'))", "0"),
        ("isQuantity('1Q') || isQuantity('1.3Gi')", "true"),
        (
            "quantity('x')",
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        ("quantity('50k') == quantity('50000') && quantity('-1').sign() == -1", "true"),
        ("url('https://user:pass@example.com:80/a%20b/?k=v&k=w').getHost()", "\"example.com:80\""),
        (
            "url('https://[::1]:80/').getHostname() + url('https://[::1]:80/').getPort()",
            "\"::180\"",
        ),
        ("url('/p/q?k=v').getEscapedPath()", "\"/p/q\""),
        ("url('https://a/?k=v&k=w').getQuery()", "{\"k\": [\"v\", \"w\"]}"),
        ("isURL('https://a.b') && !isURL('../a')", "true"),
        ("ip('192.168.0.1').family() == 4 && ip('::1').isLoopback() && !isIP('1.2.3.256')", "true"),
        ("ip.isCanonical('2001:db8::abcd') && !ip.isCanonical('2001:DB8::ABCD')", "true"),
        (
            "cidr('192.168.0.0/24').containsIP('192.168.0.1') && cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16')",
            "true",
        ),
        ("cidr('192.168.1.7/24').masked()", "192.168.1.0/24"),
        ("cidr('192.168.1.7/24').prefixLength()", "24"),
        ("ip('::ffff:1.2.3.4')", "IPv4-mapped IPv6 address \"::ffff:1.2.3.4\" is not allowed"),
        (
            "semver('1.2.3').isLessThan(semver('1.10.0')) && semver('v1.2', true).minor() == 2",
            "true",
        ),
        ("isSemver('1.0.0-rc.1') && !isSemver('v1.0')", "true"),
        ("format.dns1123Label().validate('ok').hasValue()", "false"),
        ("format.named('dns1123Label').value().validate('Not OK').value().size()", "1"),
        ("!format.uuid().validate('123e4567-e89b-12d3-a456-426614174000').hasValue()", "true"),
        ("jsonpatch.escapeKey('a/b~c')", "\"a~1b~0c\""),
    ]);
}

#[test]
fn asking_the_authorizer() {
    check(&[
        ("authorizer.group('').resource('pods').namespace('ada').check('get').allowed()", "true"),
        ("authorizer.group('').resource('pods').namespace('bob').check('get').allowed()", "false"),
        ("authorizer.group('').resource('pods').check('get').reason()", "\"get pods\""),
        ("authorizer.path('/healthz').check('get').allowed()", "false"),
        (
            "authorizer.serviceAccount('a', 'b').group('').resource('pods').namespace('ada').check('get').allowed()",
            "true",
        ),
    ]);
}

#[test]
fn a_bill_is_kept_and_a_limit_holds() {
    let env = Env::new().variable("o", Type::Dyn);
    let object = json!({"a": {"b": "x"}, "list": (0..1000).collect::<Vec<_>>()});
    let cost = |text: &str, limit: u64| {
        let program = env.compile(text).expect(text);
        let (result, cost) = program.evaluate(&Activation::new(vec![Val::of(&object)]), limit);
        (result.map(|value| shown(&value)), cost)
    };
    // Each variable and each selection is one, a comparison one, constants are free.
    assert_eq!(cost("o.a.b == 'x'", 100), (Ok("true".into()), 4));
    assert_eq!(cost("[1, 2]", 100), (Ok("[1, 2]".into()), 10));
    assert_eq!(cost("'0123456789'.contains('0123456789')", 100), (Ok("true".into()), 1));
    // A round of `all` costs three beside its predicate.
    assert_eq!(cost("[1, 2].all(x, x > 0)", 100), (Ok("true".into()), 10 + 2 * (3 + 2) + 1));
    assert_eq!(cost("o.list.all(x, x >= 0)", 5010).0, Ok("true".into()));
    assert_eq!(cost("o.list.all(x, x >= 0)", 4000).0, Err(EvalError::CostLimit));
    // What a `||` would forgive it does not forgive here.
    let forgiven = "o.list.all(x, x >= 0) || true";
    assert_eq!(cost(forgiven, 100).0, Err(EvalError::CostLimit));
}

#[test]
fn results_of_other_types_are_refused() {
    let env = Env::new().variable("o", Type::Dyn);
    let refused =
        |text: &str, to: &[Type]| env.compile_to(text, to).map(drop).unwrap_err().detail();
    assert_eq!(refused("'a'", &[Type::Bool]), "must evaluate to bool but got string");
    assert_eq!(refused("o.a", &[Type::Bool]), "must evaluate to bool but got dyn");
    assert_eq!(
        refused("1", &[Type::String, Type::Null]),
        "must evaluate to one of [string null_type] but got int"
    );
    assert!(refused("a", &[Type::Bool]).starts_with("compilation failed: ERROR: <input>:1:1: "));
    assert!(env.compile_to("o.a == 1", &[Type::Bool]).is_ok());
}

#[test]
fn names_of_properties_are_escaped() {
    let escaped = |name: &str| crate::escape(name).unwrap_or_default();
    assert_eq!(escaped("plain"), "plain");
    assert_eq!(escaped("namespace"), "__namespace__");
    assert_eq!(escaped("x-prop"), "x__dash__prop");
    assert_eq!(escaped("redact__d"), "redact__underscores__d");
    assert_eq!(escaped("a.b/c"), "a__dot__b__slash__c");
    assert_eq!(crate::escape("1a"), None);
    assert_eq!(crate::escape("ä"), None);
    assert_eq!(crate::escape(""), None);
}

#[test]
fn variables_made_of_others_are_worked_out_once() {
    let mut env = Env::new().variable("o", Type::Dyn).composing();
    let first = env.compile("o.list.map(x, x * 2)").expect("compiles");
    env.compose("doubled", first.ty().clone());
    let second = env.compile("variables.doubled.size()").expect("compiles");
    env.compose("count", second.ty().clone());
    let last = env.compile("variables.count + variables.count").expect("compiles");
    let unknown = env.compile("variables.nope").map(drop).unwrap_err().to_string();
    assert!(unknown.contains("undefined field 'nope'"), "{unknown}");

    let object = object();
    let mut activation = Activation::new(vec![Val::of(&object)]);
    activation.compose(Some(&first));
    activation.compose(Some(&second));
    let (result, cost) = last.evaluate(&activation, CALL_LIMIT);
    assert_eq!(result.map(|value| shown(&value)), Ok("6".into()));
    let (_, again) = last.evaluate(&activation, CALL_LIMIT);
    assert!(again < cost, "{again} < {cost}");
}
