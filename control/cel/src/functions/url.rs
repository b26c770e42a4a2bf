//! URLs as Go's `url.ParseRequestURI` reads them, which is what Kubernetes' library shows: nothing is put right, and what other
//! readers refuse (a space in a path, an opaque `mailto:`) may be one.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::{Cost, Line, Outcome, UNIT, text};
use crate::error::EvalError;
use crate::value::{Key, Map, Opaque, Str, Val};

const ONCE: Cost = Cost::Text(1.0);

pub(super) const TABLE: &[Line] = &[
    ("url(string) -> url", ONCE, |args| {
        let text = text(args, 0)?;
        parsed(text).map(|url| Val::Opaque(Opaque::Url(Rc::new(url), text.into())))
    }),
    ("isURL(string) -> bool", ONCE, |args| Ok(Val::Bool(parsed(text(args, 0)?).is_ok()))),
    ("url::getScheme() -> string", UNIT, |args| part(args, |url| url.scheme.clone())),
    ("url::getHost() -> string", UNIT, |args| part(args, |url| url.host.clone())),
    ("url::getHostname() -> string", UNIT, |args| part(args, |url| url.split_host().0.to_owned())),
    ("url::getPort() -> string", UNIT, |args| part(args, |url| url.split_host().1.to_owned())),
    ("url::getEscapedPath() -> string", UNIT, |args| part(args, Url::escaped_path)),
    ("url::getQuery() -> map(string, list(string))", UNIT, query),
];

/// A URL in its parts.
#[derive(Debug, PartialEq, Eq)]
pub struct Url {
    scheme: String,
    /// What follows a scheme that no slash follows.
    opaque: String,
    user: String,
    host: String,
    /// As written.
    path: String,
    query: String,
}

/// The URL of a text, or upstream's words for why it is none.
pub(super) fn parsed(text: &str) -> Result<Url, EvalError> {
    Url::parse(text).map_err(|why| {
        EvalError::new(format!(
            "URL parse error during conversion from string: parse {text:?}: {why}"
        ))
    })
}

fn part<'a>(args: &[Val<'a>], part: impl Fn(&Url) -> String) -> Outcome<'a> {
    match &args[0] {
        Val::Opaque(Opaque::Url(url, _)) => Ok(Val::string(part(url))),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn query<'a>(args: &[Val<'a>]) -> Outcome<'a> {
    let Val::Opaque(Opaque::Url(url, _)) = &args[0] else {
        return Err(EvalError::no_such_overload());
    };
    let mut all = BTreeMap::<String, Vec<Val<'a>>>::new();
    // What cannot be read is left out, as Go does.
    for pair in url.query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if let (Ok(key), Ok(value)) = (unescape(key, true), unescape(value, true)) {
            all.entry(key).or_default().push(Val::string(value));
        }
    }
    let entry =
        |(key, values): (String, _)| (Key::String(Str::Shared(key.into())), Val::items(values));
    Ok(Val::Map(Map::Made(Rc::new(all.into_iter().map(entry).collect()))))
}

impl Url {
    fn parse(text: &str) -> Result<Self, String> {
        if text.bytes().any(|b| b.is_ascii_control()) {
            return Err("net/url: invalid control character in URL".into());
        }
        if text.is_empty() {
            return Err("empty url".into());
        }
        let (scheme, rest) = scheme(text)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut url = Self {
            scheme: scheme.to_ascii_lowercase(),
            opaque: String::new(),
            user: String::new(),
            host: String::new(),
            path: String::new(),
            query: query.to_owned(),
        };
        if !rest.starts_with('/') && text != "*" {
            if scheme.is_empty() {
                return Err("invalid URI for request".into());
            }
            rest.clone_into(&mut url.opaque);
            return Ok(url);
        }
        let path = match rest.strip_prefix("//").filter(|_| !scheme.is_empty()) {
            Some(rest) => {
                let end = rest.find('/').unwrap_or(rest.len());
                url.authority(&rest[..end])?;
                &rest[end..]
            }
            None => rest,
        };
        unescape(path, false)?;
        path.clone_into(&mut url.path);
        Ok(url)
    }

    fn authority(&mut self, text: &str) -> Result<(), String> {
        let (user, host) = text.rsplit_once('@').unwrap_or(("", text));
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&b);
        if !user.bytes().all(allowed) {
            return Err("net/url: invalid userinfo".into());
        }
        unescape(user, false)?;
        user.clone_into(&mut self.user);
        let port = match host.strip_prefix('[') {
            Some(_) => {
                let end = host.rfind(']').ok_or("missing ']' in host")?;
                &host[end + 1..]
            }
            None => host.rfind(':').map_or("", |at| &host[at..]),
        };
        let digits = port.strip_prefix(':').unwrap_or_default();
        if !(port.is_empty() || port.starts_with(':') && digits.bytes().all(|b| b.is_ascii_digit()))
        {
            return Err(format!("invalid port {port:?} after host"));
        }
        let allowed = |c: char| {
            !c.is_ascii() || c.is_ascii_alphanumeric() || "-_.~!$&'()*+,;=:[]<>\"%".contains(c)
        };
        if let Some(bad) = host.chars().find(|c| !allowed(*c)) {
            return Err(format!("invalid character {:?} in host name", bad.to_string()));
        }
        self.host = unescape(host, false)?;
        Ok(())
    }

    /// Name and port.
    fn split_host(&self) -> (&str, &str) {
        let (name, port) = match self.host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (name, port),
            _ => (self.host.as_str(), ""),
        };
        let inner = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        (inner.unwrap_or(name), port)
    }

    fn escaped_path(&self) -> String {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:@[]/%".contains(&b);
        if self.path == "*" || self.path.bytes().all(fits) {
            return self.path.clone();
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&b);
        let read = unescape_bytes(&self.path, false).unwrap_or_default();
        let mut out = String::new();
        for byte in read {
            match plain(byte) {
                true => out.push(byte.into()),
                false => out.push_str(&format!("%{byte:02X}")),
            }
        }
        out
    }
}

/// What precedes the first colon, where that may be a scheme.
fn scheme(text: &str) -> Result<(&str, &str), String> {
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if at > 0 => {}
            b':' if at == 0 => return Err("missing protocol scheme".into()),
            b':' => return Ok((&text[..at], &text[at + 1..])),
            _ => break,
        }
    }
    Ok(("", text))
}

fn unescape(text: &str, plus: bool) -> Result<String, String> {
    unescape_bytes(text, plus).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn unescape_bytes(text: &str, plus: bool) -> Result<Vec<u8>, String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'%' => {
                let end = bytes.len().min(at + 3);
                let code = &bytes[at + 1..end];
                let digits = std::str::from_utf8(code).ok().filter(|c| c.len() == 2);
                let hex = digits.filter(|c| c.bytes().all(|b| b.is_ascii_hexdigit()));
                let value = hex.and_then(|c| u8::from_str_radix(c, 16).ok()).ok_or_else(|| {
                    format!("invalid URL escape {:?}", String::from_utf8_lossy(&bytes[at..end]))
                })?;
                out.push(value);
                at += 2;
            }
            b'+' if plus => out.push(b' '),
            other => out.push(*other),
        }
        at += 1;
    }
    Ok(out)
}
