//! Volumes as a running guest sees them, and what is said while one is missing.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use coracle_test_cluster::{Cluster, Part, Runtime, User, eventually};

use crate::context::{ClusterExt as _, Context, Outcome, SOON, command_pod, expect};

const IMAGES: &[(&str, &str)] = &[("probe-files", "hello-command:v1")];

/// A Pod that runs the command component with `args`, and `more` of its spec, indented for the container first.
fn pod(name: &str, args: &[&str], mounts: &str, spec: &str) -> String {
    let base = command_pod(name, "Never", args);
    format!("{}\n    volumeMounts:\n{mounts}  volumes:\n{spec}", base.trim_end())
}

async fn logs(cluster: &Cluster, pod: &str, parts: &[&str]) -> Outcome {
    eventually(SOON, "the guest says what it sees", async || {
        expect(&cluster.kubectl(&["logs", pod]).await?, parts)
    })
    .await
}

async fn phase(cluster: &Cluster, pod: &str, wanted: &str) -> Outcome {
    eventually(SOON, wanted, async || {
        let status = cluster.get(&["pod", pod]).await?["status"].clone();
        anyhow::ensure!(status["phase"] == wanted, "{pod}: {status:#}");
        Ok(())
    })
    .await
}

pub(crate) async fn every_kind_is_mounted(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(IMAGES).await?;
    cluster.kubectl(&["create", "configmap", "m", "--from-literal=a=from-map"]).await?;
    cluster.kubectl(&["create", "secret", "generic", "s", "--from-literal=b=from-secret"]).await?;
    let reads = [
        "/map/deep/a",
        "/secret/b",
        "/all/c",
        "/all/d",
        "/all/ns",
        "/down/labels",
        "/down/memory",
        "/var/run/secrets/kubernetes.io/serviceaccount/namespace",
        "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt",
    ];
    let mut args: Vec<&str> = reads.iter().flat_map(|path| ["--read", *path]).collect();
    args.extend(["--write", "/disk/x=on disk", "--read", "/disk/x"]);
    args.extend(["--write", "/memory/x=in memory", "--read", "/memory/x"]);
    args.extend(["--write", "/disk/sub/y=below", "--read", "/parts/y"]);
    args.extend(["--read", "/files/renamed", "--list", "/files", "--list", "/secret"]);
    let mounts = "    - {name: map, mountPath: /map}
    - {name: map, mountPath: /files/renamed, subPath: deep/a}
    - {name: secret, mountPath: /secret}
    - {name: all, mountPath: /all}
    - {name: down, mountPath: /down}
    - {name: disk, mountPath: /disk}
    - {name: disk, mountPath: /parts, subPathExpr: $(PART)}
    - {name: memory, mountPath: /memory}
    env: [{name: PART, value: sub}]
    resources: {limits: {memory: 64Mi}}
";
    let volumes = "  - {name: map, configMap: {name: m, items: [{key: a, path: deep/a}]}}
  - {name: secret, secret: {secretName: s, defaultMode: 0400}}
  - name: all
    projected:
      sources:
      - {configMap: {name: m, items: [{key: a, path: c}]}}
      - {secret: {name: s, items: [{key: b, path: d}]}}
      - {configMap: {name: not-there, optional: true}}
      - {downwardAPI: {items: [{path: ns, fieldRef: {fieldPath: metadata.namespace}}]}}
  - name: down
    downwardAPI:
      items:
      - {path: labels, fieldRef: {fieldPath: metadata.labels}}
      - {path: memory, resourceFieldRef: {containerName: main, resource: limits.memory, divisor: 1Mi}}
  - {name: disk, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
";
    cluster.apply(&pod("reader", &args, mounts, volumes)).await?;
    phase(&cluster, "reader", "Succeeded").await?;
    let said = [
        "\nfrom-map\n",
        "\nfrom-secret\n",
        "\ndefault\n",
        "\napp=\"reader\"\n",
        "\n64\n",
        "BEGIN CERTIFICATE",
        "\non disk\n",
        "\nin memory\n",
        "\nbelow\n",
        "\nrenamed\n",
    ];
    expect(&cluster.kubectl(&["logs", "reader"]).await?, &said)?;

    // What is made of objects is for reading, and so is what the mount says is.
    for (name, path) in [("one", "/map/x"), ("two", "/disk/x")] {
        let mounts = "    - {name: map, mountPath: /map}
    - {name: disk, mountPath: /disk, readOnly: true}
";
        let volumes = "  - {name: map, configMap: {name: m}}
  - {name: disk, emptyDir: {}}
";
        let write = format!("{path}=no");
        cluster.apply(&pod(name, &["--write", &write], mounts, volumes)).await?;
        phase(&cluster, name, "Failed").await?;
        let said = cluster.kubectl(&["logs", name]).await?;
        expect(&said, &[&format!("hello-command: {path}: ")])?;
    }
    Ok(())
}

pub(crate) async fn changes_are_seen_by_running_guests(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(IMAGES).await?;
    cluster.kubectl(&["create", "configmap", "m", "--from-literal=a=first"]).await?;
    cluster.kubectl(&["create", "secret", "generic", "s", "--from-literal=b=hidden"]).await?;
    let mounts = "    - {name: map, mountPath: /map}
    - {name: map, mountPath: /fixed/a, subPath: a}
    - {name: all, mountPath: /all}
    - {name: down, mountPath: /down}
";
    let volumes = "  - {name: map, configMap: {name: m}}
  - {name: all, projected: {sources: [{secret: {name: s}}]}}
  - {name: down, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
";
    let follow =
        [("map", "/map/a"), ("fixed", "/fixed/a"), ("all", "/all/b"), ("down", "/down/labels")];
    for (name, path) in follow {
        cluster.apply(&pod(name, &["--follow", path], mounts, volumes)).await?;
    }
    for (name, text) in [("map", "first"), ("fixed", "first"), ("all", "hidden"), ("down", "app=")]
    {
        logs(&cluster, name, &[text]).await?;
    }
    let patch = r#"{"data": {"a": "second"}}"#;
    cluster.kubectl(&["patch", "configmap", "m", "-p", patch]).await?;
    let patch = r#"{"stringData": {"b": "shown"}}"#;
    cluster.kubectl(&["patch", "secret", "s", "-p", patch]).await?;
    cluster.kubectl(&["label", "pod", "down", "colour=blue"]).await?;
    for (name, text) in [("map", "second"), ("all", "shown"), ("down", "colour=\"blue\"")] {
        logs(&cluster, name, &[text]).await?;
    }
    // By the rule of upstream, what is mounted by subPath stays.
    let fixed = cluster.kubectl(&["logs", "fixed"]).await?;
    anyhow::ensure!(!fixed.contains("second"), "{fixed}");
    Ok(())
}

pub(crate) async fn a_full_empty_dir_is_evicted(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(IMAGES).await?;
    let mounts = "    - {name: scratch, mountPath: /scratch}\n";
    let volumes = "  - {name: scratch, emptyDir: {sizeLimit: 1Mi}}\n";
    for (name, fill) in [("modest", "/scratch/x=900"), ("greedy", "/scratch/x=1100")] {
        let args = ["--fill", fill, "--sleep", "600"];
        cluster.apply(&pod(name, &args, mounts, volumes)).await?;
    }
    phase(&cluster, "greedy", "Failed").await?;
    let status = cluster.get(&["pod", "greedy"]).await?["status"].clone();
    let message = "Usage of EmptyDir volume \"scratch\" exceeds the limit \"1Mi\". ";
    anyhow::ensure!(status["reason"] == "Evicted" && status["message"] == message, "{status:#}");
    eventually(SOON, "an event tells of it", async || {
        expect(&cluster.kubectl(&["get", "events"]).await?, &["Evicted", message.trim()])
    })
    .await?;
    phase(&cluster, "modest", "Running").await
}

pub(crate) async fn a_token_calls_the_api_while_its_pod_lives(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(IMAGES).await?;
    cluster.kubectl(&["create", "serviceaccount", "robot"]).await?;
    let role = ["create", "role", "reader", "--verb=get,list", "--resource=pods"];
    cluster.kubectl(&role).await?;
    let binding =
        ["create", "rolebinding", "robot", "--role=reader", "--serviceaccount=default:robot"];
    cluster.kubectl(&binding).await?;
    let path = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    let args = ["--read", path, "--read", "/tokens/vault", "--sleep", "600"];
    let mounts = "    - {name: tokens, mountPath: /tokens}\n";
    let volumes = "  - name: tokens
    projected:
      sources: [{serviceAccountToken: {path: vault, audience: vault, expirationSeconds: 600}}]
  serviceAccountName: robot
";
    cluster.apply(&pod("caller", &args, mounts, volumes)).await?;
    let mut tokens = Vec::new();
    eventually(SOON, "the guest shows its tokens", async || {
        let said = cluster.kubectl(&["logs", "caller"]).await?;
        tokens = said.lines().filter(|l| l.starts_with("eyJ")).map(str::to_owned).collect();
        anyhow::ensure!(tokens.len() == 2, "{said}");
        Ok(())
    })
    .await?;
    let ask = async |token: &str, what: &str| {
        let flags = ["--kubeconfig=/dev/null", "--insecure-skip-tls-verify", "--token", token];
        let server = format!("--server=https://{}", cluster.api());
        let args = [&flags[..], &[&server, "get", what]].concat();
        cluster.kubectl_with(&args, "").await
    };
    expect(&ask(&tokens[0], "pods").await?.ok()?, &["caller"])?;
    expect(
        &ask(&tokens[0], "secrets").await?.refused()?,
        &["system:serviceaccount:default:robot"],
    )?;
    // A token for somebody else is none for the API.
    expect(&ask(&tokens[1], "pods").await?.refused()?, &["Unauthorized"])?;
    cluster.kubectl(&["delete", "pod", "caller", "--now"]).await?;
    eventually(SOON, "its token is worth nothing", async || {
        expect(&ask(&tokens[0], "pods").await?.refused()?, &["Unauthorized"])
    })
    .await
}

pub(crate) async fn a_pod_waits_for_what_it_mounts(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(IMAGES).await?;
    let mounts = "    - {name: late, mountPath: /late}\n";
    let volumes = "  - {name: late, configMap: {name: late}}\n";
    cluster.apply(&pod("waiter", &["--read", "/late/a"], mounts, volumes)).await?;
    let volumes = "  - {name: late, nfs: {server: s, path: /p}}\n";
    cluster.apply(&pod("elsewhere", &[], mounts, volumes)).await?;
    for (name, message) in [
        ("waiter", "MountVolume.SetUp failed for volume \"late\" : configmap \"late\" not found"),
        (
            "elsewhere",
            "MountVolume.SetUp failed for volume \"late\" : nfs volumes cannot be mounted",
        ),
    ] {
        eventually(SOON, "it says what is missing", async || {
            let text = cluster.kubectl(&["describe", "pod", name]).await?;
            expect(&text, &["FailedMount", message, "ContainerCreating"])
        })
        .await?;
    }
    cluster.kubectl(&["create", "configmap", "late", "--from-literal=a=here"]).await?;
    phase(&cluster, "waiter", "Succeeded").await?;
    expect(&cluster.kubectl(&["logs", "waiter"]).await?, &["\nhere\n"])
}

pub(crate) async fn paths_of_the_machine_where_allowed(context: Arc<Context>) -> Outcome {
    let outside = tempfile::tempdir()?;
    let open = outside.path().join("open");
    std::fs::create_dir_all(&open)?;
    std::fs::write(open.join("greeting"), "from the machine")?;
    use std::os::unix::fs::PermissionsExt as _;
    for path in [outside.path(), &open] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
    }
    let allowed = open.display().to_string();
    let cluster = context.up_with(&["--allow-host-path", &allowed]).await?;
    cluster.push_all(IMAGES).await?;
    let mounts = "    - {name: machine, mountPath: /machine, readOnly: true}\n";
    let volume = |path: &str, kind: &str| {
        format!("  - {{name: machine, hostPath: {{path: {path}, type: {kind}}}}}\n")
    };
    let read = ["--read", "/machine/greeting"];
    cluster.apply(&pod("outside", &read, mounts, &volume("/etc", "Directory"))).await?;
    let file = format!("{allowed}/greeting");
    cluster.apply(&pod("wrong", &read, mounts, &volume(&file, "Directory"))).await?;
    for (name, message) in [
        ("outside", "hostPath /etc is not allowed on this node".to_owned()),
        ("wrong", format!("hostPath type check failed: {file} is not a directory")),
    ] {
        eventually(SOON, "it says why", async || {
            let text = cluster.kubectl(&["describe", "pod", name]).await?;
            expect(&text, &["FailedMount", &message])
        })
        .await?;
    }
    Ok(())
}

/// As a token looks that was issued then, for so long. Whoever replaces it does not ask who signed it.
fn aged_token(issued: i64, lifetime: i64) -> String {
    let claims = format!(r#"{{"iat": {issued}, "exp": {}}}"#, issued + lifetime);
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.{}", encode(r#"{"alg": "none"}"#), encode(&claims), encode("nobody"))
}

/// Where a Pod has its volumes: with those of others, or in a folder of its own.
fn volumes_of(cluster: &Cluster, uid: &str) -> anyhow::Result<PathBuf> {
    let agent = cluster.data().join("agent");
    let groups = std::fs::read_dir(agent.join("groups")).into_iter().flatten().flatten();
    let all = [agent].into_iter().chain(groups.map(|group| group.path()));
    let mut found = all.map(|folder| folder.join("volumes").join(uid));
    found.find(|path| path.is_dir()).with_context(|| format!("Pod {uid} has no volumes"))
}

pub(crate) async fn a_token_is_replaced_before_it_ends(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(IMAGES).await?;
    cluster.kubectl(&["create", "configmap", "m", "--from-literal=a=first"]).await?;
    let mounts = "    - {name: tokens, mountPath: /tokens}\n";
    let volumes = "  - name: tokens
    projected:
      sources:
      - {serviceAccountToken: {path: vault, audience: vault, expirationSeconds: 600}}
      - {configMap: {name: m}}
";
    let args = ["--follow", "/tokens/vault"];
    cluster.apply(&pod("holder", &args, mounts, volumes)).await?;
    let shown = async || {
        let said = cluster.kubectl(&["logs", "holder"]).await?;
        let tokens = said.lines().filter(|line| line.matches('.').count() == 2);
        anyhow::Ok(tokens.map(str::to_owned).collect::<Vec<_>>())
    };
    eventually(SOON, "the guest shows its token", async || {
        anyhow::ensure!(shown().await?.len() == 1);
        Ok(())
    })
    .await?;
    // 80 % of its ten minutes are over: in 8 seconds, and at once. The agent learns of it when it looks at the volume.
    let uid = cluster.get(&["pod", "holder"]).await?["metadata"]["uid"].clone();
    let volume = volumes_of(&cluster, uid.as_str().unwrap_or_default())?;
    for (left, change) in [(8, "second"), (-20, "third")] {
        let before = shown().await?;
        let now = std::time::UNIX_EPOCH.elapsed()?.as_secs() as i64;
        let aged = aged_token(now - 480 + left, 600);
        std::fs::write(volume.join("tokens/..data/vault"), &aged)?;
        let patch = format!(r#"{{"data": {{"a": "{change}"}}}}"#);
        cluster.kubectl(&["patch", "configmap", "m", "-p", &patch]).await?;
        eventually(SOON, "the guest shows another token", async || {
            let tokens = shown().await?;
            let last = tokens.last().map(String::as_str).unwrap_or_default();
            let fresh = last != aged && !before.iter().any(|token| token == last);
            anyhow::ensure!(fresh, "{tokens:?}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// Pods that go while there is no agent: told to end, or taken away by force.
pub(crate) async fn volumes_of_pods_that_went_meanwhile_go(context: Arc<Context>) -> Outcome {
    let cluster = context.split().await?;
    cluster.push_all(IMAGES).await?;
    let mounts = "    - {name: memory, mountPath: /memory}\n";
    let volumes = "  - {name: memory, emptyDir: {medium: Memory}}\n";
    let args = ["--write", "/memory/x=kept", "--read", "/memory/x", "--sleep", "600"];
    for name in ["ended", "forced", "apart", "stays"] {
        let mut manifest = pod(name, &args, mounts, volumes);
        if name == "apart" {
            manifest = manifest.replace(
                "metadata: {name: apart,",
                "metadata: {name: apart, annotations: {coracle.dev/isolation: pod},",
            );
        }
        cluster.apply(&manifest).await?;
        logs(&cluster, name, &["kept"]).await?;
    }
    let left = || {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let data = cluster.data().display().to_string();
        let mounts = mounts.lines().filter(|line| line.contains(&data)).count();
        let volumes = std::fs::read_dir(cluster.data().join("agent/volumes")).into_iter();
        let groups = std::fs::read_dir(cluster.data().join("agent/groups")).into_iter();
        (mounts, volumes.flatten().count(), groups.flatten().count())
    };
    let in_memory = usize::from(cluster.user() == User::Root);
    // Of Pods that have folders with others, and of those that are apart, as all are that have containers.
    let (together, apart) = if context.runtime == Runtime::Wasm { (3, 1) } else { (0, 4) };
    anyhow::ensure!(left() == (4 * in_memory, together, apart), "{:?}", left());
    cluster.kill9(Part::Agent).await?;
    cluster.kubectl(&["delete", "pod", "ended", "--wait=false", "--grace-period=1"]).await?;
    for name in ["forced", "apart"] {
        cluster.kubectl(&["delete", "pod", name, "--force", "--grace-period=0"]).await?;
    }
    cluster.start(Part::Agent).await?;
    eventually(SOON, "nothing of them is left", async || {
        anyhow::ensure!(left() == (in_memory, together / 3, apart / 4), "{:?}", left());
        Ok(())
    })
    .await?;
    phase(&cluster, "stays", "Running").await
}
