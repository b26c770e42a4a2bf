//! A stop that drops no request: the rule is in the module's head.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::Instant;

use crate::container::{Container, Exit, Phase};

/// A draining container has been taken out of its Services when nothing came for this long.
const QUIET: Duration = Duration::from_secs(1);
/// How long idle connections have to end once they were told to.
const CLOSING: Duration = Duration::from_millis(500);

impl Container {
    /// Makes it drain, then exit.
    pub(crate) async fn drain(self: Arc<Self>) {
        let mut stop = self.stop.subscribe();
        let begun = Instant::now();
        self.enter(Phase::Draining);
        let traffic = &self.traffic;
        let graceful = loop {
            let Some(deadline) = *stop.borrow_and_update() else { return };
            if Instant::now() >= deadline {
                break traffic.is_quiet() && deadline > begun;
            }
            if traffic.is_quiet() && traffic.last.age().min(begun.elapsed()) >= QUIET {
                break true;
            }
            let wait = Duration::from_millis(50).min(deadline - Instant::now());
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = stop.changed() => {}
            }
        };
        if !graceful {
            let active = traffic.open.load(Relaxed).max(traffic.guests.load(Relaxed));
            let message = format!("killed at the end of its grace period, with {active} requests");
            return self.exit(Exit::killed(message), Duration::ZERO).await;
        }
        self.enter(Phase::Closing);
        let closed = Instant::now() + CLOSING;
        while traffic.connections.load(Relaxed) > 0 && Instant::now() < closed {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.exit(Exit::completed(), Duration::from_millis(100)).await;
    }
}
