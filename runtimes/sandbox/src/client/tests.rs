use std::sync::Mutex;

use async_trait::async_trait;
use futures::StreamExt;

use super::*;
use crate::{EventStream, Runtime, listen, serve};

/// A host that remembers sandboxes and tells one event for each that is made.
struct Fake {
    instance: String,
    made: Mutex<Vec<SandboxSpec>>,
    events: tokio::sync::watch::Sender<(bool, Vec<Event>)>,
}

impl Fake {
    fn new(instance: &str) -> Arc<Fake> {
        let events = tokio::sync::watch::Sender::new((false, Vec::new()));
        Arc::new(Fake { instance: instance.into(), made: Mutex::default(), events })
    }
}

fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

fn container(name: &str) -> ContainerStatus {
    ContainerStatus {
        name: name.into(),
        attempt: 0,
        image_digest: String::new(),
        state: ContainerState::Running { started_at: now() },
        bound: Vec::new(),
        usage: Usage::default(),
        pid: None,
        process: None,
    }
}

#[async_trait]
impl Runtime for Fake {
    async fn info(&self) -> Info {
        Info {
            runtime: "fake".into(),
            version: "1".into(),
            api: crate::API_VERSION,
            pid: 1,
            instance: self.instance.clone(),
            started_at: now(),
            engine: String::new(),
            code: Default::default(),
        }
    }
    async fn prepare_image(&self, image: Image) -> Result<ImageInfo, Problem> {
        Err(Problem::new(ProblemCode::ImageNotFound, format!("no {}", image.digest)))
    }
    async fn put_sandbox(&self, spec: SandboxSpec) -> Result<SandboxStatus, Problem> {
        if spec.id.starts_with("bad") {
            return Err(Problem::new(ProblemCode::InvalidSpec, spec.id));
        }
        self.made.lock().unwrap().push(spec.clone());
        self.events.send_modify(|(_, events)| {
            let seq = events.len() as u64 + 1;
            events.push(Event { seq, sandbox: spec.id.clone(), container: container("c") });
        });
        Ok(SandboxStatus { spec, created_at: now(), containers: Vec::new(), socket: None })
    }
    async fn sandboxes(&self) -> Vec<SandboxStatus> {
        let made = self.made.lock().unwrap().clone();
        let status =
            |spec| SandboxStatus { spec, created_at: now(), containers: Vec::new(), socket: None };
        made.into_iter().map(status).collect()
    }
    async fn sandbox(&self, id: &str) -> Result<SandboxStatus, Problem> {
        Err(Problem::new(ProblemCode::NotFound, id))
    }
    async fn delete_sandbox(&self, _: &str) -> Result<(), Problem> {
        Ok(())
    }
    async fn start_container(
        &self,
        sandbox: &str,
        spec: ContainerSpec,
    ) -> Result<ContainerStatus, Problem> {
        assert_eq!(sandbox, "one");
        Ok(container(&spec.name))
    }
    async fn stop_container(&self, _: &str, _: &str, _: Stop) -> Result<(), Problem> {
        Ok(())
    }
    async fn usage(&self) -> Vec<ContainerUsage> {
        Vec::new()
    }
    async fn metrics(&self) -> String {
        "# EOF\n".to_owned()
    }
    async fn put_routes(&self, _: Routes) -> Result<RoutesStatus, Problem> {
        Ok(RoutesStatus::default())
    }
    fn events(&self, after: u64) -> EventStream {
        let mut receive = self.events.subscribe();
        let instance = self.instance.clone();
        async_stream(move |send| async move {
            let last = receive.borrow().1.len() as u64;
            let gap = after > last;
            let mut sent = if gap { last } else { after };
            let _ = send.send(EventLine::Start { instance, last, gap }).await;
            loop {
                let (ended, news) = {
                    let (ended, all) = &*receive.borrow_and_update();
                    (*ended, all[sent as usize..].to_vec())
                };
                for event in news {
                    sent = event.seq;
                    if send.send(EventLine::Event(event)).await.is_err() {
                        return;
                    }
                }
                if ended || receive.changed().await.is_err() {
                    return;
                }
            }
        })
    }
    async fn shutdown(&self) {
        self.events.send_modify(|(ended, _)| *ended = true);
    }
}

fn async_stream<F: Future<Output = ()> + Send + 'static>(
    work: impl FnOnce(tokio::sync::mpsc::Sender<EventLine>) -> F,
) -> EventStream {
    let (send, receive) = tokio::sync::mpsc::channel(16);
    tokio::spawn(work(send));
    ReceiverStream::new(receive).boxed()
}

fn sandbox(id: &str) -> SandboxSpec {
    SandboxSpec { id: id.into(), ..Default::default() }
}

#[tokio::test]
async fn calls_and_refusals_arrive() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("host.sock");
    let client = Client::new(&socket);
    assert!(matches!(client.info().await, Err(ClientError::Unreachable { .. })));

    let server = tokio::spawn(serve(listen(&socket).unwrap(), Fake::new("a")));
    let info = client.wait_ready(Duration::from_secs(5)).await.unwrap();
    assert_eq!(info.runtime, "fake");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(listen(&socket).is_err(), "a served socket was taken over");

    client.put_sandbox(&sandbox("one")).await.unwrap();
    assert_eq!(client.sandboxes().await.unwrap().len(), 1);
    client.stop_container("one", "c", Stop { grace_seconds: 1 }).await.unwrap();

    let error = client.prepare_image(&Image::default()).await.unwrap_err();
    assert_eq!(error.problem().unwrap().code, ProblemCode::ImageNotFound);

    let held_open = client.events(0);
    client.shutdown().await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), server).await.unwrap().unwrap().unwrap();
    drop(held_open);
}

/// Also where some of the callers give up, and where a refusal is among them.
#[tokio::test]
async fn each_of_many_starts_has_its_own_answer() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("host.sock");
    let _server = tokio::spawn(serve(listen(&socket).unwrap(), Fake::new("a")));
    for client in [Client::new(&socket), Client::in_batches(&socket)] {
        client.wait_ready(Duration::from_secs(5)).await.unwrap();
        let before = client.sandboxes().await.unwrap().len();
        let start = async |number: usize| {
            let id = format!("{}{number}", if number % 10 == 9 { "bad" } else { "good" });
            let spec = sandbox(&id);
            let mut call = Box::pin(client.put_sandbox(&spec));
            if number % 10 == 5 {
                let _ = futures::poll!(call.as_mut());
                return;
            }
            match call.await {
                Ok(status) => assert_eq!((status.spec.id, number % 10 != 9), (id, true)),
                Err(error) => assert_eq!(error.problem().unwrap().message, id),
            }
        };
        futures::future::join_all((0..1000).map(start)).await;
        let made = client.sandboxes().await.unwrap().len() - before;
        assert!((800..=900).contains(&made), "{made}");

        let containers = (0..100).map(async |number| {
            let spec = ContainerSpec { name: format!("c{number}"), ..ContainerSpec::default() };
            let status = client.start_container("one", &spec).await.unwrap();
            assert_eq!(status.name, spec.name);
        });
        futures::future::join_all(containers).await;
    }
}

#[tokio::test]
async fn events_go_on_after_the_host_was_restarted() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("host.sock");
    let client = Client::new(&socket);
    let mut events = client.events(0);
    assert!(matches!(events.next().await, Some(HostEvent::Disconnected(_))));

    let first = tokio::spawn(serve(listen(&socket).unwrap(), Fake::new("a")));
    let next = events.next().await;
    assert!(matches!(&next, Some(HostEvent::Connected { relist: false, .. })), "{next:?}");
    for id in ["one", "two"] {
        client.put_sandbox(&sandbox(id)).await.unwrap();
        let Some(HostEvent::Event(event)) = events.next().await else { panic!("no event") };
        assert_eq!(event.sandbox, id);
    }

    client.shutdown().await.unwrap();
    first.await.unwrap().unwrap();
    assert!(matches!(events.next().await, Some(HostEvent::Disconnected(_))));
    let _second = tokio::spawn(serve(listen(&socket).unwrap(), Fake::new("b")));
    let next = events.next().await;
    assert!(
        matches!(&next, Some(HostEvent::Connected { instance, relist: true }) if instance == "b"),
        "{next:?}"
    );
    client.put_sandbox(&sandbox("three")).await.unwrap();
    let Some(HostEvent::Event(event)) = events.next().await else { panic!("no event") };
    assert_eq!((event.seq, event.sandbox.as_str()), (1, "three"));
}

#[test]
fn states_read_as_documented() {
    let state = ContainerState::Exited {
        code: 137,
        reason: ExitReason::OOMKilled,
        message: String::new(),
        started_at: jiff::Timestamp::UNIX_EPOCH,
        finished_at: "2024-01-02T03:04:05.000000006Z".parse().unwrap(),
    };
    let text = serde_json::to_string(&state).unwrap();
    assert_eq!(
        text,
        r#"{"phase":"Exited","code":137,"reason":"OOMKilled","message":"","started_at":"1970-01-01T00:00:00Z","finished_at":"2024-01-02T03:04:05.000000006Z"}"#
    );
    assert_eq!(serde_json::from_str::<ContainerState>(&text).unwrap(), state);
    let newer: Problem = serde_json::from_str(r#"{"code":"Novel","message":"m"}"#).unwrap();
    assert_eq!(newer.code, ProblemCode::Unknown);
}
