//! Volumes, as instances that come and go see them.

use coracle_sandbox::Mount;

use super::fixture::*;

/// Instances share what was opened, and yet see a ConfigMap change as the agent changes it.
#[tokio::test(flavor = "multi_thread")]
async fn changes_are_seen_by_the_next_request() {
    let host = TestHost::start().await;
    let folder = tempfile::tempdir().unwrap();
    let put = |version: &str| {
        std::fs::create_dir(folder.path().join(version)).unwrap();
        std::fs::write(folder.path().join(version).join("a"), version).unwrap();
        std::os::unix::fs::symlink(version, folder.path().join("next")).unwrap();
        std::fs::rename(folder.path().join("next"), folder.path().join("..data")).unwrap();
    };
    put("..1");
    std::os::unix::fs::symlink("..data/a", folder.path().join("a")).unwrap();
    let address = host
        .serve_with("reader", example("probe-http"), |app| {
            app.mounts = vec![Mount {
                host_path: folder.path().into(),
                guest_path: "/map".into(),
                read_only: true,
                ..Default::default()
            }];
        })
        .await;
    assert_eq!(get(address, "/file?path=/map/a").await, (200, "..1".into()));
    put("..2");
    std::fs::remove_dir_all(folder.path().join("..1")).unwrap();
    assert_eq!(get(address, "/file?path=/map/a").await, (200, "..2".into()));
    let (status, said) = get(address, "/file?path=/elsewhere/a").await;
    assert!(status == 404 && said.contains("no volume is mounted"), "{said}");
    host.end().await;
}

/// A component that uses no files meets no trouble of theirs.
#[tokio::test(flavor = "multi_thread")]
async fn volumes_are_opened_when_they_are_asked_for() {
    let host = TestHost::start().await;
    let address = host
        .serve_with("reader", example("probe-http"), |app| {
            app.mounts = vec![Mount {
                host_path: "/nonexistent/volume".into(),
                guest_path: "/gone".into(),
                read_only: true,
                ..Default::default()
            }];
        })
        .await;
    assert_eq!(get(address, "/status/200").await.0, 200);
    assert_eq!(get(address, "/file?path=/gone/a").await.0, 500);
    let log = host.log("reader");
    assert!(log.contains("cannot open /nonexistent/volume, mounted at /gone"), "{log}");
    host.end().await;
}
