//! Connections are taken by one thread and given to the worker that has the fewest. A worker is a thread with a runtime of
//! its own: what serves a request shares nothing with other requests, and a request never changes threads.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::Waker;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::LocalOptions;
use tokio::sync::{mpsc, watch};

use crate::control::Limits;
use crate::inside::Inside;
use crate::log::AccessLog;
use crate::metrics::Counters;
use crate::serve;
use crate::state::State;
use crate::tls;
use crate::upstream::Upstreams;

/// How often workers look for connections that nobody needs.
const SWEEP: Duration = Duration::from_secs(10);
/// Connections that wait for their worker.
const QUEUE: usize = 1024;

/// What all workers share.
pub(crate) struct Shared {
    pub(crate) state: Arc<State>,
    pub(crate) tls: Arc<rustls::ServerConfig>,
    pub(crate) to_endpoints: Arc<tls::ToEndpoints>,
    /// Where this machine's Wasm Pods have a namespace, and it may be entered.
    pub(crate) inside: Option<Inside>,
    pub(crate) counters: Counters,
    pub(crate) log: Option<AccessLog>,
    pub(crate) http_port: u16,
    pub(crate) https_port: u16,
    pub(crate) limits: Limits,
    /// It is known what to serve: connections that came before wait for that.
    pub(crate) told: watch::Sender<bool>,
    /// Connections end with the request that they are at.
    pub(crate) draining: watch::Sender<bool>,
    /// Most connections at once.
    pub(crate) most: u64,
}

impl Shared {
    pub(crate) fn port(&self, tls: bool) -> u16 {
        if tls { self.https_port } else { self.http_port }
    }
}

/// One worker, as its connections see it.
pub(crate) struct Worker {
    pub(crate) number: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) upstreams: Rc<Upstreams>,
    pub(crate) draining: Rc<Draining>,
}

/// Whether the process is to end, as a worker's connections see it: they ask at each turn, and what all workers share would cost
/// more.
#[derive(Default)]
pub(crate) struct Draining {
    begun: Cell<bool>,
    last: Cell<u64>,
    connections: RefCell<HashMap<u64, Waker>>,
}

impl Draining {
    pub(crate) fn has_begun(&self) -> bool {
        self.begun.get()
    }

    /// Tells this connection when it begins, for as long as the guard is there.
    pub(crate) fn tell(self: &Rc<Self>, connection: &Waker) -> Told {
        let number = self.last.replace(self.last.get() + 1);
        self.connections.borrow_mut().insert(number, connection.clone());
        Told { draining: self.clone(), number }
    }

    fn begin(&self) {
        self.begun.set(true);
        self.connections.borrow_mut().drain().for_each(|(_, connection)| connection.wake());
    }
}

/// A connection that hears when the process is to end.
pub(crate) struct Told {
    draining: Rc<Draining>,
    number: u64,
}

impl Drop for Told {
    fn drop(&mut self) {
        self.draining.connections.borrow_mut().remove(&self.number);
    }
}

/// A connection on its way to its worker.
struct Accepted {
    stream: std::net::TcpStream,
    peer: SocketAddr,
    tls: bool,
    counted: Counted,
}

/// A connection that counts, until it is dropped.
struct Counted {
    shared: Arc<Shared>,
    own: Arc<AtomicUsize>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.shared.counters.open.fetch_sub(1, Relaxed);
        self.own.fetch_sub(1, Relaxed);
    }
}

/// The workers, for those who take connections.
#[derive(Clone)]
pub(crate) struct Workers {
    shared: Arc<Shared>,
    all: Arc<[(mpsc::Sender<Accepted>, Arc<AtomicUsize>)]>,
}

impl Workers {
    /// Starts so many.
    pub(crate) fn start(shared: &Arc<Shared>, count: usize) -> std::io::Result<Self> {
        let all = (0..count).map(|number| {
            let (sender, receiver) = mpsc::channel(QUEUE);
            let shared = shared.clone();
            let (ready, started) = std::sync::mpsc::sync_channel(1);
            std::thread::Builder::new().name(format!("ingress-{number}")).spawn(move || {
                // It stays on the thread on which it is made.
                let mut builder = tokio::runtime::Builder::new_current_thread();
                let runtime = builder.enable_all().build_local(LocalOptions::default());
                let _ = ready.send(runtime.as_ref().map(|_| ()).map_err(|error| error.kind()));
                if let Ok(runtime) = runtime {
                    runtime.block_on(work(number, shared, receiver));
                }
            })?;
            started.recv().unwrap_or(Err(std::io::ErrorKind::Other))?;
            Ok((sender, Arc::default()))
        });
        Ok(Self { shared: shared.clone(), all: all.collect::<std::io::Result<_>>()? })
    }

    /// Takes connections from being told what to serve until told to drain.
    pub(crate) async fn accept(self, listener: TcpListener, tls: bool) {
        let mut draining = self.shared.draining.subscribe();
        let mut told = self.shared.told.subscribe();
        let _ = told.wait_for(|told| *told).await;
        loop {
            let taken = tokio::select! {
                taken = listener.accept() => taken,
                _ = draining.wait_for(|draining| *draining) => return,
            };
            match taken {
                Ok((stream, peer)) => self.give(stream, peer, tls),
                // Out of descriptors, most likely: others have to end first.
                Err(error) => {
                    tracing::warn!(%error, "no connection taken");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    fn give(&self, stream: TcpStream, peer: SocketAddr, tls: bool) {
        let counters = &self.shared.counters;
        add(&counters.accepted);
        if counters.open.load(Relaxed) >= self.shared.most {
            add(&counters.turned_away);
            return;
        }
        let least = self.all.iter().min_by_key(|(_, open)| open.load(Relaxed));
        let Some((worker, open)) = least else { return };
        let Ok(stream) = stream.into_std() else { return };
        add(&counters.open);
        open.fetch_add(1, Relaxed);
        let counted = Counted { shared: self.shared.clone(), own: open.clone() };
        if worker.try_send(Accepted { stream, peer, tls, counted }).is_err() {
            add(&counters.turned_away);
        }
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

async fn work(number: usize, shared: Arc<Shared>, mut connections: mpsc::Receiver<Accepted>) {
    let mut told = shared.draining.subscribe();
    let draining = Rc::<Draining>::default();
    let upstreams = Upstreams::new(shared.to_endpoints.clone(), shared.inside.clone());
    let upstreams = Rc::new(upstreams);
    let worker = Worker { number, shared, upstreams, draining: draining.clone() };
    let worker = Rc::new(worker);
    tokio::task::spawn_local(async move {
        let _ = told.wait_for(|draining| *draining).await;
        draining.begin();
    });
    let sweeper = worker.upstreams.clone();
    tokio::task::spawn_local(async move {
        loop {
            sweeper.used().await;
            tokio::time::sleep(SWEEP).await;
            sweeper.sweep();
        }
    });
    while let Some(Accepted { stream, peer, tls, counted }) = connections.recv().await {
        let Ok(stream) = TcpStream::from_std(stream) else { continue };
        let worker = worker.clone();
        tokio::task::spawn_local(async move {
            serve::connection(worker, stream, peer, tls).await;
            drop(counted);
        });
    }
}
