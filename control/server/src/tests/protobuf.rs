//! Answers in protobuf, as client-go's typed clients ask for them.

use std::io::Read as _;

use coracle_api::schema::builtin;
use coracle_api::schema::protobuf::{Envelope, MEDIA_TYPE};
use serde_json::json;

use super::*;

/// As kubectl and controllers say it.
const TYPED: &str = "application/vnd.kubernetes.protobuf,application/json";
const METADATA: &str = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,\
                        application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const METADATA_LIST: &str =
    "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

async fn ask(
    it: &Fixture,
    method: &str,
    path: &str,
    accept: &str,
    body: Value,
) -> (u16, String, Vec<u8>) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("accept", accept)
        .header("content-type", "application/json")
        .body(if body.is_null() { Body::empty() } else { Body::from(body.to_string()) })
        .expect("a request");
    let (parts, body) = it.send(request).await.into_parts();
    let media = parts.headers["content-type"].to_str().expect("text").to_owned();
    let bytes = axum::body::to_bytes(body, usize::MAX).await.expect("a readable body");
    (parts.status.as_u16(), media, bytes.to_vec())
}

/// What a typed client makes of a body.
fn decoded(body: &[u8]) -> Value {
    let envelope = Envelope::parse(body).expect("an envelope");
    let (group, version) =
        envelope.api_version.split_once('/').unwrap_or(("", envelope.api_version));
    let schema = builtin().by_gvk(group, version, envelope.kind).expect("a known kind");
    envelope.decode(schema).expect("a readable object")
}

/// The payloads of a message's length-delimited fields with this tag.
fn fields(mut message: &[u8], wanted: u8) -> Vec<&[u8]> {
    fn varint(bytes: &mut &[u8]) -> usize {
        let mut out = 0;
        for shift in (0..).step_by(7) {
            let (first, rest) = bytes.split_first().expect("a number");
            *bytes = rest;
            out |= usize::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                break;
            }
        }
        out
    }
    let mut out = Vec::new();
    while !message.is_empty() {
        let key = varint(&mut message);
        let number = varint(&mut message);
        if key & 7 == 2 {
            let (payload, rest) = message.split_at(number);
            message = rest;
            if key >> 3 == usize::from(wanted) {
                out.push(payload);
            }
        }
    }
    out
}

#[tokio::test]
async fn objects_reviews_and_errors() {
    let it = Fixture::new().await;
    let (code, media, body) = ask(&it, "POST", PODS, TYPED, pod("p")).await;
    assert_eq!((code, media.as_str()), (201, MEDIA_TYPE));
    let created = decoded(&body);
    assert_eq!(created["spec"]["containers"][0]["image"], "example");
    let one = &format!("{PODS}/p");
    let (_, _, body) = ask(&it, "GET", one, TYPED, Value::Null).await;
    // What JSON says beside it is empty.
    let json = it.get(one).await.body;
    assert_eq!(
        (&decoded(&body)["metadata"], &decoded(&body)["status"]["phase"]),
        (&json["metadata"], &json!("Pending"))
    );

    let (code, media, body) = ask(&it, "GET", &format!("{PODS}/none"), TYPED, Value::Null).await;
    let status = decoded(&body);
    assert_eq!((code, media.as_str()), (404, MEDIA_TYPE));
    assert_eq!(
        (&status["kind"], &status["reason"], &status["details"]["name"]),
        (&json!("Status"), &json!("NotFound"), &json!("none"))
    );

    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let review = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let (code, _, body) = ask(&it, "POST", path, TYPED, review).await;
    assert_eq!((code, &decoded(&body)["status"]["allowed"]), (201, &json!(true)));

    // Another version of a stored kind, and what has no form in protobuf.
    let (_, media, body) = ask(&it, "GET", "/apis/apps/v1", TYPED, Value::Null).await;
    assert_eq!((media.as_str(), &decoded(&body)["groupVersion"]), (MEDIA_TYPE, &json!("apps/v1")));
    let table = "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io";
    let (code, ..) = ask(&it, "GET", PODS, table, Value::Null).await;
    assert_eq!(code, 406);
    let table = format!("{table},application/json;as=Table;v=v1;g=meta.k8s.io");
    let (code, media, _) = ask(&it, "GET", PODS, &table, Value::Null).await;
    assert_eq!((code, media.as_str()), (200, "application/json"));
    // What is liked better comes first.
    let less = "application/vnd.kubernetes.protobuf;q=0.5,application/json";
    let (_, media, _) = ask(&it, "GET", PODS, less, Value::Null).await;
    assert_eq!(media, "application/json");
}

#[tokio::test]
async fn lists_and_metadata() {
    let it = Fixture::new().await;
    for name in ["a", "b", "c"] {
        it.create(CONFIG_MAPS, config_map(name)).await;
    }
    let (_, media, body) =
        ask(&it, "GET", &format!("{CONFIG_MAPS}?limit=2"), TYPED, Value::Null).await;
    assert_eq!(media, MEDIA_TYPE);
    let envelope = Envelope::parse(&body).expect("an envelope");
    assert_eq!((envelope.api_version, envelope.kind), ("v1", "ConfigMapList"));
    let raw = fields(&body[4..], 2)[0];
    let (meta, items) = (fields(raw, 1)[0], fields(raw, 2));
    assert!(!fields(meta, 3)[0].is_empty(), "a token to continue with");
    let name = |item: &[u8]| String::from_utf8_lossy(fields(fields(item, 1)[0], 1)[0]).into_owned();
    assert_eq!(items.iter().map(|item| name(item)).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(fields(fields(items[0], 2)[0], 2), [b"b"], "the value of a key");

    for (path, accept, kind) in [
        (format!("{CONFIG_MAPS}/a"), METADATA, "PartialObjectMetadata"),
        (CONFIG_MAPS.to_owned(), METADATA_LIST, "PartialObjectMetadataList"),
    ] {
        let (_, media, body) = ask(&it, "GET", &path, accept, Value::Null).await;
        let envelope = Envelope::parse(&body).expect("an envelope");
        assert_eq!(
            (media.as_str(), envelope.api_version, envelope.kind),
            (MEDIA_TYPE, "meta.k8s.io/v1", kind)
        );
        let raw = fields(&body[4..], 2)[0];
        let object = if kind.ends_with("List") { fields(raw, 2)[0] } else { raw };
        assert_eq!((name(object), fields(object, 2).len()), ("a".to_owned(), 0), "metadata only");
    }
}

#[tokio::test]
async fn watches_are_framed() {
    let it = Fixture::new().await;
    it.create(CONFIG_MAPS, config_map("a")).await;
    let query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    for accept in [TYPED, "application/vnd.kubernetes.protobuf;stream=watch"] {
        let request = Request::get(format!("{CONFIG_MAPS}?{query}"))
            .header("accept", accept)
            .body(Body::empty())
            .expect("a request");
        let response = it.send(request).await;
        assert_eq!(
            response.headers()["content-type"],
            "application/vnd.kubernetes.protobuf;stream=watch"
        );
        let mut stream = response.into_body().into_data_stream();
        let mut pending = Vec::new();
        let mut seen = Vec::new();
        while seen.len() < 2 {
            let chunk = stream.next().await.expect("an event").expect("a readable stream");
            pending.extend_from_slice(&chunk);
            while let Some(length) =
                pending.first_chunk::<4>().map(|head| u32::from_be_bytes(*head) as usize)
                && pending.len() >= 4 + length
            {
                let frame: Vec<u8> = pending.drain(..4 + length).skip(4).collect();
                let event = String::from_utf8_lossy(fields(&frame, 1)[0]).into_owned();
                seen.push((event, decoded(fields(fields(&frame, 2)[0], 1)[0])));
            }
        }
        let [(added, object), (bookmark, end)] = &seen[..] else { panic!("{seen:?}") };
        assert_eq!((added.as_str(), &object["metadata"]["name"]), ("ADDED", &json!("a")));
        assert_eq!((bookmark.as_str(), &end["kind"]), ("BOOKMARK", &json!("ConfigMap")));
        assert_eq!(end["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    }
    let (code, _, body) =
        ask(&it, "GET", &format!("{CONFIG_MAPS}?watch=true"), "application/yaml", Value::Null)
            .await;
    let text = String::from_utf8_lossy(&body).into_owned();
    assert_eq!(code, 406, "{text}");
    assert!(text.contains("accepted: application/json;stream=watch"), "{text}");
}

#[tokio::test]
async fn large_lists_are_compressed_for_those_who_take_it() {
    let it = Fixture::new().await;
    for name in ["a", "b"] {
        let mut large = config_map(name);
        large["data"]["large"] = "0123456789".repeat(20_000).into();
        it.create(CONFIG_MAPS, large).await;
    }
    let plain = it.get(CONFIG_MAPS).await;
    assert_eq!(plain.headers.get("content-encoding"), None);
    for (path, accept, expected) in [
        (CONFIG_MAPS, "gzip", true),
        (CONFIG_MAPS, "deflate, gzip", true),
        (CONFIG_MAPS, "deflate", false),
        ("/api/v1/namespaces/default/configmaps/a", "gzip", true),
        ("/api/v1/namespaces", "gzip", false),
    ] {
        let request = Request::get(path)
            .header("accept-encoding", accept)
            .body(Body::empty())
            .expect("a request");
        let (parts, body) = it.send(request).await.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.expect("a readable body");
        assert_eq!(parts.headers.contains_key("content-encoding"), expected, "{path} {accept}");
        let mut text = String::new();
        let read = match expected {
            true => flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut text),
            false => (&bytes[..]).read_to_string(&mut text),
        };
        read.expect("text");
        if path == CONFIG_MAPS {
            assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), plain.body);
        }
    }
}
