use super::*;
use k8s_openapi::api::core::v1::VolumeMount;

fn container(path: Option<&str>, mounts: &[&str]) -> Container {
    let mount = |path: &&str| VolumeMount {
        name: "v".into(),
        mount_path: (*path).to_owned(),
        ..VolumeMount::default()
    };
    Container {
        name: "app".into(),
        termination_message_path: path.map(str::to_owned),
        volume_mounts: Some(mounts.iter().map(mount).collect()),
        ..Container::default()
    }
}

#[test]
fn a_message_is_read_from_where_the_container_writes_it() {
    for (path, volume, mounted_at, file) in [
        (None, None, Some("/dev"), "termination-log"),
        (Some("/tmp/a/why"), None, Some("/tmp/a"), "why"),
        (Some("/why"), None, Some("/"), "why"),
        (Some("/data/why"), Some("/data"), None, "why"),
        (Some("/data/deep/why"), Some("/data"), None, "deep/why"),
        (Some("/database/why"), Some("/data"), Some("/database"), "why"),
    ] {
        let said = format!("{path:?} with {volume:?}");
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir_all(data.join("deep")).unwrap();
        let mounts: Vec<Mount> = volume
            .map(|v| Mount { host_path: data.clone(), guest_path: v.into(), ..Mount::default() })
            .into_iter()
            .collect();
        let container = container(path, volume.as_slice());
        let added = prepare(&container, &mounts, dir.path(), 3).unwrap();
        let guest = added.as_ref().map(|m| m.guest_path.to_str().unwrap().to_owned());
        assert_eq!(guest.as_deref(), mounted_at, "{said}");
        assert_eq!(message(&container, dir.path(), 3), "", "{said}");
        let folder = added.map_or(data, |m| m.host_path);
        std::fs::write(folder.join(file), "it broke").unwrap();
        assert_eq!(message(&container, dir.path(), 3), "it broke", "{said}");
        assert_eq!(message(&container, dir.path(), 4), "", "{said}: another attempt's");
        // The next attempt begins without it, unless a volume holds it.
        prepare(&container, &mounts, dir.path(), 4).unwrap();
        let kept = if volume == Some("/data") && mounted_at.is_none() { "it broke" } else { "" };
        assert_eq!(message(&container, dir.path(), 4), kept, "{said}");
    }
}

#[test]
fn of_a_long_message_the_end_counts() {
    let dir = tempfile::tempdir().unwrap();
    let container = container(None, &[]);
    let mount = prepare(&container, &[], dir.path(), 0).unwrap().unwrap();
    let text = "x".repeat(5000) + "the end";
    std::fs::write(mount.host_path.join("termination-log"), &text).unwrap();
    let message = message(&container, dir.path(), 0);
    assert_eq!(message.len(), 4096);
    assert!(message.ends_with("xthe end"));
    assert_eq!(from_log("ü".repeat(2000)).len(), 2048);
}

/// What a guest leaves may lead anywhere: as the agent's eyes it could read what its host cannot.
#[test]
fn nothing_outside_the_folder_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let volumes = dir.path().join("volumes");
    let container = container(None, &[]);
    let mount = prepare(&container, &[], &volumes, 0).unwrap().unwrap();
    let file = mount.host_path.join("termination-log");
    for target in [secret.as_path(), Path::new("../../../../../secret")] {
        std::os::unix::fs::symlink(target, &file).unwrap();
        assert_eq!(message(&container, &volumes, 0), "");
        std::fs::remove_file(&file).unwrap();
    }
    std::fs::create_dir(&file).unwrap();
    assert_eq!(message(&container, &volumes, 0), "");
}

/// A container that mounts `logs` of a volume, which another one exchanges for a link.
#[test]
fn a_sub_path_that_was_exchanged_leads_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let volume = dir.path().join("data");
    let secrets = dir.path().join("secrets");
    let logs = volume.join("logs");
    for folder in [&logs, &secrets] {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join("why"), folder.file_name().unwrap().to_str().unwrap()).unwrap();
    }
    let mount = Mount {
        host_path: logs.clone(),
        volume: volume.clone(),
        guest_path: "/logs".into(),
        ..Mount::default()
    };
    let container = container(Some("/logs/why"), &["/logs"]);
    prepare(&container, &[mount], dir.path(), 0).unwrap();
    assert_eq!(message(&container, dir.path(), 0), "logs");
    std::fs::rename(&logs, volume.join("old")).unwrap();
    for target in [secrets.as_path(), Path::new("../secrets")] {
        std::os::unix::fs::symlink(target, &logs).unwrap();
        assert_eq!(message(&container, dir.path(), 0), "");
        std::fs::remove_file(&logs).unwrap();
    }
    std::os::unix::fs::symlink("old", &logs).unwrap();
    assert_eq!(message(&container, dir.path(), 0), "logs");
}

#[test]
fn the_hosts_word_comes_first() {
    for (host, own, expected) in
        [("", "", ""), ("", "own", "own"), ("trap", "", "trap"), ("trap", "own", "trap: own")]
    {
        assert_eq!(joined(host, own.to_owned()), expected);
    }
}
