use super::*;

/// A machine's folder of groups, as files.
fn machine(files: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in files {
        let path = folder.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, if file.ends_with("controllers") { "cpu memory pids" } else { "" })
            .unwrap();
    }
    folder
}

fn found(folder: &Path, own: &str, root: bool) -> Vec<(PathBuf, Version)> {
    let found = candidates(folder, &folder.join("unified"), own, root);
    let relative = |h: Hierarchy| (h.base.strip_prefix(folder).unwrap().to_owned(), h.version);
    found.into_iter().map(relative).collect()
}

#[test]
fn every_layout_of_hierarchies_is_understood() {
    let two = machine(&["cgroup.controllers"]);
    assert_eq!(found(two.path(), "0::/a/b", true), [("".into(), Version::Two)]);
    // A user begins beside the own group, whose processes are in its way.
    assert_eq!(found(two.path(), "0::/a/b", false), [("a".into(), Version::Two)]);
    let one = machine(&["memory/cgroup.procs", "cpu/cgroup.procs", "freezer/cgroup.procs"]);
    let each = [("memory".into(), Version::One("memory")), ("cpu".into(), Version::One("cpu"))];
    assert_eq!(found(one.path(), "4:memory:/a", true), each);
    let mixed = machine(&["pids/cgroup.procs", "unified/cgroup.controllers"]);
    let both = [("pids".into(), Version::One("pids")), ("unified".into(), Version::Two)];
    assert_eq!(found(mixed.path(), "0::/", true), both);
    assert_eq!(found(machine(&[]).path(), "", true), []);
}

#[test]
fn limits_in_the_words_of_each_version() {
    let limits = Limits { memory: 1 << 30, cpu: 1000, tasks: 100 };
    let said = |version| settings(version, &limits);
    let expected = [
        ("memory.swap.max", "0"),
        ("memory.max", "1073741824"),
        ("cpu.weight", "39"),
        ("pids.max", "100"),
    ];
    assert_eq!(said(Version::Two), expected.map(|(f, v)| (f, v.to_owned())));
    assert_eq!(said(Version::One("cpu")), [("cpu.shares", "1024".to_owned())]);
    let least = settings(Version::One("cpu"), &Limits { cpu: 0, ..limits });
    assert_eq!(least, [("cpu.shares", "2".to_owned())]);
}

#[test]
fn workloads_weigh_as_much_as_their_machine() {
    let machine =
        machine(&["cpu/cgroup.procs", "cpu/coracle/abc/cpu.shares", "cpu/coracle/cpu.shares"]);
    let cpu = Hierarchy { base: machine.path().join("cpu"), version: Version::One("cpu") };
    cpu.prepare("abc").unwrap();
    let cores = std::thread::available_parallelism().unwrap().get();
    for folder in ["coracle", "coracle/abc"] {
        let said = fs::read_to_string(cpu.base.join(folder).join("cpu.shares")).unwrap();
        assert_eq!(said, (1024 * cores).to_string());
    }
    assert_eq!(weight(Version::Two, 2), Some(("cpu.weight", "200".to_owned())));
    assert_eq!(weight(Version::Two, 1000), Some(("cpu.weight", "10000".to_owned())));
    assert_eq!(weight(Version::One("pids"), 2), None);
}
