//! `coracle host`: a sandbox host, as the agent starts it.

use std::io::IsTerminal as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::Duration;

use coracle_agent::images::manifest::Packing;
use coracle_agent::images::unpack;
use coracle_network::linux::may_administer_network;
use tracing_subscriber::fmt::writer::OptionalWriter;

use crate::folder::Folder;
use crate::run::Exited;
use crate::{log_filter, println};

/// Hosts' users have numbers from here on: above what accounts, containers and user namespaces are given by default.
/// Sixteen bits tell agents of one machine apart, twelve the hosts of one agent; the
/// last of these is for processes that compile.
const FIRST_USER: u32 = 0x7000_0000;

/// Which runtime.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Host of Wasm Pods
    Wasm(WasmArgs),
    /// Compile one Wasm image, and say what it is
    Compile(CompileArgs),
    /// Unpack one layer of a container image, which comes on standard input
    Unpack(UnpackArgs),
    /// Proxy of Ingresses
    Ingress(IngressArgs),
    /// Host of Pods with containers: makes a process for each
    Oci(OciArgs),
}

/// The Wasm host's arguments.
#[derive(clap::Args)]
pub(crate) struct WasmArgs {
    /// Socket to serve
    #[arg(long)]
    socket: PathBuf,
    /// Folder for compiled code
    #[arg(long)]
    data: PathBuf,
    /// Folder of compiled code
    #[arg(long)]
    compiled: PathBuf,
    /// Folder of its Pods' logs
    #[arg(long)]
    logs: PathBuf,
    /// Folder of its Pods' volumes
    #[arg(long)]
    volumes: PathBuf,
    /// Folder or file of the machine that its Pods mount; may be given several times
    #[arg(long = "host-path", value_name = "PATH")]
    host_paths: Vec<PathBuf>,
    /// Network namespace of its Pods
    #[arg(long)]
    netns: Option<PathBuf>,
    /// Number of the user, and of its group, to become
    #[arg(long)]
    user: Option<u32>,
    /// Whose Pods it holds, for those who look at processes
    #[arg(long)]
    group: Option<String>,
}

/// The arguments of the containers' host.
#[derive(clap::Args)]
pub(crate) struct OciArgs {
    /// Socket to serve; Pods' processes have theirs beside it
    #[arg(long, required_unless_present = "cleanup")]
    socket: Option<PathBuf>,
    /// Folder of what Pods keep while they run, a folder each
    #[arg(long, required_unless_present = "cleanup")]
    data: Option<PathBuf>,
    /// Instead of serving: end and remove what is left of a Pod that has this folder
    #[arg(long, value_name = "FOLDER", requires = "cgroup")]
    cleanup: Option<PathBuf>,
    /// The same Pod's group, below the root of every cgroup hierarchy
    #[arg(long, value_name = "PATH", requires = "cleanup")]
    cgroup: Option<PathBuf>,
    /// Whose Pods it holds, for those who look at processes
    #[arg(long)]
    group: Option<String>,
}

/// The arguments of the proxy.
#[derive(clap::Args)]
pub(crate) struct IngressArgs {
    /// Socket on which the agent tells it what to serve
    #[arg(long)]
    socket: PathBuf,
    /// Where to serve HTTP
    #[arg(long, value_name = "ADDR:PORT")]
    http: SocketAddr,
    /// Where to serve HTTPS
    #[arg(long, value_name = "ADDR:PORT")]
    https: SocketAddr,
    /// Descriptor of a socket to serve HTTP on instead, which is open already
    #[arg(long, value_name = "NUMBER", requires = "https_socket")]
    http_socket: Option<RawFd>,
    /// The same for HTTPS
    #[arg(long, value_name = "NUMBER", requires = "http_socket")]
    https_socket: Option<RawFd>,
    /// Folder of the access log
    #[arg(long)]
    logs: PathBuf,
    /// Network namespace of this machine's Wasm Pods
    #[arg(long)]
    netns: Option<PathBuf>,
    /// Number of the user, and of its group, to become
    #[arg(long)]
    user: Option<u32>,
}

/// What to compile.
#[derive(clap::Args)]
pub(crate) struct CompileArgs {
    /// Digest that the file must have
    #[arg(long)]
    digest: String,
    /// The file
    #[arg(long)]
    wasm: PathBuf,
    /// Folder for the code
    #[arg(long)]
    out: PathBuf,
    /// Class of guests to compile for: small, large or async [default: the smallest that fits]
    #[arg(long)]
    class: Option<String>,
    /// Memory limit of the container that it is for
    #[arg(long)]
    memory_limit: Option<u64>,
    /// Number of the user, and of its group, to become
    #[arg(long)]
    user: Option<u32>,
}

/// What to unpack.
#[derive(clap::Args)]
pub(crate) struct UnpackArgs {
    /// Empty folder to unpack into
    #[arg(long)]
    into: PathBuf,
    /// How the layer is packed: tar, tar+gzip or tar+zstd
    #[arg(long, value_parser = packing)]
    packing: Packing,
    /// Digest that it must unpack to
    #[arg(long)]
    diff_id: String,
    /// Most bytes that it may unpack to
    #[arg(long)]
    max_bytes: u64,
    /// Most entries that it may have
    #[arg(long)]
    max_entries: u64,
}

fn packing(name: &str) -> Result<Packing, String> {
    Packing::named(name).ok_or_else(|| format!("{name} is none of tar, tar+gzip and tar+zstd"))
}

/// Runs until it is told to end.
pub(crate) fn main(command: Command) -> anyhow::Result<()> {
    let log = identity();
    tracing_subscriber::fmt()
        .with_env_filter(log_filter())
        // What becomes a container's process has its streams before its program: nothing of ours belongs into them.
        .with_writer(move || match identity() == log {
            true => OptionalWriter::some(std::io::stderr()),
            false => OptionalWriter::none(),
        })
        .with_ansi(std::io::stderr().is_terminal())
        .compact()
        .init();
    match command {
        Command::Wasm(args) => wasm(args),
        Command::Compile(args) => compile(args),
        Command::Unpack(args) => unpack(args),
        Command::Oci(args) => oci(args),
        Command::Ingress(args) => ingress(args),
    }
}

/// Which file standard error is.
fn identity() -> Option<(u64, u64)> {
    let found = nix::sys::stat::fstat(std::io::stderr()).ok()?;
    Some((found.st_dev, found.st_ino))
}

fn wasm(args: WasmArgs) -> anyhow::Result<()> {
    let mut config = coracle_wasm::HostConfig::new(args.socket, args.data);
    config.compiled = Some(args.compiled.clone());
    config.netns = args.netns;
    let mut write = vec![args.logs, args.volumes];
    write.extend(args.host_paths);
    config.confinement = Some(coracle_wasm::Confinement {
        read: vec![args.compiled.clone()],
        write,
        user: args.user,
    });
    coracle_wasm::run_host(config)
}

fn oci(args: OciArgs) -> anyhow::Result<()> {
    match args {
        OciArgs { cleanup: Some(folder), cgroup: Some(cgroup), .. } => {
            Ok(coracle_oci::cleanup(&folder, &cgroup)?)
        }
        OciArgs { socket: Some(socket), data: Some(data), .. } => {
            coracle_oci::run(coracle_oci::Config { socket, data })
        }
        _ => anyhow::bail!("give --socket and --data, or --cleanup and --cgroup"),
    }
}

/// What it may do is what the Wasm host may: it, too, reads what strangers send.
fn ingress(args: IngressArgs) -> anyhow::Result<()> {
    let confinement = coracle_wasm::Confinement {
        read: Vec::new(),
        write: vec![args.logs.clone()],
        user: args.user,
    };
    let sockets = match (args.http_socket, args.https_socket) {
        (Some(http), Some(https)) => Some([listener(http)?, listener(https)?]),
        _ => None,
    };
    let options = coracle_ingress::Options {
        socket: args.socket,
        http: args.http,
        https: args.https,
        sockets,
        logs: args.logs,
        netns: args.netns,
        limits: coracle_ingress::Limits::default(),
    };
    coracle_ingress::run(options, || confinement.enclose(), || confinement.disarm())
}

/// A socket that whoever started this process left open for it.
fn listener(number: RawFd) -> anyhow::Result<OwnedFd> {
    let file = std::fs::read_link(format!("/proc/self/fd/{number}")).unwrap_or_default();
    let is_own = number > 2 && file.as_os_str().as_encoded_bytes().starts_with(b"socket:");
    anyhow::ensure!(is_own, "{number} is the descriptor of no socket");
    // SAFETY: it is open, and nothing of this program has opened a socket yet: it is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// How the agent serves Ingresses.
pub(crate) fn ingress_settings(
    folder: &Folder,
    node: &crate::agent::IngressArgs,
    network: &coracle_network::Network,
) -> anyhow::Result<coracle_agent::ingress::Settings> {
    // Where Pods are reached on this machine alone, so is what leads to them.
    let address: IpAddr = match network.mode() {
        coracle_network::Mode::Root => Ipv4Addr::UNSPECIFIED.into(),
        coracle_network::Mode::Rootless => Ipv4Addr::LOCALHOST.into(),
    };
    let port = |given: Option<u16>, usual| given.unwrap_or_else(|| network.listen_port(usual));
    Ok(coracle_agent::ingress::Settings {
        program: std::env::current_exe()?,
        socket: folder.host_sockets()?.join("ingress.sock"),
        http: SocketAddr::new(address, port(node.http_port, 80)),
        https: SocketAddr::new(address, port(node.https_port, 443)),
        logs: folder.sub("agent")?.join("ingress"),
        log: folder.sub("host")?.join("ingress.log"),
        netns: network.pod_netns().map(Into::into),
        user: first_user(folder).map(|first| first + u32::from(coracle_agent::hosts::PROXY)),
        trusted: node.trusted.iter().copied().collect(),
        enabled: !node.disabled,
    })
}

/// The answer is one line of JSON: what was made, or, with exit code 1, the problem.
fn compile(args: CompileArgs) -> anyhow::Result<()> {
    let job = coracle_wasm::Job {
        digest: args.digest,
        wasm: args.wasm,
        out: args.out,
        class: args.class,
        memory_limit: args.memory_limit,
    };
    match coracle_wasm::compile_confined(&job, args.user) {
        Ok(made) => {
            println(format_args!("{}", serde_json::to_string(&made)?));
            Ok(())
        }
        Err(problem) => {
            println(format_args!("{}", serde_json::to_string(&problem)?));
            Err(Exited { code: 1 }.into())
        }
    }
}

/// The answer is one line of JSON: what was unpacked, or, with exit code 1, why it was not.
fn unpack(args: UnpackArgs) -> anyhow::Result<()> {
    let job = unpack::Job {
        into: args.into,
        packing: args.packing,
        diff_id: args.diff_id,
        limits: unpack::Limits { bytes: args.max_bytes, entries: args.max_entries },
    };
    match unpack::unpack_confined(&job) {
        Ok(unpacked) => {
            println(format_args!("{}", serde_json::to_string(&unpacked)?));
            Ok(())
        }
        Err(refusal) => {
            println(format_args!("{}", serde_json::to_string(&refusal)?));
            Err(Exited { code: 1 }.into())
        }
    }
}

/// How the agent unpacks.
pub(crate) fn unpack_command() -> unpack::UnpackCommand {
    unpack::UnpackCommand {
        program: "/proc/self/exe".into(),
        args: vec!["host".into(), "unpack".into()],
    }
}

/// How the agent compiles.
pub(crate) fn compile_command(folder: &Folder) -> coracle_agent::images::compile::CompileCommand {
    let names = coracle_wasm::code_names();
    let user = first_user(folder).map(|first| first + u32::from(coracle_agent::hosts::COMPILER));
    coracle_agent::images::compile::CompileCommand {
        // This very program, even if another has its path by now: code has to fit `names`.
        program: "/proc/self/exe".into(),
        args: vec!["host".into(), "compile".into()],
        user,
        names: names.into_iter().map(|(class, name)| (class.to_owned(), name.to_owned())).collect(),
        patience: |size| Duration::from_secs(coracle_wasm::Limits::of(size).seconds),
    }
}

/// How the agent starts hosts.
pub(crate) fn config(
    folder: &Folder,
    cluster: String,
) -> anyhow::Result<coracle_agent::hosts::HostsConfig> {
    Ok(coracle_agent::hosts::HostsConfig {
        program: std::env::current_exe()?,
        sockets: folder.host_sockets()?,
        data: folder.sub("host")?,
        agent_data: folder.sub("agent")?,
        cluster,
        containers: true,
        users: first_user(folder),
    })
}

/// The first number of this agent's hosts, where they can have users of their own.
fn first_user(folder: &Folder) -> Option<u32> {
    let seed = coracle_network::ranges::seed(folder.path().as_os_str().as_encoded_bytes());
    may_administer_network().then_some(FIRST_USER | (seed as u32 & 0xffff) << 12)
}
