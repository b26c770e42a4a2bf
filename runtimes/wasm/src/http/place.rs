//! A place for a request: among its container's, and in the host's pool of instances. Who finds
//! none waits, for a while and with not too many others; beyond that, clients are told to try again.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use coracle_sandbox::NoticeKind;
use tokio::time::Instant;

use super::refusal::Refusal;
use super::traffic::Count;
use crate::container::{Container, Phase};
use crate::memory::Admission;
use crate::slots::{self, Purpose};

/// Requests of one container that wait for a place, unless it says otherwise.
const MOST_WAITING: u32 = 1024;
/// How long a request waits for a place before its client is told to try again.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// A place among the container's requests; given back when dropped.
pub(super) struct Place {
    pub(super) container: Arc<Container>,
    patience: Instant,
    /// Nobody's work, which an end need not wait for.
    is_probe: bool,
}

impl Place {
    /// Waits for a place, until `deadline` at most.
    pub(super) async fn get(
        container: &Arc<Container>,
        begun: Instant,
        deadline: Instant,
        is_probe: bool,
    ) -> Result<Place, Refusal> {
        let traffic = &container.traffic;
        if *container.phase.borrow() >= Phase::Over {
            return Err(Refusal::Over);
        }
        let patience = deadline.min(begun + PATIENCE);
        match traffic.room.try_acquire() {
            Ok(permit) => permit.forget(),
            Err(_) => {
                let most = container.spec.http.max_waiting.unwrap_or(MOST_WAITING) as usize;
                let waits = Count::one(&traffic.waiting);
                if traffic.waiting.load(Relaxed) > most {
                    return Err(container.full(most));
                }
                match tokio::time::timeout_at(patience, traffic.room.acquire()).await {
                    Ok(Ok(permit)) => permit.forget(),
                    _ => return Err(container.full(most)),
                }
                drop(waits);
            }
        }
        traffic.guests.fetch_add(1, Relaxed);
        let place = Place { container: container.clone(), patience, is_probe };
        while let Some(debt) = container.cpu.debt() {
            if Instant::now() >= patience {
                container.notice(NoticeKind::Limit, || {
                    "requests were refused: the CPU limit is used up".to_owned()
                });
                return Err(Refusal::Full);
            }
            // Whoever is in debt for longer is told so in time.
            tokio::time::sleep_until(patience.min(Instant::now() + debt)).await;
        }
        Ok(place)
    }

    /// Room for a new instance: in its container's memory, and in the host's pool.
    pub(super) async fn slot(&self) -> Result<Slot, Refusal> {
        let container = &self.container;
        let (node, kind) = (&container.node, container.compiled.class);
        let class = node.engines.class(kind).map_err(|_| Refusal::Full)?;
        let (slots, held) = (&class.slots, &container.sandbox.slots);
        let take = || slots.try_take(held, Purpose::Request);
        let found = container.memory.try_admit().and_then(|admission| {
            // Idle instances hold slots that others need more.
            let slot = take().or_else(|| node.keepers.end_one(kind).then(take).flatten());
            Some((admission, slot?))
        });
        let slot = match found {
            Some(slot) => slot,
            None => {
                let slot = async {
                    let admission = container.memory.admit().await;
                    (admission, slots.take(held, Purpose::Request).await)
                };
                let slot = tokio::time::timeout_at(self.patience, slot).await;
                slot.map_err(|_| Refusal::Full)?
            }
        };
        node.engines.wake_clock();
        Ok(slot)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let traffic = &self.container.traffic;
        if !self.is_probe {
            traffic.last.touch();
        }
        traffic.guests.fetch_sub(1, Relaxed);
        traffic.room.add_permits(1);
    }
}

/// Room for one instance, given back when dropped.
pub(super) type Slot = (Admission, slots::Slot);

impl Container {
    fn full(&self, waiting: usize) -> Refusal {
        self.notice(NoticeKind::Limit, || {
            format!(
                "requests were refused with 503: all places are taken, and {waiting} may wait; see \
                 the annotations coracle.dev/max-concurrent-requests and \
                 coracle.dev/max-queued-requests"
            )
        });
        Refusal::Full
    }
}
