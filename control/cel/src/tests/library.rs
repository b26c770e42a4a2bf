//! The behaviours that upstream's own tests of its libraries hold (`k8s.io/apiserver/pkg/cel/library/*_test.go`), in our words:
//! what calls come to, what is wrong with them, and what they cost.

use super::*;

/// Beside [`check`]: expressions that are to be true.
fn all_true(expressions: &[&str]) {
    let cases: Vec<_> = expressions.iter().map(|text| (*text, "true")).collect();
    check(&cases);
}

/// What does not compile for want of an overload: the function and its arguments.
fn no_overload(cases: &[(&str, &str)]) {
    for (text, applied) in cases {
        let (function, _) = text.split_once('(').expect("a call");
        let found = eval(text);
        let expected =
            format!("found no matching overload for '{function}' applied to '({applied})'");
        assert!(found.contains(&expected), "{text}: {found}");
    }
}

#[test]
fn quantities() {
    check(&[
        ("quantity('12Mi')", "12Mi"),
        (
            "quantity('10Mo')",
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        ("quantity('10Mm')", "unable to parse quantity's suffix"),
        ("quantity('50k').add(20).sub(quantity('100k')).asInteger()", "-49980"),
        ("quantity('50k').add(20).sub(quantity('100k')).sub(-50000).asInteger()", "20"),
        (
            "quantity('9999999999999999999999999999999999999G').asInteger()",
            "cannot convert value to integer",
        ),
        ("quantity('0.5').asInteger()", "cannot convert value to integer"),
        ("quantity('50.703k').asApproximateFloat()", "50703.0"),
        ("quantity('50M').compareTo(quantity('50Mi'))", "-1"),
        ("quantity('50Mi').compareTo(quantity('50M'))", "1"),
    ]);
    all_true(&[
        "isQuantity('20') && isQuantity('20M') && isQuantity('20Mi')",
        "!isQuantity('20Mo') && !isQuantity('10Mm')",
        "quantity('200M') == quantity('0.2G') && quantity('0.2G') == quantity('200M')",
        "quantity('2M') == quantity('0.002G') && quantity('2000k') == quantity('2M')",
        "quantity('200M') != quantity('0.3G')",
        "quantity('50M').isLessThan(quantity('50Mi')) && quantity('50M').isLessThan(quantity('100M'))",
        "!quantity('100M').isLessThan(quantity('50M')) && !quantity('50M').isGreaterThan(quantity('100M'))",
        "quantity('50k').add(quantity('20')) == quantity('50.02k')",
        "!quantity('50k').add(20).isLessThan(quantity('50020'))",
        "quantity('50k').sub(quantity('20')) == quantity('49.98k') && quantity('50k').sub(20) == quantity('49980')",
        "!quantity('9999999999999999999999999999999999999G').isInteger() && quantity('50').isInteger()",
    ]);
    no_overload(&[("isQuantity([1, 2, 3])", "list(int)")]);
}

#[test]
fn addresses() {
    let parse = |text: &str, why: &str| {
        let found = eval(&format!("ip('{text}')"));
        let expected = format!(
            "IP Address \"{text}\" parse error during conversion from string: ParseAddr(\"{text}\"): {why}"
        );
        assert_eq!(found, expected);
    };
    parse("192.168.0.1.0", "IPv4 address too long");
    parse("192.168.0", "IPv4 address too short");
    parse("192.168.0.256", "IPv4 field has value >255");
    parse("192.168.0.01", "IPv4 field has octet with leading zero");
    parse("192.168..1", "IPv4 field must have at least one digit (at \".1\")");
    parse("192.168.0.x", "unexpected character (at \"x\")");
    parse("localhost", "unable to parse IP");
    parse("", "unable to parse IP");
    parse("2001:db8:::68", "each colon-separated field must have at least one digit (at \":68\")");
    parse("2001:db8", "address string too short");
    parse("1:2:3:4:5:6:7:8:9", "trailing garbage after address (at \"9\")");
    parse("1::2::3", "multiple :: in address (at \":3\")");
    parse("12345::", "each group must have 4 or fewer digits (at \"12345::\")");
    parse("1:2:3:4:5:6:7:8::", "the :: must expand to at least one field of zeros");
    parse("fe80::1%", "zone must be a non-empty string");
    check(&[
        ("ip('192.168.0.1')", "192.168.0.1"),
        ("ip('2001:db8::68')", "2001:db8::68"),
        ("ip('192.168.0.1').family()", "4"),
        ("ip('2001:db8::68').family()", "6"),
        ("string(ip('192.168.0.1'))", "\"192.168.0.1\""),
        ("ip('fe80::1%eth0')", "IP address \"fe80::1%eth0\" with zone value is not allowed"),
        (
            "ip.isCanonical('127.0.0.1.0')",
            "IP Address \"127.0.0.1.0\" parse error during conversion from string: ParseAddr(\"127.0.0.1.0\"): IPv4 address too long",
        ),
    ]);
    all_true(&[
        "isIP('192.168.0.1') && !isIP('192.168.0.1.0') && isIP('2001:db8::68') && !isIP('2001:db8:::68')",
        "ip.isCanonical('127.0.0.1') && ip.isCanonical('2001:db8::68') && !ip.isCanonical('2001:DB8::68')",
        "ip('0.0.0.0').isUnspecified() && !ip('127.0.0.1').isUnspecified()",
        "ip('::').isUnspecified() && !ip('::1').isUnspecified()",
        "ip('127.0.0.1').isLoopback() && !ip('1.2.3.4').isLoopback()",
        "ip('::1').isLoopback() && !ip('2001:db8::abcd').isLoopback()",
        "ip('224.0.0.1').isLinkLocalMulticast() && !ip('224.0.1.1').isLinkLocalMulticast()",
        "ip('ff02::1').isLinkLocalMulticast() && !ip('fd00::1').isLinkLocalMulticast()",
        "ip('169.254.169.254').isLinkLocalUnicast() && !ip('192.168.0.1').isLinkLocalUnicast()",
        "ip('fe80::1').isLinkLocalUnicast() && !ip('fd80::1').isLinkLocalUnicast()",
        "ip('192.168.0.1').isGlobalUnicast() && !ip('255.255.255.255').isGlobalUnicast()",
        "ip('2001:db8::abcd').isGlobalUnicast() && !ip('ff00::1').isGlobalUnicast()",
        "type(ip('192.168.0.1')) == net.IP && type(cidr('192.168.0.0/24')) == net.CIDR",
    ]);
    no_overload(&[("isIP(cidr('192.168.0.0/24'))", "net.CIDR")]);
}

#[test]
fn networks() {
    let twice = "network address parse error during conversion from string: network address parse error during conversion from string: ";
    for (text, why) in [
        ("192.168.0.0/", "bad bits after slash: \"\""),
        ("2001:db8::/", "bad bits after slash: \"\""),
        ("192.168.0.0/024", "bad bits after slash: \"024\""),
        ("192.168.0.0/33", "prefix length out of range"),
        ("192.168.0.0", "no '/'"),
        ("192.168.0/24", "ParseAddr(\"192.168.0\"): IPv4 address too short"),
    ] {
        let expected = format!("{twice}netip.ParsePrefix(\"{text}\"): {why}");
        assert_eq!(eval(&format!("cidr('{text}')")), expected);
    }
    check(&[
        ("cidr(dyn('192.168.0.0/24'))", "192.168.0.0/24"),
        ("cidr('2001:db8::/32')", "2001:db8::/32"),
        ("cidr('192.168.0.0/24').ip()", "192.168.0.0"),
        ("cidr('2001:db8::/32').ip()", "2001:db8::"),
        ("cidr('192.168.0.0/24').masked()", "192.168.0.0/24"),
        ("cidr('192.168.0.1/24').masked()", "192.168.0.0/24"),
        ("cidr('2001:db8:1::/32').masked()", "2001:db8::/32"),
        ("cidr('192.168.0.0/24').prefixLength()", "24"),
        ("string(cidr('192.168.0.0/24'))", "\"192.168.0.0/24\""),
    ]);
    for (net, inside, outside, narrower, wider) in [
        ("192.168.0.0/24", "192.168.0.1", "192.168.1.1", "192.168.0.0/25", "192.168.0.0/23"),
        ("2001:db8::/32", "2001:db8::1", "2001:dc8::1", "2001:db8::/33", "2001:db8::/31"),
    ] {
        let net = format!("cidr('{net}')");
        for text in [
            format!("{net}.containsIP(ip('{inside}')) && !{net}.containsIP(ip('{outside}'))"),
            format!("{net}.containsIP('{inside}') && !{net}.containsIP('{outside}')"),
            format!(
                "{net}.containsCIDR(cidr('{narrower}')) && !{net}.containsCIDR(cidr('{wider}'))"
            ),
            format!("{net}.containsCIDR('{narrower}') && !{net}.containsCIDR('{wider}')"),
        ] {
            all_true(&[&text]);
        }
    }
    no_overload(&[("cidr(192168)", "int")]);
}

#[test]
fn versions() {
    check(&[
        ("semver('v1.0')", "No Major.Minor.Patch elements found"),
        ("semver('')", "Version string empty"),
        ("semver('v1.0.0')", "Invalid character(s) found in major number \"v1\""),
        ("semver('1.01.0')", "Minor number must not contain leading zeroes \"01\""),
        (
            "semver('1.2.3').major() * 100 + semver('1.2.3').minor() * 10 + semver('1.2.3').patch()",
            "123",
        ),
        ("semver('1.0.0').compareTo(semver('1.2.3'))", "-1"),
        ("semver('1.2.3').compareTo(semver('1.0.0'))", "1"),
        ("semver('1.2.3').compareTo(semver('1.2.3'))", "0"),
    ]);
    all_true(&["isSemver('1.2.3-beta.1+build.1')"]);
    for text in ["", "v1.0.0", " 1.0.0", "1. 0.0", "1.0.0 ", "01.01.01", "1", "1.1"] {
        let normal = ["v1.0.0", "01.01.01", "1", "1.1"].contains(&text);
        check(&[
            (&format!("isSemver('{text}')"), "false"),
            (&format!("isSemver('{text}', true)"), if normal { "true" } else { "false" }),
        ]);
    }
    all_true(&[
        "semver('v01.01', true) == semver('1.1.0')",
        "semver('1.2.3') == semver('1.2.3') && semver('1.2.3') != semver('1.0.0')",
        "semver('1.0.0+a') == semver('1.0.0+b')",
        "semver('1.0.0').isLessThan(semver('1.2.3')) && !semver('1.0.0').isLessThan(semver('1.0.0'))",
        "semver('1.2.3').isGreaterThan(semver('1.0.0')) && !semver('1.0.0').isGreaterThan(semver('1.0.0'))",
    ]);
    no_overload(&[("isSemver([1, 2, 3])", "list(int)")]);
}

#[test]
fn formats() {
    let names = [
        "dns1123Label",
        "dns1123Subdomain",
        "dns1035Label",
        "qualifiedName",
        "dns1123LabelPrefix",
        "dns1123SubdomainPrefix",
        "dns1035LabelPrefix",
        "labelValue",
        "uri",
        "uuid",
        "byte",
        "date",
        "datetime",
    ];
    for (i, name) in names.iter().enumerate() {
        let other = names[(i + 1) % names.len()];
        all_true(&[
            &format!("format.named('{name}').hasValue()"),
            &format!("format.named('{name}').value() == format.{name}()"),
            &format!("format.{name}() != format.{other}()"),
        ]);
    }
    for (name, text) in [
        ("dns1123Label", "my-label-name"),
        ("dns1123Subdomain", "apiextensions.k8s.io"),
        ("dns1035Label", "my-label-name"),
        ("qualifiedName", "apiextensions.k8s.io/v1beta1"),
        ("dns1123LabelPrefix", "my-label-prefix-"),
        ("dns1123SubdomainPrefix", "mysubdomain.prefix.-"),
        ("dns1035LabelPrefix", "my-label-prefix-"),
        ("uri", "http://example.com"),
        ("uuid", "123e4567-e89b-12d3-a456-426614174000"),
        ("byte", "aGVsbG8="),
        ("date", "2021-01-01"),
        ("datetime", "2021-01-01T00:00:00Z"),
        ("labelValue", "my-cool-label-Value"),
    ] {
        check(&[(&format!("format.{name}().validate('{text}')"), "none")]);
    }
    let label = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
    let older = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
    let subdomain = r"a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
    let value = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
    let qualified = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
    for (name, text, why) in [
        ("dns1123Label", "contains a space", label),
        ("dns1123LabelPrefix", "contains a space-", label),
        ("dns1123Subdomain", "contains a space", subdomain),
        ("dns1123SubdomainPrefix", "contains a space-", subdomain),
        ("dns1035Label", "contains a space", older),
        ("dns1035LabelPrefix", "contains a space-", older),
        ("qualifiedName", "contains a space", qualified),
        ("labelValue", r"my-cool-label-Value!!\n\n!!!", value),
        ("byte", "aGVsbG8", "invalid base64"),
        ("date", "2020-01-32", "invalid date"),
        ("datetime", "2020-01-32T00:00:00Z", "invalid datetime"),
    ] {
        check(&[(&format!("format.{name}().validate('{text}')"), &format!("some([{why:?}])"))]);
    }
    check(&[("format.named('unknown').hasValue()", "false")]);
}

/// As Go reads them: nothing is put right, and only what has no meaning is refused.
#[test]
fn urls() {
    check(&[
        ("url('https://user:pass@example.com:80/a%20b/?k=v').getHost()", "\"example.com:80\""),
        ("url('https://user:pass@example.com:80/').getHostname()", "\"example.com\""),
        ("url('https://[::1]:80/').getHost()", "\"[::1]:80\""),
        ("url('https://[::1]:80/').getHostname()", "\"::1\""),
        ("url('https://example.com/').getPort()", "\"\""),
        (
            "url('HTTPS://Example.com/').getScheme() + url('HTTPS://Example.com/').getHost()",
            "\"httpsExample.com\"",
        ),
        (
            "url('/path').getScheme() + url('/path').getHost() + url('/path').getEscapedPath()",
            "\"/path\"",
        ),
        (
            "url('https://example.com/path%20with spaces/').getEscapedPath()",
            "\"/path%20with%20spaces/\"",
        ),
        ("url('https://example.com/a/../b//c').getEscapedPath()", "\"/a/../b//c\""),
        ("url('https://example.com').getEscapedPath()", "\"\""),
        (
            "url('https://example.com/path?k1=a&k2=b&k2=c').getQuery()",
            "{\"k1\": [\"a\"], \"k2\": [\"b\", \"c\"]}",
        ),
        (
            "url('https://example.com/path?key with spaces=value with spaces').getQuery()",
            "{\"key with spaces\": [\"value with spaces\"]}",
        ),
        ("url('https://example.com/path?').getQuery()", "{}"),
        ("url('https://example.com/path?k=a+b%26c&bad=%zz').getQuery()", "{\"k\": [\"a b&c\"]}"),
        (
            "url('mailto:a@b.example').getScheme() + url('mailto:a@b.example').getHost()",
            "\"mailto\"",
        ),
        ("string(url('https://example.com/a?b=c'))", "\"https://example.com/a?b=c\""),
        ("url('https://a/x') == url('https://a/x')", "true"),
        (
            "url('../relative-path')",
            "URL parse error during conversion from string: parse \"../relative-path\": invalid URI for request",
        ),
        (
            "url('https://a:b:c/')",
            "URL parse error during conversion from string: parse \"https://a:b:c/\": invalid port \":c\" after host",
        ),
        (
            "url('https://a/%zz')",
            "URL parse error during conversion from string: parse \"https://a/%zz\": invalid URL escape \"%zz\"",
        ),
        (
            "url('https://a b/')",
            "URL parse error during conversion from string: parse \"https://a b/\": invalid character \" \" in host name",
        ),
        (
            "url('https://[::1/')",
            "URL parse error during conversion from string: parse \"https://[::1/\": missing ']' in host",
        ),
        (
            "url(':80/')",
            "URL parse error during conversion from string: parse \":80/\": missing protocol scheme",
        ),
        ("url('')", "URL parse error during conversion from string: parse \"\": empty url"),
        (
            r"url('/a\tb')",
            "URL parse error during conversion from string: parse \"/a\\tb\": net/url: invalid control character in URL",
        ),
    ]);
    all_true(&[
        "isURL('https://example.com/a b') && isURL('https:://kubernetes.io/') && isURL('/absolute')",
        "!isURL('../relative') && !isURL('relative') && !isURL('https://a:b:c')",
    ]);
}

/// What each expression costs while it runs.
fn cost(cases: &[(impl AsRef<str>, u64)]) {
    struct Everything;
    impl Authorizer for Everything {
        fn authorize(&self, _: &Query) -> Decision {
            Decision { allowed: true, reason: String::new(), error: None }
        }
    }
    let env =
        Env::new().variable("authorizer", Type::Opaque("kubernetes.authorization.Authorizer"));
    let mut wrong = Vec::new();
    for (text, expected) in cases {
        let text = text.as_ref();
        let program = match env.compile(text) {
            Ok(program) => program,
            Err(why) => panic!("{text}: {why}"),
        };
        let step = Val::Opaque(Opaque::Authorizer(Step::new(Rc::new(Everything))));
        let (result, cost) = program.evaluate(&Activation::new(vec![step]), CALL_LIMIT);
        if let Err(why) = result {
            panic!("{text}: {why}");
        }
        if cost != *expected {
            wrong.push(format!("{text} costs {cost}, not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn costs_of_lists() {
    let mut all = Vec::new();
    let ints = "[1, 2, 3, 4, 5]";
    let uints = "[uint(1), uint(2), uint(3), uint(4), uint(5)]";
    let doubles = "[1.0, 2.0, 3.0, 4.0, 5.0]";
    let bools = "[false, true, false, true, false]";
    let strings =
        "['012345678901', '012345678901', '012345678901', '012345678901', '012345678901']";
    let bytes = "[bytes('012345678901'), bytes('012345678901'), bytes('012345678901'), bytes('012345678901'), bytes('012345678901')]";
    let durations =
        "[duration('1s'), duration('2s'), duration('3s'), duration('4s'), duration('5s')]";
    let times = "[timestamp('2011-01-01T00:00:00.000+01:00'), timestamp('2011-01-02T00:00:00.000+01:00'), \
                 timestamp('2011-01-03T00:00:00.000+01:00'), timestamp('2011-01-04T00:00:00.000+01:00'), \
                 timestamp('2011-01-05T00:00:00.000+01:00')]";
    for (list, expected) in [(ints, 15), (uints, 20), (doubles, 15), (durations, 20)] {
        all.push((format!("{list}.sum()"), expected));
    }
    for call in ["isSorted", "max", "min"] {
        for (list, expected) in [
            (ints, 15),
            (uints, 20),
            (doubles, 15),
            (bools, 15),
            (strings, 15),
            (bytes, 25),
            (durations, 20),
            (times, 20),
        ] {
            all.push((format!("{list}.{call}()"), expected));
        }
    }
    for call in ["indexOf", "lastIndexOf"] {
        for (list, of, expected) in [
            (ints, "3", 15),
            (uints, "uint(3)", 21),
            (doubles, "3.0", 15),
            (bools, "true", 15),
            (strings, "'x'", 15),
            (bytes, "bytes('x')", 26),
            (durations, "duration('3s')", 21),
            (times, "timestamp('2011-01-03T00:00:00.000+01:00')", 21),
            ("'01234567890123456789012345678901234567890123456789'", "'123'", 5),
        ] {
            all.push((format!("{list}.{call}({of})"), expected));
        }
    }
    cost(&all);
}

#[test]
fn costs_of_addresses_and_urls() {
    let mut all = Vec::new();
    for call in ["getScheme", "getHostname", "getHost", "getPort", "getEscapedPath", "getQuery"] {
        all.push((format!("url('https:://kubernetes.io/').{call}()"), 4));
    }
    for (ip, base) in
        [("ip('192.168.0.1')", 2), ("ip('2001:db8:3333:4444:5555:6666:7777:8888')", 4)]
    {
        all.push((ip.to_owned(), base));
        for call in [
            "family",
            "isUnspecified",
            "isLoopback",
            "isLinkLocalMulticast",
            "isLinkLocalUnicast",
            "isGlobalUnicast",
        ] {
            all.push((format!("{ip}.{call}()"), base + 1));
        }
    }
    for (ip, expected) in
        [("192.168.0.1", 3), ("2001:db8:3333:4444:5555:6666:7777:8888", 8), ("2001:db8::abcd", 3)]
    {
        all.push((format!("ip.isCanonical('{ip}')"), expected));
    }
    for (net, calls) in [
        (
            "cidr('192.168.0.0/16')",
            [
                (".containsCIDR(cidr('192.0.0.0/30'))", 5),
                (".containsCIDR('192.168.0.0/16')", 5),
                (".containsIP(ip('192.0.0.1'))", 2),
                (".containsIP(ip('192.169.169.250'))", 3),
                (".containsIP('192.0.0.1')", 2),
            ],
        ),
        (
            "cidr('2001:db8::/32')",
            [
                (".containsCIDR(cidr('2001:db8::/126'))", 5),
                (".containsCIDR('2001:db8::/32')", 5),
                (".containsIP(ip('2001:db8:3333:4444:5555:6666:7777:8888'))", 5),
                (".containsIP(ip('2001:db8::1'))", 3),
                (".containsIP('2001:db8::1')", 3),
            ],
        ),
    ] {
        for (call, more) in [("", 0), (".ip()", 1), (".prefixLength()", 1), (".masked()", 1)]
            .into_iter()
            .chain(calls)
        {
            all.push((format!("{net}{call}"), 2 + more));
        }
    }
    cost(&all);
}

#[test]
fn costs_of_text() {
    cost(&[
        ("'ABCDEFGHIJ abcdefghij'.lowerAscii()", 3),
        ("'ABCDEFGHIJ abcdefghij'.lowerAscii() == 'abcdefghij ABCDEFGHIJ'.lowerAscii()", 9),
        ("'ABCDEFGHIJ abcdefghij'.upperAscii()", 3),
        ("strings.quote('ABCDEFGHIJ abcdefghij')", 3),
        ("strings.quote('ABCDEFGHIJ abcdefghij') == strings.quote('ABCDEFGHIJ abcdefghij')", 9),
        ("'abc 123 def 123'.replace('123', '456')", 3),
        ("'abc 123 def 123'.replace('', 'x')", 3),
        ("'abc 123 def 123'.replace('123', '')", 3),
        ("'abc 123 def 123'.replace('123', '456', 1)", 3),
        ("'abc 123 def 123'.split(' ')", 3),
        ("'abc 123 def 123'.split(' ', 1)", 3),
        ("'abc 123 def 123'.substring(5)", 2),
        ("'abc 123 def 123'.substring(5, 8)", 2),
        ("'  abc 123 def 123  '.trim()", 2),
        ("['aa', 'bb', 'cc', 'd', 'e', 'f', 'g', 'h', 'i', 'j'].join(' ')", 15),
        ("['aa', 'bb', 'cc', 'd', 'e', 'f', 'g', 'h', 'i', 'j'].join()", 13),
        ("'abc 123 def 123'.find('123')", 2),
        ("'abc 123 def 123'.findAll('123')", 2),
        ("'abc 123 def 123'.findAll('123', 1)", 2),
    ]);
}

#[test]
fn costs_of_asking_and_counting() {
    let resource = "authorizer.group('apps').resource('deployments').subresource('status').namespace('test').name('backend')";
    cost(&[
        ("authorizer.path('/healthz')", 2),
        (resource, 6),
        ("authorizer.path('/healthz').check('get').allowed()", 350_003),
    ]);
    for call in ["allowed", "errored", "error", "reason"] {
        cost(&[(&format!("{resource}.check('create').{call}()"), 350_007)]);
    }
    cost(&[
        ("quantity('12Mi')", 1),
        ("isQuantity('20')", 1),
        ("quantity('200M') == quantity('200M')", 3),
        ("quantity('200M') == quantity('0.2G') && quantity('0.2G') == quantity('200M')", 6),
        ("quantity('50M').isLessThan(quantity('50Mi'))", 3),
        ("quantity('50Mi').isGreaterThan(quantity('50M'))", 3),
        ("quantity('200M').compareTo(quantity('0.2G')) > 0", 4),
        ("quantity('50k').add(quantity('20')) == quantity('50.02k')", 5),
        ("quantity('50k').sub(20) == quantity('49980')", 4),
        ("quantity('50k').add(20).sub(quantity('100k')).asInteger() > 0", 6),
        ("quantity('50k').add(20).sub(quantity('100k')).sub(-50000).asInteger() > 0", 7),
        ("quantity('50k').asInteger() > 0", 3),
        ("quantity('50').isInteger()", 2),
        ("quantity('50.703k').asApproximateFloat() > 0.0", 3),
    ]);
}

#[test]
fn costs_of_sets() {
    cost(&[
        ("sets.contains([], [])", 21),
        ("sets.contains([1], [])", 21),
        ("sets.contains([1], [1])", 22),
        ("sets.contains([1], [1, 1])", 23),
        ("sets.contains([2, 1], [1])", 23),
        ("sets.contains([1, 2, 3, 4], [2, 3])", 29),
        ("sets.contains([dyn(1)], [dyn(1.0), 1])", 25),
        ("sets.contains([[1], [2, 3]], [[2, 3]])", 53),
        ("!sets.contains([1], [2])", 23),
        ("!sets.contains([1], [1, 2])", 24),
        ("sets.equivalent([], [])", 21),
        ("sets.equivalent([1], [1])", 23),
        ("sets.equivalent([1], [1, 1])", 25),
        ("sets.equivalent([1, 2, 3], [3, 2, 1])", 39),
        ("sets.equivalent([[1], [2, 3]], [[1], [2, 3]])", 69),
        ("!sets.equivalent([2, 1], [1])", 26),
        ("!sets.equivalent([1, 2], [2, 2, 2])", 34),
        ("sets.intersects([1], [1])", 22),
        ("sets.intersects([1, 1], [1])", 23),
        ("sets.intersects([1, 2], [2, 2, 2])", 27),
        ("sets.intersects([[1], [2, 3]], [[1, 2], [2, 3]])", 65),
        ("!sets.intersects([], [])", 22),
        ("!sets.intersects([1], [2])", 23),
    ]);
}
