//! Keeps volumes up to date while their Pods run: one task for all of them.
//!
//! Four things make it act: objects that changed, Pods whose metadata changed, tokens that grow old, and a clock that
//! has local storage measured where there are limits on it. Each round is bounded by what is there; measuring takes at
//! most a tenth of the time.

use std::cmp::Reverse;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coracle_api::quantity::Quantity;
use coracle_sandbox::beneath::Folder;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};

use super::{Mounted, Volumes, all, empty_dir, payload};
use crate::pod::spec;

/// How often local storage is measured, and unused objects are let go.
const PERIOD: Duration = Duration::from_secs(5);
/// When a token that could not be replaced is asked for again.
const TOKEN_RETRY: SignedDuration = SignedDuration::from_secs(10);

/// What Pods are told; by UID.
pub struct Hooks<Retry, Evict> {
    /// Something that the Pod may have waited for is there.
    pub retry: Retry,
    /// The Pod takes more room than it may.
    pub evict: Evict,
}

impl Volumes {
    /// Looks after volumes for ever.
    pub async fn run<R, E>(self, hooks: Hooks<R, E>)
    where
        R: Fn(&str),
        E: Fn(&str, String),
    {
        let mut measure = Instant::now() + PERIOD;
        loop {
            let tick = measure.min(self.next_token().unwrap_or(measure));
            tokio::select! {
                changed = self.inner.objects.changed() => {
                    for (key, pods) in changed {
                        tracing::debug!(?key, pods = pods.len(), "object changed");
                        for uid in pods {
                            self.refresh(&uid).await;
                            (hooks.retry)(&uid);
                        }
                    }
                }
                () = self.inner.wake.notified() => {}
                () = tokio::time::sleep_until(tick.into()) => {}
            }
            let stale = std::mem::take(&mut self.table().stale);
            for uid in stale {
                self.refresh(&uid).await;
            }
            for uid in self.due_tokens() {
                self.refresh(&uid).await;
            }
            let now = Instant::now();
            if now >= measure {
                self.inner.objects.sweep().await;
                for (uid, message) in self.measure().await {
                    (hooks.evict)(&uid, message);
                }
                measure = Instant::now() + PERIOD.max(now.elapsed() * 9);
            }
        }
    }

    /// Writes anew what the Pod's volumes show, where it is different.
    async fn refresh(&self, uid: &str) {
        let Some(mounted) = self.table().pods.get(uid).cloned() else { return };
        let filled = mounted.filled.lock().await;
        if filled.is_empty() {
            return;
        }
        let pod = mounted.pod();
        let owner = *mounted.owner.lock().unwrap_or_else(|e| e.into_inner());
        match self.fill(uid, &pod, owner, &filled).await {
            Ok(changed) => tracing::debug!(pod = uid, changed, "volumes looked at"),
            // What is there stays.
            Err(error) => {
                let recorder = &self.inner.recorder;
                recorder.pod(&pod, None, true, "FailedMount", error.to_string());
                if all(&pod).any(|v| payload::tokens(v).next().is_some()) {
                    self.token_due(uid, Timestamp::now() + TOKEN_RETRY);
                }
            }
        }
    }

    fn next_token(&self) -> Option<Instant> {
        let table = self.table();
        let Reverse((at, _)) = table.tokens.peek()?;
        let left = Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default();
        Some(Instant::now() + left)
    }

    fn due_tokens(&self) -> Vec<Arc<str>> {
        let now = Timestamp::now();
        let mut table = self.table();
        let mut due = Vec::new();
        while let Some(Reverse((at, _))) = table.tokens.peek()
            && *at <= now
            && let Some(Reverse((at, uid))) = table.tokens.pop()
        {
            // Times that were set anew since are not the Pod's any more.
            let Some(mounted) = table.pods.get(&uid) else { continue };
            let mut known = mounted.token_due.lock().unwrap_or_else(|e| e.into_inner());
            if *known == Some(at) {
                *known = None;
                drop(known);
                due.push(uid);
            }
        }
        due
    }

    /// Pods that take more room than they may, and what they are told.
    async fn measure(&self) -> Vec<(Arc<str>, String)> {
        let limited: Vec<(Arc<str>, Arc<Mounted>)> = {
            let table = self.table();
            let limited = table.pods.iter().filter(|(_, mounted)| mounted.limited);
            limited.map(|(uid, mounted)| (uid.clone(), mounted.clone())).collect()
        };
        if limited.is_empty() {
            return Vec::new();
        }
        let volumes = self.clone();
        self.blocking(move || {
            let over = limited.into_iter().filter_map(|(uid, mounted)| {
                let why = volumes.over_limit(&uid, &mounted.pod())?;
                Some((uid, why))
            });
            over.collect()
        })
        .await
    }

    fn over_limit(&self, uid: &str, pod: &Pod) -> Option<String> {
        let dir = self.dir(uid);
        let mut used = 0;
        for volume in all(pod) {
            let Some(source) = &volume.empty_dir else { continue };
            let limit = empty_dir::limit(source);
            let usage = empty_dir::usage(&dir.join(&volume.name), limit.unwrap_or(u64::MAX));
            if let Some(limit) = limit
                && usage > limit
            {
                let written = source.size_limit.as_ref().map_or("", |q| q.0.as_str());
                return Some(format!(
                    "Usage of EmptyDir volume \"{}\" exceeds the limit \"{written}\". ",
                    volume.name
                ));
            }
            if !empty_dir::in_memory(source) {
                used += usage;
            }
        }
        let limits = || spec::containers(pod).filter_map(|(_, c)| Some((c, storage_limit(c)?)));
        limits().next()?;
        let meta = &pod.metadata;
        let (namespace, name) = (meta.namespace.as_deref()?, meta.name.as_deref()?);
        let folders = self.inner.hosts.folders(uid);
        let logs = folders.pod_logs(namespace, name, uid);
        // The Pod's folder of logs is its host's.
        let logs_of = |container: &str, enough| {
            let inner = Path::new(logs.file_name().unwrap_or_default()).join(container);
            let folder = Folder::open(&folders.logs).and_then(|all| all.folder(&inner));
            folder.map_or(0, |folder| folder.usage(enough))
        };
        // What containers write into their own file systems: their folders lie in one of the Pod's alone.
        let written_by = |container: &str, enough| {
            let roots = folders.of_containers().then(|| Folder::open(&folders.roots(container)));
            roots.and_then(Result::ok).map_or(0, |folder| folder.usage(enough))
        };
        for (container, limit) in limits() {
            let most = bytes(limit);
            let name = &container.name;
            if logs_of(name, most) + written_by(name, most) > most {
                return Some(format!(
                    "Container {} exceeded its local ephemeral storage limit \"{limit}\". ",
                    container.name
                ));
            }
        }
        let total: Quantity = limits().map(|(_, limit)| limit).sum();
        used += logs_of("", bytes(total)) + written_by("", bytes(total));
        (used > bytes(total)).then(|| {
            format!(
                "Pod ephemeral local storage usage exceeds the total limit of containers {total}. "
            )
        })
    }
}

impl Mounted {
    fn pod(&self) -> Arc<Pod> {
        self.pod.lock().unwrap_or_else(|e| e.into_inner()).peek()
    }
}

/// Whether the Pod's local storage has to be measured.
pub(super) fn is_limited(pod: &Pod) -> bool {
    all(pod).filter_map(|v| v.empty_dir.as_ref()).any(|e| empty_dir::limit(e).is_some())
        || spec::containers(pod).any(|(_, c)| storage_limit(c).is_some())
}

/// `limits.ephemeral-storage`.
fn storage_limit(container: &Container) -> Option<Quantity> {
    let limits = container.resources.as_ref()?.limits.as_ref()?;
    limits.get("ephemeral-storage")?.0.parse().ok()
}

fn bytes(quantity: Quantity) -> u64 {
    u64::try_from(quantity.value()).unwrap_or(0)
}
