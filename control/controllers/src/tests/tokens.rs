//! The end of join tokens.

use coracle_api::bootstrap_token::{NAMESPACE, Stored};
use jiff::SignedDuration;

use super::*;

#[test]
fn tokens_end_when_they_say() {
    for (left, expected) in [(-3600, None), (0, None), (1, Some(1)), (86_400, Some(86_400))] {
        let token = Stored {
            id: "abc123".into(),
            hash: "00".into(),
            expires: NOW.parse::<Timestamp>().unwrap() + SignedDuration::from_secs(left),
            description: String::new(),
        };
        let mut secret = token.secret();
        (kinds::SECRET.default)(&mut secret);
        let other = json!({"metadata": {"name": "bootstrap-token-other0", "namespace": NAMESPACE}});
        let cluster = cluster([(&kinds::SECRET, secret), (&kinds::SECRET, other)]);
        let keys: Vec<Key> = cluster
            .list(&kinds::SECRET)
            .flat_map(|secret| TokenCleaner.wakes(&cluster, secret))
            .collect();
        assert_eq!(keys, [Key::new(NAMESPACE, "bootstrap-token-abc123")]);
        let plan = TokenCleaner.reconcile(&cluster, &keys[0]);
        assert_eq!(plan.requeue_after.map(|after| after.as_secs()), expected, "{left}");
        let deletes = matches!(plan.writes.as_slice(), [Write::Delete { .. }]);
        assert_eq!(deletes, expected.is_none(), "{left}");
    }
}
