//! Pulls that the disk or the registry does not let come to their end, of both kinds of images.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use coracle_test_cluster::containers::{self, Layer};
use coracle_test_cluster::{Cluster, Part, User, tools};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

use crate::container_images::{available, layout};
use crate::context::{ClusterExt as _, Context, Outcome, expect, skip};
use crate::images::registry::{BadLine, Image, Registry, padded, program};
use crate::images::{PULLING, pod, push, succeeds, waits};

/// A disk of its own, of that size.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn at(folder: &Path, size: &str) -> anyhow::Result<SmallDisk> {
        std::fs::create_dir_all(folder)?;
        let options = format!("size={size},mode=700");
        mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), Some(&*options))?;
        Ok(SmallDisk(folder.to_owned()))
    }

    fn grow(&self, size: &str) -> anyhow::Result<()> {
        let options = format!("size={size}");
        mount(None::<&str>, &self.0, None::<&str>, MsFlags::MS_REMOUNT, Some(&*options))?;
        Ok(())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// Pushes a container image with a layer of noise; false where there is no busybox.
async fn push_container(cluster: &Cluster, image: &str, bytes: usize) -> anyhow::Result<bool> {
    let Some(busybox) = available(containers::busybox())? else { return Ok(false) };
    let noise = &padded(&[], bytes)[..bytes];
    let layer = Layer::default().file("noise", 0o644, noise)?;
    let command = json!({"Cmd": ["sh", "-c", "echo $(wc -c < /noise) bytes"]});
    let image_layout = layout(cluster, "large", &busybox.config(command).layer(layer)?)?;
    cluster.push(&image_layout, image).await?;
    Ok(true)
}

pub(crate) async fn a_full_disk_fails_pulls_until_there_is_room(context: Arc<Context>) -> Outcome {
    const LARGE: usize = 12 << 20;
    if context.user != User::Root {
        return Ok(());
    }
    let cluster = context.prepared()?;
    let disk = SmallDisk::at(&cluster.data().join("agent/images"), "8m")?;
    cluster.start(Part::Up).await?;
    let component = std::fs::read(tools::component("hello-command"))?;
    push(&cluster, "small:v1", &Image::artifact(component.clone())).await?;
    push(&cluster, "component:v1", &Image::artifact(padded(&component, LARGE))).await?;
    if !push_container(&cluster, "container:v1", LARGE).await? {
        return Ok(());
    }
    for kind in ["component", "container"] {
        cluster.apply(&pod(kind, &format!("{kind}:v1"), "")).await?;
        waits(&cluster, kind, PULLING, &["No space left on device"]).await?;
    }
    // What did not fit is not in the way of what does.
    cluster.apply(&pod("small", "small:v1", "")).await?;
    succeeds(&cluster, "small").await?;
    disk.grow("256m")?;
    succeeds(&cluster, "component").await?;
    expect(&succeeds(&cluster, "container").await?, &[&format!("{} bytes", LARGE)])
}

pub(crate) async fn a_silent_registry_is_asked_again(context: Arc<Context>) -> Outcome {
    let Some(program) = program() else {
        skip("needs docker-registry");
        return Ok(());
    };
    let registry = Registry::start(&program).await?;
    let component = std::fs::read(tools::component("hello-command"))?;
    registry.push("large:v1", &Image::artifact(padded(&component, 1 << 20))).await?;
    let line = BadLine::to(registry.plain, 600 << 10).await?.falls_silent();
    let cluster = context.up().await?;
    push(&cluster, "small:v1", &Image::artifact(component)).await?;
    cluster.apply(&pod("patient", &format!("{}/large:v1", line.address), "")).await?;
    cluster.apply(&pod("small", "small:v1", "")).await?;
    succeeds(&cluster, "small").await?;
    anyhow::ensure!(line.counts().1 == 0, "it was asked again at once");
    let status = cluster.get(&["pod", "patient"]).await?["status"].clone();
    anyhow::ensure!(status["phase"] == "Pending", "{status:#}");
    // Half a minute of silence is enough.
    tokio::time::sleep(std::time::Duration::from_secs(20)).await;
    succeeds(&cluster, "patient").await?;
    let (_, resumed, bytes) = line.counts();
    anyhow::ensure!(resumed >= 1 && bytes < 2 << 20, "{resumed} resumed, {bytes} bytes");
    Ok(())
}
