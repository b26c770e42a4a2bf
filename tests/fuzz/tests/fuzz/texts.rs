//! Short texts with a grammar: schedules, durations, paths, names, certificates' requests.

use coracle_api::cron::Schedule;
use coracle_api::custom::JsonPath;
use coracle_api::{bootstrap_token, cron, csr, go_duration, names};
use coracle_fuzz::{bytes, cases};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::json;

#[test]
fn schedules() {
    let good: &[&[u8]] =
        &[b"*/5 0-12/3 1,15 jan-mar MON", b"0 0 29 2 *", b"@every 1h30m", b"@daily", b"0 0 31 4 *"];
    let words = [
        "*",
        "/",
        "-",
        ",",
        " ",
        "?",
        "L",
        "W",
        "#",
        "sun",
        "7",
        "59",
        "60",
        "@every ",
        "4294967296",
        "TZ=UTC ",
    ];
    let berlin = cron::zone(Some("Europe/Berlin")).expect("a zone");
    bytes("schedules", good, &words, |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let Ok(schedule) = text.parse::<Schedule>() else { return };
        for zone in [&TimeZone::UTC, &berlin] {
            let mut at = Timestamp::from_second(1_700_000_000).expect("a time");
            for _ in 0..3 {
                let Some(next) = schedule.next(at, zone) else { break };
                assert!(next > at, "{text}: {next} after {at}");
                at = next;
            }
        }
        let _ = schedule.next(Timestamp::MAX, &berlin);
        let _ = schedule.next(Timestamp::MIN, &TimeZone::UTC);
    });
}

#[test]
fn durations() {
    let words = [
        "h",
        "m",
        "s",
        "ms",
        "us",
        "µs",
        "ns",
        ".",
        "-",
        "+",
        "0",
        "9223372036854775807",
        "00000000000000000000000",
    ];
    bytes("durations", &[b"1h30m1.5s", b"-2562047h47m16.854775808s", b"0"], &words, |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let _ = go_duration::parse(text);
    });
    cases("durations-of-parts", |random| {
        let (hours, minutes, millis) =
            (random.below(1000) as i64, random.below(60) as i64, random.below(60_000) as i64);
        let text = format!("{hours}h{minutes}m{}.{:03}s", millis / 1000, millis % 1000);
        let nanos = ((hours * 60 + minutes) * 60_000 + millis) * 1_000_000;
        assert_eq!(go_duration::parse(&text), Some(nanos), "{text}");
        assert_eq!(go_duration::parse(&format!("-{text}")), Some(-nanos), "{text}");
    });
}

#[test]
fn json_paths() {
    let value =
        json!({"spec": {"a.b": [1, {"c": "d"}], "e": {"f": null}}, "metadata": {"name": "x"}});
    let words = [
        ".spec",
        "['a.b']",
        "[0]",
        "[-1]",
        "[*]",
        "[1:2]",
        "..",
        ".*",
        "[?(@.c=='d')]",
        "{",
        "}",
        "\\.",
        "[\"",
        "[99999999999999999999]",
    ];
    bytes(
        "json-paths",
        &[b".spec['a.b'][1].c", b"{.metadata.name}", b".spec.a\\.b[*]"],
        &words,
        |input| {
            let Ok(text) = std::str::from_utf8(input) else { return };
            let Ok(path) = JsonPath::parse(text) else { return };
            assert_eq!(path.find(&value).first().copied(), path.first(&value), "{text}");
            let _ = path.fields();
        },
    );
}

#[test]
fn names_and_tokens() {
    let words = ["a", "-", ".", "/", "*", "A", "_", ":", "coracle2.", "é"];
    bytes(
        "names",
        &[
            b"a-b.example.com/c",
            b"10.0.0.0/8",
            b"coracle2.abcdef.0123456789abcdef0123456789abcdef.00",
        ],
        &words,
        |input| {
            let Ok(text) = std::str::from_utf8(input) else { return };
            for check in [
                names::label_1123,
                names::label_1035,
                names::subdomain,
                names::wildcard_subdomain,
                names::path_segment,
                names::qualified,
                names::label_value,
                names::config_key,
                names::env_name,
                names::port_name,
                names::ip,
            ] {
                let _ = check(text);
            }
            if let Some((_, prefix)) = names::parse_cidr(text) {
                assert!(prefix <= 128);
            }
            if let Ok(token) = bootstrap_token::JoinToken::parse(text) {
                let again = bootstrap_token::JoinToken::parse(&token.text());
                assert_eq!(again.expect("its own text").text(), token.text());
            }
            let _ = bootstrap_token::of_bearer(text);
            // What no name may be is not, and what is one is short.
            if names::label_1123(text).is_none() {
                assert!(text.len() <= 63 && !text.is_empty() && text.is_ascii());
            }
            if names::path_segment(text).is_none() {
                assert!(!text.contains('/') && text != ".." && text != ".");
            }
        },
    );
}

#[test]
fn requests_for_certificates() {
    let good = include_bytes!("../../corpus/requests-for-certificates/node.pem");
    bytes(
        "requests-for-certificates",
        &[good],
        &["-----BEGIN CERTIFICATE REQUEST-----\n", "MII", "AAAA", "="],
        |input| {
            let _ = csr::Request::parse(input);
        },
    );
}
