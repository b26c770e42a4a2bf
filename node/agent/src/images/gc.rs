//! Takes images away when the disk is full: the kubelet's rules, thresholds and words.
//!
//! At `high_percent` of the disk, images go, least recently used first, until `low_percent` is reached; never one that a
//! Pod here names or runs, a pinned one, or one that was used within `min_age`. Below `pressure_percent` of free disk every
//! unused image goes, and the node has the condition `DiskPressure` until five minutes after. Compiled code goes with the
//! image whose program it is.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use k8s_openapi::api::core::v1::ContainerImage;

use super::Images;
use super::fetch::blocking;
use super::reference::ImageName;

/// How often the disk is looked at.
const PERIOD: Duration = Duration::from_secs(10);
/// At most as often after pulls.
const AFTER_PULL: Duration = Duration::from_secs(1);
/// How often what nothing names is looked for.
const SWEEP: Duration = Duration::from_secs(300);
/// How long what was not fetched to its end is kept for the next attempt.
const KEEP_PARTS: Duration = Duration::from_secs(24 * 3600);
/// The same, when the disk is full.
const KEEP_PARTS_WHEN_FULL: Duration = Duration::from_secs(60);
/// How long `DiskPressure` stays after it is over (`evictionPressureTransitionPeriod`).
const TRANSITION: Duration = Duration::from_secs(300);
/// Most images in the node's status (`nodeStatusMaxImages`).
const MAX_TOLD: usize = 50;
/// Most names of one image there.
const MAX_NAMES: usize = 5;

/// When images go; the defaults are the kubelet's, but for disk pressure: k3s's, which suits small machines better.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `imageGCHighThresholdPercent`: used share of the disk at which images go.
    pub high_percent: u8,
    /// `imageGCLowThresholdPercent`: used share at which no more go.
    pub low_percent: u8,
    /// `imageMinimumGCAge`: younger use protects.
    pub min_age: Duration,
    /// `evictionHard` `nodefs.available`: free share below which there is disk pressure.
    pub pressure_percent: u8,
    /// Images that never go, by their names.
    pub pinned: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            high_percent: 85,
            low_percent: 80,
            min_age: Duration::from_secs(120),
            pressure_percent: 5,
            pinned: Vec::new(),
        }
    }
}

/// What Pods of this node use: neither goes.
#[derive(Debug, Default)]
pub struct InUse {
    /// Images by the names in their specs.
    pub names: HashSet<String>,
    /// Images by digest, as containers were started from them.
    pub digests: HashSet<String>,
}

/// How full a disk is, in bytes.
#[derive(Debug, Clone, Copy)]
struct Disk {
    capacity: u64,
    available: u64,
}

/// What came of a look at the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Freed {
    /// Bytes that should go.
    pub wanted: u64,
    /// Bytes that went.
    pub freed: u64,
}

/// An image that may go.
#[derive(Debug, Clone)]
struct Candidate {
    digest: String,
    used: SystemTime,
    protected: bool,
}

/// Which images go, in this order, as long as more room is wanted.
fn plan(mut candidates: Vec<Candidate>, now: SystemTime, min_age: Duration) -> Vec<String> {
    candidates
        .retain(|c| !c.protected && now.duration_since(c.used).unwrap_or_default() >= min_age);
    candidates.sort_by_key(|c| c.used);
    candidates.into_iter().map(|c| c.digest).collect()
}

impl Disk {
    fn of(path: &Path) -> std::io::Result<Self> {
        let found = nix::sys::statvfs::statvfs(path)?;
        let unit = found.fragment_size();
        Ok(Self { capacity: found.blocks() * unit, available: found.blocks_available() * unit })
    }

    fn free_percent(&self) -> u64 {
        (self.available * 100).checked_div(self.capacity).unwrap_or(100)
    }

    /// Bytes that are to be freed, and whether there is disk pressure.
    fn judge(&self, settings: &Settings) -> (u64, bool) {
        let free = self.free_percent();
        if free < u64::from(settings.pressure_percent) {
            return (u64::MAX, true);
        }
        if 100 - free < u64::from(settings.high_percent) {
            return (0, false);
        }
        let target = self.capacity / 100 * (100 - u64::from(settings.low_percent.min(100)));
        (target.saturating_sub(self.available), false)
    }
}

impl Images {
    /// Whether the node has the condition `DiskPressure`.
    pub fn disk_pressure(&self) -> bool {
        self.inner.pressure.load(Relaxed)
    }

    /// Changes when the node's status has something new to tell of images.
    pub fn status_version(&self) -> (u64, bool) {
        (self.inner.store.changes(), self.disk_pressure())
    }

    /// `status.images` of the node: the largest ones.
    pub fn told(&self) -> Vec<ContainerImage> {
        let mut all = self.inner.store.list();
        all.sort_by(|(a, _), (b, _)| b.size.cmp(&a.size).then_with(|| a.digest.cmp(&b.digest)));
        let told = all.into_iter().take(MAX_TOLD).map(|(image, tags)| {
            let mut names: Vec<String> =
                image.access.keys().map(|place| format!("{place}@{}", image.digest)).collect();
            names.extend(tags.into_iter().filter(|name| !name.contains('@')));
            names.truncate(MAX_NAMES);
            ContainerImage { names: Some(names), size_bytes: i64::try_from(image.size).ok() }
        });
        told.collect()
    }

    /// Collects for ever. `users` says what is in use, `warn` is told what people should know (an event's reason and
    /// message), and `forget` of each program whose compiled code has no more use.
    pub async fn collect(
        self,
        users: impl Fn() -> InUse + Send + Sync,
        warn: impl Fn(&'static str, String) + Send + Sync,
        forget: impl Fn(&str) + Send + Sync,
    ) {
        let mut swept: Option<Instant> = None;
        let mut pressed: Option<Instant> = None;
        let mut warned: Option<Instant> = None;
        loop {
            let sweep = swept.is_none_or(|at| at.elapsed() >= SWEEP);
            if sweep {
                swept = Some(Instant::now());
            }
            match self.look(&users, &forget, sweep).await {
                Ok((freed, pressure)) => {
                    if pressure {
                        pressed = Some(Instant::now());
                    }
                    let lasting = pressed.is_some_and(|at| at.elapsed() < TRANSITION);
                    if self.inner.pressure.swap(lasting, Relaxed) != lasting {
                        tracing::warn!(pressure = lasting, "disk pressure changed");
                    }
                    if freed.freed < freed.wanted && warned.is_none_or(|at| at.elapsed() >= SWEEP) {
                        warned = Some(Instant::now());
                        let wanted = match freed.wanted {
                            u64::MAX => "all unused images'".to_owned(),
                            bytes => bytes.to_string(),
                        };
                        warn(
                            "FreeDiskSpaceFailed",
                            format!(
                                "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found {} bytes eligible to free.",
                                freed.freed
                            ),
                        );
                    }
                }
                Err(why) => {
                    tracing::warn!(why, "images not collected");
                    if warned.is_none_or(|at| at.elapsed() >= SWEEP) {
                        warned = Some(Instant::now());
                        warn("ImageGCFailed", why);
                    }
                }
            }
            tokio::time::sleep(AFTER_PULL).await;
            let _ = tokio::time::timeout(PERIOD, self.inner.pulled.notified()).await;
        }
    }

    /// Looks at the disk once, and makes room if it has to be.
    async fn look(
        &self,
        users: &(impl Fn() -> InUse + Sync),
        forget: &(impl Fn(&str) + Sync),
        sweep: bool,
    ) -> Result<(Freed, bool), String> {
        let (store, settings) = (&self.inner.store, &self.inner.collect);
        let dir = store.dir().to_owned();
        let disk = blocking(move || Disk::of(&dir)).await;
        let disk = disk.map_err(|e| format!("{}: {e}", store.dir().display()))?;
        let (wanted, pressure) = disk.judge(settings);
        let mut result = Freed { wanted, freed: 0 };
        if wanted == 0 && !sweep {
            return Ok((result, pressure));
        }
        let age = if wanted > 0 { KEEP_PARTS_WHEN_FULL } else { KEEP_PARTS };
        let sweeping = store.clone();
        result.freed += blocking(move || sweeping.sweep(age)).await.map_err(|e| e.to_string())?;
        if result.freed >= wanted {
            return Ok((result, pressure));
        }
        let in_use = users();
        // Names as the store has them: with their tag.
        let named = |names: &mut dyn Iterator<Item = &String>| -> HashSet<String> {
            let parsed = names.filter_map(|name| ImageName::parse(name).ok());
            parsed.filter_map(|name| Some(store.find(&name)?.digest.clone())).collect()
        };
        let pinned = named(&mut settings.pinned.iter());
        let used = named(&mut in_use.names.iter());
        let images = store.list().into_iter().map(|(image, _)| {
            let digest = image.digest.clone();
            let protected = pinned.contains(&digest)
                || used.contains(&digest)
                || in_use.digests.contains(&digest);
            Candidate { used: store.used(&digest), digest, protected }
        });
        for digest in plan(images.collect(), SystemTime::now(), settings.min_age) {
            if result.freed >= wanted {
                break;
            }
            tracing::info!(image = digest, "removing an image to make room");
            let removing = store.clone();
            let removed = blocking(move || removing.remove(&digest)).await;
            let (programs, freed) = removed.map_err(|e| e.to_string())?;
            result.freed += freed;
            programs.iter().for_each(|program| forget(program));
        }
        if pressure {
            // What is left is in use: nothing failed.
            result.wanted = result.freed;
        }
        Ok((result, pressure))
    }
}

#[cfg(test)]
mod tests;
