//! A host, an image, and Pods that leave nothing behind.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use coracle_sandbox::{
    Client, ContainerSpec, ContainerState, ContainerStatus, ExitReason, OciContainer, OciSandbox,
    RunResult, RunSpec, SandboxSpec,
};
use tempfile::TempDir;
use tokio::time::Instant;

/// A loaded machine starts a container within this time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A zygote, and one Pod's shim.
pub(crate) struct Host {
    pub(crate) folder: TempDir,
    pub(crate) zygote: Child,
    pub(crate) pod: SandboxSpec,
    pub(crate) client: Client,
}

/// Whether containers can be run here; says so where not.
#[expect(clippy::print_stdout, reason = "who reads the tests' output is told what was left out")]
pub(crate) fn possible(test: &str) -> bool {
    let missing = if !nix::unistd::geteuid().is_root() {
        "root"
    } else if busybox().is_none() {
        "busybox-static"
    } else {
        return true;
    };
    println!("{test} skipped: needs {missing}");
    if let Some(list) = std::env::var_os("CORACLE_SKIPPED") {
        let mut line = format!("{test}: skipped, needs {missing}\n");
        use std::io::Write;
        let file = fs::File::options().append(true).create(true).open(list);
        let _ = file.and_then(|mut file| file.write_all(std::mem::take(&mut line).as_bytes()));
    }
    false
}

fn busybox() -> Option<PathBuf> {
    let paths = ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from);
    paths.into_iter().find(|path| {
        let help = Command::new(path).arg("--list").output();
        help.is_ok_and(|out| {
            out.stdout.windows(5).any(|word| word == b"\nsh\nl" || word == b"sleep")
        })
    })
}

/// Starts tests where containers can be run.
#[macro_export]
macro_rules! host {
    ($($change:expr)?) => {{
        let name = {
            fn here() {}
            std::any::type_name_of_val(&here)
        };
        if !$crate::fixture::possible(name) {
            return;
        }
        #[allow(unused_mut, unused_assignments, reason = "not every use changes it")]
        let mut change: Option<$crate::fixture::Change> = None;
        $(change = Some(Box::new($change));)?
        $crate::fixture::Host::start(change).await
    }};
}

/// What a test wants otherwise in its sandbox.
pub(crate) type Change = Box<dyn FnOnce(&mut SandboxSpec)>;

impl Host {
    pub(crate) async fn start(change: Option<Change>) -> Host {
        let folder = tempfile::Builder::new().prefix("coracle-oci-").tempdir().unwrap();
        make_layer(&folder.path().join("layer"));
        let zygote = start_zygote(folder.path());
        let mut pod = SandboxSpec {
            id: format!("pod-{}", folder.path().file_name().unwrap().to_str().unwrap()),
            hostname: "box".into(),
            log_dir: folder.path().join("logs"),
            ..SandboxSpec::default()
        };
        pod.oci = Some(OciSandbox {
            // A top of its own: it goes with the test, while others make theirs.
            cgroup: format!("/coracle-test-{}/pod", pod.id).into(),
            ..OciSandbox::default()
        });
        if let Some(change) = change {
            change(&mut pod);
        }
        let client = make_pod(folder.path(), &pod).await.unwrap();
        Host { folder, zygote, pod, client }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A container that runs a shell script.
    pub(crate) fn shell(&self, name: &str, script: &str) -> ContainerSpec {
        let upper = self.path().join("upper").join(format!("{name}-0"));
        fs::create_dir_all(&upper).unwrap();
        ContainerSpec {
            name: name.into(),
            args: ["sh", "-c", script].map(String::from).to_vec(),
            log_path: self.path().join("logs").join(name).join("0.log"),
            oci: Some(OciContainer {
                layers: vec![self.path().join("layer")],
                upper,
                ..OciContainer::default()
            }),
            ..ContainerSpec::default()
        }
    }

    pub(crate) async fn launch(&self, spec: &ContainerSpec) -> ContainerStatus {
        self.client.start_container(&self.pod.id, spec).await.unwrap()
    }

    /// Runs a container to its end.
    pub(crate) async fn complete(&self, spec: &ContainerSpec) -> (i32, ExitReason, String) {
        self.launch(spec).await;
        self.ended(&spec.name).await
    }

    /// Waits until a container has ended; its code, why, and what it wrote.
    pub(crate) async fn ended(&self, name: &str) -> (i32, ExitReason, String) {
        let until = Instant::now() + PATIENCE;
        loop {
            let status = self.client.sandbox(&self.pod.id).await.unwrap();
            let found = status.containers.iter().find(|c| c.name == name).unwrap();
            if let ContainerState::Exited { code, reason, .. } = found.state {
                return (code, reason, self.log(name));
            }
            assert!(Instant::now() < until, "{name} does not end: {}", self.log(name));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What a container wrote, without times and marks.
    pub(crate) fn log(&self, name: &str) -> String {
        let path = self.path().join("logs").join(name).join("0.log");
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines()
            .map(|line| line.splitn(4, ' ').nth(3).unwrap_or("").to_owned() + "\n")
            .collect()
    }

    /// Waits until a container has written a word.
    pub(crate) async fn said(&self, name: &str, word: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.log(name).contains(word) {
            assert!(Instant::now() < until, "{name} never said {word}: {}", self.log(name));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn run(&self, name: &str, args: &[&str]) -> RunResult {
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let spec = RunSpec { args, timeout_milliseconds: 60_000 };
        self.client.run(&self.pod.id, name, &spec).await.unwrap()
    }

    /// Ends everything, and looks for what is left.
    pub(crate) async fn end(mut self) {
        self.client.delete_sandbox(&self.pod.id).await.unwrap();
        let until = Instant::now() + PATIENCE;
        while self.client.info().await.is_ok() {
            assert!(Instant::now() < until, "the shim does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Client::new(self.path().join("zygote")).shutdown().await.unwrap();
        self.zygote.wait().unwrap();
        // A process that answers no more may not have ended yet.
        while Instant::now() < until && !leftovers(self.path(), &self.pod).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.assert_nothing_left();
    }

    pub(crate) fn assert_nothing_left(&self) {
        let left = leftovers(self.path(), &self.pod);
        assert!(left.is_empty(), "left behind: {left:#?}");
        assert_eq!(names(&self.path().join("data")), HashSet::new());
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // A test that failed may have left everything.
        let _ = self.zygote.kill();
        let _ = self.zygote.wait();
        if std::thread::panicking() {
            // The test's own connections are stuck with the test.
            let info = Client::new(self.client.socket());
            let shim = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.unwrap().block_on(async { info.info().await.ok().map(|info| info.pid) })
            });
            if let Ok(Some(pid)) = shim.join() {
                let pid = nix::unistd::Pid::from_raw(pid as i32);
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
            let folder = self.path().join("data").join(&self.pod.id);
            let _ = cleanup(&folder, &self.pod.oci.as_ref().unwrap().cgroup);
        }
        let top = format!("coracle-test-{}", self.pod.id);
        let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        for hierarchy in hierarchies.map(|entry| entry.path()).chain(["/sys/fs/cgroup".into()]) {
            let _ = fs::remove_dir(hierarchy.join(&top));
        }
    }
}

pub(crate) fn start_zygote(folder: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_coracle-oci-host"))
        .arg(folder.join("zygote"))
        .arg(folder.join("data"))
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

/// Has the zygote make a Pod; a handle on its shim.
pub(crate) async fn make_pod(
    folder: &Path,
    pod: &SandboxSpec,
) -> Result<Client, coracle_sandbox::ClientError> {
    let zygote = Client::new(folder.join("zygote"));
    zygote.wait_ready(PATIENCE).await.unwrap();
    let status = zygote.put_sandbox(pod).await?;
    Ok(Client::new(status.socket.unwrap()))
}

pub(crate) fn cleanup(folder: &Path, cgroup: &Path) -> bool {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coracle-oci-host"));
    command.arg("--cleanup").arg(folder).arg(cgroup).status().is_ok_and(|status| status.success())
}

/// An image of one layer: busybox under all its names, and a few users.
fn make_layer(folder: &Path) {
    let bin = folder.join("bin");
    fs::create_dir_all(&bin).unwrap();
    for name in ["etc", "tmp", "dev"] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    let program = busybox().unwrap();
    fs::copy(&program, bin.join("busybox")).unwrap();
    let list = Command::new(&program).arg("--list").output().unwrap();
    for name in String::from_utf8(list.stdout).unwrap().lines().filter(|name| *name != "busybox") {
        symlink("busybox", bin.join(name)).unwrap();
    }
    fs::write(
        folder.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/home/web:/bin/sh\n",
    )
    .unwrap();
    fs::write(folder.join("etc/group"), "root:x:0:\nwww:x:34:\nlogs:x:40:web\n").unwrap();
    fs::write(folder.join("etc/not-a-program"), "text").unwrap();
}

fn names(folder: &Path) -> HashSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Processes, mounts, groups and sockets that are a Pod's.
fn leftovers(folder: &Path, pod: &SandboxSpec) -> Vec<String> {
    let mut left = Vec::new();
    let cgroup = pod.oci.as_ref().unwrap().cgroup.strip_prefix("/").unwrap().to_owned();
    let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    let hierarchies = hierarchies.map(|entry| entry.path()).chain(["/sys/fs/cgroup".into()]);
    left.extend(
        hierarchies
            .map(|h| h.join(&cgroup))
            .filter(|g| g.exists())
            .map(|g| g.display().to_string()),
    );
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let here = folder.to_str().unwrap();
    left.extend(mounts.lines().filter(|line| line.contains(here)).map(str::to_owned));
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains(here) {
            left.push(format!("process {:?}", entry.file_name()));
        }
    }
    left.extend(names(folder).into_iter().filter(|name| name.ends_with(".sock")));
    left
}
