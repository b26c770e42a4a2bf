//! What a sandbox host can do. One implementation per runtime; [`crate::serve`] puts it on a socket.

use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::stream::{ByteStream, Session};
use crate::types::*;

/// The lines of `GET /v1/events`, for one reader. Ends when the host shuts down.
pub type EventStream = BoxStream<'static, EventLine>;

/// A sandbox host. All methods are idempotent: an agent that lost an answer asks again.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Who this is.
    async fn info(&self) -> Info;

    /// Makes an image ready to start (compiles it, unless compiled code is in the cache).
    async fn prepare_image(&self, image: Image) -> Result<ImageInfo, Problem>;

    /// Makes a sandbox. The same id with the same spec changes nothing; another spec under the same
    /// id is a [`ProblemCode::Conflict`].
    async fn put_sandbox(&self, spec: SandboxSpec) -> Result<SandboxStatus, Problem>;

    /// Every sandbox: what an agent that returns adopts.
    async fn sandboxes(&self) -> Vec<SandboxStatus>;

    /// What each container used.
    async fn usage(&self) -> Vec<ContainerUsage>;

    /// The same of the sandboxes that used CPU or were busy within the last ten seconds at least; maybe of more. Cheap enough
    /// to be asked for every second where many are idle.
    async fn recent_usage(&self) -> Vec<ContainerUsage> {
        self.usage().await
    }

    /// The host's metrics, in the Prometheus text format.
    async fn metrics(&self) -> String;

    /// One sandbox.
    async fn sandbox(&self, id: &str) -> Result<SandboxStatus, Problem>;

    /// Ends what still runs in it, by force, and forgets it. Unknown ids are a success.
    async fn delete_sandbox(&self, id: &str) -> Result<(), Problem>;

    /// Starts an attempt; returns once it runs (an HTTP workload: once it is being served). The
    /// same attempt again returns its status, served on the ports that it names now.
    async fn start_container(
        &self,
        sandbox: &str,
        spec: ContainerSpec,
    ) -> Result<ContainerStatus, Problem>;

    /// Begins to end a container and returns at once; its exit is an event. A second stop with less
    /// grace shortens the first.
    async fn stop_container(&self, sandbox: &str, name: &str, stop: Stop) -> Result<(), Problem>;

    /// Changes the limits of a container that runs. Refused, with nothing changed, where it uses more memory already.
    async fn update_container(
        &self,
        _sandbox: &str,
        _name: &str,
        _resources: Resources,
    ) -> Result<(), Problem> {
        Err(no_processes("change the limits of a container that runs"))
    }

    /// Changes the limits of a sandbox as a whole: its spec is one with these from then on.
    async fn update_sandbox(&self, _id: &str, _resources: Resources) -> Result<(), Problem> {
        Err(no_processes("change the limits of a sandbox"))
    }

    /// Runs a program in a container that runs. Returns once it was started; a refusal names what cannot be executed.
    async fn exec(&self, _sandbox: &str, _name: &str, _spec: ExecSpec) -> Result<Session, Problem> {
        Err(no_processes("execute programs in containers"))
    }

    /// Takes part in the streams of a container's own process.
    async fn attach(
        &self,
        _sandbox: &str,
        _name: &str,
        _spec: AttachSpec,
    ) -> Result<Session, Problem> {
        Err(no_processes("attach to containers"))
    }

    /// Runs a program in a container that runs, to its end or for as long as it may.
    async fn run(&self, _sandbox: &str, _name: &str, _spec: RunSpec) -> Result<RunResult, Problem> {
        Err(no_processes("execute programs in containers"))
    }

    /// Connects to a port of the sandbox, on its loopback address.
    async fn forward(&self, _sandbox: &str, _port: u16) -> Result<ByteStream, Problem> {
        Err(no_processes("forward ports"))
    }

    /// Replaces the table of Services. Connections that are open stay so.
    async fn put_routes(&self, routes: Routes) -> Result<RoutesStatus, Problem>;

    /// Events after `after`, then as they happen. Events are held in a bounded ring: see
    /// [`EventLine::Start`].
    fn events(&self, after: u64) -> EventStream;

    /// Ends every workload. The process exits once this was answered.
    async fn shutdown(&self);
}

fn no_processes(what: &str) -> Problem {
    Problem::new(ProblemCode::InvalidSpec, format!("this runtime cannot {what}"))
}
