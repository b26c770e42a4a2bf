//! Memory, counted per container and per Pod over all their instances.
//!
//! wasmtime's own `StoreLimits` counts each memory by itself; a Pod with a fresh instance per request would have its limit
//! once per request. Here every growth of any memory or table is charged to one account, with something for what the host
//! keeps per instance, and what an instance holds is given back when it ends. What may be touched counts, whether it was
//! or not: nobody can stop a guest from touching it later.
//!
//! **One instance over the limit** ends its container: OOMKilled, 137. **Several instances** that do not fit together need
//! not come to that: accounts learn what an instance needs, and admit as many at a time as fit; further requests wait.
//! Where an account was wrong, and an instance fails that would have fitted alone, its request gets a 503.
//!
//! **No limit** means what the node has: see [`node`].

mod node;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};

use tokio::sync::{Mutex, Notify};
use wasmtime::ResourceLimiter;

use crate::container::Container;

/// What the host keeps for each instance besides its memories and tables: a stack's touched part, the store, resources.
const INSTANCE: u64 = 32 << 10;
/// One instance in so many moves what is known of an instance's need, if it needed less.
const MEMORY_OF_NEED: u64 = 16;

/// What a container, or a whole Pod, may use and uses.
#[derive(Debug)]
pub(crate) struct Account {
    limit: AtomicU64,
    used: AtomicU64,
    /// What the admitted instances are expected to need.
    reserved: AtomicU64,
    /// What an instance needs, as far as known.
    need: AtomicU64,
    waiting: AtomicUsize,
    freed: Notify,
    line: Mutex<()>,
    parent: Option<Arc<Account>>,
}

/// Why a growth was refused; the message of a trap.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutOfMemory {
    #[error(
        "out of memory: {used} bytes in use and {wanted} more wanted, over the limit of {limit}"
    )]
    Limit { used: u64, wanted: u64, limit: u64, own: u64 },
    #[error(
        "out of memory: {wanted} bytes wanted, and the node has too few left for a container without a memory limit"
    )]
    Node { wanted: u64 },
}

impl Account {
    /// An account with this limit, charged to `parent` as well.
    pub(crate) fn new(limit: Option<u64>, parent: Option<Arc<Account>>) -> Arc<Account> {
        Arc::new(Account {
            limit: AtomicU64::new(limit.unwrap_or(u64::MAX)),
            used: AtomicU64::new(0),
            reserved: AtomicU64::new(0),
            need: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            freed: Notify::new(),
            line: Mutex::default(),
            parent,
        })
    }

    /// Bytes in use.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    /// Bytes that may be used; the largest number where nothing limits it.
    pub(crate) fn limit(&self) -> u64 {
        self.limit.load(Relaxed)
    }

    /// Sets another limit. What is in use stays so, even if it is more; those who wait for room look again.
    pub(crate) fn set_limit(&self, limit: Option<u64>) {
        self.limit.store(limit.unwrap_or(u64::MAX), SeqCst);
        self.freed.notify_waiters();
    }

    /// Charges what the host holds on its behalf, if that fits.
    pub(crate) fn lend(self: &Arc<Self>, bytes: u64) -> Option<Lent> {
        // Not an instance's: nothing is learned of it.
        self.charge(bytes, 0).ok()?;
        Some(Lent { account: self.clone(), bytes })
    }

    fn is_limited(&self) -> bool {
        self.limit() != u64::MAX || self.parent.as_ref().is_some_and(|pod| pod.is_limited())
    }

    fn charge(&self, bytes: u64, own: u64) -> Result<(), OutOfMemory> {
        let used = self.used.fetch_add(bytes, Relaxed);
        let limit = self.limit();
        if used.saturating_add(bytes) > limit {
            self.used.fetch_sub(bytes, Relaxed);
            return Err(OutOfMemory::Limit { used, wanted: bytes, limit, own });
        }
        if let Some(parent) = &self.parent
            && let Err(error) = parent.charge(bytes, own)
        {
            self.used.fetch_sub(bytes, Relaxed);
            return Err(error);
        }
        Ok(())
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, SeqCst);
        self.wake();
        if let Some(parent) = &self.parent {
            parent.give_back(bytes);
        }
    }

    fn wake(&self) {
        if self.waiting.load(SeqCst) > 0 {
            self.freed.notify_waiters();
        }
    }

    /// At least this is what an instance needs.
    fn learn_at_least(&self, bytes: u64) {
        self.need.fetch_max(bytes, Relaxed);
    }

    /// An instance ended, having held this. What is known follows slowly if it is less: most instances are to fit.
    fn learn(&self, bytes: u64) {
        let known = self.need.load(Relaxed);
        if bytes > known {
            self.learn_at_least(bytes);
        } else if bytes < known {
            self.need.fetch_sub((known - bytes) / MEMORY_OF_NEED, Relaxed);
        }
    }

    fn reserve(&self, need: u64) -> bool {
        let fits = |reserved: u64| {
            let taken = reserved.max(self.used.load(SeqCst));
            let fits = reserved == 0 || taken.saturating_add(need) <= self.limit();
            // Never 0 while somebody is admitted.
            fits.then(|| reserved.saturating_add(need.max(1)))
        };
        self.reserved.fetch_update(SeqCst, SeqCst, fits).is_ok()
    }

    fn release(&self, need: u64) {
        self.reserved.fetch_sub(need.max(1), SeqCst);
        self.wake();
    }

    /// Lets an instance begin, if it is expected to fit. One alone always may: whether it fits will be seen.
    pub(crate) fn try_admit(self: &Arc<Self>) -> Option<Admission> {
        if !self.is_limited() {
            return Some(Admission(None));
        }
        let need = self.need.load(Relaxed);
        if !self.reserve(need) {
            return None;
        }
        if let Some(pod) = &self.parent
            && !pod.reserve(need)
        {
            // Nobody is woken: nothing has changed.
            self.reserved.fetch_sub(need.max(1), SeqCst);
            return None;
        }
        Some(Admission(Some((self.clone(), need))))
    }

    /// Lets an instance begin as soon as it is expected to fit, one after the other.
    pub(crate) async fn admit(self: &Arc<Self>) -> Admission {
        if let Some(admission) = self.try_admit() {
            return admission;
        }
        let _first = self.line.lock().await;
        let pod = self.parent.as_ref().unwrap_or(self);
        let _waiting = (Waiting::new(&self.waiting), Waiting::new(&pod.waiting));
        loop {
            let (own, pods) = (self.freed.notified(), pod.freed.notified());
            if let Some(admission) = self.try_admit() {
                return admission;
            }
            tokio::select! {
                () = own => {}
                () = pods => {}
            }
        }
    }
}

/// Room for one more instance, until it is dropped.
#[derive(Debug)]
pub(crate) struct Admission(Option<(Arc<Account>, u64)>);

impl Drop for Admission {
    fn drop(&mut self) {
        if let Some((account, need)) = self.0.take() {
            account.release(need);
            if let Some(pod) = &account.parent {
                pod.release(need);
            }
        }
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Waiting<'a> {
        count.fetch_add(1, SeqCst);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// Memory of the host's that is charged to a container, until it is dropped: buffers of connections and sockets.
#[derive(Debug)]
pub(crate) struct Lent {
    account: Arc<Account>,
    bytes: u64,
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.account.give_back(self.bytes);
    }
}

/// What one instance holds of its container's account.
pub(crate) struct Hold {
    account: Arc<Account>,
    bytes: u64,
    /// The growth that was charged last: given back if it then fails.
    last: u64,
    /// A memory wanted more than its slot has, though the account would have allowed it.
    pub(crate) outgrew_slot: bool,
}

impl Hold {
    /// Nothing yet.
    pub(crate) fn new(account: Arc<Account>) -> Hold {
        Hold { account, bytes: 0, last: 0, outgrew_slot: false }
    }

    /// Bytes that it holds.
    pub(crate) fn held(&self) -> u64 {
        self.bytes
    }

    fn grow(&mut self, bytes: u64) -> Result<(), OutOfMemory> {
        // The first growth is the instance's beginning.
        let bytes = if self.bytes == 0 { bytes + INSTANCE } else { bytes };
        let all = self.bytes.saturating_add(bytes);
        if self.account.is_limited() {
            self.account.learn_at_least(all.min(self.account.limit()));
        } else if !node::may_grow(bytes, self.account.used()) {
            return Err(OutOfMemory::Node { wanted: bytes });
        }
        self.account.charge(bytes, self.bytes)?;
        self.bytes = all;
        self.last = bytes;
        Ok(())
    }

    fn undo(&mut self) {
        self.account.give_back(self.last);
        self.bytes -= self.last;
        self.last = 0;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.account.learn(self.bytes);
            self.account.give_back(self.bytes);
        }
    }
}

impl ResourceLimiter for Hold {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.grow((desired - current) as u64)?;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.undo();
        self.outgrew_slot = true;
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.grow(((desired - current) * size_of::<usize>()) as u64)?;
        Ok(true)
    }

    fn table_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.undo();
        Ok(())
    }
}

/// What to do about a guest that failed for want of memory; with what to say of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its container ends.
    OutOfMemory(String),
    /// It would have fitted alone: its request can be tried again.
    Crowded(String),
}

/// Whether a guest failed for want of memory.
pub(crate) fn verdict(
    container: &Container,
    error: &wasmtime::Error,
    outgrew_slot: bool,
) -> Option<Verdict> {
    if let Some(refused) = error.downcast_ref::<OutOfMemory>() {
        return Some(match refused {
            OutOfMemory::Limit { wanted, limit, own, .. } if own + wanted <= *limit => {
                Verdict::Crowded(format!("a request was refused, {refused}, for all instances"))
            }
            _ => Verdict::OutOfMemory(refused.to_string()),
        });
    }
    if outgrew_slot {
        container.image.outgrew_small();
        let why = match container.spec.memory_limit {
            None => "it has no memory limit and outgrew the usual slot of a component without one",
            Some(_) => "its limit was raised while it ran, over what its slot has",
        };
        let message = format!("out of memory: {why}; its next attempt gets a larger one");
        return Some(Verdict::OutOfMemory(message));
    }
    None
}

#[cfg(test)]
mod tests;
