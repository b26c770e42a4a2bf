//! What bodies run in: their clusters, a time limit, and a report when something fails.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use coracle_test_cluster::{
    Cluster, Options, Part, Runtime, User, containers, eventually, http, tools,
};
use futures::FutureExt as _;
use serde_json::Value;

/// Longest that a body may take.
const LIMIT: Duration = Duration::from_secs(240);
/// How long a kubectl that waits may do so.
pub(crate) const PATIENCE: &str = "--timeout=60s";
/// How long other things may take to come about.
pub(crate) const SOON: Duration = Duration::from_secs(30);

pub(crate) type Outcome = anyhow::Result<()>;

/// A body's surroundings.
pub(crate) struct Context {
    pub(crate) user: User,
    pub(crate) runtime: Runtime,
    /// Clusters have three machines.
    is_fleet: bool,
    clusters: Mutex<Vec<Arc<Cluster>>>,
}

impl Context {
    /// A cluster in one process; in the columns of fleets, one of three machines, this one among them.
    pub(crate) async fn up(&self) -> anyhow::Result<Arc<Cluster>> {
        self.up_with(&[]).await
    }

    /// A cluster in one process, started with more arguments.
    pub(crate) async fn up_with(&self, args: &[&str]) -> anyhow::Result<Arc<Cluster>> {
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        if !self.is_fleet {
            return Ok(self.keep(Cluster::up(self.options(args)).await?));
        }
        let cluster = self.keep(Cluster::fleet(self.options(args)).await?);
        cluster.start(Part::Agent).await?;
        for node in ["two", "three"] {
            cluster.join(node, &[]).await?;
        }
        Ok(cluster)
    }

    /// A cluster in one process, with so many objects in it that are no concern of the body's.
    pub(crate) async fn up_among(&self, objects: usize) -> anyhow::Result<Arc<Cluster>> {
        let options = Options { filled: Some(objects), ..self.options(Vec::new()) };
        Ok(self.keep(Cluster::up(options).await?))
    }

    /// A cluster that is still to be started.
    pub(crate) fn prepared(&self) -> anyhow::Result<Arc<Cluster>> {
        Ok(self.keep(Cluster::prepare(self.options(Vec::new()), false)?))
    }

    /// A cluster whose control plane and node are two processes.
    pub(crate) async fn split(&self) -> anyhow::Result<Arc<Cluster>> {
        Ok(self.keep(Cluster::split(self.options(Vec::new())).await?))
    }

    /// A control plane to which machines may come, and those of these names; none in the column where nobody may make machines.
    pub(crate) async fn fleet(&self, nodes: &[&str]) -> anyhow::Result<Option<Arc<Cluster>>> {
        self.fleet_with(&[], nodes).await
    }

    /// The same, with more arguments of the server.
    pub(crate) async fn fleet_with(
        &self,
        args: &[&str],
        nodes: &[&str],
    ) -> anyhow::Result<Option<Arc<Cluster>>> {
        if self.user == User::Ordinary {
            return Ok(None);
        }
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        let cluster = self.keep(Cluster::fleet(self.options(args)).await?);
        for node in nodes {
            cluster.join(node, &[]).await?;
        }
        Ok(Some(cluster))
    }

    fn options(&self, args: Vec<String>) -> Options {
        Options { runtime: self.runtime, args, ..self.user.into() }
    }

    fn keep(&self, cluster: Cluster) -> Arc<Cluster> {
        let cluster = Arc::new(cluster);
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        clusters.push(cluster.clone());
        cluster
    }
}

/// Runs a body as a test.
pub(crate) fn run(user: User, runtime: Runtime, body: impl AsyncFnOnce(Arc<Context>) -> Outcome) {
    run_on(user, runtime, false, body);
}

/// Runs a body as a test with clusters of three machines.
pub(crate) fn run_on_fleet(runtime: Runtime, body: impl AsyncFnOnce(Arc<Context>) -> Outcome) {
    run_on(User::Root, runtime, true, body);
}

fn run_on(
    user: User,
    runtime: Runtime,
    is_fleet: bool,
    body: impl AsyncFnOnce(Arc<Context>) -> Outcome,
) {
    if !user.is_possible() {
        return skip("needs root");
    }
    let executor =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    executor.expect("an executor").block_on(async {
        let context = Arc::new(Context { user, runtime, is_fleet, clusters: Mutex::default() });
        let body = AssertUnwindSafe(body(context.clone())).catch_unwind();
        let outcome = match tokio::time::timeout(LIMIT, body).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(panic)) => Err(anyhow::anyhow!("panicked: {}", panic_text(&*panic))),
            Err(_) => Err(anyhow::anyhow!("not done within {LIMIT:?}")),
        };
        let clusters =
            std::mem::take(&mut *context.clusters.lock().unwrap_or_else(PoisonError::into_inner));
        let mut report = String::new();
        if let Err(error) = &outcome
            && (error.is::<tools::TooOld>() || error.is::<containers::Missing>())
        {
            skip(&format!("{error:#}"));
        } else if let Err(error) = &outcome {
            report = describe(error);
            for cluster in &clusters {
                report += &cluster.diagnose().await;
            }
        }
        for cluster in &clusters {
            if let Err(error) = cluster.stop().await {
                report += &format!("\nending the cluster: {}", describe(&error));
            }
        }
        assert!(report.is_empty(), "{report}");
    });
}

/// An error with its causes and, where backtraces are on, the places in this suite that it came through.
fn describe(error: &anyhow::Error) -> String {
    let trace = error.backtrace().to_string();
    let places = trace.lines().map(str::trim).filter(|line| line.contains("tests/e2e/"));
    let places: String = places.take(4).map(|place| format!("  {place}\n")).collect();
    format!("{error:#}\n{places}")
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}

/// Says that a test was left out; there is no other way to tell the test harness. Runners hide what a test that passed
/// has printed, so it is also noted in `$CORACLE_SKIPPED`, where `./test` looks.
pub(crate) fn skip(why: &str) {
    use std::io::Write as _;
    let thread = std::thread::current();
    let line = format!("skipped: {}: {why}\n", thread.name().unwrap_or_default());
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(path) = std::env::var_os("CORACLE_SKIPPED") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}

/// Waits until a Service answers with that version: Services follow Pods, a moment later.
pub(crate) async fn serves(address: SocketAddr, version: &str) -> Outcome {
    eventually(SOON, "the Service answers with that version", async || {
        expect(&http::get(address, "/version").await?.body, &[version])
    })
    .await
}

/// An error unless `text` contains every one of `parts`.
pub(crate) fn expect(text: &str, parts: &[&str]) -> Outcome {
    for part in parts {
        if !text.contains(part) {
            bail!("{part:?} is not in:\n{text}");
        }
    }
    Ok(())
}

/// A manifest of this suite's, or an example.
pub(crate) fn manifest(path: &str) -> anyhow::Result<String> {
    let path = tools::repository(path);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// A Deployment of a hello component that is ready quickly, and its Service.
pub(crate) fn hello(name: &str, image: &str, replicas: u32) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      containers:
      - name: app
        image: {image}
        ports: [{{containerPort: 8080, name: http}}]
        env: [{{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}]
        readinessProbe: {{httpGet: {{path: /health, port: http}}, periodSeconds: 1}}
        resources: {{requests: {{cpu: 10m, memory: 16Mi}}, limits: {{memory: 64Mi}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ports: [{{port: 80, targetPort: http}}]
"#
    )
}

/// A Pod that runs the command component once with `args`.
pub(crate) fn command_pod(name: &str, policy: &str, args: &[&str]) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  restartPolicy: {policy}
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: hello-command:v1
    command: [hello-command]
    args: {args:?}
"#
    )
}

/// Shorthands for what many bodies do.
pub(crate) trait ClusterExt {
    /// Pushes guests: (example component, image).
    async fn push_all(&self, images: &[(&str, &str)]) -> Outcome;
    /// Applies [`hello`] and waits until it is available.
    async fn deploy_hello(&self, name: &str, image: &str, replicas: u32) -> Outcome;
    /// Waits for a Deployment's rollout.
    async fn rolled_out(&self, name: &str) -> Outcome;
    /// What `kubectl get … -o json` says.
    async fn get(&self, args: &[&str]) -> anyhow::Result<Value>;
    /// A file that the cluster's user may read.
    fn file(&self, name: &str, content: &[u8]) -> anyhow::Result<PathBuf>;
}

impl ClusterExt for Cluster {
    async fn push_all(&self, images: &[(&str, &str)]) -> Outcome {
        for (component, image) in images {
            self.push_guest(component, image).await?;
        }
        Ok(())
    }

    async fn deploy_hello(&self, name: &str, image: &str, replicas: u32) -> Outcome {
        self.apply(&hello(name, image, replicas)).await?;
        self.rolled_out(name).await
    }

    async fn rolled_out(&self, name: &str) -> Outcome {
        self.kubectl(&["rollout", "status", &format!("deployment/{name}"), PATIENCE]).await?;
        Ok(())
    }

    async fn get(&self, args: &[&str]) -> anyhow::Result<Value> {
        let args: Vec<&str> = ["get", "-o", "json"].iter().chain(args).copied().collect();
        Ok(serde_json::from_str(&self.kubectl(&args).await?)?)
    }

    fn file(&self, name: &str, content: &[u8]) -> anyhow::Result<PathBuf> {
        let path = self.home().join(name);
        std::fs::write(&path, content)?;
        Ok(path)
    }
}
