//! What becomes of a request's and an answer's headers on their way: those of one connection end here, and what is said of
//! the request's origin is ours to say.

use std::borrow::Cow;
use std::net::IpAddr;

use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Uri, Version};

/// Headers that are about a connection (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_SCHEME: HeaderName = HeaderName::from_static("x-forwarded-scheme");
const REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Why a request is not even looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bad {
    /// No host, several, or none that can be one.
    Host,
    /// Coded in another way than in chunks.
    Coding,
    /// Its length is said twice.
    Length,
    /// A request for a tunnel, or a path that is none.
    Target,
}

impl Bad {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Bad::Host => "the request names no host, or more than one",
            Bad::Coding => "the request's body is coded in a way that is not supported",
            Bad::Length => "the request says its length twice",
            Bad::Target => "the request's target is no path",
        }
    }
}

/// The host of a request that is in order: in lower case, without a port.
pub(crate) fn host<B>(request: &Request<B>) -> Result<Cow<'_, str>, Bad> {
    let headers = request.headers();
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if codings.next().is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
        || codings.next().is_some()
    {
        return Err(Bad::Coding);
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let digits = |value: &HeaderValue| value.as_bytes().iter().all(u8::is_ascii_digit);
    if lengths.next().is_some_and(|length| length.is_empty() || !digits(length))
        || lengths.next().is_some()
    {
        return Err(Bad::Length);
    }
    let path = request.uri().path();
    if request.method() == Method::CONNECT || !(path.starts_with('/') || path == "*") {
        return Err(Bad::Target);
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let named = hosts.next();
    if hosts.next().is_some() {
        return Err(Bad::Host);
    }
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    let named = named.map(HeaderValue::to_str).transpose().map_err(|_| Bad::Host)?;
    if let (Some(authority), Some(named)) = (authority, named)
        && !authority.eq_ignore_ascii_case(named)
    {
        // Two names for two servers to choose from.
        return Err(Bad::Host);
    }
    let text = match authority.or(named) {
        Some(text) => text,
        None if request.version() <= Version::HTTP_10 => return Ok(Cow::Borrowed("")),
        None => return Err(Bad::Host),
    };
    bare_host(text).ok_or(Bad::Host)
}

/// A host without its port, in lower case.
fn bare_host(text: &str) -> Option<Cow<'_, str>> {
    let is_port = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
    let host = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            address.parse::<std::net::Ipv6Addr>().ok()?;
            if !port.is_empty() && !port.strip_prefix(':').is_some_and(is_port) {
                return None;
            }
            return Some(format!("[{address}]").to_ascii_lowercase().into());
        }
        None => match text.split_once(':') {
            Some((host, port)) if is_port(port) => host,
            Some(_) => return None,
            None => text,
        },
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let is_fit = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let fits = !host.is_empty() && host.len() <= 253 && host.bytes().all(is_fit);
    fits.then(|| match host.bytes().any(|b| b.is_ascii_uppercase()) {
        true => host.to_ascii_lowercase().into(),
        false => host.into(),
    })
}

/// The protocol that a request wants its connection to change to.
pub(crate) fn upgrade<B>(request: &Request<B>) -> Option<HeaderValue> {
    let asks = |value: &HeaderValue| tokens(value).any(|t| t.eq_ignore_ascii_case("upgrade"));
    let connection = request.headers().get_all(header::CONNECTION);
    let wanted = request.headers().get(header::UPGRADE)?;
    // Whoever offers HTTP/2 this way can do without it.
    let is_h2c = tokens(wanted).any(|token| token.eq_ignore_ascii_case("h2c"));
    (request.version() == Version::HTTP_11 && connection.iter().any(asks) && !is_h2c)
        .then(|| wanted.clone())
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    value.to_str().unwrap_or_default().split(',').map(str::trim).filter(|token| !token.is_empty())
}

/// Takes away what is about the connection on which they came.
pub(crate) fn end_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .flat_map(tokens)
            .filter_map(|token| token.parse().ok())
            .collect();
        for name in named {
            // What frames a message, or says whose it is, nobody takes away by naming it.
            if name != header::CONTENT_LENGTH && name != header::HOST {
                headers.remove(name);
            }
        }
    }
    // Most have none of them, and to look at each name costs less than to look each of these up.
    while let Some(name) = headers.keys().find(|name| HOP_BY_HOP.contains(name)).cloned() {
        headers.remove(name);
    }
}

/// What is said of all requests of a connection.
pub(crate) struct Said {
    peer: HeaderValue,
    scheme: HeaderValue,
    port: HeaderValue,
}

impl Said {
    pub(crate) fn of(peer: IpAddr, tls: bool, port: u16) -> Self {
        let peer = peer.to_canonical().to_string();
        Self {
            peer: HeaderValue::try_from(peer).unwrap_or(HeaderValue::from_static("unknown")),
            scheme: HeaderValue::from_static(if tls { "https" } else { "http" }),
            port: HeaderValue::from(port),
        }
    }
}

/// Where a request came from.
pub(crate) struct Origin<'a> {
    pub(crate) client: &'a Said,
    /// The client is a proxy whose words are believed.
    pub(crate) trusted: bool,
    /// The request's `Host`, as it stands.
    pub(crate) host: Option<&'a HeaderValue>,
}

/// Says where a request came from. What a stranger said of that is taken away first.
pub(crate) fn forward(headers: &mut HeaderMap, origin: &Origin<'_>) {
    let peer = origin.client.peer.clone();
    if origin.trusted {
        let mut all = headers.get(FORWARDED_FOR).map(|v| v.as_bytes().to_vec()).unwrap_or_default();
        if !all.is_empty() {
            all.extend_from_slice(b", ");
        }
        all.extend_from_slice(peer.as_bytes());
        if let Ok(all) = HeaderValue::from_bytes(&all) {
            headers.insert(FORWARDED_FOR, all);
        }
        headers.entry(REAL_IP).or_insert(peer);
        for (name, value) in said(origin) {
            headers.entry(name).or_insert(value);
        }
        return;
    }
    headers.remove(header::FORWARDED);
    headers.insert(FORWARDED_FOR, peer.clone());
    headers.insert(REAL_IP, peer);
    for (name, value) in said(origin) {
        headers.insert(name, value);
    }
}

fn said(origin: &Origin<'_>) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
    let scheme = origin.client.scheme.clone();
    let host = origin.host.cloned().map(|host| (FORWARDED_HOST, host));
    [
        (FORWARDED_PROTO, scheme.clone()),
        (FORWARDED_SCHEME, scheme),
        (FORWARDED_PORT, origin.client.port.clone()),
    ]
    .into_iter()
    .chain(host)
}

/// Whether a request may be sent twice (RFC 9110, 9.2.2).
pub(crate) fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// The target as an endpoint is asked for it.
pub(crate) fn target(uri: &Uri, rewrite: Option<&str>) -> http::uri::PathAndQuery {
    let whole = uri.path_and_query().cloned();
    let whole = whole.unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"));
    let Some(path) = rewrite else { return whole };
    let text = match whole.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    text.parse().unwrap_or(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: Version, uri: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().version(version).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request")
    }

    #[test]
    fn hosts_are_one_and_fit() {
        for (uri, headers, expected) in [
            ("/", &[("host", "A.Example.com:8080")][..], Ok("a.example.com")),
            ("/", &[("host", "a.example.com.")], Ok("a.example.com")),
            ("/", &[("host", "[::1]:80")], Ok("[::1]")),
            ("http://a/", &[("host", "a")], Ok("a")),
            ("http://a/", &[], Ok("a")),
            ("http://a/", &[("host", "b")], Err(Bad::Host)),
            ("/", &[], Err(Bad::Host)),
            ("/", &[("host", "a"), ("host", "a")], Err(Bad::Host)),
            ("/", &[("host", "a b")], Err(Bad::Host)),
            ("/", &[("host", "u@a")], Err(Bad::Host)),
            ("/", &[("host", "a:80:80")], Err(Bad::Host)),
            ("/", &[("host", "a"), ("transfer-encoding", "gzip, chunked")], Err(Bad::Coding)),
            (
                "/",
                &[("host", "a"), ("content-length", "1"), ("content-length", "1")],
                Err(Bad::Length),
            ),
            ("/", &[("host", "a"), ("content-length", "+1")], Err(Bad::Length)),
            ("a:80", &[("host", "a")], Err(Bad::Target)),
        ] {
            let request = request(Version::HTTP_11, uri, headers);
            let found = host(&request);
            assert_eq!(found.as_deref(), expected.as_ref().copied(), "{uri} {headers:?}");
        }
        assert_eq!(host(&request(Version::HTTP_10, "/", &[])), Ok("".into()));
    }

    #[test]
    fn strangers_do_not_say_where_they_come_from() {
        let told = [
            ("forwarded", "for=x"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-proto", "https"),
            ("x-real-ip", "2.2.2.2"),
        ];
        let name = HeaderValue::from_static("a");
        for (trusted, expected) in [
            (false, [None, Some("10.0.0.9"), Some("http"), Some("10.0.0.9")]),
            (true, [Some("for=x"), Some("1.1.1.1, 10.0.0.9"), Some("https"), Some("2.2.2.2")]),
        ] {
            let mut headers = request(Version::HTTP_11, "/", &told).headers().clone();
            let peer = "::ffff:10.0.0.9".parse().expect("an address");
            let said = Said::of(peer, false, 80);
            forward(&mut headers, &Origin { client: &said, trusted, host: Some(&name) });
            let found = told.map(|(name, _)| headers.get(name).and_then(|v| v.to_str().ok()));
            assert_eq!(found, expected);
            assert_eq!(
                (&headers["x-forwarded-host"], &headers["x-forwarded-port"]),
                (&name, &HeaderValue::from(80))
            );
        }
    }

    #[test]
    fn a_connections_headers_end_with_it() {
        let mut headers = request(
            Version::HTTP_11,
            "/",
            &[
                ("connection", "close, X-Own, host, content-length"),
                ("x-own", "1"),
                ("keep-alive", "2"),
                ("te", "x"),
                ("host", "a"),
                ("content-length", "0"),
                ("x", "y"),
            ],
        )
        .headers()
        .clone();
        end_hop(&mut headers);
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-length", "host", "x"]);
    }

    #[test]
    fn upgrades_are_asked_for() {
        let of =
            |version, headers: &[(&str, &str)]| upgrade(&request(version, "/", headers)).is_some();
        assert!(of(
            Version::HTTP_11,
            &[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]
        ));
        assert!(!of(Version::HTTP_11, &[("upgrade", "websocket")]));
        assert!(!of(Version::HTTP_11, &[("connection", "upgrade"), ("upgrade", "h2c")]));
        assert!(!of(Version::HTTP_2, &[("connection", "upgrade"), ("upgrade", "websocket")]));
    }

    #[test]
    fn targets_are_rewritten_but_for_the_query() {
        let uri: Uri = "http://a/x/y?z=1".parse().expect("a URI");
        assert_eq!(target(&uri, None), "/x/y?z=1");
        assert_eq!(target(&uri, Some("/new")), "/new?z=1");
    }
}
