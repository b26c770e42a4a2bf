use std::time::{Duration, Instant};

use coracle_sandbox::*;

use super::fixture::*;

/// Starts `hello-command` with these arguments.
async fn run(host: &TestHost, name: &str, args: &[&str], change: impl FnOnce(&mut ContainerSpec)) {
    let sandbox = host.sandbox(name).await;
    let mut app = host.app(&sandbox, example("hello-command"));
    app.args = ["hello"].iter().chain(args).map(|arg| arg.to_string()).collect();
    app.ports = Vec::new();
    change(&mut app);
    host.client.start_container(&sandbox.id, &app).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_run_and_exit() {
    let host = TestHost::start().await;
    run(&host, "fine", &["--lines", "2"], |app| app.env.push(("WHO".into(), "me".into()))).await;
    assert_eq!(host.exit("fine").await, (0, ExitReason::Completed, String::new()));
    let log = host.log("fine");
    for text in [r#"["hello", "--lines", "2"]"#, "WHO=me", "HOSTNAME=fine"] {
        assert!(log.contains(text), "{log} lacks {text}");
    }
    assert!(log.lines().count() >= 5, "{log}");

    run(&host, "three", &["--exit", "3"], |_| {}).await;
    let (code, reason, _) = host.exit("three").await;
    assert_eq!((code, reason), (3, ExitReason::Error));
    run(&host, "unread", &["--read", "/no/file"], |_| {}).await;
    assert_eq!(host.exit("unread").await.0, 1);
    assert!(host.log("unread").contains(" stderr F hello-command: "), "{}", host.log("unread"));
    host.end().await;
}

/// Adapters of preview 1 make every exit code that is not 0 a 1.
#[tokio::test(flavor = "multi_thread")]
async fn core_modules_keep_their_exit_codes() {
    let host = TestHost::start().await;
    for (name, call, expected) in [
        ("ends", "", 0),
        ("fine", "(call $exit (i32.const 0))", 0),
        ("seven", "(call $exit (i32.const 7))", 7),
        ("most", "(call $exit (i32.const 255))", 255),
    ] {
        let text = format!(
            r#"(module
              (import "wasi_snapshot_preview1" "fd_close" (func (param i32) (result i32)))
              (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
              (memory (export "memory") 1)
              (func (export "_start") {call}))"#
        );
        let file = host.folder.path().join(format!("{name}.wasm"));
        std::fs::write(&file, wat::parse_str(text).unwrap()).unwrap();
        let sandbox = host.sandbox(name).await;
        let app = ContainerSpec { ports: Vec::new(), ..host.app(&sandbox, image(file)) };
        host.client.start_container(&sandbox.id, &app).await.unwrap();
        assert_eq!(host.exit(name).await.0, expected, "{name}: {}", host.log(name));
    }
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_are_seen() {
    let host = TestHost::start().await;
    let volume = host.folder.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("motto"), "festina lente\n").unwrap();
    run(&host, "reader", &["--read", "/etc/config/motto"], |app| {
        app.mounts.push(Mount {
            host_path: volume.clone(),
            guest_path: "/etc/config".into(),
            read_only: true,
            ..Mount::default()
        });
    })
    .await;
    assert_eq!(host.exit("reader").await.0, 0, "{}", host.log("reader"));
    assert!(host.log("reader").contains("festina lente"));
    host.end().await;
}

/// Another container of the Pod, which mounts all of the volume, puts a link out of it where a part is mounted.
#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_volume_stays_within_it() {
    let host = TestHost::start().await;
    let volume = host.folder.path().join("volume");
    let other = host.folder.path().join("other");
    for (folder, motto) in [(&volume.join("part"), "festina lente"), (&other, "not for you")] {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join("motto"), motto).unwrap();
    }
    let mount = |path: &str| Mount {
        host_path: volume.join(path),
        volume: volume.clone(),
        guest_path: "/data".into(),
        ..Mount::default()
    };
    run(&host, "reader", &["--read", "/data/motto"], |app| app.mounts.push(mount("part"))).await;
    assert_eq!(host.exit("reader").await.0, 0, "{}", host.log("reader"));
    assert!(host.log("reader").contains("festina lente"));
    std::os::unix::fs::symlink("../other", volume.join("trap")).unwrap();
    let sandbox = host.sandbox("trapped").await;
    let mut app = host.app(&sandbox, example("hello-command"));
    app.mounts.push(mount("trap"));
    let refused = host.client.start_container(&sandbox.id, &app).await.unwrap_err().to_string();
    assert!(refused.contains("/volume/trap, mounted at /data: "), "{refused}");
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_stopped_after_their_grace() {
    let host = TestHost::start().await;
    run(&host, "sleeper", &["--sleep", "60"], |_| {}).await;
    let begun = Instant::now();
    host.client.stop_container("id-sleeper", "app", Stop { grace_seconds: 1 }).await.unwrap();
    let (code, reason, message) = host.exit("sleeper").await;
    assert_eq!((code, reason), (137, ExitReason::Error), "{message}");
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(900) && took < Duration::from_secs(4), "{took:?}");
    host.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_trap_and_run_out_of_memory() {
    let host = TestHost::start().await;
    let check = async |name: &str, body: &str, limit: Option<u64>, expected: (i32, ExitReason)| {
        let wasm = wat::parse_str(format!(
            r#"(component
                (core module $m
                    (memory 1)
                    (func (export "run") (result i32) {body}))
                (core instance $i (instantiate $m))
                (func $run (result (result)) (canon lift (core func $i "run")))
                (instance $r (export "run" (func $run)))
                (export "wasi:cli/run@0.2.0" (instance $r)))"#
        ));
        let path = host.folder.path().join(format!("{name}.wasm"));
        std::fs::write(&path, wasm.unwrap()).unwrap();
        let sandbox = host.sandbox(name).await;
        let mut app = host.app(&sandbox, image(path));
        app.memory_limit = limit;
        host.client.start_container(&sandbox.id, &app).await.unwrap();
        let (code, reason, message) = host.exit(name).await;
        assert_eq!((code, reason), expected, "{name}: {message}");
        host.log(name)
    };
    let log = check("trap", "unreachable", None, (134, ExitReason::Error)).await;
    assert!(log.contains("unreachable"), "{log}");
    let grow = "(drop (memory.grow (i32.const 64))) (i32.const 0)";
    check("small", grow, Some(2 << 20), (137, ExitReason::OOMKilled)).await;
    check("enough", grow, Some(8 << 20), (0, ExitReason::Completed)).await;
    check("failed", "(i32.const 1)", None, (1, ExitReason::Error)).await;
    let tiny = check("tiny", "(i32.const 0)", Some(1000), (137, ExitReason::OOMKilled)).await;
    assert!(tiny.contains("limit"), "{tiny}");
    host.end().await;
}
