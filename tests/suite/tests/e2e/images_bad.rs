//! What strangers' images do to a node: they wait, with words that say what is wrong, and nobody else notices.

use std::sync::Arc;

use coracle_test_cluster::{Cluster, User, eventually, http, tools};
use serde_json::Value;

use crate::context::{ClusterExt as _, Context, Outcome, SOON, command_pod, expect};

async fn waiting(cluster: &Cluster, pod: &str) -> anyhow::Result<Value> {
    let pod = cluster.get(&["pod", pod]).await?;
    Ok(pod["status"]["containerStatuses"][0]["state"]["waiting"].clone())
}

async fn run(cluster: &Cluster, name: &str) -> Outcome {
    let image = format!("{name}:v1");
    cluster.apply(&command_pod(name, "Never", &[]).replace("hello-command:v1", &image)).await?;
    Ok(())
}

/// Pushes bytes as they are, as any client of the registry may.
async fn push_anything(cluster: &Cluster, name: &str, content: &[u8]) -> Outcome {
    let file = cluster.file(&format!("{name}.wasm"), content)?;
    // A component's first bytes let it through; the rest is the node's to judge.
    cluster.push(&file, &format!("{name}:v1")).await
}

const HEAD: &[u8] = b"\0asm\x0d\0\x01\0";

/// A command component around a core module's text.
fn command(module: &str) -> anyhow::Result<Vec<u8>> {
    Ok(wat::parse_str(format!(
        r#"(component
        (core module $m {module} (func (export "run") (result i32) i32.const 0))
        (core instance $i (instantiate $m))
        (func $run (result (result)) (canon lift (core func $i "run")))
        (instance $r (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $r)))"#
    ))?)
}

pub(crate) async fn bad_images_wait_and_say_why(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1")]).await?;
    cluster.deploy_hello("good", "hello:v1", 1).await?;
    let good = cluster.service("default", "good").await?;

    let hello = std::fs::read(tools::component("hello-v1"))?;
    let nested = format!("{}{}", "(component ".repeat(40), ")".repeat(40));
    let imports: String = (0..3_000).map(|n| format!("(import \"f{n}\" (func))")).collect();
    let memories = "(memory 1)".repeat(50);
    let cases: [(&str, Vec<u8>, &str); 6] = [
        ("truncated", hello[..hello.len() / 2].to_vec(), "cut off"),
        ("garbage", [HEAD, &[0xff; 64]].concat(), "not valid WebAssembly"),
        ("nested", wat::parse_str(nested)?, "16 deep"),
        ("imports", wat::parse_str(format!("(component {imports})"))?, "1000 imports"),
        ("memories", command(&memories)?, "more than the largest instance"),
        (
            "hungry",
            command("(memory 60000 65536)(table 9000000 funcref)")?,
            "more than the largest instance",
        ),
    ];
    for (name, content, _) in &cases {
        push_anything(&cluster, name, content).await?;
        run(&cluster, name).await?;
    }
    for (name, _, words) in &cases {
        eventually(SOON, "the container waits, and says why", async || {
            let waiting = waiting(&cluster, name).await?;
            anyhow::ensure!(waiting["reason"] == "CreateContainerError", "{name}: {waiting:#}");
            expect(waiting["message"].as_str().unwrap_or_default(), &[&format!("{name}:v1"), words])
        })
        .await?;
    }
    expect(&http::get(good, "/health").await?.body, &["ok"])
}

/// Small, and more than the compiler can hold: every block of it joins what hundreds of others left in its variables.
fn bomb() -> anyhow::Result<Vec<u8>> {
    const VARIABLES: usize = 1000;
    let variables = "i32 ".repeat(VARIABLES);
    let block = |n: usize| {
        let [a, b, c] = [7919, 104_729, 1_299_709].map(|prime| n * prime / 3 % VARIABLES);
        format!("(loop (br_if 0 (local.tee {a} (i32.add (local.get {b}) (local.get {c})))))")
    };
    let blocks: String = (0..20_000).map(block).collect();
    command(&format!("(func (result i32) (local {variables}) {blocks} (local.get 0))"))
}

/// What a process that compiles may do.
fn may_do_little(cluster: &Cluster, pid: i32) -> Outcome {
    let proc = format!("/proc/{pid}");
    let status = std::fs::read_to_string(format!("{proc}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(str::trim).unwrap_or_default().to_owned()
    };
    anyhow::ensure!(field("NoNewPrivs:") == "1" && field("Seccomp:") == "2", "{status}");
    for name in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        anyhow::ensure!(field(name) == "0000000000000000", "{name} {}", field(name));
    }
    if cluster.user() == User::Root {
        let ids: Vec<u32> = field("Uid:").split_whitespace().flat_map(str::parse).collect();
        let own = |id: &u32| *id == ids[0] && *id >= 0x7000_0000;
        anyhow::ensure!(ids.len() == 4 && ids.iter().all(own), "{ids:?}");
        anyhow::ensure!(field("Groups:").is_empty(), "groups: {}", field("Groups:"));
        let key = cluster.data().join("admin.kubeconfig");
        let inside = std::path::Path::new(&format!("{proc}/root")).join(key.strip_prefix("/")?);
        anyhow::ensure!(key.exists() && !inside.exists(), "{} is there", inside.display());
    }
    Ok(())
}

pub(crate) async fn a_compile_bomb_ends_and_says_why(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1")]).await?;
    cluster.deploy_hello("good", "hello:v1", 1).await?;
    let good = cluster.service("default", "good").await?;
    push_anything(&cluster, "bomb", &bomb()?).await?;
    run(&cluster, "bomb").await?;
    eventually(SOON, "a process compiles, and may do nothing else", async || {
        let compilers = cluster.compilers();
        let pid = *compilers.first().ok_or_else(|| anyhow::anyhow!("nothing compiles"))?;
        may_do_little(&cluster, pid)
    })
    .await?;
    // A debug build is given three times as long.
    eventually(std::time::Duration::from_secs(150), "it ended, and says why", async || {
        let answer = http::get(good, "/health").await?;
        anyhow::ensure!(answer.status == 200, "the neighbour: {}", answer.status);
        let waiting = waiting(&cluster, "bomb").await?;
        anyhow::ensure!(waiting["reason"] == "CreateContainerError", "{waiting:#}");
        let words = ["bomb:v1", "more memory than an image of its size may use", "split up"];
        expect(waiting["message"].as_str().unwrap_or_default(), &words)
    })
    .await?;
    let events = cluster.kubectl(&["events", "--for", "pod/bomb"]).await?;
    expect(&events, &["Warning", "Failed", "more memory than an image of its size may use"])?;
    anyhow::ensure!(cluster.compilers().is_empty(), "it is tried again: {:?}", cluster.compilers());
    Ok(())
}

pub(crate) async fn core_modules_run(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    let program = wat::parse_str(
        r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
        (memory (export "memory") 1)
        (data (i32.const 16) "adapted and well\n")
        (func (export "_start")
            (i32.store (i32.const 0) (i32.const 16))
            (i32.store (i32.const 4) (i32.const 17))
            (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
            (call $exit (i32.const 7))))"#,
    )?;
    let file = cluster.file("core.wasm", &program)?;
    cluster.push(&file, "core:v1").await?;
    run(&cluster, "core").await?;
    eventually(SOON, "it ran to its end", async || {
        let pod = cluster.get(&["pod", "core"]).await?;
        let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
        anyhow::ensure!(ended["exitCode"] == 7, "{:#}", pod["status"]);
        // What it may do at most is there to be read.
        let imports = pod["metadata"]["annotations"]["coracle.dev/imports"].as_str();
        expect(imports.unwrap_or_default(), &["wasi:cli/exit", "wasi:cli/stdout"])
    })
    .await?;
    expect(&cluster.kubectl(&["logs", "core"]).await?, &["adapted and well"])?;
    let events = cluster.kubectl(&["get", "events"]).await?;
    expect(&events, &["Compiled", "made from a core module", "wasi:cli/exit"])
}

pub(crate) async fn inspect_tells_what_a_component_wants(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1")]).await?;
    let output = cluster.coracle(&["inspect", "hello:v1"]).await?;
    expect(&output.ok()?, &["HTTP service", "wasi:http/types@0.2", "env and args", "sha256:"])?;
    let stranger = wat::parse_str(
        r#"(component (import "acme:widgets/thing@1.0.0" (instance (export "f" (func)))))"#,
    )?;
    let file = cluster.file("stranger.wasm", &stranger)?;
    let words: [&std::ffi::OsStr; 4] =
        ["inspect".as_ref(), "-o".as_ref(), "json".as_ref(), file.as_ref()];
    let json: Value = serde_json::from_str(&cluster.coracle(&words).await?.ok()?)?;
    anyhow::ensure!(json["missing"][0] == "acme:widgets/thing@1.0.0", "{json:#}");
    anyhow::ensure!(json["imports"][0]["offered"] == false, "{json:#}");
    let file = cluster.file("broken.wasm", b"\x7fELF nonsense")?;
    let output = cluster.coracle(&["inspect".as_ref(), file.as_os_str()]).await?;
    expect(&output.refused()?, &["broken.wasm", "native program"])
}
