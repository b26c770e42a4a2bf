//! Where the programs in test images come from: this machine, its compilers, and Debian's packages.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, bail};
use serde_json::json;

use super::{Image, Layer};
use crate::guests::{kept, named, run};
use crate::tools::repository;

/// What an image is made of cannot be had here: a reason to leave a test out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("needs {0}")]
pub struct Missing(pub(crate) String);

/// Tools that the busybox image has under their own names.
const APPLETS: &[&str] = &[
    "sh", "ls", "cat", "echo", "env", "id", "ip", "sleep", "true", "false", "mount", "ps", "kill",
    "nc", "wget", "httpd", "hostname", "mkdir", "rm", "touch", "chmod", "chown", "stat", "dd",
    "grep", "sed", "head", "tail", "wc", "date", "uname", "nslookup", "ping", "pwd", "sync",
    "test", "trap", "yes", "tar", "stty", "tty", "cp", "ln", "unshare", "timeout", "printf",
    "readlink",
];

/// An image with a shell and the usual tools: a static `busybox`, users `root` and `app` (1000), and a sticky `/tmp`.
///
/// # Errors
/// [`Missing`] where there is no static busybox.
pub fn busybox() -> anyhow::Result<Image> {
    let found = ["/bin/busybox", "/usr/bin/busybox"].iter().find(|path| is_static(Path::new(path)));
    let found = found.ok_or_else(|| Missing("a static busybox (busybox-static)".to_owned()))?;
    let mut base = Layer::default()
        .folder("bin", 0o755)?
        .folder("etc", 0o755)?
        .folder("root", 0o700)?
        .folder("tmp", 0o1777)?
        .owned_folder("home", 0o755, (0, 0))?
        .owned_folder("home/app", 0o755, (1000, 1000))?
        .file(
            "etc/passwd",
            0o644,
            "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n",
        )?
        .file("etc/group", 0o644, "root:x:0:\napp:x:1000:\nextra:x:2000:app\n")?
        .file("bin/busybox", 0o755, fs::read(found)?)?;
    for applet in APPLETS {
        base = base.symlink(&format!("bin/{applet}"), "busybox")?;
    }
    Image::new(json!({"Cmd": ["sh"], "Env": ["PATH=/bin"]})).layer(base)
}

/// An image with nothing but a program: compiled from C, linked statically, and its entrypoint.
///
/// # Errors
/// [`Missing`] where there is no C compiler; a failure to compile.
pub fn program(source: &str) -> anyhow::Result<Image> {
    let built = kept(&named("program", &source), |_, work| {
        if Command::new("cc").arg("--version").output().is_err() {
            bail!(Missing("a C compiler (cc)".to_owned()));
        }
        let (code, made) = (work.join("program.c"), work.join("program"));
        fs::write(&code, source)?;
        run(Command::new("cc").args(["-static", "-O1", "-o"]).arg(&made).arg(&code))?;
        Ok(made)
    })?;
    let layer = Layer::default().file("program", 0o755, fs::read(&built)?)?;
    Image::new(json!({"Entrypoint": ["/program"]})).layer(layer)
}

/// An image with nothing but a program that does what the example component of this name does: `hello-v1`, `probe-http`, ….
///
/// # Errors
/// [`Missing`] where there is no Rust compiler; a failure to compile.
pub fn twin(name: &str) -> anyhow::Result<Image> {
    let folder = repository("tests/cluster/twin");
    let mut sources: Vec<PathBuf> =
        fs::read_dir(&folder)?.map(|e| Ok(e?.path())).collect::<anyhow::Result<_>>()?;
    sources.sort();
    let texts: Vec<Vec<u8>> = sources.iter().map(fs::read).collect::<Result<_, _>>()?;
    let built = kept(&named("twin", &texts), |_, work| {
        let made = work.join("twin");
        let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        if Command::new(&rustc).arg("--version").output().is_err() {
            bail!(Missing("a Rust compiler (rustc)".to_owned()));
        }
        let mut rustc = Command::new(rustc);
        rustc.args(["--edition=2024", "-O", "-Ctarget-feature=+crt-static", "-Cpanic=abort"]);
        run(rustc.args(["-Cstrip=symbols", "-o"]).arg(&made).arg(folder.join("main.rs")))?;
        Ok(made)
    })?;
    // A command is also called by the name that the suite's manifests have for all of them.
    let called = if name == "probe-files" { "hello-command" } else { name };
    let layer = Layer::default().folder("bin", 0o755)?.file(
        &format!("bin/{called}"),
        0o755,
        fs::read(&built)?,
    )?;
    Image::new(json!({"Entrypoint": [called], "Env": ["PATH=/bin"]})).layer(layer)
}

/// An image of Debian's packages, with the libraries that they need; its configuration is for the caller to give.
///
/// Packages come by `apt-get download` and are unpacked, not installed: no script of theirs runs. They are kept in the
/// cache folder. Folders that installing would have made (`/run`, `/tmp`, `/var/log`, …) are there.
///
/// # Errors
/// [`Missing`] where the system is not Debian's, or the packages cannot be fetched.
pub fn debian(packages: &[&str]) -> anyhow::Result<Image> {
    let folder = kept(&format!("debian-{}", packages.join("-")), |_, work| {
        fetch(packages, work).map_err(|error| {
            Missing(format!("Debian's packages {}: {error:#}", packages.join(", "))).into()
        })
    })?;
    let mut layer = Layer::default().tree(&folder)?;
    for (path, mode) in [("tmp", 0o1777), ("run", 0o755), ("var/tmp", 0o1777), ("root", 0o700)] {
        if !folder.join(path).exists() {
            layer = layer.folder(path, mode)?;
        }
    }
    let users = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/false\nnobody:x:65534:65534::/:/bin/false\n";
    let groups = "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n";
    layer = layer.file("etc/passwd", 0o644, users)?.file("etc/group", 0o644, groups)?;
    Image::new(json!({"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]})).layer(layer)
}

/// Downloads and unpacks the packages and those of their dependencies that are libraries.
fn fetch(packages: &[&str], work: &Path) -> anyhow::Result<PathBuf> {
    let mut wanted: BTreeSet<String> = packages.iter().map(|p| (*p).to_owned()).collect();
    let depends = Command::new("apt-cache")
        .args(["depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts"])
        .args(["--no-breaks", "--no-replaces", "--no-enhances"])
        .args(packages)
        .output()
        .context("apt-cache")?;
    let text = String::from_utf8_lossy(&depends.stdout).into_owned();
    let names = text.lines().filter(|line| {
        (line.starts_with("lib") || line.starts_with("zlib1g")) && !line.contains(':')
    });
    wanted.extend(names.map(str::to_owned));
    let downloads = work.join("packages");
    fs::create_dir(&downloads)?;
    run(Command::new("apt-get").args(["-q", "download"]).args(&wanted).current_dir(&downloads))?;
    let tree = work.join("tree");
    fs::create_dir(&tree)?;
    // Folders of old that are links now.
    for (link, to) in
        [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")]
    {
        fs::create_dir_all(tree.join(to))?;
        std::os::unix::fs::symlink(to, tree.join(link))?;
    }
    for package in fs::read_dir(&downloads)? {
        let tar = Command::new("dpkg-deb").arg("--fsys-tarfile").arg(package?.path()).output();
        let tar = tar.context("dpkg-deb")?.stdout;
        // Through the links, which `dpkg-deb -x` would replace by folders.
        let archive = work.join("package.tar");
        fs::write(&archive, tar)?;
        let mut unpack = Command::new("tar");
        unpack.args(["--keep-directory-symlink", "--no-same-owner", "-xf"]).arg(&archive);
        run(unpack.arg("-C").arg(&tree))?;
    }
    // What nobody reads in a container.
    for path in ["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian"] {
        let _ = fs::remove_dir_all(tree.join(path));
    }
    Ok(tree)
}

/// Whether a program needs no other file: it names no interpreter.
fn is_static(path: &Path) -> bool {
    let Ok(bytes) = fs::read(path) else { return false };
    let word = |at: usize| bytes.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]]) as usize);
    let number = |at: usize| {
        bytes.get(at..at + 8).and_then(|b| Some(u64::from_le_bytes(b.try_into().ok()?) as usize))
    };
    if bytes.get(..5) != Some(b"\x7fELF\x02") {
        return false;
    }
    // Program headers of type PT_INTERP (3).
    let (Some(start), Some(size), Some(count)) = (number(32), word(54), word(56)) else {
        return false;
    };
    (0..count).all(|n| bytes.get(start + n * size).is_some_and(|kind| *kind != 3))
}
