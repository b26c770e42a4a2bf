//! A place for a request: among its container's, and in the host's pool of instances. Who finds none waits, for a while
//! and with not too many others.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::Instant;

use super::refusal::Refusal;
use super::traffic::Count;
use crate::container::{Container, Phase};
use crate::memory::Admission;
use crate::slots::{Purpose, Slot};

/// Requests of one container that wait for a place.
const MOST_WAITING: usize = 1024;
/// How long a request waits for a place before its client is told to try again.
const PATIENCE: Duration = Duration::from_secs(10);

/// A place among the container's requests, and a slot of the host's.
pub(super) struct Place {
    pub(super) container: Arc<Container>,
    seat: Option<(Admission, Slot)>,
}

impl Place {
    pub(super) async fn get(container: &Arc<Container>) -> Result<Place, Refusal> {
        let traffic = &container.traffic;
        if *container.phase.borrow() >= Phase::Over {
            return Err(Refusal::Over);
        }
        if traffic.room.try_acquire().map(|permit| permit.forget()).is_err() {
            if traffic.waiting.fetch_add(1, Relaxed) >= MOST_WAITING {
                traffic.waiting.fetch_sub(1, Relaxed);
                return Err(Refusal::Full);
            }
            let _count = Count(&traffic.waiting);
            match tokio::time::timeout(PATIENCE, traffic.room.acquire()).await {
                Ok(Ok(permit)) => permit.forget(),
                _ => return Err(Refusal::Full),
            }
        }
        traffic.active.fetch_add(1, Relaxed);
        let mut place = Place { container: container.clone(), seat: None };

        let patience = Instant::now() + PATIENCE;
        while let Some(debt) = container.cpu.debt() {
            if Instant::now() > patience {
                return Err(Refusal::Full);
            }
            tokio::time::sleep(debt).await;
        }
        let engines = &container.node.engines;
        let class = engines.class(container.compiled.class).map_err(|_| Refusal::Full)?;
        let (slots, held) = (&class.slots, &container.sandbox.slots);
        place.seat = container
            .memory
            .try_admit()
            .and_then(|admission| Some((admission, slots.try_take(held, Purpose::Request)?)));
        if place.seat.is_none() {
            let seat = async {
                let admission = container.memory.admit().await;
                (admission, slots.take(held, Purpose::Request).await)
            };
            let seat = tokio::time::timeout_at(patience, seat).await;
            place.seat = Some(seat.map_err(|_| Refusal::Full)?);
        }
        engines.wake_clock();
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.seat = None;
        let traffic = &self.container.traffic;
        traffic.last.touch();
        traffic.active.fetch_sub(1, Relaxed);
        traffic.room.add_permits(1);
    }
}
