use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::*;

const HOST: u32 = 0x7123_4567;

fn owner(fs_group: Option<u32>, wasm: bool) -> Owner {
    Owner { host: Some((HOST, HOST)), containers: Some(Containers { fs_group, wasm }) }
}

#[test]
fn modes_are_what_is_asked_for_and_what_the_group_and_the_host_need() {
    let wasm = Owner { host: Some((HOST, HOST)), containers: None };
    assert_eq!((Owner::AGENT.shown(0o644), wasm.shown(0o644)), (0o600, 0o640));
    assert_eq!(owner(None, false).shown(0o644), 0o644);
    assert_eq!(owner(None, false).shown(0o400), 0o400);
    assert_eq!(owner(Some(2000), false).shown(0o400), 0o440);
    // Everybody may read it: the host needs nothing of its own.
    assert_eq!(owner(None, true).shown(0o644), 0o644);
    assert_eq!(owner(None, true).shown(0o400), 0o440);
    assert_eq!(owner(None, true).shown(0o700), 0o750);
}

/// Runs a shell as somebody.
fn sh(uid: u32, script: &str) -> bool {
    // The shell has to be able to come here.
    Command::new("sh").args(["-c", script]).uid(uid).gid(uid).status().unwrap().success()
}

#[test]
fn in_a_mixed_pod_everybody_reads_and_writes_what_others_made() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let volume = dir.path().join("v");
    fs::create_dir(&volume).unwrap();
    let at = volume.display();
    // Without the rule, the umask is in the way.
    owner(None, false).give_volume(&volume).unwrap();
    assert!(sh(HOST, &format!("umask 022; echo 1 > {at}/closed")));
    assert!(!sh(1000, &format!("echo 2 > {at}/closed")));
    owner(None, true).give_volume(&volume).unwrap();
    for (number, (first, second)) in [(HOST, 1000), (1000, HOST), (0, HOST)].into_iter().enumerate()
    {
        let folder = format!("{at}/{number}");
        assert!(sh(first, &format!("umask 077; mkdir {folder} && echo 1 > {folder}/f")));
        assert!(sh(
            second,
            &format!("grep -q 1 {folder}/f && echo 2 >> {folder}/f && rm {folder}/f")
        ));
    }
}

#[test]
fn a_secret_is_shown_to_the_host_of_a_mixed_pod_and_to_no_other_user() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let file = dir.path().join("secret");
    fs::write(&file, "x").unwrap();
    let read = |uid| sh(uid, &format!("cat {} > /dev/null 2>&1", file.display()));
    owner(Some(2000), true).show(&file, 0o400).unwrap();
    assert!(read(HOST) && read(2000) && !read(1000));
    let meta = fs::metadata(&file).unwrap();
    assert_eq!((meta.gid(), meta.mode() & 0o777), (2000, owner(Some(2000), true).shown(0o400)));
}
