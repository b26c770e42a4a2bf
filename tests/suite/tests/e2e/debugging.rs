//! Looking into Pods that run: `kubectl debug`, `exec`, `cp`, `attach` and `port-forward` with containers.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use coracle_test_cluster::tools::Kubectl;
use coracle_test_cluster::{Cluster, Output, Part, User, eventually, http, tools};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use crate::containers::{push_script, web};
use crate::context::{ClusterExt as _, Context, Outcome, SOON, expect};
use crate::streams::Forward;

/// The oldest kubectl, which speaks SPDY, and the newest, which speaks WebSocket.
fn oldest_and_newest() -> Vec<Kubectl> {
    let mut all = tools::kubectls();
    let newest = all.split_off(all.len().saturating_sub(1));
    all.truncate(1);
    all.into_iter().chain(newest).collect()
}

/// Runs one of them; what it said, success or not.
async fn run(
    cluster: &Cluster,
    kubectl: &Path,
    args: &[&str],
    input: &str,
) -> anyhow::Result<Output> {
    let command = cluster.kubectl_command(kubectl, args);
    let run = coracle_test_cluster::run(command.into(), input.as_bytes());
    tokio::time::timeout(SOON, run).await.with_context(|| format!("{args:?} takes too long"))?
}

/// A terminal of 33 rows and 111 columns in which a shell line runs.
struct Terminal {
    child: Child,
    shown: Lines<BufReader<ChildStdout>>,
    keys: ChildStdin,
    /// What it is called on this machine.
    device: String,
    /// What was on it so far.
    said: String,
}

impl Terminal {
    /// Runs a line there, `kubectl` being that one.
    async fn start(cluster: &Cluster, kubectl: &Path, line: &str) -> anyhow::Result<Self> {
        let line = format!("stty rows 33 cols 111; tty; {line}");
        let line = line.replace("kubectl ", &format!("{} ", kubectl.display()));
        let command = cluster.kubectl_command(Path::new("script"), &["-qefc", &line, "/dev/null"]);
        let mut command = tokio::process::Command::from(command);
        command.env("TERM", "xterm").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().context("script, of util-linux")?;
        let keys = child.stdin.take().context("no keyboard")?;
        let shown = BufReader::new(child.stdout.take().context("no screen")?).lines();
        let mut terminal = Self { child, shown, keys, device: String::new(), said: String::new() };
        terminal.until("/dev/pts/").await?;
        terminal.device = std::mem::take(&mut terminal.said).trim().to_owned();
        Ok(terminal)
    }

    async fn types(&mut self, text: &str) -> Outcome {
        self.keys.write_all(text.as_bytes()).await?;
        Ok(self.keys.flush().await?)
    }

    /// Reads on until a line holds `wanted`.
    async fn until(&mut self, wanted: &str) -> Outcome {
        let reading = async {
            while let Some(line) = self.shown.next_line().await? {
                self.said.push_str(&line);
                self.said.push('\n');
                if line.contains(wanted) {
                    return Ok(());
                }
            }
            anyhow::bail!("it ended")
        };
        let read = tokio::time::timeout(SOON, reading).await.context("too late");
        read.flatten().with_context(|| format!("no {wanted:?} in:\n{}", self.said))
    }

    /// Another size, as when somebody draws the window.
    async fn resize(&self, rows: u16, columns: u16) -> Outcome {
        let (rows, columns) = (rows.to_string(), columns.to_string());
        let mut command = tokio::process::Command::new("stty");
        command.args(["-F", &self.device, "rows", &rows, "cols", &columns]);
        coracle_test_cluster::run(command, b"").await?.ok().map(drop)
    }

    /// Waits for the line's end; all that was on the terminal, and the exit code.
    async fn end(mut self) -> anyhow::Result<(String, Option<i32>)> {
        let reading = async {
            while let Some(line) = self.shown.next_line().await? {
                self.said.push_str(&line);
                self.said.push('\n');
            }
            anyhow::Ok(self.child.wait().await?.code())
        };
        let ended = tokio::time::timeout(SOON, reading).await.context("it does not end");
        let code = ended.flatten().with_context(|| format!("after:\n{}", self.said))?;
        Ok((self.said, code))
    }
}

async fn wait_ready(cluster: &Cluster, pod: &str) -> Outcome {
    let pod = format!("pod/{pod}");
    cluster.kubectl(&["wait", "--for=condition=Ready", &pod, "--timeout=60s"]).await.map(drop)
}

/// The status of an ephemeral container.
async fn added(cluster: &Cluster, pod: &str, name: &str) -> anyhow::Result<Value> {
    let pod = cluster.get(&["pod", pod]).await?;
    let all = pod["status"]["ephemeralContainerStatuses"].as_array();
    let found = all.and_then(|all| all.iter().find(|c| c["name"] == name)).cloned();
    found.with_context(|| format!("no status of {name}: {:#}", pod["status"]))
}

/// Waits until an ephemeral container has ended; what became of it.
async fn end_of(cluster: &Cluster, pod: &str, name: &str) -> anyhow::Result<Value> {
    eventually(SOON, "the ephemeral container ends", async || {
        let status = added(cluster, pod, name).await?;
        anyhow::ensure!(status["state"]["terminated"].is_object(), "{status:#}");
        Ok(status)
    })
    .await
}

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: web:v1
    volumeMounts: [{name: shared, mountPath: /shared}]
  - name: talker
    image: tools:v1
    stdin: true
    tty: true
    command: [sh]
  volumes: [{name: shared, emptyDir: {}}]
"#;

async fn start(cluster: &Cluster) -> anyhow::Result<bool> {
    if !push_script(cluster, "web:v1", &web("v1")).await? {
        return Ok(false);
    }
    push_script(cluster, "tools:v1", "echo no command").await?;
    cluster.apply(POD).await?;
    wait_ready(cluster, "web").await?;
    Ok(true)
}

/// An ephemeral container shares what the Pod shares, sees its target's processes, is attached to, and runs once.
pub(crate) async fn debug_joins_a_pod_that_runs(context: Arc<Context>) -> Outcome {
    if context.user != User::Root {
        return Ok(());
    }
    let cluster = context.up().await?;
    if !start(&cluster).await? {
        return Ok(());
    }
    let look = "ps; wget -q -O - http://127.0.0.1:8080/version; cat /proc/1/root/www/health; hostname; exit 3";
    for kubectl in oldest_and_newest() {
        let version = kubectl.minor.unwrap_or_default();
        let name = format!("look-{version}");
        let args = ["debug", "web", "--image=tools:v1", "-c", &name, "--target=app", "--"];
        run(&cluster, &kubectl.path, &[&args[..], &["sh", "-c", look]].concat(), "").await?.ok()?;
        let status = end_of(&cluster, "web", &name).await?;
        anyhow::ensure!(status["state"]["terminated"]["exitCode"] == 3, "{status:#}");
        anyhow::ensure!(status["state"]["terminated"]["reason"] == "Error", "{status:#}");
        let said = cluster.kubectl(&["logs", "web", "-c", &name]).await?;
        expect(&said, &["httpd -f -p 8080", "v1\n", "ok\n", "web\n"])?;

        // Without a target it sees itself alone; with -i, kubectl attaches.
        let name = format!("alone-{version}");
        let args = ["debug", "web", "-i", "--image=tools:v1", "-c", &name, "--"];
        let typed = "read line; echo heard $line; ps";
        let args = [&args[..], &["sh", "-c", typed]].concat();
        let said = run(&cluster, &kubectl.path, &args, "hello\n").await?.ok()?;
        expect(&said, &["heard hello"])?;
        anyhow::ensure!(!said.contains("httpd"), "{said}");
        let name = format!("shell-{version}");
        let line = format!("kubectl debug web -it --image=tools:v1 -c {name} --target=app -- sh");
        let mut terminal = Terminal::start(&cluster, &kubectl.path, &line).await?;
        terminal.types("tty; kill -0 1 && echo saw it\nexit 5\n").await?;
        let (said, _) = terminal.end().await?;
        expect(&said, &["/dev/pts/0", "saw it"])?;
        let status = end_of(&cluster, "web", &name).await?;
        anyhow::ensure!(status["state"]["terminated"]["exitCode"] == 5, "{status:#}");
        anyhow::ensure!(status["restartCount"] == 0 && status["ready"] == false, "{status:#}");
    }
    let paths = "jsonpath={range .items[?(@.reason==\"Started\")]}{.involvedObject.fieldPath}{\"\\n\"}{end}";
    let paths = cluster.kubectl(&["get", "events", "-o", paths]).await?;
    expect(&paths, &["spec.containers{app}", "spec.ephemeralContainers{look-"])?;
    // They see the Pod's volumes if they mount them, and wait for a target that does not run.
    let more = serde_json::json!({"spec": {"ephemeralContainers": [
        {"name": "mounts", "image": "tools:v1", "command": ["sh", "-c", "echo said > /here/by-debug"],
            "volumeMounts": [{"name": "shared", "mountPath": "/here"}]},
        {"name": "none", "image": "no-such-image:v1"},
        {"name": "broken", "image": "tools:v1", "command": ["/no/such/program"]},
    ]}});
    let patch = more.to_string();
    let args = ["patch", "pod", "web", "--subresource=ephemeralcontainers", "-p", &patch];
    cluster.kubectl(&args).await?;
    end_of(&cluster, "web", "mounts").await?;
    let said =
        cluster.kubectl(&["exec", "web", "-c", "app", "--", "cat", "/shared/by-debug"]).await?;
    expect(&said, &["said"])?;
    let broken = end_of(&cluster, "web", "broken").await?["state"]["terminated"].clone();
    anyhow::ensure!(broken["reason"] == "StartError" && broken["exitCode"] == 128, "{broken:#}");
    eventually(SOON, "an image that is missing is told of", async || {
        let status = added(&cluster, "web", "none").await?;
        let reason = status["state"]["waiting"]["reason"].as_str().unwrap_or_default();
        anyhow::ensure!(["ErrImagePull", "ImagePullBackOff"].contains(&reason), "{status:#}");
        Ok(())
    })
    .await?;
    // None of that is the Pod's trouble.
    let table = cluster.kubectl(&["get", "pod", "web"]).await?;
    expect(&table, &["2/2", "Running"])
}

/// A component is run as an ephemeral container anywhere. A container image needs a Pod with containers, or a copy that is one;
/// otherwise it waits and says so.
pub(crate) async fn debug_in_wasm_pods(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1"), ("hello-command", "command:v1")]).await?;
    cluster.deploy_hello("web", "hello:v1", 1).await?;
    let pod = cluster.kubectl(&["get", "pods", "-l", "app=web", "-o", "name"]).await?;
    let pod = pod.trim().trim_start_matches("pod/");
    let args = ["debug", pod, "--image=command:v1", "-c", "wasm", "--target=app", "--"];
    // What comes after the dashes is the whole command line.
    cluster
        .kubectl(&[&args[..], &["hello-command", "--lines", "2", "--exit", "4"]].concat())
        .await?;
    let status = end_of(&cluster, pod, "wasm").await?;
    anyhow::ensure!(status["state"]["terminated"]["exitCode"] == 4, "{status:#}");
    expect(&cluster.kubectl(&["logs", pod, "-c", "wasm"]).await?, &["line 2"])?;
    if !push_script(&cluster, "tools:v1", "sleep 1000").await? {
        return Ok(());
    }
    cluster.kubectl(&["debug", pod, "--image=tools:v1", "-c", "box"]).await?;
    let why = match context.user {
        User::Root => "this Pod is of Wasm alone",
        User::Ordinary => "agent must run as root",
    };
    eventually(SOON, "it says why it waits", async || {
        let status = added(&cluster, pod, "box").await?;
        let waiting = &status["state"]["waiting"];
        anyhow::ensure!(waiting["reason"] == "CreateContainerError", "{status:#}");
        expect(waiting["message"].as_str().unwrap_or_default(), &["tools:v1", why])?;
        // Where `kubectl describe` shows it, too.
        let events = cluster.kubectl(&["get", "events", "-o", "wide"]).await?;
        let event = events.lines().find(|line| line.contains("Failed") && line.contains(why));
        expect(event.unwrap_or_default(), &[pod, "ephemeralContainers{box}", "tools:v1"])
    })
    .await?;
    expect(&cluster.kubectl(&["get", "pod", pod]).await?, &["1/1", "Running"])?;
    if context.user == User::Root {
        let args = ["debug", pod, "--copy-to=copy", "--image=tools:v1", "-c", "box"];
        cluster.kubectl(&args).await?;
        wait_ready(&cluster, "copy").await?;
        let look = ["exec", "copy", "-c", "box", "--", "wget", "-q", "-O", "-"];
        let said =
            cluster.kubectl(&[&look[..], &["http://127.0.0.1:8080/version"]].concat()).await?;
        expect(&said, &["v1"])?;
        // There a component may be run, too; but there is nothing to see in the one that serves.
        let args = ["debug", "copy", "--image=command:v1", "-c", "wasm", "--target=box", "--"];
        let refused = ["debug", "copy", "--image=tools:v1", "-c", "look", "--target=app"];
        cluster.kubectl(&[&args[..], &["hello-command", "--exit", "4"]].concat()).await?;
        cluster.kubectl(&refused).await?;
        let status = end_of(&cluster, "copy", "wasm").await?;
        anyhow::ensure!(status["state"]["terminated"]["exitCode"] == 4, "{status:#}");
        eventually(SOON, "it says why it waits", async || {
            let waiting = added(&cluster, "copy", "look").await?["state"]["waiting"].clone();
            anyhow::ensure!(waiting["reason"] == "CreateContainerConfigError", "{waiting:#}");
            let message = waiting["message"].as_str().unwrap_or_default();
            expect(message, &["\"app\" is a Wasm component, which has no processes"])
        })
        .await?;
        expect(&cluster.kubectl(&["get", "pod", "copy"]).await?, &["2/2", "Running"])?;
    }
    Ok(())
}

/// The agent is killed while an ephemeral container runs: it goes on, and is known to the next.
pub(crate) async fn what_was_added_outlives_the_agent(context: Arc<Context>) -> Outcome {
    if context.user != User::Root {
        return Ok(());
    }
    let cluster = context.split().await?;
    if !start(&cluster).await? {
        return Ok(());
    }
    let args = ["debug", "web", "--image=tools:v1", "-c", "long", "--target=app", "--"];
    cluster
        .kubectl(
            &[&args[..], &["sh", "-c", "while [ ! -e /end ]; do sleep 0.1; done; exit 6"]].concat(),
        )
        .await?;
    let since = eventually(SOON, "it runs", async || {
        let status = added(&cluster, "web", "long").await?;
        let since = status["state"]["running"]["startedAt"].clone();
        anyhow::ensure!(since.is_string(), "{status:#}");
        Ok(since)
    })
    .await?;
    cluster.kill9(Part::Agent).await?;
    cluster.start(Part::Agent).await?;
    let end = ["exec", "web", "-c", "long", "--", "touch", "/end"];
    eventually(SOON, "the next agent knows it", async || cluster.kubectl(&end).await.map(drop))
        .await?;
    let ended = end_of(&cluster, "web", "long").await?["state"]["terminated"].clone();
    anyhow::ensure!(ended["exitCode"] == 6 && ended["startedAt"] == since, "{ended:#}");
    // A later agent does not run it again, either.
    cluster.kill9(Part::Agent).await?;
    cluster.start(Part::Agent).await?;
    wait_ready(&cluster, "web").await?;
    let again = end_of(&cluster, "web", "long").await?["state"]["terminated"].clone();
    anyhow::ensure!(again == ended, "{again:#}");
    Ok(())
}

/// `kubectl debug node/…` makes a Pod that sees all of its machine.
pub(crate) async fn debug_looks_at_a_node(context: Arc<Context>) -> Outcome {
    if context.user != User::Root {
        return Ok(());
    }
    let cluster = context.up().await?;
    if !push_script(&cluster, "tools:v1", "true").await? {
        return Ok(());
    }
    let node = cluster.kubectl(&["get", "nodes", "-o", "name"]).await?;
    // What is said before kubectl has attached goes to the log alone.
    let look = "read line; cat /host/etc/passwd; ps; ls -l /proc/self/ns/net";
    let args = ["debug", node.trim(), "-i", "--image=tools:v1", "--", "sh", "-c", look];
    let said = cluster.kubectl_with(&args, "go\n").await?.ok()?;
    let machine = std::fs::read_to_string("/etc/passwd")?;
    let (first, own) =
        (machine.lines().next().unwrap_or_default(), std::fs::read_link("/proc/self/ns/net")?);
    expect(&said, &[first, &own.display().to_string()])
}

/// Streams, terminals, sizes and exit codes, over both protocols.
pub(crate) async fn exec_and_cp_and_attach(context: Arc<Context>) -> Outcome {
    if context.user != User::Root {
        return Ok(());
    }
    let cluster = context.up().await?;
    if !start(&cluster).await? {
        return Ok(());
    }
    for kubectl in oldest_and_newest() {
        let version = kubectl.minor.unwrap_or_default();
        let exec = async |args: &[&str], input: &str| {
            let all = [&["exec", "-i", "web", "-c", "app", "--"], args].concat();
            run(&cluster, &kubectl.path, &all, input).await
        };
        let both = exec(&["sh", "-c", "cat; echo out; echo err >&2; exit 42"], "typed").await?;
        anyhow::ensure!(both.stdout == "typedout\n", "{both:?}");
        expect(&both.stderr, &["err\n", "exit code 42"])?;
        anyhow::ensure!(both.status.code() == Some(42), "{both:?}");
        // What cannot be executed is said as people know it.
        for (program, code, words) in [
            ("nope", 127, "exec: \"nope\": executable file not found in $PATH"),
            ("/no/such", 127, "no such file or directory"),
            ("/etc/passwd", 126, "permission denied"),
        ] {
            let refused = exec(&[program], "").await?;
            expect(&refused.stderr, &[words])?;
            anyhow::ensure!(refused.status.code() == Some(code), "{program}: {refused:?}");
        }

        // A terminal is as large as the client's, also when that changes.
        let is = |size| format!("until [ \"$(stty size)\" = \"{size}\" ]; do sleep 0.1; done");
        let script = format!("tty; {}; echo sized; {}; exit 9", is("33 111"), is("44 122"));
        let line = format!("kubectl exec -it web -c app -- sh -c '{script}'");
        let mut terminal = Terminal::start(&cluster, &kubectl.path, &line).await?;
        terminal.until("sized").await.with_context(|| format!("kubectl 1.{version}"))?;
        terminal.resize(44, 122).await?;
        let (said, code) = terminal.end().await?;
        expect(&said, &["/dev/pts/0"])?;
        // What the node's own programs note is not for users.
        anyhow::ensure!(!said.contains("libcontainer"), "{said}");
        anyhow::ensure!(code == Some(9), "{code:?}: {said}");
        let line = "kubectl attach -it web -c talker";
        let mut terminal = Terminal::start(&cluster, &kubectl.path, line).await?;
        terminal.types(&format!("{}; echo $((6*7)) rows\n", is("33 111"))).await?;
        terminal.until("42 rows").await?;
        drop(terminal);

        // Files go both ways, folders with all that is in them.
        let from = cluster.home().join(format!("from-{version}"));
        std::fs::create_dir_all(from.join("inner"))?;
        let much = vec![b'x'; 3 << 20];
        std::fs::write(from.join("inner/much"), &much)?;
        std::fs::write(from.join("little"), "said")?;
        let (there, back) =
            (format!("web:/tmp/from-{version}"), cluster.home().join(format!("back-{version}")));
        let copy = async |from: &str, to: &str| {
            run(&cluster, &kubectl.path, &["cp", "-c", "app", from, to], "").await?.ok()
        };
        copy(&from.display().to_string(), &there).await?;
        copy(&there, &back.display().to_string()).await?;
        anyhow::ensure!(std::fs::read(back.join("inner/much"))? == much);
        anyhow::ensure!(std::fs::read(back.join("little"))? == b"said");

        // A server that listens on the Pod's localhost alone is reached by a forward.
        let serve = "mkdir -p /tmp/l; echo only here > /tmp/l/index.html; httpd -p 127.0.0.1:9090 -h /tmp/l || true";
        exec(&["sh", "-c", serve], "").await?;
        let forward = Forward::start(&cluster, &kubectl.path, &["pod/web", ":9090"]).await?;
        expect(&http::get(forward.address, "/").await?.body, &["only here"])?;
    }
    let ip = cluster.get(&["pod", "web"]).await?["status"]["podIP"].clone();
    let outside = SocketAddr::new(ip.as_str().context("no podIP")?.parse()?, 9090);
    let reached = tokio::time::timeout(Duration::from_secs(2), http::get(outside, "/")).await;
    anyhow::ensure!(!matches!(reached, Ok(Ok(_))), "it listens on localhost alone");
    Ok(())
}
