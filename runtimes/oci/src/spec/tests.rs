use coracle_sandbox::OciSandbox;

use super::*;

fn check(
    change: impl FnOnce(&mut SandboxSpec, &mut ContainerSpec),
    look: impl FnOnce(Result<Value, Problem>),
) {
    let mut sandbox = SandboxSpec { hostname: "web-0".into(), ..Default::default() };
    sandbox.oci = Some(OciSandbox::default());
    let mut container = ContainerSpec { args: vec!["sh".into()], ..Default::default() };
    container.oci = Some(OciContainer::default());
    change(&mut sandbox, &mut container);
    let oci = container.oci.clone().unwrap();
    let user = User { uid: 5, gid: 6, groups: vec![7], home: "/home/five".into() };
    let places = Places {
        rootfs: "/r".into(),
        shm: "/s".into(),
        files: vec![("/etc/hosts".into(), "/f/hosts".into())],
        groups: vec![("/sys/fs/cgroup/cpu".into(), "/m/cpu/c/app-0".into())],
    };
    let known = Known {
        sandbox: &sandbox,
        container: &container,
        oci: &oci,
        user: &user,
        at_first: Set::default(),
        places: &places,
        pid_namespace: None,
        user_namespace: None,
        unified: false,
    };
    look(config(&known).map(|(config, _)| config));
}

#[test]
fn the_last_of_equal_names_counts() {
    let env = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect::<Vec<_>>()
    };
    check(
        |_, container| container.env = env(&[("A", "1"), ("HOME", "/x"), ("A", "2")]),
        |config| {
            let expected = json!([format!("PATH={PATH}"), "HOME=/x", "HOSTNAME=web-0", "A=2"]);
            assert_eq!(config.unwrap()["process"]["env"], expected);
        },
    );
}

#[test]
fn given_mounts_take_the_place_of_usual_ones() {
    let mount = |host: &str, guest: &str| Mount {
        host_path: host.into(),
        guest_path: guest.into(),
        ..Default::default()
    };
    check(
        |_, container| {
            container.mounts = vec![
                mount("/v/deep", "/data/a/b"),
                mount("/v/hosts", "/etc/hosts"),
                mount("/v/shm", "/dev/shm"),
            ];
        },
        |config| {
            let config = config.unwrap();
            let mounts = config["mounts"].as_array().unwrap();
            let source = |path: &str| {
                let found = mounts.iter().filter(|m| m["destination"] == path);
                found.map(|m| m["source"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
            };
            assert_eq!(source("/etc/hosts"), ["/v/hosts"]);
            assert_eq!(source("/dev/shm"), ["/v/shm"]);
            assert_eq!(source("/sys/fs/cgroup/cpu"), ["/m/cpu/c/app-0"]);
            assert_eq!(source("/data/a/b"), ["/v/deep"]);
            let depth = |m: &Value| m["destination"].as_str().unwrap().matches('/').count();
            assert!(mounts.is_sorted_by_key(depth), "{mounts:?}");
        },
    );
    check(
        |_, container| {
            container.mounts =
                vec![Mount { propagation: Propagation::Bidirectional, ..mount("/v", "/data") }];
        },
        |config| assert_eq!(config.unwrap()["linux"]["rootfsPropagation"], "shared"),
    );
    check(
        |_, container| container.mounts = vec![mount("/v", "/data/../etc")],
        |config| assert!(config.unwrap_err().message.contains("guest_path")),
    );
}

#[test]
fn the_machines_processes_are_seen_where_asked() {
    let kinds = |config: Value| {
        let all = config["linux"]["namespaces"].as_array().unwrap().clone();
        all.into_iter().map(|n| n["type"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    check(|_, _| {}, |config| assert_eq!(kinds(config.unwrap()), ["mount", "pid"]));
    check(
        |sandbox, _| sandbox.oci.as_mut().unwrap().host_pid = true,
        |config| assert_eq!(kinds(config.unwrap()), ["mount"]),
    );
}
