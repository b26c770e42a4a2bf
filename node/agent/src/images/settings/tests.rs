use super::*;

fn settings(json: serde_json::Value) -> Settings {
    serde_json::from_value(json).unwrap()
}

fn asked(settings: &Settings, host: &str, repository: &str) -> Vec<String> {
    let all = settings.endpoints(host, repository).into_iter();
    all.map(|e| {
        let scheme = if e.plain { "http" } else { "https" };
        let ns = e.stands_for.map(|ns| format!(" for {ns}")).unwrap_or_default();
        format!("{scheme}://{}{} {}{ns}", e.authority, e.prefix, e.repository)
    })
    .collect()
}

#[test]
fn without_settings_a_registry_is_asked_itself() {
    let settings = Settings::default();
    for (host, wanted) in [
        ("ghcr.io", "https://ghcr.io a/b"),
        ("docker.io", "https://registry-1.docker.io a/b"),
        ("localhost:5000", "http://localhost:5000 a/b"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000 a/b"),
        ("[::1]:5000", "http://[::1]:5000 a/b"),
        ("127.0.0.1.example.com", "https://127.0.0.1.example.com a/b"),
        ("10.0.0.1:5000", "https://10.0.0.1:5000 a/b"),
    ] {
        assert_eq!(asked(&settings, host, "a/b"), [wanted]);
    }
}

#[test]
fn mirrors_come_first() {
    let settings = settings(serde_json::json!({
        "mirrors": {
            "docker.io": {
                "endpoint": ["https://mirror.example:5000", "http://10.0.0.1/v2/proxy/"],
                "rewrite": {"^library/(.*)": "hub/$1"},
            },
            "own.example": {"endpoint": ["http://own.example"]},
            "*": {"endpoint": ["https://all.example"]},
        },
        "configs": {"localhost:5000": {"tls": {"ca_file": "/ca.pem"}}},
    }));
    settings.check().unwrap();
    assert_eq!(
        asked(&settings, "docker.io", "library/nginx"),
        [
            "https://mirror.example:5000 hub/nginx for docker.io",
            "http://10.0.0.1/v2/proxy hub/nginx for docker.io",
            "https://registry-1.docker.io library/nginx",
        ]
    );
    assert_eq!(
        asked(&settings, "docker.io", "team/app")[0],
        "https://mirror.example:5000 team/app for docker.io"
    );
    assert_eq!(asked(&settings, "own.example", "a"), ["http://own.example a"]);
    assert_eq!(
        asked(&settings, "ghcr.io", "a"),
        ["https://all.example a for ghcr.io", "https://ghcr.io a"]
    );
    assert_eq!(asked(&settings, "localhost:5000", "a")[1], "https://localhost:5000 a");
}

#[test]
fn mistakes_are_named() {
    let check = |json| settings(json).check().unwrap_err().to_string();
    for (json, wanted) in [
        (serde_json::json!({"mirrors": {"a": {"endpoint": ["mirror"]}}}), "\"mirror\" is no URL"),
        (serde_json::json!({"mirrors": {"a": {"endpoint": ["https://u:p@m"]}}}), "is no URL"),
        (serde_json::json!({"mirrors": {"a": {"rewrite": {"(a|b)": "c"}}}}), "only a beginning"),
        (serde_json::json!({"configs": {"a": {"auth": {"auth": "%%"}}}}), "base64"),
        (serde_json::json!({"configs": {"a": {"tls": {"key_file": "/k"}}}}), "belong together"),
    ] {
        let error = check(json);
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn credentials_are_the_hosts_own() {
    let settings = settings(serde_json::json!({"configs": {
        "a.example:5000": {"auth": {"username": "ann", "password": "secret"}},
        "docker.io": {"auth": {"auth": "Ym9iOnB3"}},
    }}));
    assert_eq!(settings.credential("a.example:5000"), Some(Credential::new("ann", "secret")));
    assert_eq!(settings.credential("registry-1.docker.io"), Some(Credential::new("bob", "pw")));
    assert_eq!(settings.credential("a.example"), None);
    let shown = format!("{settings:?}");
    assert!(!shown.contains("secret") && !shown.contains("Ym9"), "{shown}");
}
