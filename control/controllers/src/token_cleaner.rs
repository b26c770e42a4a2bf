//! Join tokens end: their Secrets are removed when they have expired (upstream's token cleaner).

use std::time::Duration;

use coracle_api::bootstrap_token::Stored;
use coracle_api::kinds::SECRET;
use coracle_api::plan::{Controller, Key, Propagation};
use coracle_api::{Cluster, Object, Plan};

/// Plans the end of each token.
#[derive(Debug, Clone, Copy)]
pub struct TokenCleaner;

impl Controller for TokenCleaner {
    fn name(&self) -> &'static str {
        "token-cleaner"
    }

    fn wakes(&self, _: &Cluster, object: &Object) -> Vec<Key> {
        Stored::of(object).map(|_| Key::of(object)).into_iter().collect()
    }

    fn reconcile(&self, cluster: &Cluster, key: &Key) -> Plan {
        let mut plan = Plan::none();
        let Some(secret) = cluster.get(&SECRET, &key.namespace, &key.name) else { return plan };
        let Some(token) = Stored::of(secret) else { return plan };
        match Duration::try_from(token.expires.duration_since(cluster.now)) {
            Ok(left) if !left.is_zero() => plan.requeue(left),
            _ => plan.delete(secret, Propagation::Background),
        }
        plan
    }
}
