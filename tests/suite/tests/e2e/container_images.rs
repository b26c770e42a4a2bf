//! Container images, made without a container engine: pushed, pulled and unpacked on the node.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use coracle_test_cluster::containers::{self, Layer, Missing, Packing};
use coracle_test_cluster::{Cluster, User, eventually};
use serde_json::json;

use crate::context::{Context, Outcome, SOON, expect, skip};
use crate::images::registry::{Image, OCI_MANIFEST, Registry, program};
use crate::images::{PULLING, pod, push, waits};

/// The image as a layout among the cluster's own files.
pub(crate) fn layout(
    cluster: &Cluster,
    name: &str,
    image: &containers::Image,
) -> anyhow::Result<PathBuf> {
    let folder = cluster.home().join(name);
    image.write(&folder)?;
    cluster.hand_over(&folder)?;
    Ok(folder)
}

/// Or else why a test is left out.
pub(crate) fn available(
    image: anyhow::Result<containers::Image>,
) -> anyhow::Result<Option<containers::Image>> {
    match image {
        Err(error) if error.is::<Missing>() => {
            skip(&format!("{error:#}"));
            Ok(None)
        }
        image => image.map(Some),
    }
}

/// Where one of the node's unpacked layers has this file.
fn unpacked(cluster: &Cluster, path: &str) -> anyhow::Result<PathBuf> {
    let layers = cluster.data().join("agent/images/layers");
    let mut found = std::fs::read_dir(&layers)?.flatten().map(|layer| layer.path().join(path));
    found
        .find(|path| path.symlink_metadata().is_ok())
        .with_context(|| format!("no layer in {} has {path}", layers.display()))
}

async fn is_pulled(cluster: &Cluster, image: &str) -> Outcome {
    let wanted = format!("Successfully pulled image \"{image}\"");
    eventually(SOON * 2, "the image is pulled", async || {
        expect(&cluster.kubectl(&["get", "events"]).await?, &[&wanted])
    })
    .await
}

fn mode(path: &Path) -> anyhow::Result<u32> {
    Ok(std::fs::symlink_metadata(path)?.permissions().mode() & 0o7777)
}

pub(crate) async fn container_images_are_unpacked_as_they_are(context: Arc<Context>) -> Outcome {
    let Some(busybox) = available(containers::busybox())? else { return Ok(()) };
    let cluster = context.up_with(&["--default-registry", "none"]).await?;
    let top = Layer::default()
        .packed(Packing::Zstd)
        .whiteout("home/app")?
        .file("etc/motd", 0o640, "hello")?
        .hard_link("etc/also", "etc/motd")?
        .owned_folder("srv", 0o2775, (1000, 2000))?;
    let image = busybox.config(json!({"Cmd": ["sleep", "3600"], "User": "app"})).layer(top)?;
    cluster.push(&layout(&cluster, "box", &image)?, "box:v1").await?;
    cluster.apply(&pod("box", "box:v1", "")).await?;
    if cluster.user() != User::Root {
        let why = ["container image", "agent must run as root"];
        return waits(&cluster, "box", &["CreateContainerError"], &why).await;
    }
    is_pulled(&cluster, "box:v1").await?;
    anyhow::ensure!(mode(&unpacked(&cluster, "tmp")?)? == 0o1777);
    anyhow::ensure!(std::fs::read_link(unpacked(&cluster, "bin/sh")?)? == Path::new("busybox"));
    let srv = std::fs::metadata(unpacked(&cluster, "srv")?)?;
    anyhow::ensure!((srv.uid(), srv.gid(), srv.mode() & 0o7777) == (1000, 2000, 0o2775));
    let (motd, also) = (unpacked(&cluster, "etc/motd")?, unpacked(&cluster, "etc/also")?);
    anyhow::ensure!(std::fs::metadata(motd)?.ino() == std::fs::metadata(also)?.ino());
    let gone = unpacked(&cluster, "srv")?.with_file_name("home").join("app");
    anyhow::ensure!(std::fs::symlink_metadata(&gone)?.rdev() == 0, "no whiteout at {gone:?}");

    // What is for another machine, or out to do harm, says so, and leaves nothing.
    let other = containers::Image::new(json!({"Cmd": ["sh"]})).platform("linux", "s390x");
    let other = other.layer(Layer::default().file("bin/sh", 0o755, "#!")?)?;
    cluster.push(&layout(&cluster, "other", &other)?, "other:v1").await?;
    let out = Image::files(
        OCI_MANIFEST,
        ("linux", containers::architecture()),
        json!({"Cmd": ["sh"]}),
        &[("application/vnd.oci.image.layer.v1.tar", &[("bin/sh", b"#!")])],
    )?;
    push(&cluster, "well:v1", &out).await?;
    cluster
        .apply(&[pod("other", "other:v1", ""), pod("well", "well:v1", "")].join("---\n"))
        .await?;
    let wanted = ["no match for platform in manifest", "linux/s390x"];
    waits(&cluster, "other", PULLING, &wanted).await?;
    is_pulled(&cluster, "well:v1").await
}

/// From Debian's registry, with skopeo in between, as people have it.
pub(crate) async fn a_server_of_debians_is_pulled(context: Arc<Context>) -> Outcome {
    let Some(program) = program() else {
        skip("needs docker-registry");
        return Ok(());
    };
    if std::process::Command::new("skopeo").arg("--version").output().is_err() {
        skip("needs skopeo");
        return Ok(());
    }
    let Some(nginx) = available(containers::debian(&["nginx", "nginx-common"]))? else {
        return Ok(());
    };
    let nginx = nginx.config(json!({
        "Entrypoint": ["nginx", "-g", "daemon off;"], "ExposedPorts": {"80/tcp": {}},
        "StopSignal": "SIGQUIT",
    }));
    let cluster = context.up_with(&["--default-registry", "none"]).await?;
    let registry = Registry::start(&program).await?;
    let layout = layout(&cluster, "nginx", &nginx)?;
    let to = format!("docker://{}/library/nginx:v1", registry.plain);
    // As Docker's own format on the way.
    let copied = tokio::process::Command::new("skopeo")
        .args(["copy", "--format", "v2s2", "--dest-tls-verify=false", "--insecure-policy"])
        .arg(format!("oci:{}:latest", layout.display()))
        .arg(to)
        .output()
        .await?;
    let said = String::from_utf8_lossy(&copied.stderr).into_owned();
    anyhow::ensure!(copied.status.success(), "{said}");
    let image = format!("{}/library/nginx:v1", registry.plain);
    cluster.apply(&pod("nginx", &image, "")).await?;
    if cluster.user() != User::Root {
        let why = ["container image", "agent must run as root"];
        return waits(&cluster, "nginx", &["CreateContainerError"], &why).await;
    }
    is_pulled(&cluster, &image).await?;
    anyhow::ensure!(mode(&unpacked(&cluster, "usr/sbin/nginx")?)? == 0o755);
    unpacked(&cluster, "etc/nginx/nginx.conf").map(drop)
}
