use k8s_openapi::ByteString;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::*;

fn secret(name: &str, kind: &str, key: &str, content: &str) -> Secret {
    Secret {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        type_: Some(kind.to_owned()),
        data: Some([(key.to_owned(), ByteString(content.as_bytes().to_vec()))].into()),
        ..Secret::default()
    }
}

fn login(name: &str, places: &[&str]) -> Secret {
    let auths: serde_json::Map<_, _> = places
        .iter()
        .map(|place| {
            let auth = serde_json::json!({"username": place, "password": "pw"});
            ((*place).to_owned(), auth)
        })
        .collect();
    let json = serde_json::json!({ "auths": auths }).to_string();
    secret(name, "kubernetes.io/dockerconfigjson", ".dockerconfigjson", &json)
}

fn check(places: &[&str], image: &str, wanted: &[&str]) {
    let mut keyring = Keyring::default();
    keyring.add(&login("s", places)).unwrap();
    let name = ImageName::parse(image).unwrap();
    let found: Vec<&str> = keyring.lookup(&name).iter().map(|e| e.credential.user()).collect();
    assert_eq!(found, wanted, "{image} among {places:?}");
}

#[test]
fn the_closest_credentials_come_first() {
    check(&["ghcr.io"], "ghcr.io/a/b", &["ghcr.io"]);
    check(&["ghcr.io"], "quay.io/a/b", &[]);
    check(&["ghcr.io", "ghcr.io/a"], "ghcr.io/a/b", &["ghcr.io/a", "ghcr.io"]);
    check(&["ghcr.io/c"], "ghcr.io/a/b", &[]);
    check(&["*.example.com"], "reg.example.com/a", &["*.example.com"]);
    check(&["*.example.com"], "a.b.example.com/a", &[]);
    check(&["*.example.com"], "example.com/a", &[]);
    check(&["*.*.example.com"], "a.b.example.com/a", &["*.*.example.com"]);
    check(&["reg-*.example.com"], "reg-7.example.com/a", &["reg-*.example.com"]);
    check(&["host:5000"], "host:5000/a", &["host:5000"]);
    check(&["host"], "host:5000/a", &[]);
    check(&["localhost:*"], "localhost:5000/a", &[]);
    check(&["https://ghcr.io/v2/"], "ghcr.io/a", &["https://ghcr.io/v2/"]);
    check(
        &["https://index.docker.io/v1/"],
        "docker.io/library/nginx",
        &["https://index.docker.io/v1/"],
    );
    check(&["docker.io"], "docker.io/team/app", &["docker.io"]);
    // The cluster's own registry knows the node by its certificate.
    check(&["*", "docker.io"], "hello:v1", &[]);
}

#[test]
fn both_formats_are_read() {
    let mut keyring = Keyring::default();
    let old = r#"{"old.example": {"auth": "YW5uOnNlY3JldA=="}}"#;
    keyring.add(&secret("old", "kubernetes.io/dockercfg", ".dockercfg", old)).unwrap();
    let token = r#"{"auths": {"token.example": {"username": "x", "identitytoken": "t0"}}}"#;
    keyring
        .add(&secret("token", "kubernetes.io/dockerconfigjson", ".dockerconfigjson", token))
        .unwrap();
    let of = |image| {
        let name = ImageName::parse(image).unwrap();
        keyring.lookup(&name).first().map(|e| (e.secret.clone(), e.credential.clone())).unwrap()
    };
    assert_eq!(of("old.example/a"), ("old".to_owned(), Credential::new("ann", "secret")));
    assert_eq!(of("token.example/a").1.refresh_token(), Some("t0"));
}

#[test]
fn what_holds_no_credentials_is_named_without_its_content() {
    for (secret, wanted) in [
        (secret("a", "Opaque", "x", "y"), "secret \"a\" is of type Opaque"),
        (secret("b", "kubernetes.io/dockercfg", "x", "y"), "secret \"b\" has no key .dockercfg"),
        (
            secret(
                "c",
                "kubernetes.io/dockerconfigjson",
                ".dockerconfigjson",
                r#"{"auths": "hunter2"}"#,
            ),
            "secret \"c\": .dockerconfigjson is not what docker login writes: line 1, column",
        ),
    ] {
        let error = Keyring::default().add(&secret).unwrap_err().to_string();
        assert!(error.starts_with(wanted), "{error}");
        assert!(!error.contains("hunter2"));
    }
    let shown = format!("{:?}", Credential::new("ann", "hunter2"));
    assert!(shown.contains("ann") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn fingerprints_tell_apart_and_need_the_key() {
    let print = |user, password, key: &[u8]| Credential::new(user, password).fingerprint(key);
    assert_eq!(print("a", "bc", b"k"), print("a", "bc", b"k"));
    assert_ne!(print("a", "bc", b"k"), print("ab", "c", b"k"));
    assert_ne!(print("a", "bc", b"k"), print("a", "bc", b"other"));
}

#[test]
fn globs() {
    for (pattern, text, wanted) in [
        ("*", "", true),
        ("*", "abc", true),
        ("a*c", "abbc", true),
        ("a*c", "ab", false),
        ("a?c", "abc", true),
        ("a?c", "ac", false),
        ("**a", "bba", true),
        ("", "a", false),
    ] {
        assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), wanted, "{pattern} {text}");
    }
}
