//! Syntax of names, keys and values, with upstream's words for what is wrong (`apimachinery/pkg/util/validation`).
//!
//! Each check returns `None` or the problem; hand-written scans rather than regular expressions, because every
//! write runs dozens of them.

use crate::kinds::NameRule;

/// The problem with a text, as upstream words it; `None` if it is fine.
pub type Problem = Option<String>;

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

const WILDCARD: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const HTTP_PATH: &str =
    "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";

fn is_lower_alnum(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

fn label_syntax(text: &[u8]) -> bool {
    match text {
        [] => false,
        [first, .., last] => {
            is_lower_alnum(*first)
                && is_lower_alnum(*last)
                && text.iter().all(|&b| is_lower_alnum(b) || b == b'-')
        }
        [one] => is_lower_alnum(*one),
    }
}

fn qualified_syntax(text: &[u8]) -> bool {
    let (Some(first), Some(last)) = (text.first(), text.last()) else { return false };
    first.is_ascii_alphanumeric()
        && last.is_ascii_alphanumeric()
        && text.iter().all(|&b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Upstream's words for a text that is too long.
pub fn max_len(limit: usize) -> String {
    format!("must be no more than {limit} bytes")
}

fn within(text: &str, limit: usize, syntax: impl FnOnce(&[u8]) -> bool, message: &str) -> Problem {
    if text.len() > limit {
        Some(max_len(limit))
    } else if !syntax(text.as_bytes()) {
        Some(message.to_owned())
    } else {
        None
    }
}

/// RFC 1123 label, at most 63 bytes: names of Namespaces, containers, volumes.
pub fn label_1123(text: &str) -> Problem {
    within(text, 63, label_syntax, LABEL)
}

/// RFC 1035 label, at most 63 bytes: names of Services.
pub fn label_1035(text: &str) -> Problem {
    within(text, 63, |t| label_syntax(t) && t[0].is_ascii_lowercase(), LABEL_1035)
}

/// RFC 1123 subdomain, at most 253 bytes: names of most objects.
pub fn subdomain(text: &str) -> Problem {
    within(text, 253, |t| t.split(|&b| b == b'.').all(label_syntax), SUBDOMAIN)
}

/// RFC 1123 subdomain whose first label is `*`: hosts of Ingresses.
pub fn wildcard_subdomain(text: &str) -> Problem {
    let is_fit = |t: &[u8]| {
        t.strip_prefix(b"*.").is_some_and(|rest| rest.split(|&b| b == b'.').all(label_syntax))
    };
    within(text, 253, is_fit, WILDCARD)
}

/// `domain/path`: names of controllers.
pub fn domain_prefixed_path(text: &str) -> Problem {
    match text.split_once('/') {
        Some((domain, path)) if !domain.is_empty() && !path.is_empty() => {
            let is_fit = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
            subdomain(domain).or_else(|| (!path.bytes().all(is_fit)).then(|| HTTP_PATH.to_owned()))
        }
        _ => Some("must be a domain-prefixed path (such as \"acme.io/foo\")".into()),
    }
}

/// A name that can be a URL path segment: names of RBAC objects.
pub fn path_segment(text: &str) -> Problem {
    if matches!(text, "." | "..") {
        return Some(format!("may not be '{text}'"));
    }
    ["/", "%"].iter().find(|c| text.contains(**c)).map(|c| format!("may not contain '{c}'"))
}

/// A name by its kind's rule. With `prefix` it is a `generateName`, which may end in a dash.
pub fn by_rule(rule: NameRule, text: &str, prefix: bool) -> Problem {
    let masked;
    let text = match text.strip_suffix('-') {
        Some(stem) if prefix && text.len() > 1 && rule != NameRule::PathSegment => {
            masked = format!("{stem}a");
            masked.as_str()
        }
        _ => text,
    };
    match rule {
        NameRule::Subdomain => subdomain(text),
        NameRule::Label => label_1123(text),
        NameRule::Label1035 => label_1035(text),
        NameRule::PathSegment => path_segment(text),
    }
}

/// `[prefix/]name`: label keys, annotation keys (lower-cased by the caller), finalizers, resource names.
pub fn qualified(text: &str) -> Problem {
    let name = match text.split_once('/') {
        None => text,
        Some((_, name)) if name.contains('/') => {
            return Some(format!(
                "a qualified name {QUALIFIED} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            ));
        }
        Some(("", _)) => return Some("prefix part must be non-empty".into()),
        Some((prefix, name)) => {
            if let Some(problem) = subdomain(prefix) {
                return Some(format!("prefix part {problem}"));
            }
            name
        }
    };
    if name.is_empty() {
        Some("name part must be non-empty".into())
    } else if name.len() > 63 {
        Some(format!("name part {}", max_len(63)))
    } else if !qualified_syntax(name.as_bytes()) {
        Some(format!("name part {QUALIFIED}"))
    } else {
        None
    }
}

/// The value of a label.
pub fn label_value(text: &str) -> Problem {
    within(text, 63, |t| t.is_empty() || qualified_syntax(t), LABEL_VALUE)
}

/// A key of a ConfigMap or Secret.
pub fn config_key(text: &str) -> Problem {
    match text {
        "." => Some("must not be '.'".into()),
        ".." => Some("must not be '..'".into()),
        _ => within(
            text,
            253,
            |t| {
                !t.is_empty()
                    && t.iter()
                        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
            },
            CONFIG_KEY,
        )
        .or_else(|| text.starts_with("..").then(|| "must not start with '..'".into())),
    }
}

/// The name of an environment variable: printable ASCII without `=`.
pub fn env_name(text: &str) -> Problem {
    let fine = !text.is_empty() && text.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=');
    (!fine).then(|| {
        "a valid environment variable name must consist only of printable ASCII characters other than '='"
            .into()
    })
}

/// The name of a container's port (IANA service name).
pub fn port_name(text: &str) -> Problem {
    let bytes = text.as_bytes();
    let problem = if bytes.len() > 15 {
        "must be no more than 15 bytes"
    } else if !bytes.iter().all(|&b| is_lower_alnum(b) || b == b'-') || bytes.is_empty() {
        "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"
    } else if !bytes.iter().any(u8::is_ascii_lowercase) {
        "must contain at least one letter (a-z)"
    } else if text.contains("--") {
        "must not contain consecutive hyphens"
    } else if bytes[0] == b'-' || bytes.ends_with(b"-") {
        "must not begin or end with a hyphen"
    } else {
        return None;
    };
    Some(problem.into())
}

/// A port number.
pub fn port_number(port: i64) -> Problem {
    (!(1..=65535).contains(&port)).then(|| "must be between 1 and 65535, inclusive".into())
}

/// What is said of a range of addresses that is none.
pub const CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// A range of addresses: its first and how many bits all of them have in common.
pub fn parse_cidr(text: &str) -> Option<(std::net::IpAddr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let address: std::net::IpAddr = address.parse().ok()?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    // As Go reads it: digits only.
    let is_plain = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
    let prefix: u8 = prefix.parse().ok().filter(|prefix| is_plain && *prefix <= bits)?;
    Some((address, prefix))
}

/// An IP address.
pub fn ip(text: &str) -> Problem {
    text.parse::<std::net::IpAddr>()
        .is_err()
        .then(|| "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: fn(&str) -> Problem, good: &[&str], bad: &[(&str, &str)]) {
        for text in good {
            assert_eq!(rule(text), None, "{text}");
        }
        for (text, start) in bad {
            let problem = rule(text).unwrap_or_else(|| panic!("{text} passed"));
            assert!(problem.contains(start), "{text}: {problem}");
        }
    }

    #[test]
    fn names() {
        let long = "a".repeat(64);
        let l = long.as_str();
        check(
            label_1123,
            &["a", "a-b", "0", "x9"],
            &[
                ("", "RFC 1123 label"),
                ("A", "RFC"),
                ("-a", "RFC"),
                ("a.b", "RFC"),
                (l, "no more than 63"),
            ],
        );
        check(
            label_1035,
            &["a", "a1"],
            &[("1a", "DNS-1035"), ("", "DNS-1035"), ("a-", "DNS-1035")],
        );
        check(
            subdomain,
            &["a.b", "1.2", l],
            &[("a..b", "subdomain"), ("a_b", "subdomain"), ("", "subdomain")],
        );
        check(
            wildcard_subdomain,
            &["*.a", "*.a.b"],
            &[
                ("*", "wildcard"),
                ("*.*.a", "wildcard"),
                ("a.*.b", "wildcard"),
                ("*a.b", "wildcard"),
            ],
        );
        check(
            domain_prefixed_path,
            &["a.b/c", "a/b/c"],
            &[
                ("a", "domain-prefixed"),
                ("a/", "domain-prefixed"),
                ("A/b", "subdomain"),
                ("a/b c", "path"),
            ],
        );
        check(
            path_segment,
            &["system:node", "A b"],
            &[("..", "may not be"), ("a/b", "'/'"), ("a%", "'%'")],
        );
        check(
            qualified,
            &["app", "a.b/C_d", "app.kubernetes.io/name"],
            &[
                ("", "name part must be non-empty"),
                ("/a", "prefix part must be non-empty"),
                ("A/b", "prefix part a lowercase"),
                ("a/b/c", "a qualified name must"),
                ("a b", "name part must consist"),
                (l, "name part must be no more"),
            ],
        );
        check(
            label_value,
            &["", "v1.0", "A"],
            &[("a b", "valid label"), ("-", "valid label"), (l, "63")],
        );
        check(
            config_key,
            &["a", ".a", "A_b-c.d"],
            &[
                (".", "must not be"),
                ("..a", "must not start"),
                ("a/b", "config key"),
                ("", "config key"),
            ],
        );
        check(
            env_name,
            &["A", "a.b", "1 2"],
            &[("", "environment"), ("A=B", "other than '='"), ("é", "ASCII")],
        );
        check(
            port_name,
            &["http", "a1"],
            &[
                ("abcdefghijklmnop", "15"),
                ("80", "one letter"),
                ("a--b", "consecutive"),
                ("a-", "begin or end"),
            ],
        );
        assert_eq!(by_rule(NameRule::Subdomain, "web-", true), None);
        assert!(by_rule(NameRule::Subdomain, "web-", false).is_some());
    }
}
