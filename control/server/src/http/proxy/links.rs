//! Links in what a proxied server answers, which lead through the proxy again (`apimachinery/pkg/util/proxy/transport.go`).

use std::borrow::Cow;

/// Which attributes of which elements are links, as upstream has them.
const LINKS: [(&str, &[&str]); 25] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];
/// Elements whose content is text, whatever it looks like.
const RAW: [&str; 4] = ["script", "style", "textarea", "title"];

/// Where the proxied server appears to be.
pub(super) struct Place<'a> {
    /// The path that leads to it.
    pub(super) prefix: &'a str,
    /// What it may call itself.
    pub(super) hosts: Vec<String>,
}

impl Place<'_> {
    /// One link: with the prefix before it, if it is to a place of the server's own from its root.
    pub(super) fn rewrite(&self, link: &str) -> String {
        let (host, path) = match link.split_once("://") {
            Some(("http" | "https", rest)) => {
                let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                let (host, path) = rest.split_at(end);
                (Some(host), path)
            }
            _ => match link.strip_prefix("//") {
                Some(rest) => {
                    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
                    let (host, path) = rest.split_at(end);
                    (Some(host), path)
                }
                None => (None, link),
            },
        };
        let is_other = host.is_some_and(|host| !self.hosts.iter().any(|known| known == host));
        if is_other || !path.starts_with('/') {
            return link.to_owned();
        }
        let within = path
            .strip_prefix(self.prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']));
        if within { path.to_owned() } else { format!("{}{path}", self.prefix) }
    }

    /// A page with its links rewritten, and nothing else.
    pub(super) fn page(&self, page: &str) -> String {
        let mut out = String::with_capacity(page.len() + page.len() / 16);
        let mut rest = page;
        while let Some(start) = rest.find('<') {
            out.push_str(&rest[..start]);
            rest = &rest[start..];
            if let Some(comment) = rest.strip_prefix("<!--") {
                let end = comment.find("-->").map_or(rest.len(), |end| end + 7);
                out.push_str(&rest[..end]);
                rest = &rest[end..];
                continue;
            }
            let Some(end) = end_of_tag(rest) else { break };
            let (tag, after) = rest.split_at(end);
            rest = after;
            let name: String = tag[1..]
                .chars()
                .take_while(char::is_ascii_alphanumeric)
                .collect::<String>()
                .to_ascii_lowercase();
            match LINKS.iter().find(|(known, _)| *known == name) {
                Some((_, attributes)) => self.tag(tag, attributes, &mut out),
                None => out.push_str(tag),
            }
            if RAW.contains(&name.as_str()) {
                let end = end_of_raw(rest, &name);
                out.push_str(&rest[..end]);
                rest = &rest[end..];
            }
        }
        out.push_str(rest);
        out
    }

    fn tag(&self, tag: &str, attributes: &[&str], out: &mut String) {
        let mut rest = tag;
        // Past the name, then attribute by attribute; what is no attribute with a value is copied.
        let name = rest.find(|c: char| c.is_ascii_whitespace() || c == '>').unwrap_or(rest.len());
        out.push_str(&rest[..name]);
        rest = &rest[name..];
        loop {
            let start = rest.find(|c: char| !c.is_ascii_whitespace() && c != '/' && c != '>');
            let Some(start) = start else { break };
            out.push_str(&rest[..start]);
            rest = &rest[start..];
            let end = rest
                .find(|c: char| c.is_ascii_whitespace() || matches!(c, '=' | '>'))
                .unwrap_or(rest.len());
            let attribute = rest[..end].to_ascii_lowercase();
            let end = if end == 0 { 1 } else { end };
            out.push_str(&rest[..end]);
            rest = &rest[end..];
            let trimmed = rest.trim_start();
            let Some(value) = trimmed.strip_prefix('=') else { continue };
            let value = value.trim_start();
            out.push_str(&rest[..rest.len() - value.len()]);
            let (quote, body) = match value.chars().next() {
                Some(quote @ ('"' | '\'')) => (Some(quote), &value[1..]),
                _ => (None, value),
            };
            let end = match quote {
                Some(quote) => body.find(quote),
                None => body.find(|c: char| c.is_ascii_whitespace() || c == '>'),
            };
            let (text, after) = body.split_at(end.unwrap_or(body.len()));
            out.extend(quote);
            match attributes.contains(&attribute.as_str()) {
                true => out.push_str(&escape(&self.rewrite(&unescape(text)), text)),
                false => out.push_str(text),
            }
            rest = after;
            if let Some(quote) = quote
                && let Some(after) = rest.strip_prefix(quote)
            {
                out.push(quote);
                rest = after;
            }
        }
        out.push_str(rest);
    }
}

/// Of hosts and prefixes only ampersands come escaped where it matters.
fn unescape(text: &str) -> Cow<'_, str> {
    if text.contains("&amp;") { text.replace("&amp;", "&").into() } else { text.into() }
}

fn escape<'a>(link: &'a str, was: &str) -> Cow<'a, str> {
    if was.contains("&amp;") { link.replace('&', "&amp;").into() } else { link.into() }
}

/// Where a tag ends, its `>` included; quoted ones are text.
fn end_of_tag(text: &str) -> Option<usize> {
    let mut quote = None;
    for (i, byte) in text.bytes().enumerate() {
        match (byte, quote) {
            (b'>', None) => return Some(i + 1),
            (b'"' | b'\'', None) => quote = Some(byte),
            (byte, Some(open)) if byte == open => quote = None,
            _ => {}
        }
    }
    None
}

/// Where the content of such an element ends.
fn end_of_raw(text: &str, name: &str) -> usize {
    let mut from = 0;
    while let Some(at) = text[from..].find("</") {
        let at = from + at;
        let after = &text[at + 2..];
        if after.get(..name.len()).is_some_and(|found| found.eq_ignore_ascii_case(name)) {
            return at;
        }
        from = at + 2;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place<'static> {
        let hosts = vec!["10.0.0.7:80".to_owned(), "localhost:8001".to_owned()];
        Place { prefix: "/api/v1/x/proxy", hosts }
    }

    #[test]
    fn links_of_its_own_lead_through_the_proxy() {
        for (link, expected) in [
            ("/a", "/api/v1/x/proxy/a"),
            ("/a/?b=/c#d", "/api/v1/x/proxy/a/?b=/c#d"),
            ("a", "a"),
            ("../a", "../a"),
            ("#a", "#a"),
            ("http://10.0.0.7:80/a", "/api/v1/x/proxy/a"),
            ("//localhost:8001/a", "/api/v1/x/proxy/a"),
            ("https://example.com/a", "https://example.com/a"),
            ("//example.com/a", "//example.com/a"),
            ("mailto:a@example.com", "mailto:a@example.com"),
            ("/api/v1/x/proxy/a", "/api/v1/x/proxy/a"),
            ("http://localhost:8001/api/v1/x/proxy/a", "/api/v1/x/proxy/a"),
            ("/api/v1/x/proxying", "/api/v1/x/proxy/api/v1/x/proxying"),
        ] {
            assert_eq!(place().rewrite(link), expected, "{link}");
        }
    }

    #[test]
    fn pages_keep_all_but_their_links() {
        for (page, expected) in [
            ("<a href=\"/a\">x</a>", "<a href=\"/api/v1/x/proxy/a\">x</a>"),
            ("<A\n HREF = '/a' title=\"/a\">", "<A\n HREF = '/api/v1/x/proxy/a' title=\"/a\">"),
            ("<img src=/a/b alt>", "<img src=/api/v1/x/proxy/a/b alt>"),
            ("<img src=\"/a\"/>", "<img src=\"/api/v1/x/proxy/a\"/>"),
            ("<a title='>' href='/a'>", "<a title='>' href='/api/v1/x/proxy/a'>"),
            ("<a href=\"/a?b=1&amp;c=2\">", "<a href=\"/api/v1/x/proxy/a?b=1&amp;c=2\">"),
            ("<p href=\"/a\">", "<p href=\"/a\">"),
            ("<!-- <a href=\"/a\"> -->", "<!-- <a href=\"/a\"> -->"),
            (
                "<script src=\"/s\">x = '<a href=\"/a\">';</script><a href=\"/b\">",
                "<script src=\"/api/v1/x/proxy/s\">x = '<a href=\"/a\">';</script><a href=\"/api/v1/x/proxy/b\">",
            ),
            ("1 < 2, ä <", "1 < 2, ä <"),
            ("<a href=\"/a", "<a href=\"/a"),
            ("<a = / href='/ü'>", "<a = / href='/api/v1/x/proxy/ü'>"),
        ] {
            assert_eq!(place().page(page), expected, "{page}");
        }
    }
}
