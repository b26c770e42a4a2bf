//! Where images come from, what they may be, and when they go.

pub(crate) mod registry;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use coracle_test_cluster::{Cluster, Part, User, eventually, tools};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::context::{ClusterExt as _, Context, Outcome, SOON, expect, skip};
use registry::{BadLine, Image, OCI_MANIFEST, PASSWORD, Registry, USER, padded, program};

const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn component(name: &str) -> anyhow::Result<Vec<u8>> {
    Ok(std::fs::read(tools::component(name))?)
}

/// A Pod that runs an image to its end; `more` are lines of its container.
pub(crate) fn pod(name: &str, image: &str, more: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: {image}
{}",
        more.lines().map(|line| format!("    {line}\n")).collect::<String>()
    )
}

/// Waits until a Pod has succeeded; what it printed.
pub(crate) async fn succeeds(cluster: &Cluster, pod: &str) -> anyhow::Result<String> {
    eventually(SOON, "the Pod succeeds", async || {
        let status = cluster.get(&["pod", pod]).await?["status"].clone();
        anyhow::ensure!(status["phase"] == "Succeeded", "{pod}: {status:#}");
        Ok(())
    })
    .await?;
    cluster.kubectl(&["logs", pod]).await
}

/// Waits until a Pod's container waits for one of `reasons` with a message that contains `parts`.
pub(crate) async fn waits(
    cluster: &Cluster,
    pod: &str,
    reasons: &[&str],
    parts: &[&str],
) -> Outcome {
    eventually(SOON, "the Pod says why it waits", async || {
        let status = cluster.get(&["pod", pod]).await?["status"].clone();
        let waiting = &status["containerStatuses"][0]["state"]["waiting"];
        let reason = waiting["reason"].as_str().unwrap_or_default();
        anyhow::ensure!(reasons.contains(&reason), "{pod}: {status:#}");
        expect(waiting["message"].as_str().unwrap_or_default(), parts)
    })
    .await
}

pub(crate) const PULLING: &[&str] = &["ErrImagePull", "ImagePullBackOff"];

/// Pushes to the cluster's own registry, by the protocol.
pub(crate) async fn push(cluster: &Cluster, name: &str, image: &Image) -> Outcome {
    let client = cluster.client().await?;
    let send = async |request: http::request::Builder, body: Vec<u8>| {
        let answer = client.send(request.body(kube::client::Body::from(body))?).await?;
        let (parts, body) = answer.into_parts();
        let body = body.collect().await?.to_bytes();
        if !parts.status.is_success() {
            bail!("{}: {}", parts.status, String::from_utf8_lossy(&body));
        }
        Ok(parts.headers)
    };
    image.push("", name, send).await
}

pub(crate) async fn every_media_type_runs(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    let command = component("hello-command")?;
    let image_config = "application/vnd.oci.image.config.v1+json";
    let runwasi = json!({
        "os": "wasip2", "architecture": "wasm",
        "config": {"Env": ["MODE=image"], "Cmd": ["tool", "from-cmd"]},
    });
    let mut pods = String::new();
    for (name, config, layer) in [
        ("wkg", ("application/vnd.wasm.config.v0+json", json!({})), "application/wasm"),
        (
            "spin",
            ("application/vnd.fermyon.spin.application.v1+config", json!({})),
            "application/vnd.wasm.content.layer.v1+wasm",
        ),
        (
            "runwasi",
            (image_config, runwasi),
            "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
        ),
        (
            "older",
            ("application/vnd.module.wasm.config.v1+json", json!({})),
            "application/vnd.module.wasm.content.layer.v1+wasm",
        ),
    ] {
        push(
            &cluster,
            &format!("{name}:v1"),
            &Image::new(OCI_MANIFEST, config, &[(layer, command.clone())]),
        )
        .await?;
        pods += &format!("---\n{}", pod(name, &format!("{name}:v1"), ""));
    }
    cluster.apply(&pods).await?;
    for name in ["wkg", "spin", "older"] {
        expect(&succeeds(&cluster, name).await?, &[&format!("Arguments: [\"{name}:v1\"]")])?;
    }
    let said = succeeds(&cluster, "runwasi").await?;
    expect(&said, &["Arguments: [\"tool\", \"from-cmd\"]", "MODE=image"])?;
    // One component under four names is one program; the node tells of all of them.
    eventually(SOON, "the node tells of its images", async || {
        let node = cluster.get(&["nodes"]).await?["items"][0]["status"]["images"].clone();
        let text = node.to_string();
        expect(&text, &["wkg:v1", "spin:v1", "runwasi@sha256:", "sizeBytes"])
    })
    .await
}

pub(crate) async fn a_container_image_runs_its_wasm(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    let command = component("hello-command")?;
    let run = json!({
        "Entrypoint": ["/bin/app.wasm", "fixed"], "Cmd": ["default"],
        "Env": ["PATH=/bin", "MODE=image"], "WorkingDir": "/bin",
    });
    let docker = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    let plain = Image::files(
        "application/vnd.docker.distribution.manifest.v2+json",
        ("wasi", "wasm"),
        run.clone(),
        &[
            (docker, &[("etc/x", b"x"), ("bin/app.wasm", b"an older one")]),
            (docker, &[("bin/app.wasm", &command), ("bin/other.wasm", &command)]),
        ],
    )?;
    push(&cluster, "plain:v1", &plain).await?;
    let linux = Image::files(
        OCI_MANIFEST,
        ("linux", "amd64"),
        json!({"Cmd": ["sh"]}),
        &[(GZIP, &[("bin/sh", b"#!")])],
    )?;
    let zstd = "application/vnd.oci.image.layer.v1.tar+zstd";
    let tar = "application/vnd.oci.image.layer.v1.tar";
    let wasm = Image::files(
        OCI_MANIFEST,
        ("wasip2", "wasm"),
        json!({"Entrypoint": ["app"], "WorkingDir": "/srv"}),
        &[(tar, &[("etc/x", b"x")]), (zstd, &[("srv/app", &command)])],
    )?;
    let index = Image::index(&[(linux, "linux", "amd64"), (wasm, "wasip2", "wasm")]);
    push(&cluster, "many:v1", &index).await?;
    let pods = [
        pod("as-it-is", "plain:v1", ""),
        pod("args", "plain:v1", "args: [mine]\nenv: [{name: MODE, value: pod}]"),
        pod("command", "plain:v1", "command: [other.wasm, theirs]"),
        pod("picked", "many:v1", "args: [a]"),
    ];
    cluster.apply(&pods.join("---\n")).await?;
    for (name, wanted) in [
        (
            "as-it-is",
            &["Arguments: [\"/bin/app.wasm\", \"fixed\", \"default\"]", "MODE=image", "PATH=/bin"]
                [..],
        ),
        ("args", &["Arguments: [\"/bin/app.wasm\", \"fixed\", \"mine\"]", "MODE=pod"]),
        ("command", &["Arguments: [\"other.wasm\", \"theirs\"]", "MODE=image"]),
        ("picked", &["Arguments: [\"app\", \"a\"]"]),
    ] {
        expect(&succeeds(&cluster, name).await?, wanted).context(name)?;
    }
    Ok(())
}

pub(crate) async fn what_cannot_be_run_says_why(context: Arc<Context>) -> Outcome {
    let cluster = context.up_with(&["--default-registry", "none"]).await?;
    let command = component("hello-command")?;
    let spin = "application/vnd.wasm.content.layer.v1+wasm";
    let config = ("application/vnd.fermyon.spin.application.v1+config", json!({}));
    let image =
        Image::new(OCI_MANIFEST, config, &[(spin, command.clone()), (spin, b"\0asm".to_vec())]);
    push(&cluster, "two:v1", &image).await?;
    let files = |run: Value, files: &[(&str, &[u8])]| {
        Image::files(OCI_MANIFEST, ("linux", "amd64"), run, &[(GZIP, files)])
    };
    push(&cluster, "shell:v1", &files(json!({"Cmd": ["/bin/sh"]}), &[("bin/sh", b"#!")])?).await?;
    let app = json!({"Entrypoint": ["/app.wasm"]});
    push(&cluster, "lacks:v1", &files(app.clone(), &[("other.wasm", &command)])?).await?;
    push(&cluster, "text:v1", &files(app, &[("app.wasm", b"hello")])?).await?;
    cluster.push(&tools::component("hello-command"), "here:v1").await?;
    let never = "imagePullPolicy: Never";
    let pods = [
        pod("two", "two:v1", ""),
        pod("shell", "shell:v1", ""),
        pod("lacks", "lacks:v1", ""),
        pod("text", "text:v1", ""),
        pod("never", "here:v1", never),
        pod("missing", "nowhere:v1", ""),
        pod("unreachable", "127.0.0.1:9/team/app:v1", ""),
    ];
    cluster.apply(&pods.join("---\n")).await?;
    let unfit = &["CreateContainerError"];
    waits(&cluster, "two", unfit, &["two:v1", "holds 2 Wasm components"]).await?;
    if context.user == User::Root {
        // Where containers run, a program without content is no program: that was an attempt.
        eventually(SOON, "the Pod says why it failed", async || {
            let status = cluster.get(&["pod", "shell"]).await?["status"].clone();
            let ended = &status["containerStatuses"][0]["state"]["terminated"];
            anyhow::ensure!(ended["reason"] == "StartError", "{status:#}");
            expect(ended["message"].as_str().unwrap_or_default(), &["exec /bin/sh"])
        })
        .await?;
    } else {
        waits(&cluster, "shell", unfit, &["\"shell:v1\" is a container image"]).await?;
    }
    waits(&cluster, "lacks", unfit, &["it has no file /app.wasm"]).await?;
    waits(&cluster, "text", unfit, &["/app.wasm is not WebAssembly"]).await?;
    waits(&cluster, "never", &["ErrImageNeverPull"], &["not present with pull policy of Never"])
        .await?;
    let missing = ["Failed to pull image \"nowhere:v1\"", "coracle push FILE.wasm nowhere:v1"];
    waits(&cluster, "missing", PULLING, &missing).await?;
    waits(&cluster, "unreachable", PULLING, &["127.0.0.1:9", "refused"]).await?;
    let events = cluster.kubectl(&["get", "events"]).await?;
    expect(&events, &["Failed to pull image \"nowhere:v1\"", "Pulling image \"two:v1\""])
}

/// A cluster that trusts the private registry's certificate.
async fn trusting(context: &Context, registry: &Registry) -> anyhow::Result<Arc<Cluster>> {
    let configs = json!({"configs": {
        registry.private.to_string(): {"tls": {"ca_file": registry.ca()}},
    }});
    let file = registry.ca().with_file_name("registries.yaml");
    std::fs::write(&file, configs.to_string())?;
    context.up_with(&["--registries", &file.to_string_lossy()]).await
}

async fn secret(cluster: &Cluster, name: &str, server: &str, password: &str) -> Outcome {
    let server = format!("--docker-server={server}");
    let (user, password) =
        (format!("--docker-username={USER}"), format!("--docker-password={password}"));
    cluster
        .kubectl(&["create", "secret", "docker-registry", name, &server, &user, &password])
        .await
        .map(drop)
}

fn with_secret(pod: &str, secret: &str) -> String {
    pod.replace("spec:\n", &format!("spec:\n  imagePullSecrets: [{{name: {secret}}}]\n"))
}

pub(crate) async fn private_images_need_credentials(context: Arc<Context>) -> Outcome {
    let Some(program) = program() else {
        skip("needs docker-registry");
        return Ok(());
    };
    let registry = Registry::start(&program).await?;
    registry.push("team/app:v1", &Image::artifact(component("hello-command")?)).await?;
    let cluster = trusting(&context, &registry).await?;
    let server = registry.private.to_string();
    let image = format!("{server}/team/app:v1");
    secret(&cluster, "good", &format!("https://{server}/team"), PASSWORD).await?;
    secret(&cluster, "wrong", &server, "hunter2").await?;
    secret(&cluster, "other", "ghcr.io", PASSWORD).await?;
    let plain = |name| pod(name, &image, "imagePullPolicy: IfNotPresent");
    let pods = [
        plain("none"),
        with_secret(&plain("wrong"), "wrong"),
        with_secret(&plain("other"), "other"),
        with_secret(&plain("gone"), "gone"),
    ];
    cluster.apply(&pods.join("---\n")).await?;
    waits(&cluster, "none", PULLING, &["needs credentials", "imagePullSecrets", &server]).await?;
    waits(&cluster, "wrong", PULLING, &["secret \"wrong\"", "user \"ann\"", "401"]).await?;
    waits(&cluster, "other", PULLING, &["none of the secrets other has any for"]).await?;
    let events = cluster.kubectl(&["describe", "pod", "gone"]).await?;
    expect(&events, &["FailedToRetrieveImagePullSecret", "(gone)"])?;

    cluster.apply(&with_secret(&plain("good"), "good")).await?;
    succeeds(&cluster, "good").await?;
    // It is here now; but not for those who could not have pulled it.
    for pod in [plain("none-again"), with_secret(&plain("wrong-again"), "wrong")] {
        cluster.apply(&pod).await?;
    }
    waits(&cluster, "none-again", PULLING, &["needs credentials"]).await?;
    waits(&cluster, "wrong-again", PULLING, &["secret \"wrong\""]).await?;
    let never = pod("never", &image, "imagePullPolicy: Never");
    cluster.apply(&never).await?;
    let reason = &["ErrImageNeverPull"];
    waits(&cluster, "never", reason, &["does not have the proper credentials"]).await?;
    cluster.apply(&with_secret(&never.replace("name: never", "name: never-good"), "good")).await?;
    succeeds(&cluster, "never-good").await?;

    // A ServiceAccount's secrets are its Pods'.
    let patch = r#"{"imagePullSecrets": [{"name": "good"}]}"#;
    cluster.kubectl(&["create", "serviceaccount", "puller"]).await?;
    cluster.kubectl(&["patch", "serviceaccount", "puller", "-p", patch]).await?;
    let account = plain("account").replace("spec:\n", "spec:\n  serviceAccountName: puller\n");
    cluster.apply(&account).await?;
    succeeds(&cluster, "account").await?;

    // No log and no file of the node's holds the password.
    let encoded = STANDARD.encode(format!("{USER}:{PASSWORD}"));
    let told = cluster.kubectl(&["get", "events", "-o", "yaml"]).await?;
    anyhow::ensure!(!told.contains(PASSWORD) && !told.contains("hunter2"), "{told}");
    let images = cluster.data().join("agent/images");
    for folder in ["images", "names"] {
        for file in std::fs::read_dir(images.join(folder))? {
            let text = std::fs::read_to_string(file?.path())?;
            anyhow::ensure!(!text.contains(PASSWORD) && !text.contains(&encoded), "{text}");
        }
    }
    Ok(())
}

pub(crate) async fn mirrors_are_asked_first(context: Arc<Context>) -> Outcome {
    let Some(program) = program() else {
        skip("needs docker-registry");
        return Ok(());
    };
    let registry = Registry::start(&program).await?;
    let image = Image::artifact(component("hello-command")?);
    registry.push("mirrored/library/tool:v1", &image).await?;
    let server = registry.private.to_string();
    let settings = json!({
        "mirrors": {"docker.io": {
            "endpoint": ["http://127.0.0.1:9", format!("https://{server}")],
            "rewrite": {"^library/(.*)": "mirrored/library/$1"},
        }},
        "configs": {server: {
            "auth": {"username": USER, "password": PASSWORD},
            "tls": {"ca_file": registry.ca()},
        }},
    });
    let file = registry.ca().with_file_name("registries.yaml");
    std::fs::write(&file, settings.to_string())?;
    let cluster = context.up_with(&["--registries", &file.to_string_lossy()]).await?;
    // A name without a host, which the cluster's own registry does not have.
    let pods = [pod("short", "tool:v1", ""), pod("full", "docker.io/library/tool:v1", "")];
    cluster.apply(&pods.join("---\n")).await?;
    succeeds(&cluster, "short").await?;
    succeeds(&cluster, "full").await?;
    // What the cluster's own registry has comes first.
    cluster.push(&tools::component("hello-v1"), "tool:v2").await?;
    registry.push("mirrored/library/tool:v2", &image).await?;
    cluster.apply(&pod("own", "tool:v2", "ports: [{containerPort: 8080}]")).await?;
    eventually(SOON, "the HTTP component runs", async || {
        let status = cluster.get(&["pod", "own"]).await?["status"].clone();
        anyhow::ensure!(status["phase"] == "Running", "{status:#}");
        Ok(())
    })
    .await?;
    // A file that says nothing useful is told before anything starts.
    std::fs::write(&file, r#"{"mirrors": {"docker.io": {"endpoint": ["mirror.example"]}}}"#)?;
    let args = ["up", "--registries", &*file.to_string_lossy(), "--data", "elsewhere"];
    let refused = cluster.coracle(&args).await?.refused()?;
    expect(&refused, &["registries.yaml", "\"mirror.example\" is no URL"])
}

pub(crate) async fn a_broken_connection_goes_on(context: Arc<Context>) -> Outcome {
    let Some(program) = program() else {
        skip("needs docker-registry");
        return Ok(());
    };
    let registry = Registry::start(&program).await?;
    let large = padded(&component("hello-command")?, 3 << 20);
    let size = large.len() as u64;
    registry.push("large:v1", &Image::artifact(large)).await?;
    let line = BadLine::to(registry.plain, 512 << 10).await?;
    let cluster = context.up().await?;
    cluster.apply(&pod("patient", &format!("{}/large:v1", line.address), "")).await?;
    succeeds(&cluster, "patient").await?;
    let (broken, resumed, bytes) = line.counts();
    anyhow::ensure!(broken >= 5 && resumed >= 5, "{broken} broken, {resumed} resumed");
    anyhow::ensure!(bytes < size * 3 / 2, "{bytes} bytes for a blob of {size}");
    Ok(())
}

/// The agent is killed while it fetches: the next one goes on where it was, and what it finds is whole.
pub(crate) async fn a_pull_survives_the_agent(context: Arc<Context>) -> Outcome {
    let Some(program) = program() else {
        skip("needs docker-registry");
        return Ok(());
    };
    let registry = Registry::start(&program).await?;
    let large = padded(&component("hello-command")?, 4 << 20);
    let size = large.len() as u64;
    registry.push("large:v1", &Image::artifact(large)).await?;
    // So little a time that it gives up again and again, but not at once.
    let line = BadLine::to(registry.plain, 300 << 10).await?;
    let cluster = context.split().await?;
    let parts = cluster.data().join("agent/images/parts");
    let begun = || {
        let files = std::fs::read_dir(&parts).into_iter().flatten().flatten();
        files.filter_map(|file| Some(file.metadata().ok()?.len())).max().unwrap_or(0)
    };
    cluster.apply(&pod("patient", &format!("{}/large:v1", line.address), "")).await?;
    eventually(SOON, "some of it is here", async || {
        anyhow::ensure!(begun() > 500 << 10, "{} bytes", begun());
        Ok(())
    })
    .await?;
    cluster.kill9(Part::Agent).await?;
    let had = begun();
    anyhow::ensure!(had > 0 && had < size, "{had} of {size} bytes when it was killed");
    let (_, _, before) = line.counts();
    line.mend();
    cluster.start(Part::Agent).await?;
    succeeds(&cluster, "patient").await?;
    let (_, _, after) = line.counts();
    // What was on its way when it was killed may come twice.
    let rest = size - had + (512 << 10);
    anyhow::ensure!(after - before <= rest, "{} bytes after {had} of {size}", after - before);
    Ok(())
}

pub(crate) async fn unused_images_go(context: Arc<Context>) -> Outcome {
    let thresholds = [
        ["--image-gc-high-threshold", "0"],
        ["--image-gc-low-threshold", "0"],
        ["--image-minimum-gc-age", "0"],
        ["--pin-image", "pinned:v1"],
    ];
    let cluster = context.up_with(&thresholds.concat()).await?;
    // Three programs, so that none keeps another's.
    for (number, name) in ["pinned", "used", "unused"].into_iter().enumerate() {
        let file = cluster.file(name, &padded(&component("hello-command")?, 100 + number))?;
        cluster.push(&file, &format!("{name}:v1")).await?;
    }
    let stays = "command: [tool, --sleep, '3600']";
    let pods = [
        pod("pinned", "pinned:v1", ""),
        pod("used", "used:v1", stays),
        pod("unused", "unused:v1", ""),
    ];
    cluster.apply(&pods.join("---\n")).await?;
    succeeds(&cluster, "pinned").await?;
    eventually(SOON, "only what is used or pinned is here", async || {
        let mut names = Vec::new();
        for file in std::fs::read_dir(cluster.data().join("agent/images/names"))? {
            let text = std::fs::read(file?.path())?;
            let name: Value = serde_json::from_slice(&text)?;
            names.push(name["name"].as_str().unwrap_or_default().to_owned());
        }
        names.sort();
        anyhow::ensure!(names == ["pinned:v1", "used:v1"], "{names:?}");
        let blobs = std::fs::read_dir(cluster.data().join("agent/images/blobs/sha256"))?.count();
        anyhow::ensure!(blobs == 2, "{blobs} blobs");
        Ok(())
    })
    .await?;
    // The one that is used still runs, and its image can be started anew.
    let status = cluster.get(&["pod", "used"]).await?["status"].clone();
    anyhow::ensure!(status["phase"] == "Running", "{status:#}");
    eventually(SOON, "people are told that this was not enough", async || {
        let events = cluster.kubectl(&["get", "events", "-A"]).await?;
        expect(&events, &["FreeDiskSpaceFailed", "Failed to garbage collect required amount"])
    })
    .await?;
    cluster.apply(&pod("unused-again", "unused:v1", "")).await?;
    succeeds(&cluster, "unused-again").await.map(drop)
}

/// `skopeo`, as one of the programs that push by the protocol: an OCI layout with an ordinary image in it.
pub(crate) async fn other_clients_push(context: Arc<Context>) -> Outcome {
    let found = std::process::Command::new("skopeo").arg("--version").output();
    if found.is_err() {
        skip("needs skopeo");
        return Ok(());
    }
    let cluster = context.up().await?;
    let certificates = cluster.home().join("certificates");
    std::fs::create_dir(&certificates)?;
    let kubeconfig = cluster.kubectl(&["config", "view", "--raw", "-o", "json"]).await?;
    let kubeconfig: Value = serde_json::from_str(&kubeconfig)?;
    let (authority, user) =
        (&kubeconfig["clusters"][0]["cluster"], &kubeconfig["users"][0]["user"]);
    for (name, content) in [
        ("ca.crt", &authority["certificate-authority-data"]),
        ("client.cert", &user["client-certificate-data"]),
        ("client.key", &user["client-key-data"]),
    ] {
        let content = content.as_str().with_context(|| format!("no {name}"))?;
        std::fs::write(certificates.join(name), STANDARD.decode(content)?)?;
    }
    cluster.push(&tools::component("hello-command"), "source:v1").await?;
    let api = cluster.api();
    let copy = |from: String, to: String| {
        let mut command = tokio::process::Command::new("skopeo");
        command.args(["--insecure-policy", "copy", "--src-cert-dir"]).arg(&certificates);
        command
            .arg("--dest-cert-dir")
            .arg(&certificates)
            .args([from, to])
            .current_dir(cluster.home());
        async move {
            let output = tokio::time::timeout(Duration::from_secs(60), command.output()).await??;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            anyhow::ensure!(output.status.success(), "{command:?}: {said}");
            anyhow::Ok(())
        }
    };
    copy(format!("docker://{api}/source:v1"), "oci:layout:v1".to_owned()).await?;
    copy("oci:layout:v1".to_owned(), format!("docker://{api}/copied/deep:v2")).await?;
    // The layout as it is, and as one file.
    let layout = cluster.home().join("layout");
    let archive = cluster.home().join("layout.tar");
    let mut tar = tar::Builder::new(std::fs::File::create(&archive)?);
    tar.append_dir_all(".", &layout)?;
    tar.finish()?;
    cluster.push(&layout, "folder:v1").await?;
    cluster.push(&archive, "archive:v1").await?;
    let images = [("copied", "copied/deep:v2"), ("folder", "folder:v1"), ("archive", "archive:v1")];
    let pods = images.map(|(name, image)| pod(name, image, ""));
    cluster.apply(&pods.join("---\n")).await?;
    for (name, _) in images {
        succeeds(&cluster, name).await?;
    }
    Ok(())
}
