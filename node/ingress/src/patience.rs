//! Until when a client has to have sent a request's head, without a timer for each: hyper asks for one anew before every
//! request, and gives it back when the head is there. So what it is given is a note of when that is too late, and the
//! connection has one timer, which is set to the time that is noted only when it goes off.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};

/// When a connection's next head is late.
#[derive(Clone)]
pub(crate) struct Heads(Arc<Noted>);

struct Noted {
    born: Instant,
    /// Milliseconds after `born`; 0 while none is waited for.
    until: AtomicU64,
    late: AtomicBool,
}

impl Noted {
    fn note(&self, until: Instant) {
        let after = until.saturating_duration_since(self.born).as_millis().max(1);
        self.until.store(after as u64, Relaxed);
    }
}

impl Heads {
    pub(crate) fn new() -> Self {
        let (until, late) = (AtomicU64::new(0), AtomicBool::new(false));
        Heads(Arc::new(Noted { born: Instant::now(), until, late }))
    }

    /// Whether a head is late; the connection hears of it when it looks the next time. `clock` is its timer, and `most` how long
    /// a head may take: it goes off no later than that after it was set, and so before anything that was noted since is late.
    pub(crate) fn are_late(
        &self,
        mut clock: Pin<&mut tokio::time::Sleep>,
        most: Duration,
        cx: &mut Context<'_>,
    ) -> bool {
        while clock.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let until = match self.0.until.load(Relaxed) {
                0 => now + most,
                after => self.0.born + Duration::from_millis(after),
            };
            let late = until <= now;
            clock.as_mut().reset(if late { now + most } else { until }.into());
            if late {
                self.0.late.store(true, Relaxed);
                return true;
            }
        }
        false
    }
}

impl Timer for Heads {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.0.note(deadline);
        Box::pin(Waiting(self.0.clone()))
    }

    fn reset(&self, _: &mut Pin<Box<dyn Sleep>>, deadline: Instant) {
        self.0.note(deadline);
    }
}

/// A head that is waited for.
struct Waiting(Arc<Noted>);

impl Future for Waiting {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if self.0.late.load(Relaxed) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Sleep for Waiting {}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.until.store(0, Relaxed);
        self.0.late.store(false, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn a_head_is_late_if_it_is_waited_for_too_long() {
        let builder = tokio::runtime::Builder::new_current_thread().enable_time().build();
        builder.expect("a runtime").block_on(async {
            let most = Duration::from_secs(1);
            let (heads, mut cx) = (Heads::new(), Context::from_waker(Waker::noop()));
            let mut clock = std::pin::pin!(tokio::time::sleep(most));
            let mut looks = async |head: &mut Pin<Box<dyn Sleep>>, time| {
                tokio::time::sleep(Duration::from_millis(time)).await;
                let late = heads.are_late(clock.as_mut(), most, &mut cx);
                (late, head.as_mut().poll(&mut cx).is_ready())
            };
            let mut first = heads.sleep(most);
            assert_eq!(looks(&mut first, 500).await, (false, false));
            drop(first);
            // The timer goes off for the one before.
            let mut second = heads.sleep(most);
            assert_eq!(looks(&mut second, 700).await, (false, false));
            assert_eq!(looks(&mut second, 800).await, (true, true));
            drop(second);
            let mut third = heads.sleep(most);
            assert_eq!(looks(&mut third, 10).await, (false, false));
        });
    }
}
