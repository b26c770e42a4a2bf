//! Waiting for what comes about by itself.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// How long between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Asks `look` until it answers with a value; an error says why it has not come about yet, and is the answer if it does
/// not within `limit`.
pub async fn eventually<T>(
    limit: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    let mut last = anyhow::anyhow!("the first look took too long");
    loop {
        let left = limit.saturating_sub(start.elapsed());
        match tokio::time::timeout(left, look()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => last = error,
            Err(_) => {}
        }
        if start.elapsed() >= limit {
            return Err(last).with_context(|| format!("not within {limit:?}: {what}"));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// An error unless `condition` holds; for use in [`eventually`].
pub(crate) fn ensure(condition: bool, message: impl FnOnce() -> String) -> anyhow::Result<()> {
    if !condition {
        bail!(message());
    }
    Ok(())
}
