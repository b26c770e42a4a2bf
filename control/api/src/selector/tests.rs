use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::kinds;
use crate::object::Object;

fn labels(pairs: &str) -> BTreeMap<String, String> {
    pairs
        .split(',')
        .filter_map(|p| p.split_once('='))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
}

#[test]
fn text_form() {
    for (selector, on, expected) in [
        ("", "", true),
        ("a", "a=1", true),
        ("a", "b=1", false),
        ("!a", "b=1", true),
        ("!a", "a=1", false),
        ("a=b", "a=b", true),
        ("a==b", "a=b", true),
        (" a = b , c ", "a=b,c=d", true),
        ("a=b,c=d", "a=b,c=e", false),
        ("a!=b", "", true),
        ("a!=b", "a=b", false),
        ("a in (b, c)", "a=c", true),
        ("a in (b,c)", "a=d", false),
        ("a in (b,c)", "", false),
        ("a notin (b,c)", "", true),
        ("a notin (b,c)", "a=b", false),
        ("a=", "a=", true),
        ("a in ()", "a=", true),
        ("a in (,x)", "a=", true),
        ("in in (in)", "in=in", true),
        ("notin=in", "notin=in", true),
        ("n>5", "n=6", true),
        ("n>5", "n=5", false),
        ("n<5", "n=x", false),
        ("k8s.io/a!=b,!x,y in (1,2)", "y=2", true),
    ] {
        let parsed = LabelSelector::parse(selector).unwrap_or_else(|e| panic!("{selector}: {e}"));
        assert_eq!(parsed.matches(&labels(on)), expected, "{selector} on {on}");
        let again = LabelSelector::parse(&parsed.to_string()).expect("its own text");
        assert_eq!(parsed, again, "{selector} there and back");
    }
}

#[test]
fn text_form_errors() {
    for (selector, expected) in [
        ("a=b=c", "found '=', expected: ',' or 'end of string'"),
        ("=", "found '=', expected: !, identifier, or 'end of string'"),
        ("a,", "found '', expected: identifier after ','"),
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("a in x", "unable to parse requirement: found 'x' expected: '('"),
        ("a in (x", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("!", "unable to parse requirement: found '', expected: identifier"),
        ("a==!", "unable to parse requirement: found '!', expected: identifier"),
        (
            "a>x",
            "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
        ),
    ] {
        let error = LabelSelector::parse(selector).expect_err(selector);
        assert_eq!(error.to_string(), expected, "{selector}");
    }
    let error = LabelSelector::parse("-a=b").expect_err("bad key").to_string();
    assert!(
        error.starts_with("unable to parse requirement: <nil>: Invalid value: \"-a\": name part"),
        "{error}"
    );
    let error = LabelSelector::parse("a=b_").expect_err("bad value").to_string();
    assert!(
        error.starts_with(
            "unable to parse requirement: values[0][a]: Invalid value: \"b_\": a valid label"
        ),
        "{error}"
    );
}

#[test]
fn object_form() {
    for (selector, on, expected) in [
        (json!(null), json!({"a": "b"}), false),
        (json!({}), json!({"a": "b"}), true),
        (json!({"matchLabels": {"a": "b"}}), json!({"a": "b", "c": "d"}), true),
        (json!({"matchLabels": {"a": "b"}}), json!(null), false),
        (
            json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "NotIn", "values": ["d"]}]}),
            json!({"a": "b", "c": "d"}),
            false,
        ),
        (json!({"matchExpressions": [{"key": "c", "operator": "Exists"}]}), json!({"c": ""}), true),
        (json!({"matchExpressions": [{"key": "c", "operator": "DoesNotExist"}]}), json!({}), true),
        (json!({"matchExpressions": [{"key": "c", "operator": "In"}]}), json!({}), false),
        (json!({"matchExpressions": [{"key": "c", "operator": "Like"}]}), json!({}), false),
    ] {
        assert_eq!(
            label_selector_matches(Some(&selector), Some(&on)),
            expected,
            "{selector} on {on}"
        );
    }
    assert!(!label_selector_matches(None, Some(&json!({}))));
}

#[test]
fn fields() {
    let object = Object::from_value(
        &kinds::CONFIG_MAP,
        &json!({"metadata": {"name": "x", "namespace": "a,b"}}),
    )
    .expect("an object");
    for (selector, expected) in [
        ("", true),
        ("metadata.name=x", true),
        ("metadata.name==x", true),
        ("metadata.name!=x", false),
        ("metadata.namespace=a\\,b,metadata.name=x", true),
        ("metadata.name=", false),
    ] {
        let parsed = FieldSelector::parse(selector, &kinds::CONFIG_MAP).expect(selector);
        assert_eq!(parsed.matches(&object), expected, "{selector}");
    }
    for (selector, expected) in [
        ("metadata.name", "invalid selector: 'metadata.name'; can't understand 'metadata.name'"),
        (
            "spec.x=1",
            "\"spec.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
        ),
        ("metadata.name=a=b", "invalid field selector: unescaped character in value: ="),
        ("metadata.name=a\\b", "invalid field selector: invalid escape sequence: \\b"),
    ] {
        let error = FieldSelector::parse(selector, &kinds::CONFIG_MAP).expect_err(selector);
        assert_eq!(error.to_string(), expected);
    }
    let parsed = FieldSelector::parse("metadata.name=x,metadata.namespace!=y", &kinds::CONFIG_MAP);
    let parsed = parsed.expect("fine");
    assert_eq!(parsed.exact("metadata.name"), Some("x"));
    assert_eq!(parsed.exact("metadata.namespace"), None);
}
