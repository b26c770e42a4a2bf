use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn policy() -> Policy {
    Policy::parse(
        r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: ["system:kube-proxy"]
  verbs: [watch]
  resources:
  - group: ""
    resources: [endpoints, services]
- level: Metadata
  resources:
  - {group: "", resources: [secrets, "serviceaccounts/token"]}
  - {group: authentication.k8s.io}
- level: None
  userGroups: ["system:authenticated"]
  nonResourceURLs: ["/api*", /version]
- level: Request
  namespaces: [kube-system]
  resources: [{group: "", resources: [configmaps], resourceNames: [one]}]
- level: RequestResponse
  resources: [{group: apps, resources: ["deployments/*"]}, {group: "", resources: ["*"]}]
  omitStages: [ResponseStarted]
  omitManagedFields: true
- level: Metadata
"#,
    )
    .expect("a policy")
}

#[test]
fn the_first_rule_that_matches_decides() {
    let policy = policy();
    for (user, verb, target, level) in [
        ("system:kube-proxy", "watch", "endpoints - -", Level::None),
        ("system:kube-proxy", "get", "endpoints shop e", Level::RequestResponse),
        ("jane", "get", "secrets shop s", Level::Metadata),
        ("jane", "create", "serviceaccounts/token shop s", Level::Metadata),
        ("jane", "create", "serviceaccounts shop s", Level::RequestResponse),
        ("jane", "create", "authentication.k8s.io:tokenreviews - -", Level::Metadata),
        ("jane", "get", "/apis/apps", Level::None),
        ("jane", "get", "/version", Level::None),
        ("jane", "get", "/metrics", Level::Metadata),
        ("jane", "update", "configmaps kube-system one", Level::Request),
        ("jane", "update", "configmaps kube-system two", Level::RequestResponse),
        ("jane", "update", "apps:deployments shop d", Level::Metadata),
        ("jane", "update", "apps:deployments/scale shop d", Level::RequestResponse),
    ] {
        let who = Identity {
            user: user.into(),
            groups: vec!["system:authenticated".into()],
            ..Identity::default()
        };
        let parts: Vec<&str> = target.split(' ').map(|part| part.trim_matches('-')).collect();
        let mut wanted = Attributes { verb: verb.into(), ..Attributes::default() };
        if parts[0].starts_with('/') {
            wanted.path = parts[0].into();
        } else {
            let (group, resource) = parts[0].split_once(':').unwrap_or(("", parts[0]));
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            wanted = Attributes {
                group: group.into(),
                resource: resource.into(),
                subresource: subresource.into(),
                namespace: parts[1].into(),
                name: parts[2].into(),
                ..wanted
            };
        }
        let decision = policy.decide(&who, &wanted);
        assert_eq!(decision.level, level, "{user} {verb} {target}");
        assert!(decision.omit_stages.contains(&Stage::RequestReceived));
        assert_eq!(decision.omit_managed_fields, level == Level::RequestResponse);
    }
}

#[test]
fn what_is_wrong_with_a_policy_is_said() {
    for (text, said) in [
        (
            "apiVersion: v1\nkind: Policy\nrules: [{level: None}]",
            "must be a Policy of audit.k8s.io/v1",
        ),
        ("apiVersion: audit.k8s.io/v1\nkind: Policy", "rules: it has none"),
        ("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: All}]", "All"),
        ("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None, user: [a]}]", "user"),
        (
            "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: None, namespaces: [a], nonResourceURLs: [/b]}]",
            "rules[0].nonResourceURLs",
        ),
    ] {
        let error = Policy::parse(text).expect_err(text);
        assert!(error.contains(said), "{error}");
    }
    let missing = Policy::read(Path::new("/none")).expect_err("no such file").to_string();
    assert!(missing.starts_with("the audit policy /none cannot be used: "), "{missing}");
}

#[test]
fn large_logs_are_set_aside_and_the_oldest_removed() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("logs/audit.log");
    let options = LogOptions { path: path.clone(), max_age: 0, max_backups: 2, max_size: 1 };
    let log = Log::open(options.clone()).expect("a log");
    let line = [&[b'x'; 600 << 10][..], b"\n"].concat();
    for _ in 0..6 {
        log.write(&line).expect("to be written");
    }
    let files = std::fs::read_dir(dir.path().join("logs")).expect("a folder").count();
    assert_eq!(files, 3, "the log and two that were set aside");
    assert_eq!(std::fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
    // It goes on where it was.
    let log = Log::open(options).expect("a log");
    log.write(b"last\n").expect("to be written");
    let text = std::fs::read(&path).expect("a file");
    assert!(text.len() > line.len() && text.ends_with(b"x\nlast\n"));
}
