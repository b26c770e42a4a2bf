use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::*;

/// `base/volume`, with what workloads leave there, and `base/outside`, which nobody may come to.
fn folders() -> (tempfile::TempDir, Folder) {
    let dir = tempfile::tempdir().unwrap();
    let volume = dir.path().join("volume");
    fs::create_dir_all(volume.join("a/b")).unwrap();
    fs::create_dir_all(dir.path().join("outside/b")).unwrap();
    fs::write(dir.path().join("outside/secret"), "secret").unwrap();
    fs::write(volume.join("a/file"), "file").unwrap();
    for (target, link) in [
        ("a/b", "inside"),
        ("../outside", "out"),
        ("../outside/secret", "leak"),
        ("/etc/passwd", "absolute"),
        ("/proc/self/root", "magic"),
        ("nowhere", "dangling"),
        ("loop", "loop"),
    ] {
        symlink(target, volume.join(link)).unwrap();
    }
    nix::unistd::mkfifo(&volume.join("pipe"), Mode::S_IRWXU).unwrap();
    let folder = Folder::open(&volume).unwrap();
    (dir, folder)
}

#[test]
fn links_are_followed_as_far_as_they_stay_inside() {
    let (_dir, volume) = folders();
    for (path, expected) in [
        ("a/file", "file"),
        ("inside/../file", "file"),
        ("leak", "out"),
        ("absolute", "out"),
        ("out/secret", "out"),
        ("a/../../outside/secret", "out"),
        ("/etc/passwd", "out"),
        ("magic/etc/passwd", "out"),
        ("dangling", "missing"),
        ("nothing", "missing"),
        ("pipe", "it is not a file"),
        ("a", "it is not a file"),
    ] {
        let read = match volume.file(Path::new(path)) {
            Ok(file) => io::read_to_string(file).unwrap(),
            Err(error) if leads_out(&error) => "out".to_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => "missing".to_owned(),
            Err(error) => error.to_string(),
        };
        assert_eq!(read, expected, "{path}");
    }
    assert!(volume.file(Path::new("loop")).is_err());
    assert!(matches!(volume.find(Path::new("inside")), Ok(Found::Folder(_))));
    assert!(matches!(volume.find(Path::new("a/file")), Ok(Found::Other(_))));
}

#[test]
fn folders_are_made_inside_or_not_at_all() {
    let (dir, volume) = folders();
    let path = |p: &str| dir.path().join(p);
    volume.make(Path::new("new/er"), 0o700, None).unwrap();
    volume.make(Path::new("inside/./c"), 0o700, None).unwrap();
    assert!(path("volume/new/er").is_dir() && path("volume/a/b/c").is_dir());
    assert_eq!(fs::metadata(path("volume/new/er")).unwrap().permissions().mode() & 0o777, 0o700);
    for (into, why) in [("out/x", "out"), ("dangling/x", "link"), ("a/file/x", "file")] {
        assert!(volume.make(Path::new(into), 0o700, None).is_err(), "{why}");
    }
    assert_eq!(fs::read_dir(path("outside")).unwrap().count(), 2);
    assert!(!path("volume/nowhere").exists());
}

#[test]
fn what_lies_in_it_is_counted_and_opened_up_without_leaving() {
    let (dir, volume) = folders();
    fs::write(dir.path().join("outside/large"), vec![1; 1 << 20]).unwrap();
    fs::write(dir.path().join("volume/a/large"), vec![1; 100_000]).unwrap();
    let used = volume.usage(u64::MAX);
    assert!((100_000..200_000).contains(&used), "{used}");
    assert!(volume.usage(10) > 10);
    let mode = |p: &str| fs::metadata(dir.path().join(p)).unwrap().mode() & 0o777;
    fs::set_permissions(dir.path().join("outside"), PermissionsExt::from_mode(0o750)).unwrap();
    fs::set_permissions(dir.path().join("volume/a/b"), PermissionsExt::from_mode(0o000)).unwrap();
    volume.open_up();
    assert_eq!((mode("outside"), mode("volume/a/b"), mode("volume/a")), (0o750, 0o700, 0o700));
    volume.remove_file(Path::new("leak")).unwrap();
    volume.remove_file(Path::new("leak")).unwrap();
    assert!(dir.path().join("outside/secret").exists());
}

/// A workload that exchanges a folder of its volume for a link out of it, and back, as fast as it can. Resolved by name and used by name,
/// the agent would sooner or later read, make and give away what lies outside.
#[test]
fn nobody_wins_a_race_against_it() {
    let (dir, volume) = folders();
    let path = |p: &str| dir.path().join(p);
    fs::write(path("volume/a/b/secret"), "inside").unwrap();
    fs::write(path("outside/b/secret"), "secret").unwrap();
    symlink("../outside", path("volume/trap")).unwrap();
    let owner = fs::metadata(path("outside/b")).unwrap().uid();
    // As root things are given to somebody else, so that it would be seen.
    let give = geteuid().is_root().then_some((12_345, 12_345));
    let over = AtomicBool::new(false);
    let mut seen = [0u32; 3];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let (a, trap) = (path("volume/a"), path("volume/trap"));
                renameat2(AT_FDCWD, &a, AT_FDCWD, &trap, RenameFlags::RENAME_EXCHANGE).unwrap();
            }
        });
        let end = Instant::now() + Duration::from_secs(2);
        let mut count = 0;
        while Instant::now() < end || seen[0] == 0 || seen[1] == 0 {
            match volume.file(Path::new("a/b/secret")) {
                Ok(file) => {
                    assert_eq!(io::read_to_string(file).unwrap(), "inside");
                    seen[0] += 1;
                }
                Err(_) => seen[1] += 1,
            }
            count += 1;
            if volume.make(Path::new(&format!("a/new-{count}/x")), 0o700, give).is_ok() {
                seen[2] += 1;
            }
            volume.usage(u64::MAX);
            volume.open_up();
            assert!(Instant::now() < end + Duration::from_secs(60), "no race came about: {seen:?}");
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(seen[2] > 0, "{seen:?}");
    let outside: Vec<_> = fs::read_dir(path("outside")).unwrap().flatten().collect();
    assert_eq!(outside.len(), 2, "something was made outside");
    assert_eq!(fs::metadata(path("outside/b")).unwrap().uid(), owner);
}
