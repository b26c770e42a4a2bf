//! Containers of container images: their Pod's sandbox, their start, and what is executed in them.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coracle_sandbox::{
    Client, ClientError, ContainerSpec, ContainerStatus, FolderAttributes, Image, OciSandbox,
    ProblemCode, RunSpec, SandboxSpec, SandboxStatus,
};
use k8s_openapi::api::core::v1::{Container, ExecAction, Pod};

use super::start::mount;
use super::{Presence, Workers, images, names, said};
use crate::hosts::Runtime;
use crate::images::manifest::Run;
use crate::isolation;
use crate::logs;
use crate::pod::kept::Kept;
use crate::pod::oci::{self, Files};
use crate::pod::volumes::Owner;
use crate::pod::{env, spec, termination};

/// Longest that an exec hook may take, which has no limit of its own.
const LONGEST_HOOK: Duration = Duration::from_secs(600);

/// An image whose files lie here.
pub(super) struct Unpacked {
    pub(super) digest: String,
    pub(super) layers: Vec<PathBuf>,
    pub(super) folders: Vec<FolderAttributes>,
    pub(super) run: Run,
}

impl Workers {
    /// Makes the sandbox of a Pod with containers.
    pub(super) async fn put_containers(
        &self,
        pod: &Arc<Pod>,
        spec: SandboxSpec,
    ) -> Result<SandboxStatus, String> {
        let parts = &self.inner.parts;
        let (namespace, name) = names(pod);
        let host_paths = isolation::host_paths(pod).map(Into::into).collect();
        let own_users = oci::has_own_users(pod);
        let place = parts.hosts.place_containers(host_paths, &spec, own_users).await;
        let place = place.map_err(|e| e.to_string())?;
        let owner = Owner::of(&place.folders, pod);
        let mounted = parts.volumes.mount_memory(&spec.id, pod, owner).await;
        mounted.map_err(|e| e.to_string())?;
        let log_dir = place.folders.pod_logs(namespace, name, &spec.id);
        let oci = spec.oci.map(|oci| OciSandbox { users: place.users, ..oci });
        let spec = SandboxSpec { netns: place.netns, log_dir, oci, ..spec };
        let made = place.client.put_sandbox(&spec).await.map_err(said)?;
        parts.hosts.made(&made).await;
        match parts.hosts.shim(&spec.id) {
            Some(_) => Ok(made),
            None => Err("the Pod's shim does not answer".to_owned()),
        }
    }

    /// Leads the ports of the machine to the Pod that it asks for, or no longer.
    pub(super) async fn lead_host_ports(&self, uid: &str, pod: &Pod, ip: Option<IpAddr>) {
        // Most Pods ask for none, and none can ask for others later.
        if spec::host_ports(pod, Ipv4Addr::LOCALHOST).is_empty() {
            return;
        }
        let ports = match ip {
            Some(IpAddr::V4(ip)) => spec::host_ports(pod, ip),
            _ => Vec::new(),
        };
        let network = &self.inner.parts.network;
        if let Err(error) = network.set_host_ports(uid, ports).await {
            let message = format!("hostPort: {error}");
            self.inner.parts.recorder.pod(pod, None, true, "HostPortFailed", message);
        }
    }

    /// Takes a Pod's things out of the host that it was put in by what was known then.
    pub(super) async fn move_out(&self, uid: &str) {
        let parts = &self.inner.parts;
        if let Err(error) = parts.hosts.delete_sandbox(uid).await {
            tracing::warn!(%error, pod = uid, "an earlier sandbox was not removed");
        }
        parts.hosts.leave(uid).await;
        parts.volumes.forget(uid).await;
        parts.hosts.forget(uid).await;
    }

    /// The host for a Wasm container, which knows the Pod.
    pub(super) async fn wasm_host(
        &self,
        uid: &str,
        namespace: &str,
        pod: &str,
        container: &str,
    ) -> Result<Client, (&'static str, String)> {
        let hosts = &self.inner.parts.hosts;
        let Some(shim) = hosts.shim(uid) else { return Ok(hosts.wasm(uid)) };
        let failed = |why: String| ("CreateContainerError", why);
        let folders = hosts.folders(uid);
        let logs = folders.pod_logs(namespace, pod, uid).join(container);
        folders.give(&logs).map_err(|e| failed(format!("{}: {e}", logs.display())))?;
        let known = shim.sandbox(uid).await.map_err(|e| failed(said(e)))?;
        if known.spec.netns.is_none() {
            let why = "hostNetwork: a Wasm container cannot use the machine's network; leave hostNetwork out, or use a container image";
            return Err(failed(why.to_owned()));
        }
        let client = hosts.wasm_beside(uid).await.map_err(|e| failed(e.to_string()))?;
        let spec = SandboxSpec { oci: None, own_network: true, ..known.spec };
        client.put_sandbox(&spec).await.map_err(|e| failed(said(e)))?;
        hosts.runs(uid, container, Runtime::Wasm);
        Ok(client)
    }

    /// Names of the Pod's Wasm containers that are there beside others.
    pub(super) fn beside(&self, uid: &str) -> Vec<String> {
        let hosts = &self.inner.parts.hosts;
        let table = self.table();
        let there = table.pods.get(uid).into_iter().flat_map(|e| e.state.containers.iter());
        let there = there.filter(|c| c.is_there()).map(|c| c.rule.name.to_string());
        there.filter(|name| !hosts.is_in_shim(uid, name)).collect()
    }

    pub(super) async fn start_oci(
        &self,
        uid: &str,
        pod: &Arc<Pod>,
        container: &Container,
        attempt: u32,
        image: Unpacked,
    ) -> Result<ContainerStatus, (&'static str, String)> {
        let parts = &self.inner.parts;
        let config = |message: String| ("CreateContainerConfigError", message);
        let failed = |message: String| ("CreateContainerError", message);
        let Some(shim) = parts.hosts.shim(uid) else {
            return Err(failed("the Pod's shim is gone; it is made anew".to_owned()));
        };
        let (namespace, pod_name) = names(pod);
        let (name, run) = (container.name.as_str(), &image.run);
        if let Some(target) = spec::target(pod, name) {
            self.may_join(uid, target).map_err(config)?;
        }
        let folders = parts.hosts.folders(uid);
        let owner = Owner::of(&folders, pod);
        let owner = if self.mixes(uid, pod).await { owner.with_wasm() } else { owner };
        let kept = self.kept(uid).unwrap_or_else(|| Kept::of(pod.clone()));
        let set_up =
            parts.volumes.set_up(uid, &kept, container, owner, true).await.map_err(mount)?;
        let environment = self.environment(uid, pod, container).await.map_err(config)?;
        let settings = self.settings(pod, name).await.map_err(config)?;
        let mut mounts = set_up.binds(container, &environment).map_err(mount)?;
        let room = termination::prepare_file(container, &mounts, &parts.volumes.dir(uid), attempt);
        mounts.extend(room.map_err(|e| config(format!("terminationMessagePath: {e}")))?);
        let args = arguments(container, &environment, run).ok_or_else(|| {
            failed("no command specified: neither the container nor its image has one".to_owned())
        })?;
        let upper = folders.root(name, attempt);
        let files = Files { layers: image.layers, folders: image.folders, upper };
        let facts = oci::Facts {
            memory: parts.allocatable.1,
            seccomp: parts.volumes.data().join("seccomp"),
        };
        let oci = oci::container(pod, container, run, files, &facts)?;
        let limits = spec::limits(container);
        let logs = folders.pod_logs(namespace, pod_name, uid);
        let own_folder = container.working_dir.clone().filter(|d| !d.is_empty());
        let own_signal = container.lifecycle.as_ref().and_then(|l| l.stop_signal.clone());
        let spec = ContainerSpec {
            name: name.to_owned(),
            attempt,
            image: Image { digest: image.digest, ..Image::default() },
            args,
            env: images::environment(run, environment),
            mounts,
            memory_limit: limits.memory_limit,
            cpu_weight: limits.cpu_request,
            cpu_limit: limits.cpu_limit,
            log_path: logs::attempt_path(&logs, name, attempt),
            log_limit: settings.log_limit,
            working_dir: own_folder.or_else(|| run.working_dir.clone()).map(Into::into),
            stop_signal: own_signal.or_else(|| run.stop_signal.clone()),
            oci: Some(oci),
            ..ContainerSpec::default()
        };
        forget_roots(folders.roots(name), attempt).await;
        parts.recorder.pod(pod, Some(name), false, "Created", format!("Container created: {name}"));
        parts.hosts.runs(uid, name, Runtime::Oci);
        let status = shim.start_container(uid, &spec).await.map_err(refused)?;
        logs::forget_old(&logs, name, attempt).await;
        Ok(status)
    }

    /// Whether there are processes for an ephemeral container to see.
    fn may_join(&self, uid: &str, target: &str) -> Result<(), String> {
        match self.presence(uid, target) {
            Presence::Running(_) if self.inner.parts.hosts.is_in_shim(uid, target) => Ok(()),
            Presence::Running(_) => Err(format!(
                "targetContainerName: container \"{target}\" is a Wasm component, which has no processes to look at; leave the target out"
            )),
            _ => Err(format!("unable to find target container \"{target}\"")),
        }
    }

    /// An exec probe, as the kubelet has it: the output is the message.
    pub(super) async fn exec_probe(
        &self,
        uid: &str,
        name: &str,
        exec: &ExecAction,
        timeout_seconds: i32,
    ) -> Result<(), String> {
        let limit = Duration::from_secs(timeout_seconds.max(1).unsigned_abs().into());
        let args = expanded(exec);
        let said = args.join(" ");
        match self.execute(uid, name, args, limit).await? {
            (_, true, _) => Err(format!("command {said:?} timed out")),
            (0, ..) => Ok(()),
            (_, _, output) => Err(output),
        }
    }

    /// An exec hook.
    pub(super) async fn exec_hook(
        &self,
        uid: &str,
        pod: &Pod,
        name: &str,
        exec: &ExecAction,
    ) -> Result<(), String> {
        let args = expanded(exec);
        let said = args.join(" ");
        let (code, timed_out, output) = self.execute(uid, name, args, LONGEST_HOOK).await?;
        let error = match (code, timed_out) {
            (_, true) => format!("command {said:?} timed out"),
            (0, _) => return Ok(()),
            (code, _) => format!("command '{said}' exited with {code}: {output}"),
        };
        Err(format!(
            "Exec lifecycle hook ([{said}]) for Container {name:?} in Pod {:?} failed - error: {error}, message: {output:?}",
            spec::full_name(pod)
        ))
    }

    /// Exit code, whether it took too long, and what it wrote.
    async fn execute(
        &self,
        uid: &str,
        name: &str,
        args: Vec<String>,
        limit: Duration,
    ) -> Result<(i32, bool, String), String> {
        let milliseconds = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        let spec = RunSpec { args, timeout_milliseconds: milliseconds };
        let client = self.inner.parts.hosts.of(uid, name);
        match client.run(uid, name, &spec).await {
            Ok(result) => Ok((result.code, result.timed_out, result.output)),
            // What cannot be executed is a failure like any other.
            Err(ClientError::Problem(p)) if p.code == ProblemCode::InvalidSpec => Err(p.message),
            Err(error) => Err(said(error)),
        }
    }
}

/// A program that cannot be executed is not the same as a container that cannot be made.
fn refused(error: ClientError) -> (&'static str, String) {
    let reason = match error.problem().map(|problem| problem.code) {
        Some(ProblemCode::StartFailed) => "RunContainerError",
        _ => "CreateContainerError",
    };
    (reason, said(error))
}

fn expanded(exec: &ExecAction) -> Vec<String> {
    exec.command.clone().unwrap_or_default()
}

/// As the OCI image specification and Kubernetes have it; none where there is nothing to run.
fn arguments(
    container: &Container,
    environment: &[(String, String)],
    run: &Run,
) -> Option<Vec<String>> {
    let commanded = container.command.as_ref().is_some_and(|c| !c.is_empty());
    let given = env::arguments(container, environment, "");
    if commanded {
        return Some(given);
    }
    // Without a command, the first word is the name.
    let given = given.into_iter().skip(1).collect::<Vec<_>>();
    let rest = if given.is_empty() { run.cmd.clone() } else { given };
    let all: Vec<String> = run.entrypoint.iter().cloned().chain(rest).collect();
    (!all.is_empty()).then_some(all)
}

/// Removes what earlier attempts wrote.
async fn forget_roots(folder: PathBuf, attempt: u32) {
    let work = tokio::task::spawn_blocking(move || {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_name() != attempt.to_string().as_str()
                && let Err(error) = std::fs::remove_dir_all(entry.path())
            {
                tracing::warn!(%error, folder = %entry.path().display(), "what a container wrote was not removed");
            }
        }
    });
    let _ = work.await;
}

#[cfg(test)]
mod tests;
