//! The sandbox protocol of one Pod.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coracle_sandbox::stream::{ByteStream, Session};
use coracle_sandbox::{
    AttachSpec, ContainerSpec, ContainerStatus, ContainerUsage, EventStream, ExecSpec, Image,
    ImageInfo, Info, Problem, ProblemCode, Resources, Routes, RoutesStatus, RunResult, RunSpec,
    Runtime, SandboxSpec, SandboxStatus, Stop,
};
use nix::sys::signal::Signal;
use tokio::net::TcpStream;

use super::pod::Shim;

/// How long a port of the Pod may take to answer.
const CONNECT: Duration = Duration::from_secs(30);

#[async_trait]
impl Runtime for Shim {
    async fn info(&self) -> Info {
        super::info(&self.instance, self.started_at)
    }

    async fn prepare_image(&self, _: Image) -> Result<ImageInfo, Problem> {
        Ok(crate::zygote::container_image())
    }

    async fn put_sandbox(&self, spec: SandboxSpec) -> Result<SandboxStatus, Problem> {
        let _one = self.changing.lock().await;
        let pod = self.make(spec)?;
        Ok(self.status(&pod))
    }

    async fn sandboxes(&self) -> Vec<SandboxStatus> {
        self.pod(&self.id).map(|pod| self.status(&pod)).into_iter().collect()
    }

    async fn usage(&self) -> Vec<ContainerUsage> {
        self.all().iter().map(|container| container.usage()).collect()
    }

    async fn metrics(&self) -> String {
        "# EOF\n".to_owned()
    }

    async fn sandbox(&self, id: &str) -> Result<SandboxStatus, Problem> {
        Ok(self.status(&*self.pod(id)?))
    }

    async fn delete_sandbox(&self, id: &str) -> Result<(), Problem> {
        if id == self.id {
            self.remove().await;
            self.end();
        }
        Ok(())
    }

    async fn start_container(
        &self,
        sandbox: &str,
        spec: ContainerSpec,
    ) -> Result<ContainerStatus, Problem> {
        Ok(self.start(sandbox, spec).await?.status())
    }

    async fn stop_container(&self, sandbox: &str, name: &str, stop: Stop) -> Result<(), Problem> {
        let container = self.container(sandbox, name)?;
        let signal = signal_number(container.spec.stop_signal.as_deref())?;
        container.stop(Duration::from_secs(stop.grace_seconds.into()), signal);
        Ok(())
    }

    async fn update_container(
        &self,
        sandbox: &str,
        name: &str,
        resources: Resources,
    ) -> Result<(), Problem> {
        let container = self.running(sandbox, name)?;
        let used = container.usage().usage.memory_bytes;
        if let Some(limit) = resources.memory_limit.filter(|limit| *limit < used) {
            return Err(Problem::memory_in_use(&format!("container {name:?}"), limit, used));
        }
        let oci = &container.oci;
        let (pids_limit, hugepages) = (oci.pids_limit, oci.hugepages.clone());
        let resources = Resources { pids_limit, hugepages, ..resources };
        container.group.limit(&resources).map_err(|error| {
            Problem::new(ProblemCode::InvalidSpec, format!("container {name}: {error}"))
        })
    }

    async fn update_sandbox(&self, id: &str, resources: Resources) -> Result<(), Problem> {
        let _one = self.changing.lock().await;
        self.resize(id, resources)
    }

    async fn exec(&self, sandbox: &str, name: &str, spec: ExecSpec) -> Result<Session, Problem> {
        let container = self.running(sandbox, name)?;
        self.exec_in(sandbox, &container, spec).await
    }

    async fn attach(
        &self,
        sandbox: &str,
        name: &str,
        spec: AttachSpec,
    ) -> Result<Session, Problem> {
        let container = self.running(sandbox, name)?;
        if spec.stdin && !container.oci.stdin {
            let message = format!("container {name} has no standard input; set stdin in its spec");
            return Err(Problem::new(ProblemCode::InvalidSpec, message));
        }
        let (session, serving) = Session::pair();
        container.attach(&spec, serving);
        Ok(session)
    }

    async fn run(&self, sandbox: &str, name: &str, spec: RunSpec) -> Result<RunResult, Problem> {
        let container = self.running(sandbox, name)?;
        self.run_in(sandbox, &container, spec).await
    }

    async fn forward(&self, sandbox: &str, port: u16) -> Result<ByteStream, Problem> {
        self.pod(sandbox)?;
        // This process is in the Pod's network.
        let connect = async {
            match TcpStream::connect(("127.0.0.1", port)).await {
                Ok(stream) => Ok(stream),
                Err(first) => TcpStream::connect(("::1", port)).await.map_err(|_| first),
            }
        };
        let connected = tokio::time::timeout(CONNECT, connect).await;
        let connected = connected.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        match connected {
            Ok(stream) => {
                // What is typed is to arrive; what is sent in bulk fills packets anyway.
                let _ = stream.set_nodelay(true);
                Ok(Box::new(stream))
            }
            Err(error) => {
                // As containerd and Go have it, since that is what people search for.
                let why = error.kind();
                let message = format!(
                    "failed to connect to localhost:{port} inside namespace of sandbox {sandbox}: connect: {why}"
                );
                Err(Problem::new(ProblemCode::NotFound, message))
            }
        }
    }

    async fn put_routes(&self, _: Routes) -> Result<RoutesStatus, Problem> {
        // The kernel routes what containers send.
        Ok(RoutesStatus::default())
    }

    fn events(&self, after: u64) -> EventStream {
        self.events.stream(after)
    }

    async fn shutdown(&self) {
        self.remove().await;
        self.events.close();
    }
}

/// The number of a signal that is given as `SIGTERM`, `TERM`, `15` or `SIGRTMIN+3`; TERM where none is given.
pub(super) fn signal_number(name: Option<&str>) -> Result<i32, Problem> {
    let Some(name) = name.filter(|name| !name.is_empty()) else { return Ok(libc::SIGTERM) };
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    let last = libc::SIGRTMAX();
    let real_time = |base: i32, sign: i32, rest: &str| {
        let distance = if rest.is_empty() { Some(0) } else { rest[1..].parse::<i32>().ok() };
        distance.map(|distance| base + sign * distance)
    };
    let number = match short {
        _ if short.starts_with("RTMIN") => real_time(libc::SIGRTMIN(), 1, &short[5..]),
        _ if short.starts_with("RTMAX") => real_time(last, -1, &short[5..]),
        // Other names of some.
        "CLD" => Some(libc::SIGCHLD),
        "IOT" => Some(libc::SIGABRT),
        "POLL" => Some(libc::SIGIO),
        _ => short
            .parse::<i32>()
            .ok()
            .or_else(|| format!("SIG{short}").parse::<Signal>().ok().map(|signal| signal as i32)),
    };
    number.filter(|number| (1..=last).contains(number)).ok_or_else(|| {
        Problem::new(ProblemCode::InvalidSpec, format!("stop_signal: there is no signal {name:?}"))
    })
}

/// As Kubernetes writes a signal that images may write in other ways.
pub(super) fn signal_name(given: &str) -> String {
    let upper = given.to_ascii_uppercase();
    let number = upper.parse::<i32>().ok().and_then(|number| Signal::try_from(number).ok());
    match number {
        Some(signal) => signal.as_str().to_owned(),
        None if upper.starts_with("SIG") => upper,
        None => format!("SIG{upper}"),
    }
}

/// The trait wants a shared reference in every task.
const _: fn(Arc<Shim>) -> Arc<dyn Runtime> = |shim| shim;

#[cfg(test)]
mod tests {
    use super::{signal_name, signal_number};

    #[test]
    fn signals_have_names_and_numbers() {
        let number = |name| signal_number(Some(name)).ok();
        assert_eq!(signal_number(None).unwrap(), libc::SIGTERM);
        assert_eq!(number("SIGQUIT"), Some(libc::SIGQUIT));
        assert_eq!(number("int"), Some(libc::SIGINT));
        assert_eq!(number("9"), Some(9));
        assert_eq!(number("SIGRTMIN+3"), Some(libc::SIGRTMIN() + 3));
        assert_eq!(number("RTMAX-1"), Some(libc::SIGRTMAX() - 1));
        assert_eq!(number("SIGPOLL"), Some(libc::SIGIO));
        for (given, name) in [("9", "SIGKILL"), ("quit", "SIGQUIT"), ("SIGRTMIN+3", "SIGRTMIN+3")] {
            assert_eq!(signal_name(given), name);
        }
        assert_eq!(number("SIGNAL"), None);
        assert_eq!(number("0"), None);
        assert_eq!(number("500"), None);
    }
}
