//! What is kept of many Pods, of which few have anything happen to them: small while nobody looks at it.
//!
//! A decoded Pod takes some eight times the room of its JSON: a field that is absent is as large as one that is there, and a list
//! of one has room for four. A node with tens of thousands of Pods that only run would hold little else.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A shared value that is decoded while it is used, and packed when it was not for a while.
pub(crate) struct Kept<T>(Arc<Mutex<Form<T>>>);

enum Form<T> {
    Open { value: Arc<T>, used: bool },
    Packed(Box<[u8]>),
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Serialize + DeserializeOwned + Default + PartialEq> Kept<T> {
    pub(crate) fn new(value: T) -> Self {
        Self::of(Arc::new(value))
    }

    pub(crate) fn of(value: Arc<T>) -> Self {
        Self(Arc::new(Mutex::new(Form::Open { value, used: true })))
    }

    /// The value, which then stays as it is for a while: something happens to it.
    pub(crate) fn open(&self) -> Arc<T> {
        let mut form = self.form();
        let value = form.value();
        *form = Form::Open { value: value.clone(), used: true };
        value
    }

    /// The value, for those who look at all of them.
    pub(crate) fn peek(&self) -> Arc<T> {
        self.form().value()
    }

    /// Packs it unless it was opened since this was called last.
    pub(crate) fn settle(&self) {
        let mut form = self.form();
        let Form::Open { value, used } = &mut *form else { return };
        if std::mem::take(used) {
            return;
        }
        let Ok(packed) = serde_json::to_vec(&**value) else { return };
        // Nothing may get lost; what would is left as it is.
        if serde_json::from_slice::<T>(&packed).is_ok_and(|again| again == **value) {
            *form = Form::Packed(packed.into());
        }
    }

    fn form(&self) -> MutexGuard<'_, Form<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: DeserializeOwned + Default> Form<T> {
    fn value(&self) -> Arc<T> {
        match self {
            Self::Open { value, .. } => value.clone(),
            // It was decoded before it was packed.
            Self::Packed(packed) => Arc::new(serde_json::from_slice(packed).unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    fn is_packed<T: DeserializeOwned + Default>(kept: &Kept<T>) -> bool {
        matches!(*kept.0.lock().unwrap(), Form::Packed(_))
    }

    #[test]
    fn what_is_not_used_is_packed_and_nothing_is_lost() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "labels": {}, "creationTimestamp": "2026-01-02T03:04:05Z"},
            "spec": {
                "containers": [{"name": "c", "resources": {"limits": {"cpu": "100m"}},
                    "livenessProbe": {"httpGet": {"port": "http"}}}],
                "volumes": [{"name": "v", "emptyDir": {}}],
            },
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        }))
        .unwrap();
        let kept = Kept::new(pod.clone());
        kept.settle();
        assert!(!is_packed(&kept), "it has just come");
        kept.settle();
        assert!(is_packed(&kept));
        assert_eq!((kept.peek().as_ref().clone(), is_packed(&kept)), (pod.clone(), true));
        assert_eq!((kept.open().as_ref().clone(), is_packed(&kept)), (pod.clone(), false));
        kept.settle();
        assert!(!is_packed(&kept), "it was opened");
        kept.peek();
        kept.settle();
        assert!(is_packed(&kept), "others looked at it only");
    }

    #[test]
    fn what_json_cannot_hold_is_left_as_it_is() {
        let kept = Kept::new(vec![Some(f64::INFINITY)]);
        kept.settle();
        kept.settle();
        assert!(!is_packed(&kept));
    }
}
