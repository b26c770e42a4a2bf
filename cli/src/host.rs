//! `coracle host`: a sandbox host, as the agent starts it.

use std::path::PathBuf;

use crate::folder::Folder;
use crate::log_filter;

/// Which runtime.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Host of Wasm Pods
    Wasm(WasmArgs),
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
    /// Folder that holds images, logs and volumes
    #[arg(long)]
    agent_data: PathBuf,
}

/// Runs until it is told to end.
pub(crate) fn main(command: Command) -> anyhow::Result<()> {
    let Command::Wasm(args) = command;
    tracing_subscriber::fmt()
        .with_env_filter(log_filter())
        .with_writer(std::io::stderr)
        .compact()
        .init();
    let mut config = coracle_wasm::HostConfig::new(args.socket, args.data);
    let folder = |name: &str| args.agent_data.join(name);
    config.folders = Some(coracle_wasm::Folders {
        read: vec![folder("images")],
        write: vec![folder("logs"), folder("volumes")],
    });
    coracle_wasm::run_host(config)
}

/// How the agent starts hosts.
pub(crate) fn config(folder: &Folder) -> anyhow::Result<coracle_agent::hosts::HostsConfig> {
    Ok(coracle_agent::hosts::HostsConfig {
        program: std::env::current_exe()?,
        sockets: folder.host_sockets()?,
        data: folder.sub("host")?,
        agent_data: folder.sub("agent")?,
    })
}
