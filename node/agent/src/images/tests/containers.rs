//! Container images: pulled, and unpacked by a process of its own, as the agent's own program would.

use std::path::Path;

use super::unpack::{Job, Limits, UnpackCommand, unpack_confined};
use super::*;
use crate::images::manifest::{Packing, host_architecture};

const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// The process: this test binary again, which runs this "test" alone with the arguments in its environment.
#[test]
fn unpacks_where_it_is_told_to() {
    let Ok(words) = std::env::var("CORACLE_TEST_UNPACK") else { return };
    let words: Vec<&str> = words.split(' ').collect();
    let value = |flag: &str| {
        let at = words.iter().position(|word| *word == flag).unwrap();
        words[at + 1]
    };
    let job = Job {
        into: value("--into").into(),
        packing: Packing::named(value("--packing")).unwrap(),
        diff_id: value("--diff-id").to_owned(),
        limits: Limits {
            bytes: value("--max-bytes").parse().unwrap(),
            entries: value("--max-entries").parse().unwrap(),
        },
    };
    let (text, code) = match unpack_confined(&job) {
        Ok(unpacked) => (serde_json::to_string(&unpacked).unwrap(), 0),
        Err(refusal) => (serde_json::to_string(&refusal).unwrap(), 1),
    };
    let _ = std::io::Write::write_all(&mut std::io::stdout(), format!("\n{text}\n").as_bytes());
    std::process::exit(code);
}

fn command() -> UnpackCommand {
    let program = std::env::current_exe().unwrap();
    let test = "images::tests::containers::unpacks_where_it_is_told_to";
    let script = format!(
        "CORACLE_TEST_UNPACK=\"$*\" exec '{}' --exact {test} --nocapture",
        program.display()
    );
    let args = ["-c", &script, "sh"].map(Into::into);
    UnpackCommand { program: "/bin/sh".into(), args: args.into() }
}

fn open_for_containers(folder: &Path) -> Images {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = kube::Client::try_from(kube::Config::new("http://127.0.0.1:9".parse().unwrap()));
    let config = Config { unpack: Some(command()), ..Config::default() };
    Images::open(folder.to_owned(), client.unwrap(), config).unwrap()
}

async fn node(registry: &Registry) -> Node {
    let node = Node::of(registry).await;
    let images = open_for_containers(node.folder.path());
    Node { images, ..node }
}

/// An archive of files.
fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        builder.append_data(&mut header, path, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8], level: u32) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
    std::io::Write::write_all(&mut gzip, bytes).unwrap();
    gzip.finish().unwrap()
}

/// Pushes an image of these layers: media type, as packed, diff id.
fn push(
    registry: &Registry,
    tag: &str,
    layers: &[(&str, Vec<u8>, String)],
    platform: (&str, &str),
) {
    let config = json!({
        "os": platform.0, "architecture": platform.1,
        "config": {"Entrypoint": ["/bin/tool"], "Cmd": ["serve"], "Env": ["PATH=/bin"], "User": "7:8",
            "WorkingDir": "/srv", "StopSignal": "SIGINT"},
        "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|l| l.2.clone()).collect::<Vec<_>>()},
    })
    .to_string();
    registry.with(|fake| {
        for (_, packed, _) in layers {
            fake.blobs.insert(digest(packed), Bytes::copy_from_slice(packed));
        }
        let described: Vec<_> = layers
            .iter()
            .map(|(kind, packed, _)| json!({"mediaType": kind, "digest": digest(packed), "size": packed.len()}))
            .collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": manifest::MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest(config.as_bytes()), "size": config.len()},
            "layers": described,
        });
        fake.blobs.insert(digest(config.as_bytes()), Bytes::from(config));
        fake.manifests.insert(tag.to_owned(), manifest);
    });
}

fn here() -> (&'static str, &'static str) {
    ("linux", host_architecture())
}

fn layers(pulled: &Pulled) -> Vec<PathBuf> {
    match &pulled.workload {
        Workload::Container { layers, .. } => layers.clone(),
        other => panic!("{other:?} is no container"),
    }
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[tokio::test]
async fn layers_are_unpacked_once_and_shared() {
    let registry = Registry::default();
    let (base, top, other) =
        (tar(&[("bin/tool", b"tool")]), tar(&[("etc/a", b"a")]), tar(&[("etc/b", b"b")]));
    let of = |tar: &[u8]| digest(tar);
    let packed = (GZIP, gzip(&base, 6), of(&base));
    push(
        &registry,
        "v1",
        &[packed.clone(), (ZSTD, zstd::encode_all(&top[..], 1).unwrap(), of(&top))],
        here(),
    );
    push(&registry, "v2", &[packed.clone(), (GZIP, gzip(&other, 6), of(&other))], here());
    // The same base, packed otherwise; and a layer that comes twice.
    push(
        &registry,
        "v3",
        &[packed.clone(), (GZIP, gzip(&top, 1), of(&top)), (GZIP, gzip(&base, 1), of(&base))],
        here(),
    );
    let node = node(&registry).await;
    let policy = PullPolicy::IfNotPresent;
    if !is_root() {
        node.fails("app:v1", &["CreateContainerError", "is a container image", "as root"]).await;
        return;
    }
    let pulls = futures::future::join_all((0..6).map(|_| node.pull("app:v1", policy))).await;
    let first = pulls.into_iter().map(Result::unwrap).next().unwrap();
    let folders = layers(&first);
    assert_eq!(folders.len(), 2);
    assert_eq!(std::fs::read(folders[0].join("bin/tool")).unwrap(), b"tool");
    assert_eq!(std::fs::read(folders[1].join("etc/a")).unwrap(), b"a");
    assert_eq!(
        (first.run.entrypoint.join(" "), first.run.cmd.join(" ")),
        ("/bin/tool".into(), "serve".into())
    );
    assert_eq!(
        (first.run.user.as_deref(), first.run.stop_signal.as_deref()),
        (Some("7:8"), Some("SIGINT"))
    );
    let second = node.pull("app:v2", policy).await.unwrap();
    assert_eq!(layers(&second)[0], folders[0]);
    let blob = format!("GET /v2/app/blobs/{}", digest(&packed.1));
    assert_eq!(registry.requests().iter().filter(|r| **r == blob).count(), 1);
    let third = node.pull("app:v3", policy).await.unwrap();
    assert_eq!(layers(&third), [folders[1].clone(), folders[0].clone()]);
    // Here already, for the next agent too.
    let node = Node { images: open_for_containers(node.folder.path()), ..node };
    assert!(node.pull("app:v1", PullPolicy::Never).await.unwrap().took.is_none());
    // A layer that was lost is unpacked again from what was fetched.
    std::fs::remove_file(folders[0].with_extension("json")).unwrap();
    let node = Node { images: open_for_containers(node.folder.path()), ..node };
    registry.requests();
    assert_eq!(layers(&node.pull("app:v1", PullPolicy::Never).await.unwrap()), folders);
    assert_eq!(registry.requests(), [] as [&str; 0]);
    // Layers go with the last image that has them.
    let store = &node.images.inner.store;
    let (_, freed) = store.remove(&second.manifest_digest).unwrap();
    assert!(freed > 0 && folders[0].exists() && !layers(&second)[1].exists());
    store.remove(&first.manifest_digest).unwrap();
    assert!(folders[0].exists() && folders[1].exists());
    store.remove(&third.manifest_digest).unwrap();
    store.sweep(Duration::ZERO).unwrap();
    let left = std::fs::read_dir(node.folder.path().join("layers")).unwrap().count();
    assert_eq!(left, 0, "nothing needs a layer any more");
}

#[tokio::test]
async fn images_of_other_machines_are_told_as_such() {
    let registry = Registry::default();
    let tar = tar(&[("bin/tool", b"tool")]);
    let layer = (GZIP, gzip(&tar, 6), digest(&tar));
    push(&registry, "single", &[layer], ("linux", "s390x"));
    registry.with(|fake| {
        let manifest = fake.manifests["single"].clone();
        let text = manifest.to_string();
        let entry = |os: &str, architecture: &str, variant: &str| {
            json!({"mediaType": manifest::MANIFEST, "digest": digest(text.as_bytes()), "size": text.len(),
                "platform": {"os": os, "architecture": architecture, "variant": variant}})
        };
        let index = json!({"schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json",
            "manifests": [entry("linux", "arm", "v7"), entry("linux", "s390x", ""), entry("unknown", "unknown", "")]});
        fake.manifests.insert("index".to_owned(), index);
    });
    let node = node(&registry).await;
    let wanted =
        ["ErrImagePull: Failed to pull image", "no match for platform in manifest", "linux/s390x"];
    node.fails("app:single", &wanted).await;
    node.fails("app:index", &wanted).await;
    node.fails("app:index", &["it is for linux/arm/v7, linux/s390x, and this node takes"]).await;
}

#[tokio::test]
async fn layers_that_are_not_what_they_should_be_are_refused() {
    if !is_root() {
        return;
    }
    let registry = Registry::default();
    let good = tar(&[("bin/tool", b"tool")]);
    let (packed, half) = (gzip(&good, 6), gzip(&good, 6)[..60].to_vec());
    push(&registry, "diff", &[(GZIP, packed.clone(), digest(b"other"))], here());
    push(&registry, "cut", &[(GZIP, half, digest(&good))], here());
    let node = node(&registry).await;
    let diff =
        ["ErrImagePull", "layer sha256:", "the image's configuration says", &digest(b"other")];
    node.fails("app:diff", &diff).await;
    node.fails("app:diff", &diff).await;
    node.fails("app:cut", &["ErrImagePull", "layer sha256:", "truncated"]).await;
    // The same layer, in an image that says it right.
    push(&registry, "well", &[(GZIP, packed, digest(&good))], here());
    node.pull("app:well", PullPolicy::IfNotPresent).await.unwrap();
    // What a process that failed had begun may be in use for a moment still.
    let mut left = Vec::new();
    for _ in 0..100 {
        node.images.inner.store.sweep(Duration::ZERO).unwrap();
        left = std::fs::read_dir(node.folder.path().join("layers")).unwrap().flatten().collect();
        if left.len() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn a_full_disk_is_told_cleaned_up_and_tried_again() {
    use nix::mount::{MsFlags, mount};
    if !is_root() {
        return;
    }
    let worker = std::thread::spawn(|| {
        // Mounts go with the thread; the process that unpacks has them too.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let registry = Registry::default();
            let tar = tar(&[("large", &noise(2 << 20)[..])]);
            push(&registry, "v1", &[(GZIP, gzip(&tar, 6), digest(&tar))], here());
            let node = Node::of(&registry).await;
            let disk = tempfile::tempdir().unwrap();
            let size = |flags, size| {
                mount(Some("tmpfs"), disk.path(), Some("tmpfs"), flags, Some(size)).unwrap()
            };
            size(MsFlags::empty(), "size=3m");
            let node = Node { images: open_for_containers(disk.path()), ..node };
            node.fails("app:v1", &["ErrImagePull", "\"large\"", "no space left on device"]).await;
            let layers = disk.path().join("layers");
            let empty = || std::fs::read_dir(&layers).unwrap().next().is_none();
            for _ in 0..100 {
                if empty() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            assert!(empty(), "what was begun is removed");
            size(MsFlags::MS_REMOUNT, "size=16m");
            node.pull("app:v1", PullPolicy::IfNotPresent).await.unwrap();
        });
    });
    worker.join().unwrap();
}
