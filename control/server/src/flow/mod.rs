//! API Priority and Fairness (`flowcontrol.apiserver.k8s.io`): how many requests are served at once, of whom, and who waits.
//!
//! FlowSchemas say which priority level a request belongs to ([`schemas`]); every level has seats in proportion to its
//! shares, may borrow what others do not use and lend, and lets flows take turns ([`queues`]). Both are read from the
//! cluster whenever they change. Where nobody waits, a request costs a lock and some comparisons.

mod queues;
mod schemas;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::RandomState;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use coracle_api::json::Json as _;
use coracle_api::{ApiError, Cluster, Object, kinds};
use http::{HeaderValue, header::HeaderName};
use http_body_util::BodyExt as _;
use tokio::sync::oneshot;
use tokio::time::Instant;

use self::queues::{Arrival, Queues, Queuing, Seated, Ticket};
use self::schemas::Schema;
use crate::auth::{Attributes, Identity};
use crate::cache::Cache;

/// How long a request waits at most: a quarter of the time that it has, as upstream.
const PATIENCE: Duration = Duration::from_secs(15);
/// Objects of a list that take one seat, and seats that one list takes at most, as upstream.
const PER_SEAT: u64 = 100;
const WIDEST: u64 = 10;
/// Watches that one caller may have open.
const WATCHES: usize = 10_000;

const SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// A handle on who is served and who waits; clones share it.
#[derive(Clone)]
pub(crate) struct Flow(Arc<Shared>);

struct Shared {
    /// Of all levels together.
    seats: u64,
    hasher: RandomState,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    schemas: Vec<Schema>,
    levels: HashMap<String, Level>,
    waiting: HashMap<Ticket, oneshot::Sender<Seated>>,
    tickets: Ticket,
    /// Open watches by user.
    watches: HashMap<String, usize>,
}

struct Level {
    uid: String,
    exempt: bool,
    /// Seats that are its own.
    nominal: u64,
    /// Of those, what others may use while it does not.
    lendable: u64,
    /// What it may use of others', beyond its own.
    borrowing: u64,
    queuing: Option<Queuing>,
    queues: Queues,
}

/// What a request is to flow control.
pub(crate) struct Request<'a> {
    pub(crate) who: &'a Identity,
    pub(crate) wanted: &'a Attributes,
    /// Objects that it is about to read.
    pub(crate) objects: u64,
}

/// A request that may be served; it is over when this is dropped.
pub(crate) struct Entered {
    flow: Flow,
    level: String,
    uids: Uids,
    /// None of an exempt level.
    seated: Option<Seated>,
    since: Instant,
    watch: Option<OpenWatch>,
}

/// What answers say of how they were classified.
#[derive(Debug, Clone, Default)]
struct Uids {
    schema: String,
    level: String,
}

/// A request that is turned away.
pub(crate) struct Refused {
    pub(crate) error: ApiError,
    uids: Uids,
}

struct OpenWatch {
    flow: Flow,
    user: String,
}

impl Flow {
    /// `seats` are all requests that are served at once, but for exempt ones.
    pub(crate) fn new(seats: u64) -> Self {
        Self(Arc::new(Shared { seats, hasher: RandomState::new(), state: Mutex::default() }))
    }

    /// Reads how requests are parted, now and whenever that changes.
    pub(crate) async fn follow(self, cache: Cache) {
        let mut changes = cache.changes();
        self.configure(&cache.read());
        loop {
            let of_ours = |object: &Object| {
                [&kinds::FLOW_SCHEMA, &kinds::PRIORITY_LEVEL_CONFIGURATION]
                    .iter()
                    .any(|kind| kind.resource == object.kind.resource)
            };
            match changes.recv().await {
                Ok(change) if !change.object().is_some_and(|object| of_ours(object)) => {}
                Ok(_) | Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {
                    self.configure(&cache.read());
                }
                Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    /// As the cluster has it now. Requests under way keep their seats, those that wait for what changes are served.
    pub(crate) fn configure(&self, cluster: &Cluster) {
        let schemas = schemas::read(cluster.list(&kinds::FLOW_SCHEMA).map(|object| &**object));
        let levels: Vec<(&str, Level)> = {
            let objects = cluster.list(&kinds::PRIORITY_LEVEL_CONFIGURATION);
            let read: Vec<_> = objects.map(|object| (object, object.value())).collect();
            let shares = |tree: &serde_json::Value| {
                let path = if is_exempt(tree) { "exempt" } else { "limited" };
                tree.int(&["spec", path, "nominalConcurrencyShares"]).unwrap_or(0).max(0) as u64
            };
            let sum = read.iter().map(|(_, tree)| shares(tree)).sum::<u64>().max(1);
            let level = |(object, tree): &(&'_ Arc<Object>, serde_json::Value)| {
                Level::read(&object.meta.uid, tree, (self.0.seats * shares(tree)).div_ceil(sum))
            };
            read.iter().map(|it| (it.0.meta.name.as_str(), level(it))).collect()
        };
        let mut state = self.state();
        state.schemas = schemas;
        let mut old = std::mem::take(&mut state.levels);
        for (name, mut level) in levels {
            if let Some(before) = old.remove(name) {
                if before.queuing == level.queuing {
                    level.queues = before.queues;
                } else {
                    level.queues.take_over(&before.queues);
                    old.insert(name.to_owned(), before);
                }
            }
            state.levels.insert(name.to_owned(), level);
        }
        for (name, mut before) in old {
            while let Some((ticket, seated)) = before.queues.next(|_| true) {
                if let Some(level) = state.levels.get_mut(&name) {
                    level.queues.add(seated);
                }
                if let Some(waiting) = state.waiting.remove(&ticket) {
                    // Who is gone by now gives the seat back itself.
                    let _ = waiting.send(seated.without_queue());
                }
            }
        }
    }

    /// Waits until the request may be served.
    pub(crate) async fn enter(&self, request: Request<'_>) -> Result<Entered, Refused> {
        let since = Instant::now();
        let watch = self.watch(&request)?;
        let (uids, level, waits) = {
            let mut state = self.state();
            let state = &mut *state;
            let schema = state.schemas.iter().find(|it| it.matches(request.who, request.wanted));
            // Before the first configuration, and where somebody has removed what is mandatory.
            let Some((schema, level)) =
                schema.and_then(|schema| Some((schema, state.levels.get(&schema.level)?)))
            else {
                let (level, uids) = (String::new(), Uids::default());
                return Ok(Entered { flow: self.clone(), level, uids, seated: None, since, watch });
            };
            let uids = Uids { schema: schema.uid.clone(), level: level.uid.clone() };
            let (name, flow) =
                (schema.level.clone(), schema.flow(&self.0.hasher, request.who, request.wanted));
            if level.exempt {
                let flow = self.clone();
                return Ok(Entered { flow, level: name, uids, seated: None, since, watch });
            }
            let most = level.nominal.clamp(1, WIDEST);
            let seats = request.objects.div_ceil(PER_SEAT).clamp(1, most);
            let free = state.free(&name);
            state.tickets += 1;
            let ticket = state.tickets;
            let Some(level) = state.levels.get_mut(&name) else { return Err(Refused::new(uids)) };
            match level.queues.arrive(ticket, flow, seats, |seats| seats <= free) {
                Arrival::Served(seated) => {
                    let (flow, seated) = (self.clone(), Some(seated));
                    return Ok(Entered { flow, level: name, uids, seated, since, watch });
                }
                Arrival::Refused => return Err(Refused::new(uids)),
                Arrival::Waits => {
                    let (sender, receiver) = oneshot::channel();
                    state.waiting.insert(ticket, sender);
                    let flow = self.clone();
                    (
                        uids,
                        name.clone(),
                        Waiting { flow, level: name, ticket, receiver: Some(receiver) },
                    )
                }
            }
        };
        match waits.seat().await {
            Some(seated) => {
                let (flow, since) = (self.clone(), Instant::now());
                Ok(Entered { flow, level, uids, seated: Some(seated), since, watch })
            }
            None => Err(Refused::new(uids)),
        }
    }

    fn watch(&self, request: &Request<'_>) -> Result<Option<OpenWatch>, Refused> {
        if request.wanted.verb != "watch" {
            return Ok(None);
        }
        let user = request.who.user.clone();
        let mut state = self.state();
        let open = state.watches.entry(user.clone()).or_default();
        if *open >= WATCHES {
            let mut refused = Refused::new(Uids::default());
            refused.error.message = format!(
                "user \"{user}\" has {WATCHES} watches open, which is the most there may be: end some"
            );
            return Err(refused);
        }
        *open += 1;
        Ok(Some(OpenWatch { flow: self.clone(), user }))
    }

    /// Each level with the seats that are its own.
    pub(crate) fn nominal_seats(&self) -> Vec<(String, u64)> {
        self.state().levels.iter().map(|(name, level)| (name.clone(), level.nominal)).collect()
    }

    /// How many wait.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.state().waiting.len()
    }

    /// [`Self::enter`] for who does not wait.
    #[cfg(test)]
    pub(crate) fn enter_at_once(&self, who: &Identity, wanted: &Attributes) -> Option<Entered> {
        use futures::FutureExt as _;
        self.enter(Request { who, wanted, objects: 0 }).now_or_never()?.ok()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request of a level is over: others are served.
    fn done(&self, level: &str, seated: Seated, took: Duration) {
        let mut state = self.state();
        if let Some(level) = state.levels.get_mut(level) {
            level.queues.done(seated, took);
        }
        state.serve(level);
    }
}

fn is_exempt(level: &serde_json::Value) -> bool {
    level.text(&["spec", "type"]) == "Exempt"
}

impl Level {
    fn read(uid: &str, tree: &serde_json::Value, nominal: u64) -> Self {
        let exempt = is_exempt(tree);
        let limited = |field: &str| tree.int(&["spec", "limited", field]);
        let response = ["spec", "limited", "limitResponse"];
        let number = |field: &str| {
            let queuing = tree.at(&response).and_then(|it| it.int(&["queuing", field]));
            usize::try_from(queuing.unwrap_or(0)).unwrap_or(0).max(1)
        };
        let queues = tree.at(&response).is_some_and(|it| it.text(&["type"]) == "Queue");
        let queuing = (!exempt && queues).then(|| Queuing {
            // More are of no use to anybody, and memory.
            queues: number("queues").min(1 << 14),
            hand: number("handSize"),
            length: number("queueLengthLimit"),
        });
        let percent = |share: i64| nominal * share.clamp(0, 10_000) as u64 / 100;
        Self {
            uid: uid.to_owned(),
            exempt,
            nominal,
            lendable: percent(limited("lendablePercent").unwrap_or(0).min(100)),
            borrowing: limited("borrowingLimitPercent").map_or(u64::MAX / 2, percent),
            queuing,
            queues: Queues::new(queuing),
        }
    }
}

impl State {
    /// Seats that a level may still take: of its own, then of what others lend.
    fn free(&self, name: &str) -> u64 {
        let Some(level) = self.levels.get(name) else { return 0 };
        let own = level.nominal.saturating_sub(level.queues.seated());
        let others = self.levels.iter().filter(|(other, it)| *other != name && !it.exempt);
        let lent: u64 = others
            .map(|(_, it)| it.lendable.min(it.nominal.saturating_sub(it.queues.seated())))
            .sum();
        let all = self.levels.values().filter(|it| !it.exempt);
        let borrowed: u64 = all.map(|it| it.queues.seated().saturating_sub(it.nominal)).sum();
        let limit = (level.nominal + level.borrowing).saturating_sub(level.queues.seated());
        (own + lent.saturating_sub(borrowed)).min(limit)
    }

    /// Lets in who waits, as far as there are seats: at that level first, then wherever what it lends is missed.
    fn serve(&mut self, first: &str) {
        let others =
            self.levels.iter().filter(|(name, level)| *name != first && level.queues.is_waiting());
        let mut names = vec![first.to_owned()];
        names.extend(others.map(|(name, _)| name.clone()));
        for name in names {
            loop {
                let free = self.free(&name);
                let Some(level) = self.levels.get_mut(&name) else { break };
                let Some((ticket, seated)) = level.queues.next(|seats| seats <= free) else {
                    break;
                };
                let sent = self.waiting.remove(&ticket).is_some_and(|it| it.send(seated).is_ok());
                if !sent {
                    level.queues.done(seated, Duration::ZERO);
                }
            }
        }
    }
}

/// A place in a queue, given up when this is dropped.
struct Waiting {
    flow: Flow,
    level: String,
    ticket: Ticket,
    receiver: Option<oneshot::Receiver<Seated>>,
}

impl Waiting {
    async fn seat(mut self) -> Option<Seated> {
        let receiver = self.receiver.as_mut()?;
        let seated = tokio::time::timeout(PATIENCE, receiver).await.ok()?.ok();
        // Nothing is left to give up.
        self.receiver = None;
        seated
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(mut receiver) = self.receiver.take() else { return };
        {
            let mut state = self.flow.state();
            state.waiting.remove(&self.ticket);
            if let Some(level) = state.levels.get_mut(&self.level) {
                level.queues.leave(self.ticket);
            }
        }
        // Let in at the last moment.
        if let Ok(seated) = receiver.try_recv() {
            self.flow.done(&self.level, seated, Duration::ZERO);
        }
    }
}

impl Entered {
    /// It is answered.
    pub(crate) fn finish(mut self, mut answer: Response) -> Response {
        self.uids.write(&mut answer);
        let watch = self.watch.take().filter(|_| answer.status().is_success());
        drop(self);
        let Some(open) = watch else { return answer };
        answer.map(|body| {
            Body::new(body.map_frame(move |frame| {
                let _ = &open;
                frame
            }))
        })
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some(seated) = self.seated.take() {
            self.flow.done(&self.level, seated, self.since.elapsed());
        }
    }
}

impl Drop for OpenWatch {
    fn drop(&mut self) {
        let mut state = self.flow.state();
        if let Some(open) = state.watches.get_mut(&self.user) {
            *open -= 1;
            if *open == 0 {
                state.watches.remove(&self.user);
            }
        }
    }
}

impl Refused {
    fn new(uids: Uids) -> Self {
        let message = "Too many requests, please try again later.";
        Self { error: ApiError::new(429, "TooManyRequests", message), uids }
    }

    /// Marks the answer.
    pub(crate) fn finish(&self, mut answer: Response) -> Response {
        self.uids.write(&mut answer);
        answer
    }
}

impl Uids {
    fn write(&self, answer: &mut Response) {
        for (name, uid) in [(SCHEMA_UID, &self.schema), (LEVEL_UID, &self.level)] {
            if !uid.is_empty()
                && let Ok(uid) = HeaderValue::from_str(uid)
            {
                answer.headers_mut().insert(name, uid);
            }
        }
    }
}
