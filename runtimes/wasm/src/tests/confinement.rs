//! What a host may still do once it is confined, tried from inside: this program runs itself as a
//! process that confines itself as a host does and then behaves as somebody who broke out of the
//! engine would.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid};

use crate::confine::Confinement;

/// Where the process inside finds its folder, and as whom it is to run.
const FOLDER: &str = "CORACLE_TEST_CONFINED";
const HOST_USER: u32 = 0x7fff_fff0;
const ORDINARY: u32 = 64_321;

#[test]
fn roots_host_is_confined() {
    if !geteuid().is_root() {
        let _ = writeln!(io::stderr(), "skipped: needs root");
        return;
    }
    run_inside("root", Some(HOST_USER), None);
}

#[test]
fn an_ordinary_users_host_is_confined() {
    let other = geteuid().is_root().then_some(ORDINARY);
    run_inside("user", None, other);
}

/// Runs [`inside`] in a process of its own, on a folder laid out as an agent's.
fn run_inside(name: &str, host: Option<u32>, becomes: Option<u32>) {
    let folder = tempfile::Builder::new().prefix("coracle-confined-").tempdir().unwrap();
    let base = folder.path();
    for path in ["images", "own/logs", "other/logs", "host"] {
        fs::create_dir_all(base.join(path)).unwrap();
    }
    for path in ["images/a.wasm", "own/logs/before", "other/logs/0.log", "agent.key"] {
        fs::write(base.join(path), path).unwrap();
    }
    let socket = UnixListener::bind(base.join("host/other.sock")).unwrap();
    let abstract_name = format!("coracle-test-{}-{name}", std::process::id());
    let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
    let other = UnixListener::bind_addr(&address).unwrap();
    fs::set_permissions(base.join("agent.key"), PermissionsExt::from_mode(0o600)).unwrap();
    if let Some(user) = host {
        fs::set_permissions(base, PermissionsExt::from_mode(0o700)).unwrap();
        chown(base.join("own/logs"), Some(user), Some(user)).unwrap();
    }
    // Everything is the ordinary user's own, as it is where there is no root.
    if let Some(user) = becomes {
        let mut all = vec![base.to_owned()];
        while let Some(path) = all.pop() {
            chown(&path, Some(user), Some(user)).unwrap();
            let inner = fs::read_dir(&path).into_iter().flatten().flatten();
            all.extend(inner.map(|entry| entry.path()));
        }
    }
    let number = |user: Option<u32>| user.map_or_else(String::new, |user| user.to_string());
    let said = format!("{}|{}|{}|{abstract_name}", base.display(), number(host), number(becomes));
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tests::confinement::inside", "--ignored", "--nocapture"])
        .env(FOLDER, said)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    assert!(text.contains("1 passed"), "the process inside did not run:\n{text}");
    // It wrote what it was allowed to, and nobody called the sockets.
    assert_eq!(fs::read_to_string(base.join("own/logs/after")).unwrap(), "written inside");
    for listener in [socket, other] {
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "somebody connected");
    }
}

#[test]
#[ignore = "is run by the tests above, in a process of its own"]
fn inside() {
    let said = std::env::var(FOLDER).expect("only those tests run this");
    let mut said = said.split('|');
    let base = PathBuf::from(said.next().unwrap());
    let host: Option<u32> = said.next().unwrap().parse().ok();
    let becomes: Option<u32> = said.next().unwrap().parse().ok();
    let address = SocketAddr::from_abstract_name(said.next().unwrap()).unwrap();
    if let Some(user) = becomes {
        setgroups(&[]).unwrap();
        let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
        setresgid(gid, gid, gid).unwrap();
        setresuid(uid, uid, uid).unwrap();
        // Who logged in as that user could read what `/proc` says of this process; who changed into it cannot.
        nix::sys::prctl::set_dumpable(true).unwrap();
    }
    // What a thief could still hold in the hand.
    let namespace = File::open("/proc/self/ns/net").unwrap();
    let confinement = Confinement {
        read: vec![base.join("images")],
        write: vec![base.join("own/logs")],
        user: host,
    };
    confinement.enclose().unwrap();
    confinement.disarm().unwrap();
    may(&base);
    may_not_open(&base);
    may_not_call(&namespace);
    refused("a socket of another program", UnixStream::connect(base.join("host/other.sock")));
    refused("a socket without a path", UnixStream::connect_addr(&address));
    refused("a program", Command::new("/bin/sh").arg("-c").arg("exit 0").status());
}

fn refused<T>(what: &str, result: io::Result<T>) {
    assert!(result.is_err(), "{what} was to be had");
}

/// What hosts live by.
fn may(base: &Path) {
    assert_eq!(fs::read_to_string(base.join("images/a.wasm")).unwrap(), "images/a.wasm");
    fs::create_dir(base.join("own/logs/folder")).unwrap();
    fs::write(base.join("own/logs/folder/part"), "written inside").unwrap();
    fs::rename(base.join("own/logs/folder/part"), base.join("own/logs/after")).unwrap();
    fs::remove_dir(base.join("own/logs/folder")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let server = std::thread::spawn(move || listener.accept().unwrap().0.write_all(b"hello"));
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    server.join().unwrap().unwrap();
    assert_eq!(text, "hello");
    // What those without a limit may have depends on what the machine has left.
    for (path, line) in [("/proc/meminfo", "MemAvailable:"), ("/proc/stat", "cpu ")] {
        assert!(fs::read_to_string(path).unwrap().contains(line), "{path}");
    }
    // The engine asks which pages were written.
    File::open("/proc/self/pagemap").unwrap();
    assert!(
        wasmtime::PoolingAllocationConfig::is_pagemap_scan_available(),
        "pages can be asked for"
    );
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(tokio::fs::read(base.join("images/a.wasm"))).unwrap();
}

fn may_not_open(base: &Path) {
    for path in ["agent.key", "other/logs/0.log", "host", "other"] {
        refused(path, File::open(base.join(path)));
    }
    let parent = std::os::unix::process::parent_id();
    let other = format!("/proc/{parent}");
    for path in ["/etc/shadow", "/etc/passwd", "/root", "/dev/mem", "/proc/1/environ"] {
        refused(path, File::open(path));
    }
    for file in ["environ", "mem", "maps", "cmdline", "ns/net", "root/etc/shadow"] {
        let path = format!("{other}/{file}");
        refused(&path, File::open(&path));
    }
    for path in ["images/b.wasm", "images/a.wasm", "new", "agent.key"] {
        refused(path, fs::write(base.join(path), "written inside"));
    }
    refused("a link out", fs::hard_link(base.join("images/a.wasm"), base.join("own/logs/link")));
}

/// System calls, as an intruder would make them.
fn may_not_call(namespace: &File) {
    let parent = i64::from(std::os::unix::process::parent_id());
    let (shell, none) = (CString::new("/bin/sh").unwrap(), 0i64);
    let fd = i64::from(namespace.as_raw_fd());
    let user = i64::from(libc::CLONE_NEWUSER);
    let path = shell.as_ptr() as i64;
    #[rustfmt::skip]
    let calls: &[(&str, libc::c_long, [i64; 5])] = &[
        ("execve", libc::SYS_execve, [path, none, none, 0, 0]),
        ("execveat", libc::SYS_execveat, [i64::from(libc::AT_FDCWD), path, none, none, 0]),
        ("setns", libc::SYS_setns, [fd, i64::from(libc::CLONE_NEWNET), 0, 0, 0]),
        ("unshare", libc::SYS_unshare, [user, 0, 0, 0, 0]),
        ("clone", libc::SYS_clone, [i64::from(libc::SIGCHLD), 0, 0, 0, 0]),
        ("clone with a namespace", libc::SYS_clone, [user | i64::from(libc::SIGCHLD), 0, 0, 0, 0]),
        ("clone3", libc::SYS_clone3, [none, 88, 0, 0, 0]),
        ("ptrace", libc::SYS_ptrace, [i64::from(libc::PTRACE_ATTACH as i32), parent, 0, 0, 0]),
        ("process_vm_readv", libc::SYS_process_vm_readv, [parent, none, 0, none, 0]),
        ("pidfd_open", libc::SYS_pidfd_open, [parent, 0, 0, 0, 0]),
        ("kill", libc::SYS_kill, [parent, 0, 0, 0, 0]),
        ("tgkill", libc::SYS_tgkill, [parent, parent, 0, 0, 0]),
        ("prlimit64", libc::SYS_prlimit64, [parent, 0, 0, 0, 0]),
        ("mount", libc::SYS_mount, [path, path, path, 0, 0]),
        ("pivot_root", libc::SYS_pivot_root, [path, path, 0, 0, 0]),
        ("chroot", libc::SYS_chroot, [path, 0, 0, 0, 0]),
        ("bpf", libc::SYS_bpf, [0, none, 0, 0, 0]),
        ("perf_event_open", libc::SYS_perf_event_open, [none, 0, -1, -1, 0]),
        ("userfaultfd", libc::SYS_userfaultfd, [0, 0, 0, 0, 0]),
        ("keyctl", libc::SYS_keyctl, [0, -3, 0, 0, 0]),
        ("add_key", libc::SYS_add_key, [path, path, none, 0, -3]),
        ("kexec_load", libc::SYS_kexec_load, [0, 0, none, 0, 0]),
        ("init_module", libc::SYS_init_module, [none, 0, path, 0, 0]),
        ("io_uring_setup", libc::SYS_io_uring_setup, [1, none, 0, 0, 0]),
        ("setuid", libc::SYS_setuid, [0, 0, 0, 0, 0]),
        ("seccomp", libc::SYS_seccomp, [0, 0, 0, 0, 0]),
        ("a unix socket", libc::SYS_socket, [1, 1, 0, 0, 0]),
        ("a netlink socket", libc::SYS_socket, [16, 3, 0, 0, 0]),
        ("a packet socket", libc::SYS_socket, [17, 3, 0, 0, 0]),
        ("a vsock", libc::SYS_socket, [40, 1, 0, 0, 0]),
        ("dumpable", libc::SYS_prctl, [i64::from(libc::PR_SET_DUMPABLE), 1, 0, 0, 0]),
        ("a terminal's input", libc::SYS_ioctl, [0, libc::TIOCSTI as i64, path, 0, 0]),
    ];
    for (name, number, arguments) in calls {
        let [a, b, c, d, e] = *arguments;
        // SAFETY: none of these is carried out; that is what is tested. If one were, its null
        // pointers would make it fail with another error.
        let done = unsafe { libc::syscall(*number, a, b, c, d, e) };
        let error = io::Error::last_os_error().raw_os_error();
        let wanted = if *name == "clone3" { libc::ENOSYS } else { libc::EPERM };
        assert_eq!((done, error), (-1, Some(wanted)), "{name}");
    }
}
