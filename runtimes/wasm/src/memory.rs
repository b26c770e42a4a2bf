//! Memory, counted per container and per Pod over all their instances.
//!
//! wasmtime's own `StoreLimits` counts each memory by itself; a Pod with a fresh instance per
//! request would have its limit once per request. Here every growth of any memory or table is
//! charged to one account, and what an instance holds is given back when it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use wasmtime::ResourceLimiter;

use crate::container::Container;

/// What a container, or a whole Pod, may use and uses.
#[derive(Debug)]
pub(crate) struct Account {
    limit: u64,
    used: AtomicU64,
    parent: Option<Arc<Account>>,
}

/// Why a growth was refused; the message of a trap.
#[derive(Debug, thiserror::Error)]
#[error("out of memory: {used} bytes in use and {wanted} more wanted, over the limit of {limit}")]
pub(crate) struct OutOfMemory {
    used: u64,
    wanted: u64,
    limit: u64,
}

impl Account {
    /// An account with this limit, charged to `parent` as well.
    pub(crate) fn new(limit: Option<u64>, parent: Option<Arc<Account>>) -> Arc<Account> {
        Arc::new(Account { limit: limit.unwrap_or(u64::MAX), used: AtomicU64::new(0), parent })
    }

    /// Bytes in use.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    fn charge(&self, bytes: u64) -> Result<(), OutOfMemory> {
        let used = self.used.fetch_add(bytes, Relaxed);
        if used.saturating_add(bytes) > self.limit {
            self.used.fetch_sub(bytes, Relaxed);
            return Err(OutOfMemory { used, wanted: bytes, limit: self.limit });
        }
        if let Some(parent) = &self.parent
            && let Err(error) = parent.charge(bytes)
        {
            self.used.fetch_sub(bytes, Relaxed);
            return Err(error);
        }
        Ok(())
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Relaxed);
        if let Some(parent) = &self.parent {
            parent.give_back(bytes);
        }
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

    fn grow(&mut self, bytes: u64) -> Result<(), OutOfMemory> {
        self.account.charge(bytes)?;
        self.bytes += bytes;
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
        self.account.give_back(self.bytes);
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

/// Whether a guest failed for want of memory: what to say of it.
pub(crate) fn verdict(
    container: &Container,
    error: &wasmtime::Error,
    outgrew_slot: bool,
) -> Option<String> {
    if let Some(refused) = error.downcast_ref::<OutOfMemory>() {
        return Some(refused.to_string());
    }
    if outgrew_slot {
        container.image.outgrew_small();
        let message = "out of memory: it has no memory limit and outgrew the usual slot of a \
                       component without one; its next attempt gets a larger one";
        return Some(message.to_owned());
    }
    None
}
