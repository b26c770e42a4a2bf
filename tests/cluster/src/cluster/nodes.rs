//! A cluster of several machines: its nodes, each on a machine of its own.

use std::collections::BTreeMap;
use std::env;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::Signal;

use super::{Cluster, END, Options, Part, START};
use crate::command;
use crate::leftovers::Leftovers;
use crate::process::Process;
use crate::tools;
use crate::wait::{ensure, eventually};
use crate::wire::{Machine, Wire};

/// A node on a machine of its own.
pub(super) struct Node {
    machine: Arc<Machine>,
    process: Option<Process>,
    args: Vec<String>,
}

impl Cluster {
    /// Starts a control plane to which other machines may come ([`Cluster::join`]). Needs root.
    ///
    /// # Errors
    /// When it is not ready in time; with what it said.
    pub async fn fleet(options: impl Into<Options>) -> anyhow::Result<Self> {
        Self::fleet_of(options, &tools::coracle()?).await
    }

    /// The same, of this binary.
    ///
    /// # Errors
    /// When it is not ready in time; with what it said.
    pub async fn fleet_of(options: impl Into<Options>, binary: &Path) -> anyhow::Result<Self> {
        let mut cluster = Self::prepare_of(options.into(), true, binary)?;
        let wire = Wire::lay()?;
        cluster.state().listen = Some(SocketAddr::from((wire.own_address(), 0)));
        let (first, last) = wire.spare_addresses();
        cluster.args.extend(["--load-balancer-pool".to_owned(), format!("{first}-{last}")]);
        cluster.wire = Some(wire);
        cluster.start(Part::Server).await?;
        Ok(cluster)
    }

    /// Makes another machine a node, of this name; `args` are more arguments of its agent.
    ///
    /// # Errors
    /// When it is not ready in time; with what it said.
    pub async fn join(&self, name: &str, args: &[&str]) -> anyhow::Result<Arc<Machine>> {
        let machine = self.add_machine(name, args)?;
        self.start_node(name).await?;
        Ok(machine)
    }

    /// Makes a machine a node that is behind a router: it reaches everybody, and nobody reaches it.
    ///
    /// # Errors
    /// When it is not ready in time; with what it said.
    pub async fn join_hidden(&self, name: &str, args: &[&str]) -> anyhow::Result<Arc<Machine>> {
        let machine = self.add(Wire::add_hidden, name, args)?;
        self.start_node(name).await?;
        Ok(machine)
    }

    /// Another machine, to be a node of this name; `args` are more arguments of its agent.
    ///
    /// # Errors
    /// When this is no fleet, or the kernel refuses.
    pub fn add_machine(&self, name: &str, args: &[&str]) -> anyhow::Result<Arc<Machine>> {
        self.add(Wire::add, name, args)
    }

    fn add(
        &self,
        make: impl FnOnce(&Wire, u8) -> anyhow::Result<Machine>,
        name: &str,
        args: &[&str],
    ) -> anyhow::Result<Arc<Machine>> {
        let wire = self.wire.as_ref().context("this cluster is no fleet")?;
        let number = u8::try_from(self.nodes().len())?;
        let machine = Arc::new(make(wire, number)?);
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        let node = Node { machine: machine.clone(), process: None, args };
        self.nodes().insert(name.to_owned(), node);
        Ok(machine)
    }

    /// What an agent says that cannot start, on a node's machine; `args` are more of its arguments.
    ///
    /// # Errors
    /// When it starts, or cannot be run.
    pub async fn refused_node(&self, name: &str, args: &[&str]) -> anyhow::Result<String> {
        command::run(self.node_command(name, args)?.into(), b"").await?.refused()
    }

    /// Starts a node's agent again.
    ///
    /// # Errors
    /// When it is not ready in time; with what it said.
    pub async fn start_node(&self, name: &str) -> anyhow::Result<()> {
        self.start_node_with(name, &[]).await
    }

    /// Starts a node's agent again, with more arguments.
    ///
    /// # Errors
    /// When it is not ready in time; with what it said.
    pub async fn start_node_with(&self, name: &str, args: &[&str]) -> anyhow::Result<()> {
        let command = self.node_command(name, args)?;
        let logs = self.folder.path().join("logs");
        let ready = |line: &str| line.starts_with("coracle agent is a node of").then_some(());
        let (process, ()) = Process::start(command, &logs, name, START, ready).await?;
        let mut nodes = self.nodes();
        nodes.get_mut(name).context("no such node")?.process = Some(process);
        Ok(())
    }

    /// What starts a node's agent, on its machine; `args` are more of its arguments.
    ///
    /// # Errors
    /// When there is no such node, or no token.
    pub fn node_command(&self, name: &str, args: &[&str]) -> anyhow::Result<std::process::Command> {
        let nodes = self.nodes();
        let node = nodes.get(name).context("no such node")?;
        let mut command = std::process::Command::new("nsenter");
        command.arg(format!("--net={}", node.machine.namespace().display()));
        command.arg(self.binary()).arg("agent");
        if !args.contains(&"--name") {
            command.args(["--name", name]);
        }
        if !args.contains(&"--token") {
            self.add_token(&mut command, &self.node_data(name))?;
        }
        command.args(["--server", &format!("https://{}", self.api())]);
        command.args(["--disk-pressure-threshold", "0", "--image-gc-high-threshold", "100"]);
        command.arg("--data").arg(self.node_data(name)).args(&node.args).args(args);
        command.current_dir(self.home()).env("HOME", self.home());
        command.env("CORACLE_LOG", env::var("CORACLE_LOG").unwrap_or_else(|_| "info".to_owned()));
        Ok(command)
    }

    /// What a node's agent has said on its standard error, in all of its lives.
    pub fn node_errors(&self, name: &str) -> String {
        let path = self.folder.path().join("logs").join(format!("{name}.err"));
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// Kills a node's agent with SIGKILL; returns when it is gone.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill9_node(&self, name: &str) -> anyhow::Result<()> {
        let process = self.nodes().get_mut(name).and_then(|node| node.process.take());
        process.context("that node does not run")?.kill();
        Ok(())
    }

    /// The process id of a node's agent.
    ///
    /// # Errors
    /// When it does not run.
    pub fn node_pid(&self, name: &str) -> anyhow::Result<i32> {
        let nodes = self.nodes();
        let process = nodes.get(name).and_then(|node| node.process.as_ref());
        Ok(process.context("that node does not run")?.pid())
    }

    /// Kills everything on a node's machine, as the loss of its power does.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill9_machine(&self, name: &str) -> anyhow::Result<()> {
        self.kill9_node(name)?;
        Leftovers::of_node(&self.node_data(name)).kill();
        Ok(())
    }

    /// The machine of a node.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn machine(&self, name: &str) -> anyhow::Result<Arc<Machine>> {
        Ok(self.nodes().get(name).context("no such node")?.machine.clone())
    }

    /// The data folder of a node on another machine.
    pub fn node_data(&self, name: &str) -> PathBuf {
        self.data().join(name)
    }

    /// Ends the agents of other machines, and then removes what they leave running.
    pub(super) async fn end_nodes(&self) -> anyhow::Result<()> {
        let nodes = std::mem::take(&mut *self.nodes());
        for (name, mut node) in nodes {
            if let Some(mut process) = node.process.take() {
                process.signal(Signal::SIGTERM)?;
                let status = process.ended(END).await?;
                ensure(status.success(), || format!("{name} ended with {status}"))?;
            }
            let leftovers = Leftovers::of_node(&self.node_data(&name));
            leftovers.remove();
            eventually(Duration::from_secs(5), "everything of a node is removed", async || {
                let left = leftovers.list();
                ensure(left.is_empty(), || format!("cannot be removed:\n{}", left.join("\n")))
            })
            .await?;
        }
        Ok(())
    }

    /// Kills all nodes, and removes what they left on their machines.
    pub(super) fn remove_nodes(&self) {
        let nodes = std::mem::take(&mut *self.nodes());
        for (name, node) in nodes {
            if let Some(mut process) = node.process {
                process.kill();
            }
            Leftovers::of_node(&self.node_data(&name)).remove();
        }
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<String, Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
