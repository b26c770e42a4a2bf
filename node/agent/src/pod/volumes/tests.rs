use std::os::unix::fs::{PermissionsExt, symlink};

use k8s_openapi::api::core::v1::ServiceAccountTokenProjection;
use serde_json::{Value, json};

use super::atomic::{File, Payload};
use super::*;
use crate::pod::env::Sources;
use crate::pod::spec;

const ME: Owner = Owner::AGENT;

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "web-1", "namespace": "shop", "uid": "u-1", "labels": {"app": "web"}},
        "spec": spec,
    }))
    .unwrap()
}

fn files(list: &[(&str, &str)]) -> Payload {
    let file = |text: &str| File { bytes: text.as_bytes().to_vec(), mode: 0o644 };
    list.iter().map(|(path, text)| (PathBuf::from(path), file(text))).collect()
}

#[test]
fn files_change_all_at_once_and_links_stay_inside() {
    let dir = tempfile::tempdir().unwrap();
    let volume = dir.path().join("v");
    let read = |path: &str| std::fs::read_to_string(volume.join(path)).ok();
    let first = files(&[("a", "1"), ("deep/er/b", "2")]);
    assert!(atomic::write(&volume, &first, ME).unwrap());
    assert_eq!((read("a"), read("deep/er/b")), (Some("1".into()), Some("2".into())));
    // The same again touches nothing.
    let data = std::fs::read_link(volume.join("..data")).unwrap();
    assert!(!atomic::write(&volume, &first, ME).unwrap());
    assert_eq!(std::fs::read_link(volume.join("..data")).unwrap(), data);

    assert!(atomic::write(&volume, &files(&[("a", "3"), ("c", "4")]), ME).unwrap());
    assert_eq!(
        (read("a"), read("c"), read("deep/er/b")),
        (Some("3".into()), Some("4".into()), None)
    );
    let mut names: Vec<_> = std::fs::read_dir(&volume)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let data = std::fs::read_link(volume.join("..data")).unwrap();
    assert!(data.is_relative() && std::fs::read_link(volume.join("a")).unwrap().is_relative());
    assert_eq!(names, [data.to_str().unwrap(), "..data", "a", "c"]);
    // Nobody but the owner reads what may be a Secret.
    for path in ["", "..data/", "a"] {
        let mode = std::fs::metadata(volume.join(path)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{path}");
    }
}

fn content(volume: Value) -> Result<Vec<(String, String, u32)>, String> {
    let pod = pod(json!({"containers": [
        {"name": "c", "resources": {"limits": {"memory": "64Mi", "cpu": "250m"}}},
    ]}));
    let map = json!({"data": {"mode": "fast"}, "binaryData": {"raw": "AAE="}});
    let secret = json!({"data": {"pass": "aHVudGVy"}});
    let sources = Sources {
        config_maps: [("m".into(), Arc::new(serde_json::from_value(map).unwrap()))].into(),
        secrets: [("s".into(), Arc::new(serde_json::from_value(secret).unwrap()))].into(),
    };
    let facts = NodeFacts::default();
    let tokens = |_: &Volume, wanted: &ServiceAccountTokenProjection| {
        Ok(wanted.audience.clone().unwrap_or_default().into_bytes())
    };
    let inputs = Inputs { pod: &pod, sources: &sources, facts: &facts, tokens: &tokens };
    let mut named = json!({"name": "v"});
    named.as_object_mut().unwrap().extend(volume.as_object().unwrap().clone());
    let volume = serde_json::from_value(named).unwrap();
    let payload = payload::payload(&volume, &inputs).map_err(|e| e.of("v").to_string())?.unwrap();
    let text = |(path, file): (PathBuf, File)| {
        let bytes = String::from_utf8(file.bytes).unwrap();
        (path.to_str().unwrap().to_owned(), bytes, file.mode)
    };
    Ok(payload.into_iter().map(text).collect())
}

#[test]
fn volumes_hold_what_their_sources_say() {
    for (volume, expected) in [
        (
            json!({"configMap": {"name": "m"}}),
            vec![("mode", "fast", 0o644), ("raw", "\0\u{1}", 0o644)],
        ),
        (
            json!({"configMap": {"name": "m", "defaultMode": 0o400,
                   "items": [{"key": "mode", "path": "etc/mode", "mode": 0o440}, {"key": "raw", "path": "r"}]}}),
            vec![("etc/mode", "fast", 0o440), ("r", "\0\u{1}", 0o400)],
        ),
        (json!({"secret": {"secretName": "s"}}), vec![("pass", "hunter", 0o644)]),
        (json!({"secret": {"secretName": "gone", "optional": true}}), vec![]),
        (
            json!({"secret": {"secretName": "s", "optional": true, "items": [{"key": "no", "path": "p"}]}}),
            vec![],
        ),
        (
            json!({"downwardAPI": {"items": [
                {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                {"path": "mem", "mode": 0o600, "resourceFieldRef":
                    {"containerName": "c", "resource": "limits.memory", "divisor": "1Mi"}},
                {"path": "cpu", "resourceFieldRef":
                    {"containerName": "c", "resource": "limits.cpu", "divisor": "1m"}},
            ]}}),
            vec![("cpu", "250", 0o644), ("labels", "app=\"web\"", 0o644), ("mem", "64", 0o600)],
        ),
        (
            json!({"projected": {"defaultMode": 0o440, "sources": [
                {"serviceAccountToken": {"path": "token", "audience": "vault"}},
                {"configMap": {"name": "m", "items": [{"key": "mode", "path": "m"}]}},
                {"secret": {"name": "s"}},
                {"downwardAPI": {"items": [{"path": "ns", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
            ]}}),
            vec![
                ("m", "fast", 0o440),
                ("ns", "shop", 0o440),
                ("pass", "hunter", 0o440),
                ("token", "vault", 0o440),
            ],
        ),
    ] {
        let expected: Vec<_> =
            expected.into_iter().map(|(p, t, m)| (p.to_owned(), t.to_owned(), m)).collect();
        assert_eq!(content(volume.clone()), Ok(expected), "{volume}");
    }
}

#[test]
fn what_a_volume_lacks_is_said_as_the_kubelet_does() {
    for (volume, expected) in [
        (json!({"configMap": {"name": "gone"}}), "configmap \"gone\" not found"),
        (json!({"secret": {"secretName": "gone"}}), "secret \"gone\" not found"),
        (
            json!({"configMap": {"name": "m", "items": [{"key": "no", "path": "p"}]}}),
            "configmap references non-existent config key: no",
        ),
        (
            json!({"projected": {"sources": [{"secret": {"name": "s", "items": [{"key": "no", "path": "p"}]}}]}}),
            "references non-existent secret key: no",
        ),
        (
            json!({"configMap": {"name": "m", "items": [{"key": "mode", "path": "../out"}]}}),
            "invalid path \"../out\": it must be relative and must not contain '..'",
        ),
    ] {
        let expected = format!("MountVolume.SetUp failed for volume \"v\" : {expected}");
        assert_eq!(content(volume.clone()), Err(expected), "{volume}");
    }
}

/// Volumes `e` (an emptyDir with a file, a folder and a link out), `m` (a filled one) and `h` (a file of the machine).
fn volumes(dir: &Path) -> SetUp {
    let uid = dir.join("u");
    std::fs::create_dir_all(uid.join("e/logs")).unwrap();
    std::fs::write(uid.join("e/one"), "1").unwrap();
    // Set up again by every case.
    let _ = symlink("../../secret", uid.join("e/out"));
    std::fs::create_dir_all(dir.join("secret")).unwrap();
    std::fs::write(dir.join("machine"), "h").unwrap();
    atomic::write(&uid.join("m"), &files(&[("conf", "x"), ("sub/y", "y")]), ME).unwrap();
    let mut set_up = SetUp::new(uid.clone(), "c", ME, true);
    for (name, path, read_only, frozen) in [
        ("e", uid.join("e"), false, false),
        ("m", uid.join("m"), true, true),
        ("h", dir.join("machine"), false, false),
    ] {
        set_up.by_name.insert(name.to_owned(), Folder { path, read_only, frozen });
    }
    set_up
}

fn mounts(dir: &Path, list: Value) -> Result<Vec<(String, PathBuf, bool)>, String> {
    let pod = pod(json!({"containers": [{"name": "c", "volumeMounts": list}]}));
    let container = spec::container(&pod, "c").unwrap();
    let env = [("WHO".to_owned(), "me".to_owned())];
    let mounts = volumes(dir).mounts(&container, &env).map_err(|e| e.to_string())?;
    let plain = |m: coracle_sandbox::Mount| {
        (m.guest_path.to_str().unwrap().to_owned(), m.host_path, m.read_only)
    };
    Ok(mounts.into_iter().map(plain).collect())
}

#[test]
fn folders_are_mounted_as_they_are_and_files_in_a_folder_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let path = |p: &str| dir.path().canonicalize().unwrap().join("u").join(p);
    let found = mounts(
        dir.path(),
        json!([
            {"name": "e", "mountPath": "/data"},
            {"name": "e", "mountPath": "/data/logs", "subPath": "logs", "readOnly": true},
            {"name": "e", "mountPath": "/mine", "subPathExpr": "people/$(WHO)"},
            {"name": "m", "mountPath": "/etc/m"},
            {"name": "m", "mountPath": "/etc/sub", "subPath": "sub"},
            {"name": "m", "mountPath": "/etc/app/app.conf", "subPath": "conf"},
            {"name": "e", "mountPath": "/etc/app/one", "subPath": "one"},
            {"name": "h", "mountPath": "/machine/file"},
        ]),
    )
    .unwrap();
    let base = dir.path().join("u");
    let by_guest = |guest: &str| found.iter().find(|(g, ..)| g == guest).unwrap();
    assert_eq!(by_guest("/data"), &("/data".into(), base.join("e"), false));
    assert_eq!(by_guest("/data/logs"), &("/data/logs".into(), path("e/logs"), true));
    assert_eq!(by_guest("/mine"), &("/mine".into(), path("e/people/me"), false));
    assert_eq!(by_guest("/etc/m"), &("/etc/m".into(), base.join("m"), true));
    let read =
        |guest: &str, file: &str| std::fs::read_to_string(by_guest(guest).1.join(file)).unwrap();
    // Parts of what is replaced as a whole are copies.
    assert_eq!(read("/etc/sub", "y"), "y");
    atomic::write(&base.join("m"), &files(&[("conf", "new")]), ME).unwrap();
    assert_eq!((read("/etc/sub", "y").as_str(), read("/etc/app", "app.conf").as_str()), ("y", "x"));
    // What is written to a single file is written to the volume.
    std::fs::write(by_guest("/etc/app").1.join("one"), "2").unwrap();
    assert_eq!(std::fs::read_to_string(base.join("e/one")).unwrap(), "2");
    std::fs::write(by_guest("/machine").1.join("file"), "g").unwrap();
    assert_eq!(std::fs::read_to_string(dir.path().join("machine")).unwrap(), "g");
    // Another start of the container makes it all anew.
    assert!(
        mounts(dir.path(), json!([{"name": "m", "mountPath": "/a/b", "subPath": "conf"}])).is_ok()
    );
}

#[test]
fn mounts_that_cannot_be_are_named() {
    let dir = tempfile::tempdir().unwrap();
    for (list, expected) in [
        (
            json!([{"name": "e", "mountPath": "/a", "subPath": "out"}]),
            "failed to prepare subPath for volumeMount \"e\" of container \"c\": the path leads out of the volume",
        ),
        (
            json!([{"name": "e", "mountPath": "/a", "subPath": "x/../../y"}]),
            "volumeMount \"e\" at /a: subPath must be relative and must not contain '..'",
        ),
        (
            json!([{"name": "e", "mountPath": "/a", "subPathExpr": "$(NOBODY)/x"}]),
            "missing value for \"NOBODY\"",
        ),
        (
            json!([{"name": "e", "mountPath": "/a"}, {"name": "m", "mountPath": "/a/conf", "subPath": "conf"}]),
            "container \"c\": /a and /a/conf cannot both be mounted",
        ),
    ] {
        let error = mounts(dir.path(), list.clone()).unwrap_err();
        assert!(error.starts_with(expected), "{list}: {error}");
    }
}

#[test]
fn paths_of_the_machine_are_what_they_say_and_where_they_may_be() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().canonicalize().unwrap();
    std::fs::create_dir_all(base.join("open/sub")).unwrap();
    std::fs::create_dir(base.join("closed")).unwrap();
    std::fs::write(base.join("open/file"), "").unwrap();
    symlink("../closed", base.join("open/door")).unwrap();
    let below = HostPaths::Below(vec![base.join("open")]);
    let check = |path: &str, kind: &str, allowed: &HostPaths| {
        let source = json!({"path": base.join(path), "type": kind});
        let source = serde_json::from_value(source).unwrap();
        host_path::set_up(&source, allowed)
            .map(|real| real.strip_prefix(&base).unwrap().to_str().unwrap().to_owned())
            .map_err(|e| e.to_string().replace(base.to_str().unwrap(), ""))
    };
    for (path, kind, allowed, expected) in [
        ("closed", "", &HostPaths::Any, Ok("closed")),
        ("open/door", "", &HostPaths::Any, Ok("closed")),
        ("open/sub", "Directory", &below, Ok("open/sub")),
        ("open/new/er", "DirectoryOrCreate", &below, Ok("open/new/er")),
        ("open/made", "FileOrCreate", &below, Ok("open/made")),
        ("open/file", "File", &below, Ok("open/file")),
        (
            "open/file",
            "Directory",
            &below,
            Err("hostPath type check failed: /open/file is not a directory"),
        ),
        ("open/none", "File", &below, Err("hostPath type check failed: /open/none is not a file")),
        (
            "open/file",
            "Socket",
            &below,
            Err("hostPath type check failed: /open/file is not a socket file"),
        ),
        (
            "closed",
            "",
            &below,
            Err(
                "hostPath /closed is not allowed on this node: it allows /open; start it with --allow-host-path /closed to allow this one too",
            ),
        ),
        (
            "open/sub",
            "",
            &HostPaths::Denied,
            Err(
                "hostPath /open/sub is not allowed on this node: it was started with --no-host-path",
            ),
        ),
    ] {
        let expected = expected.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(check(path, kind, allowed), expected, "{path} {kind}");
    }
    // Neither by a link out of what is allowed, nor by making something there.
    assert!(check("open/door", "", &below).unwrap_err().contains("not allowed"));
    assert!(
        check("open/door/new", "DirectoryOrCreate", &below).unwrap_err().contains("not allowed")
    );
    assert!(!base.join("closed/new").exists());
}

#[test]
fn usage_is_counted_without_links_and_no_further_than_needed() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    std::fs::write(dir.path().join("sub/a"), vec![1; 100_000]).unwrap();
    std::fs::write(dir.path().join("b"), vec![1; 100_000]).unwrap();
    symlink("/", dir.path().join("root")).unwrap();
    let all = empty_dir::usage(dir.path(), u64::MAX);
    assert!((200_000..400_000).contains(&all), "{all}");
    assert!(empty_dir::usage(dir.path(), 1000) > 1000);
}
