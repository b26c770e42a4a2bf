//! A container's whole life, compared with the usual runtimes, which are given the same image and the same program.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use crate::Bench;
use crate::report::{Measured, ms, quantile};

const CYCLES: usize = 101;
const PATIENCE: Duration = Duration::from_secs(30);
const CGROUP: &str = "/coracle-bench/pod";

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Measured> {
    let folder = tempfile::tempdir_in(&bench.folder)?;
    let rootfs = make_rootfs(folder.path())?;
    let mut ours = Ours::start(bench, folder.path(), rootfs.clone())?;
    let mut rivals = Vec::new();
    for name in ["crun", "runc"] {
        let rival = Rival::start(name, folder.path(), &rootfs).with_context(|| {
            format!("comparing needs {name}: install Debian's package of that name")
        })?;
        rivals.push(rival);
    }
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); 1 + rivals.len()];
    for number in 0..CYCLES {
        times[0].push(ours.cycle(number)?);
        for (rival, times) in rivals.iter_mut().zip(&mut times[1..]) {
            times.push(rival.cycle(number)?);
        }
    }
    let memory = ours.memory()?;
    drop(ours);
    let [own, crun, runc] = &mut times[..] else { bail!("three runtimes were measured") };
    let (ours, crun, runc) = (quantile(own, 0.5), quantile(crun, 0.5), quantile(runc, 0.5));
    let ratio = ours.as_secs_f64() / crun.as_secs_f64();
    Ok(Measured {
        value: format!("{} ({ratio:.2} × crun)", ms(ours)),
        met: ratio <= 1.3 && ours < runc,
        notes: format!(
            "median of {CYCLES} lives of busybox's `true`, from the request to the answer that it has exited, one after the \
             other, alternating with `crun run` ({}) and `runc run` ({}); ours with logs, an overlay of its own and a cgroup. \
             The Pod's own process held {memory} KiB of its own then.",
            ms(crun),
            ms(runc),
        ),
    })
}

/// Busybox and what its names need.
fn make_rootfs(folder: &Path) -> anyhow::Result<PathBuf> {
    let rootfs = folder.join("rootfs");
    for name in ["bin", "dev", "proc", "sys", "etc"] {
        fs::create_dir_all(rootfs.join(name))?;
    }
    fs::copy("/bin/busybox", rootfs.join("bin/busybox"))
        .context("the image needs /bin/busybox: install Debian's busybox-static")?;
    symlink("busybox", rootfs.join("bin/true"))?;
    Ok(rootfs)
}

/// A zygote with one Pod.
struct Ours {
    zygote: Child,
    socket: PathBuf,
    pod: Option<BufReader<UnixStream>>,
    folder: PathBuf,
    layer: PathBuf,
    pid: u64,
}

impl Ours {
    fn start(bench: &Bench, folder: &Path, layer: PathBuf) -> anyhow::Result<Ours> {
        let socket = folder.join("zygote.sock");
        let zygote = Command::new(&bench.binary)
            .args(["host", "oci", "--socket"])
            .arg(&socket)
            .arg("--data")
            .arg(folder.join("data"))
            .stdin(Stdio::null())
            .spawn()?;
        let mut ours = Ours { zygote, socket, pod: None, folder: folder.to_owned(), layer, pid: 0 };
        let begun = Instant::now();
        let stream = loop {
            match UnixStream::connect(&ours.socket) {
                Ok(stream) => break stream,
                Err(error) if begun.elapsed() > PATIENCE => return Err(error.into()),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let mut zygote = BufReader::new(stream);
        let spec = json!({"id": "bench", "hostname": "bench", "oci": {"cgroup": CGROUP}});
        let made = ask(&mut zygote, "PUT", "/v1/sandboxes/bench", &spec)?;
        let socket = made["socket"].as_str().context("the zygote names no socket")?;
        let mut pod = BufReader::new(UnixStream::connect(socket)?);
        ours.pid = ask(&mut pod, "GET", "/v1/info", &Value::Null)?["pid"].as_u64().unwrap_or(0);
        ours.pod = Some(pod);
        Ok(ours)
    }

    fn cycle(&mut self, number: usize) -> anyhow::Result<Duration> {
        let upper = self.folder.join(format!("upper-{number}"));
        fs::create_dir(&upper)?;
        let spec = json!({
            "name": "true", "attempt": number, "args": ["/bin/true"], "log_path": self.folder.join("0.log"),
            "image": {"digest": "", "path": ""},
            "oci": {"layers": [self.layer], "upper": upper},
        });
        let pod = self.pod.as_mut().context("there is no Pod")?;
        let begun = Instant::now();
        ask(pod, "PUT", "/v1/sandboxes/bench/containers/true", &spec)?;
        loop {
            let status = ask(pod, "GET", "/v1/sandboxes/bench", &Value::Null)?;
            let state = &status["containers"][0]["state"];
            if state["phase"] == "Exited" {
                ensure!(state["code"] == 0, "true failed: {state}");
                return Ok(begun.elapsed());
            }
            ensure!(begun.elapsed() < PATIENCE, "true does not exit: {state}");
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    /// Private memory of the Pod's process, in KiB.
    fn memory(&self) -> anyhow::Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid))?;
        let parts = text.lines().filter(|line| line.starts_with("Private_"));
        Ok(parts.filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok()).sum())
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        if let Some(pod) = &mut self.pod {
            let _ = ask(pod, "DELETE", "/v1/sandboxes/bench", &Value::Null);
        }
        if let Ok(stream) = UnixStream::connect(&self.socket) {
            let _ = ask(&mut BufReader::new(stream), "POST", "/v1/shutdown", &Value::Null);
        }
        let _ = self.zygote.kill();
        let _ = self.zygote.wait();
        for top in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = fs::remove_dir(top.path().join("coracle-bench"));
        }
    }
}

/// One request on a connection that is kept.
fn ask(
    connection: &mut BufReader<UnixStream>,
    method: &str,
    path: &str,
    body: &Value,
) -> anyhow::Result<Value> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: bench\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    connection.get_mut().write_all((head + &body).as_bytes())?;
    let mut status = String::new();
    connection.read_line(&mut status)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        ensure!(connection.read_line(&mut line)? > 0, "the connection ended");
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
    }
    let mut answer = vec![0; length];
    connection.read_exact(&mut answer)?;
    let answer: Value = serde_json::from_slice(&answer).unwrap_or(Value::Null);
    ensure!(
        status.contains(" 200 ") || status.contains(" 202 "),
        "{method} {path}: {status}{answer}"
    );
    Ok(answer)
}

/// Another runtime, run by a shell that waits for names. crun refuses version 2 of cgroups beside version 1, so the shell has
/// a mount namespace without it.
struct Rival {
    shell: Child,
    ask: ChildStdin,
    answer: BufReader<ChildStdout>,
}

impl Rival {
    fn start(name: &str, folder: &Path, rootfs: &Path) -> anyhow::Result<Rival> {
        let bundle = folder.join(name);
        fs::create_dir(&bundle)?;
        let made = Command::new(name).arg("spec").current_dir(&bundle).status()?;
        ensure!(made.success(), "{name} spec failed");
        let path = bundle.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path)?)?;
        config["process"]["args"] = json!(["/bin/true"]);
        config["process"]["terminal"] = json!(false);
        config["root"]["path"] = json!(rootfs);
        fs::write(&path, config.to_string())?;
        let script = format!(
            "umount /sys/fs/cgroup/unified 2>/dev/null; while read id; do {name} run --bundle {} $id </dev/null >&2; echo $?; done",
            bundle.display()
        );
        let mut shell = Command::new("unshare")
            .args(["-m", "sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let pipes = shell.stdin.take().zip(shell.stdout.take()).context("no pipes")?;
        Ok(Rival { shell, ask: pipes.0, answer: BufReader::new(pipes.1) })
    }

    fn cycle(&mut self, number: usize) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        writeln!(self.ask, "coracle-bench-{number}")?;
        let mut code = String::new();
        self.answer.read_line(&mut code)?;
        ensure!(code.trim() == "0", "it ended with {code}");
        Ok(begun.elapsed())
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}
