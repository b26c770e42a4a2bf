use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::names::{Digest, Name, Tag, Target};
use super::{Registry, router};

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

struct Client {
    folder: tempfile::TempDir,
    registry: Registry,
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Reply {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn code(&self) -> String {
        self.json()["errors"][0]["code"].as_str().unwrap().to_owned()
    }
}

impl Client {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::open(&folder.path().join("registry")).unwrap();
        Self { folder, registry }
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Reply {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.into()).unwrap();
        let response = router(self.registry.clone()).oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Reply { status: parts.status, headers: parts.headers, body }
    }

    async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], Body::empty()).await
    }

    async fn push_blob(&self, name: &str, content: &[u8]) -> String {
        let digest = Digest::of(content).to_string();
        let path = format!("/v2/{name}/blobs/uploads/?digest={digest}");
        let reply = self.send("POST", &path, &[], content.to_vec()).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{:?}", reply.body);
        digest
    }

    async fn push_manifest(&self, name: &str, reference: &str, manifest: &Value) -> Reply {
        let path = format!("/v2/{name}/manifests/{reference}");
        let media_type = manifest["mediaType"].as_str().unwrap();
        self.send("PUT", &path, &[("content-type", media_type)], manifest.to_string()).await
    }

    async fn push_image(&self, name: &str, tag: &str, content: &str) -> Value {
        let manifest = image(self, name, content).await;
        let reply = self.push_manifest(name, tag, &manifest).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{:?}", reply.body);
        manifest
    }

    fn leftovers(&self) -> usize {
        fs::read_dir(self.folder.path().join("registry/uploads")).unwrap().count()
    }
}

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({
        "mediaType": media_type,
        "digest": Digest::of(content).to_string(),
        "size": content.len(),
    })
}

async fn image(client: &Client, name: &str, content: &str) -> Value {
    client.push_blob(name, b"{}").await;
    client.push_blob(name, content.as_bytes()).await;
    json!({
        "schemaVersion": 2,
        "mediaType": IMAGE,
        "config": descriptor("application/vnd.wasm.config.v0+json", b"{}"),
        "layers": [descriptor("application/wasm", content.as_bytes())],
    })
}

#[tokio::test]
async fn an_image_is_pushed_and_pulled() {
    let client = Client::new();
    let base = client.get("/v2/").await;
    assert_eq!(base.status, StatusCode::OK);
    assert_eq!(base.header("docker-distribution-api-version"), "registry/2.0");

    let manifest = client.push_image("team/my-app", "v1.0", "wasm").await;
    let digest = Digest::of(manifest.to_string().as_bytes()).to_string();
    for reference in ["v1.0", &digest] {
        let path = format!("/v2/team/my-app/manifests/{reference}");
        let got = client.get(&path).await;
        assert_eq!(got.status, StatusCode::OK);
        assert_eq!(got.header("content-type"), IMAGE);
        assert_eq!(got.header("docker-content-digest"), digest);
        assert_eq!(got.body, manifest.to_string());
        let head = client.send("HEAD", &path, &[], Body::empty()).await;
        assert_eq!(head.header("content-length"), manifest.to_string().len().to_string());
        assert!(head.body.is_empty());
    }
    let blob = Digest::of(b"wasm").to_string();
    let escaped = blob.replace(':', "%3A");
    for path in [&blob, &escaped] {
        let got = client.get(&format!("/v2/team/my-app/blobs/{path}")).await;
        assert_eq!((got.status, got.body.as_ref()), (StatusCode::OK, &b"wasm"[..]));
        assert_eq!(got.header("docker-content-digest"), blob);
    }
    // What one repository holds, another does not.
    assert_eq!(client.get(&format!("/v2/other/blobs/{blob}")).await.code(), "BLOB_UNKNOWN");
    assert_eq!(client.get("/v2/other/manifests/v1.0").await.code(), "MANIFEST_UNKNOWN");

    // Another process finds all of it.
    let again = Registry::open(&client.folder.path().join("registry")).unwrap();
    let client = Client { registry: again, folder: client.folder };
    assert_eq!(client.get("/v2/team/my-app/manifests/v1.0").await.body, manifest.to_string());
    assert_eq!(client.get(&format!("/v2/team/my-app/blobs/{blob}")).await.body, "wasm");
}

#[tokio::test]
async fn a_blob_is_read_in_ranges() {
    let client = Client::new();
    let digest = client.push_blob("a", b"0123456789").await;
    let cases: &[(&str, u16, &str, &str)] = &[
        ("bytes=2-4", 206, "234", "bytes 2-4/10"),
        ("bytes=7-", 206, "789", "bytes 7-9/10"),
        ("bytes=-3", 206, "789", "bytes 7-9/10"),
        ("bytes=-30", 206, "0123456789", "bytes 0-9/10"),
        ("bytes=5-99", 206, "56789", "bytes 5-9/10"),
        ("bytes=0-18446744073709551615", 206, "0123456789", "bytes 0-9/10"),
        ("bytes=10-12", 416, "", "bytes */10"),
        ("bytes=-0", 416, "", "bytes */10"),
        ("bytes=4-2", 200, "0123456789", ""),
        ("bytes=1-2,4-5", 200, "0123456789", ""),
        ("lines=1-2", 200, "0123456789", ""),
    ];
    for (range, status, body, content_range) in cases {
        let path = format!("/v2/a/blobs/{digest}");
        let reply = client.send("GET", &path, &[("range", range)], Body::empty()).await;
        assert_eq!(reply.status.as_u16(), *status, "{range}");
        assert_eq!(reply.header("content-range"), *content_range, "{range}");
        if *status != 416 {
            assert_eq!(reply.body, *body, "{range}");
            assert_eq!(reply.header("content-length"), body.len().to_string(), "{range}");
        }
    }
}

#[tokio::test]
async fn a_blob_arrives_in_pieces() {
    let client = Client::new();
    let start = client.send("POST", "/v2/a/b/blobs/uploads/", &[], Body::empty()).await;
    assert_eq!(start.status, StatusCode::ACCEPTED);
    let place = start.header("location").to_owned();
    let patch = async |range: &'static str, body: &'static str| {
        client.send("PATCH", &place, &[("content-range", range)], body).await
    };

    let first = patch("0-2", "abc").await;
    assert_eq!((first.status, first.header("range")), (StatusCode::ACCEPTED, "0-2"));
    // Out of order, repeated, with a gap: refused, and the upload goes on where it was.
    for range in ["0-2", "4-6", "2-4"] {
        let wrong = patch(range, "def").await;
        assert_eq!(wrong.status, StatusCode::RANGE_NOT_SATISFIABLE, "{range}");
        assert_eq!((wrong.header("range"), wrong.header("location")), ("0-2", place.as_str()));
    }
    for range in ["5-3", "x", "0-", "bytes 3-x"] {
        assert_eq!(patch(range, "def").await.status, StatusCode::BAD_REQUEST, "{range}");
    }
    let status = client.get(&place).await;
    assert_eq!((status.status, status.header("range")), (StatusCode::NO_CONTENT, "0-2"));
    // Without a range, a piece goes to the end; docker sends it so.
    let second = client.send("PATCH", &place, &[], "def").await;
    assert_eq!(second.header("range"), "0-5");

    let digest = Digest::of(b"abcdefgh");
    let wrong = client
        .send("PUT", &format!("{place}?digest={digest}"), &[("content-range", "9-10")], "gh")
        .await;
    assert_eq!(wrong.status, StatusCode::RANGE_NOT_SATISFIABLE);
    let end = client.send("PUT", &format!("{place}?digest={digest}"), &[], "gh").await;
    assert_eq!(end.status, StatusCode::CREATED);
    assert_eq!(end.header("location"), format!("/v2/a/b/blobs/{digest}"));
    assert_eq!(client.get(end.header("location")).await.body, "abcdefgh");
    assert_eq!(client.get(&place).await.code(), "BLOB_UPLOAD_UNKNOWN");
    assert_eq!(client.leftovers(), 0);
}

#[tokio::test]
async fn what_does_not_match_is_not_stored() {
    let client = Client::new();
    let other = Digest::of(b"other").to_string();
    let reply =
        client.send("POST", &format!("/v2/a/blobs/uploads/?digest={other}"), &[], "this").await;
    assert_eq!((reply.status.as_u16(), reply.code().as_str()), (400, "DIGEST_INVALID"));
    assert_eq!(client.get(&format!("/v2/a/blobs/{other}")).await.status, StatusCode::NOT_FOUND);

    let refused: &[(&str, &str)] = &[
        ("?digest=sha256:zz", "DIGEST_INVALID"),
        ("?digest=md5:00", "DIGEST_INVALID"),
        ("?digest=", "DIGEST_INVALID"),
        ("", "DIGEST_INVALID"),
    ];
    for (query, code) in refused {
        let start = client.send("POST", "/v2/a/blobs/uploads/", &[], Body::empty()).await;
        let place = start.header("location").to_owned();
        let reply = client.send("PUT", &format!("{place}{query}"), &[], "this").await;
        assert_eq!(reply.code(), *code, "{query}");
        assert_eq!(client.send("DELETE", &place, &[], Body::empty()).await.status.as_u16(), 204);
    }
    // Fewer bytes than announced: a connection that broke.
    let start = client.send("POST", "/v2/a/blobs/uploads/", &[], Body::empty()).await;
    let place = start.header("location").to_owned();
    let reply = client.send("PATCH", &place, &[("content-range", "0-9")], "this").await;
    assert_eq!(reply.code(), "SIZE_INVALID");
    // A body that ends in an error keeps what came, and the client can go on from there.
    let start = client.send("POST", "/v2/a/blobs/uploads/", &[], Body::empty()).await;
    let place = start.header("location").to_owned();
    let broken = Body::new(StreamBody::new(futures::stream::iter([
        Ok(hyper::body::Frame::data(Bytes::from_static(b"this"))),
        Err(std::io::Error::other("reset")),
    ])));
    assert_eq!(client.send("PATCH", &place, &[], broken).await.code(), "BLOB_UPLOAD_INVALID");
    assert_eq!(client.get(&place).await.header("range"), "0-3");
    // Another repository's upload is not to be found.
    let stolen = place.replace("/v2/a/", "/v2/b/");
    assert_eq!(client.get(&stolen).await.code(), "BLOB_UPLOAD_UNKNOWN");
}

#[tokio::test]
async fn the_same_blob_may_arrive_many_times_at_once() {
    let client = Client::new();
    let content: Vec<u8> = (0..400_000u32).map(|i| (i * 7) as u8).collect();
    let pushes = (0..16).map(|i| {
        let (client, content) = (&client, &content);
        async move { client.push_blob(&format!("repo-{}", i % 4), content).await }
    });
    let digests = futures::future::join_all(pushes).await;
    for i in 0..4 {
        let got = client.get(&format!("/v2/repo-{i}/blobs/{}", digests[0])).await;
        assert_eq!(got.body, content);
    }
    assert_eq!(client.leftovers(), 0);
}

#[tokio::test]
async fn two_requests_cannot_write_to_one_upload() {
    let client = Client::new();
    let start = client.send("POST", "/v2/a/blobs/uploads/", &[], Body::empty()).await;
    let place = start.header("location").to_owned();
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    let slow = Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receiver));
    let slow = client.send("PATCH", &place, &[], slow);
    let other = async {
        sender.send(Ok(Bytes::from_static(b"slow"))).await.unwrap();
        let reply = client.send("PATCH", &place, &[], "other").await;
        drop(sender);
        reply
    };
    let (slow, other) = tokio::join!(slow, other);
    assert_eq!(other.status, StatusCode::CONFLICT);
    assert_eq!((slow.status, slow.header("range")), (StatusCode::ACCEPTED, "0-3"));
}

#[tokio::test]
async fn a_blob_is_mounted_from_another_repository() {
    let client = Client::new();
    let digest = client.push_blob("from", b"shared").await;
    let mount = |from: &str| format!("/v2/to/blobs/uploads/?mount={digest}&from={from}");
    // Nothing to mount: an ordinary upload begins.
    let reply = client.send("POST", &mount("nowhere"), &[], Body::empty()).await;
    assert_eq!(reply.status, StatusCode::ACCEPTED);
    let reply = client.send("POST", &mount("from"), &[], Body::empty()).await;
    assert_eq!(reply.status, StatusCode::CREATED);
    assert_eq!(client.get(reply.header("location")).await.body, "shared");

    // The content lives as long as one repository holds it.
    let delete = async |name: &str| {
        client.send("DELETE", &format!("/v2/{name}/blobs/{digest}"), &[], Body::empty()).await
    };
    assert_eq!(delete("from").await.status, StatusCode::ACCEPTED);
    assert_eq!(client.get(&format!("/v2/from/blobs/{digest}")).await.status.as_u16(), 404);
    assert_eq!(client.get(&format!("/v2/to/blobs/{digest}")).await.body, "shared");
    assert_eq!(delete("to").await.status, StatusCode::ACCEPTED);
    assert_eq!(delete("to").await.code(), "BLOB_UNKNOWN");
    let blobs = client.folder.path().join("registry/blobs/sha256");
    assert_eq!(fs::read_dir(blobs).unwrap().count(), 0);
}

#[tokio::test]
async fn manifests_that_are_wrong_are_refused() {
    let client = Client::new();
    let good = image(&client, "a", "wasm").await;
    let with = |key: &str, value: Value| {
        let mut changed = good.clone();
        changed[key] = value;
        changed
    };
    let missing = descriptor("application/wasm", b"missing");
    let zeros = format!("sha256:{}", "0".repeat(64));
    let mut wrong_size = descriptor("application/wasm", b"wasm");
    wrong_size["size"] = 5.into();
    let cases: Vec<(&str, Value, u16, &str)> = vec![
        ("v1", with("layers", json!([missing])), 400, "MANIFEST_BLOB_UNKNOWN"),
        ("v1", with("config", missing.clone()), 400, "MANIFEST_BLOB_UNKNOWN"),
        ("v1", with("manifests", json!([missing])), 400, "MANIFEST_BLOB_UNKNOWN"),
        ("v1", with("layers", json!([wrong_size])), 400, "MANIFEST_INVALID"),
        (
            "v1",
            with("layers", json!([{"mediaType": "x", "digest": "../../x", "size": 1}])),
            400,
            "DIGEST_INVALID",
        ),
        ("v1", with("layers", json!("wasm")), 400, "MANIFEST_INVALID"),
        ("v1", with("schemaVersion", json!(1)), 400, "MANIFEST_INVALID"),
        ("v1", with("annotations", json!({"x": "y".repeat(5 << 20)})), 413, "SIZE_INVALID"),
        (&zeros, good.clone(), 400, "DIGEST_INVALID"),
        ("-v1", good.clone(), 400, "MANIFEST_INVALID"),
    ];
    for (reference, manifest, status, code) in cases {
        let reply = client.push_manifest("a", reference, &manifest).await;
        assert_eq!((reply.status.as_u16(), reply.code().as_str()), (status, code), "{manifest}");
    }
    let path = "/v2/a/manifests/v1";
    let other = client.send("PUT", path, &[("content-type", INDEX)], good.to_string()).await;
    assert_eq!(other.code(), "MANIFEST_INVALID");
    assert_eq!(client.send("PUT", path, &[], "{").await.code(), "MANIFEST_INVALID");
    assert_eq!(client.get("/v2/a/tags/list").await.code(), "NAME_UNKNOWN");
}

#[tokio::test]
async fn tags_move_and_go() {
    let client = Client::new();
    let first = client.push_image("app", "latest", "one").await.to_string();
    client.push_image("app", "v1", "one").await;
    let second = client.push_image("app", "latest", "two").await.to_string();
    assert_eq!(client.get("/v2/app/manifests/latest").await.body, second);
    assert_eq!(client.get("/v2/app/manifests/v1").await.body, first);

    let delete = async |reference: &str| {
        let path = format!("/v2/app/manifests/{reference}");
        client.send("DELETE", &path, &[], Body::empty()).await
    };
    assert_eq!(delete("latest").await.status, StatusCode::ACCEPTED);
    assert_eq!(delete("latest").await.code(), "MANIFEST_UNKNOWN");
    // By digest, the tags go too.
    let digest = Digest::of(first.as_bytes()).to_string();
    assert_eq!(delete(&digest).await.status, StatusCode::ACCEPTED);
    assert_eq!(delete(&digest).await.code(), "MANIFEST_UNKNOWN");
    assert_eq!(client.get("/v2/app/manifests/v1").await.code(), "MANIFEST_UNKNOWN");
    assert_eq!(client.get("/v2/app/tags/list").await.json()["tags"], json!([]));
}

#[tokio::test]
async fn lists_come_in_pages() {
    let client = Client::new();
    for name in ["b", "a/c", "a"] {
        for tag in ["v2", "v10", "V1", "latest"] {
            client.push_image(name, tag, "wasm").await;
        }
    }
    let cases: &[(&str, Value, &str)] = &[
        ("/v2/a/c/tags/list", json!(["V1", "latest", "v10", "v2"]), ""),
        (
            "/v2/a/tags/list?n=2",
            json!(["V1", "latest"]),
            "</v2/a/tags/list?n=2&last=latest>; rel=\"next\"",
        ),
        ("/v2/a/tags/list?n=2&last=latest", json!(["v10", "v2"]), ""),
        ("/v2/a/tags/list?n=0", json!([]), ""),
        ("/v2/_catalog", json!(["a", "a/c", "b"]), ""),
        ("/v2/_catalog?n=1&last=a", json!(["a/c"]), "</v2/_catalog?n=1&last=a/c>; rel=\"next\""),
    ];
    for (path, entries, link) in cases {
        let reply = client.get(path).await;
        let key = if path.contains("_catalog") { "repositories" } else { "tags" };
        assert_eq!(reply.json()[key], *entries, "{path}");
        assert_eq!(reply.header("link"), *link, "{path}");
    }
    assert_eq!(client.get("/v2/a/tags/list?n=x").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn an_index_and_referrers_name_other_manifests() {
    let client = Client::new();
    let image = client.push_image("app", "v1", "wasm").await.to_string();
    let index = json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [descriptor(IMAGE, image.as_bytes())],
    });
    assert_eq!(client.push_manifest("app", "multi", &index).await.status, StatusCode::CREATED);
    assert_eq!(
        client.push_manifest("other", "multi", &index).await.code(),
        "MANIFEST_BLOB_UNKNOWN"
    );

    let signature = json!({
        "schemaVersion": 2,
        "mediaType": IMAGE,
        "artifactType": "application/x.signature",
        "config": descriptor("application/vnd.oci.empty.v1+json", b"{}"),
        "layers": [],
        "subject": descriptor(IMAGE, image.as_bytes()),
        "annotations": {"by": "us"},
    });
    let pushed = client.push_manifest("app", "signature", &signature).await;
    let digest = Digest::of(image.as_bytes()).to_string();
    assert_eq!(pushed.header("oci-subject"), digest);
    let path = format!("/v2/app/referrers/{digest}");
    let reply = client.get(&path).await;
    assert_eq!(reply.header("content-type"), INDEX);
    let found = &reply.json()["manifests"];
    assert_eq!(found.as_array().unwrap().len(), 1);
    assert_eq!(found[0]["artifactType"], "application/x.signature");
    assert_eq!(found[0]["annotations"]["by"], "us");
    let none = client.get(&format!("{path}?artifactType=text/plain")).await;
    assert_eq!(none.json()["manifests"], json!([]));
    assert_eq!(none.header("oci-filters-applied"), "artifactType");
}

#[tokio::test]
async fn no_name_leaves_the_folder() {
    let client = Client::new();
    fs::write(client.folder.path().join("secret"), "secret").unwrap();
    let digest = client.push_blob("a", b"x").await;
    let zeros = "0".repeat(64);
    let paths = [
        format!("/v2/../blobs/{digest}"),
        format!("/v2/a/../../b/blobs/{digest}"),
        format!("/v2/%2e%2e/blobs/{digest}"),
        format!("/v2/a%2f..%2f..%2fb/blobs/{digest}"),
        format!("/v2/a//b/blobs/{digest}"),
        format!("/v2/_blobs/blobs/{digest}"),
        format!("/v2/A/blobs/{digest}"),
        format!("/v2/{}/blobs/{digest}", "a/".repeat(200)),
        "/v2/a/manifests/..%2f..%2f..%2fsecret".to_owned(),
        "/v2/a/manifests/..".to_owned(),
        format!("/v2/a/blobs/sha256:..%2f{zeros}"),
        "/v2/a/blobs/uploads/..%2f..%2fsecret".to_owned(),
        "/v2/a/tags/list%2f..".to_owned(),
        "/v2/a%00b/tags/list".to_owned(),
    ];
    for path in paths {
        for method in ["GET", "PUT", "DELETE", "PATCH", "POST"] {
            let reply = client.send(method, &path, &[], "x").await;
            assert!(reply.status.is_client_error(), "{method} {path}: {}", reply.status);
            assert!(!reply.body.windows(6).any(|w| w == b"secret\n"), "{method} {path}");
        }
    }
    let beside: Vec<_> = fs::read_dir(client.folder.path()).unwrap().flatten().collect();
    assert_eq!(beside.len(), 2, "{beside:?}");
    assert_eq!(fs::read_to_string(client.folder.path().join("secret")).unwrap(), "secret");
}

#[test]
fn names_follow_the_grammar() {
    for good in ["a", "a/b", "nginx", "my-app", "a.b", "a_b", "a__b", "a---b", "0/1", "tags/list"] {
        assert!(Name::parse(good).is_ok(), "{good}");
    }
    for bad in ["", "/", "a/", "/a", "A", "a..b", "a___b", "-a", "a-", ".a", "a.-b", "é", "a b"] {
        assert!(Name::parse(bad).is_err(), "{bad}");
    }
    for (tag, good) in [("v1.0", true), ("_x", true), (".x", false), ("a/b", false), ("", false)] {
        assert_eq!(Tag::parse(tag).is_some(), good, "{tag}");
    }
    assert!(Tag::parse(&"a".repeat(129)).is_none());
}

#[test]
fn paths_are_read_from_their_end() {
    let name = |text| Name::parse(text).unwrap();
    let upload = |text| Target::Upload(name(text), "1".to_owned());
    assert_eq!(Target::parse("a/blobs/uploads/1").unwrap(), upload("a"));
    assert_eq!(Target::parse("blobs/uploads/blobs/uploads/1").unwrap(), upload("blobs/uploads"));
    assert_eq!(Target::parse("tags/tags/list").unwrap(), Target::Tags(name("tags")));
    assert!(matches!(Target::parse("a/manifests/list").unwrap(), Target::Manifest(..)));
    assert_eq!(Target::parse("_catalog").unwrap(), Target::Catalog);
    for nothing in ["", "a", "tags/list", "a/b/c"] {
        assert!(Target::parse(nothing).is_err(), "{nothing}");
    }
}

/// Only this user may read what is stored; opening removes unfinished uploads and content without a name.
#[tokio::test]
async fn the_folder_is_private_and_swept() {
    let client = Client::new();
    client.push_image("a", "v1", "wasm").await;
    client.send("POST", "/v2/a/blobs/uploads/", &[], Body::empty()).await;
    assert_eq!(client.leftovers(), 1);
    let root = client.folder.path().join("registry");
    let orphan = root.join("blobs/sha256").join("0".repeat(64));
    fs::write(&orphan, "x").unwrap();
    fs::set_permissions(&orphan, fs::Permissions::from_mode(0o600)).unwrap();
    check_private(&root);

    let again = Registry::open(&root).unwrap();
    let client = Client { registry: again, folder: client.folder };
    assert_eq!(client.leftovers(), 0);
    assert!(!orphan.exists());
    let blob = format!("/v2/a/blobs/{}", Digest::of(b"wasm"));
    assert_eq!(client.get(&blob).await.body, "wasm");
}

fn check_private(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        let wanted = if entry.path().is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, wanted, "{}", entry.path().display());
        if entry.path().is_dir() {
            check_private(&entry.path());
        }
    }
}
