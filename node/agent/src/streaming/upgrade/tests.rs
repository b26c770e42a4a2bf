use super::*;

const WEBSOCKET: &[&str] = &["v5.channel.k8s.io", "v4.channel.k8s.io", ""];
const SPDY: &[&str] = &["v4.channel.k8s.io", "channel.k8s.io"];

fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    let lines = lines.iter();
    lines.map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_static(v))).collect()
}

/// The protocol agreed on, or the code of the refusal.
fn check(lines: &[(&'static str, &'static str)], expected: Result<&str, u16>) -> HeaderMap {
    let (found, answer) = match agree(&headers(lines), WEBSOCKET, SPDY) {
        Ok((agreed, answer)) => (Ok(agreed.protocol), answer),
        Err(refusal) => (Err(refusal.status().as_u16()), *refusal),
    };
    assert_eq!(found, expected, "{lines:?}");
    answer.headers().clone()
}

#[test]
fn the_clients_first_choice_that_is_served_is_taken() {
    let key = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    let start = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        key,
    ];
    let with = |more: &[(&'static str, &'static str)]| [&start[..], more].concat();
    let answer = check(
        &with(&[(
            "sec-websocket-protocol",
            "v9.channel.k8s.io, v4.channel.k8s.io,v5.channel.k8s.io",
        )]),
        Ok("v4.channel.k8s.io"),
    );
    assert_eq!(answer["sec-websocket-protocol"], "v4.channel.k8s.io");
    // RFC 6455's example.
    assert_eq!(answer["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    let answer = check(&start, Ok(""));
    assert!(!answer.contains_key("sec-websocket-protocol"));
    check(&with(&[("sec-websocket-protocol", "other")]), Err(403));
    check(&start[..3], Err(400));

    let start = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
    let with = |more: &[(&'static str, &'static str)]| [&start[..], more].concat();
    let name = "x-stream-protocol-version";
    let offers =
        [(name, "v5.channel.k8s.io"), (name, "channel.k8s.io"), (name, "v4.channel.k8s.io")];
    let answer = check(&with(&offers), Ok("channel.k8s.io"));
    assert_eq!(
        (&answer["upgrade"], &answer[name]),
        (&"SPDY/3.1".parse().unwrap(), &"channel.k8s.io".parse().unwrap())
    );
    let answer = check(&with(&offers[..1]), Err(403));
    assert_eq!(answer.get_all("x-accepted-stream-protocol-versions").iter().count(), 2);
    check(&start, Err(400));
    check(&[("connection", "Upgrade"), ("upgrade", "h2c")], Err(400));
    check(&[("upgrade", "SPDY/3.1")], Err(400));
}
