//! What watches begin with: the objects that there are, one after the other.
//!
//! Who watches a kind without saying since when is first sent all of it, and may take as long over that as it likes. Thousands who
//! begin at about the same time, as agents do when a server comes back, begin with the same objects: they share the list.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use coracle_api::Object;

/// Lists that are shorter are not worth it.
const LONG: usize = 64;

type List = Arc<[Arc<Object>]>;
/// Kind and namespace.
type Place = (&'static str, String);

/// The lists that are being sent, by kind and namespace: the latest of each.
#[derive(Default)]
pub(super) struct Lists(Mutex<HashMap<Place, Weak<[Arc<Object>]>>>);

impl Lists {
    /// The list, or one with the same objects that somebody else is being sent.
    fn share(&self, resource: &'static str, namespace: &str, objects: Vec<Arc<Object>>) -> List {
        if objects.len() < LONG {
            return objects.into();
        }
        let mut lists = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (resource, namespace.to_owned());
        // Objects are never changed, only replaced.
        if let Some(known) = lists.get(&key).and_then(Weak::upgrade)
            && known.len() == objects.len()
            && known.iter().zip(&objects).all(|(a, b)| Arc::ptr_eq(a, b))
        {
            return known;
        }
        let list: List = objects.into();
        lists.retain(|_, list| list.strong_count() > 0);
        lists.insert(key, Arc::downgrade(&list));
        list
    }

    /// What a watch begins with.
    pub(super) fn begin(
        &self,
        resource: &'static str,
        namespace: &str,
        objects: Vec<Arc<Object>>,
    ) -> Initial {
        Initial { list: Some(self.share(resource, namespace, objects)), sent: 0 }
    }
}

/// The objects that one watch begins with, as far as they have not been sent.
pub(crate) struct Initial {
    list: Option<List>,
    sent: usize,
}

impl Initial {
    /// Whether all of it was sent.
    pub(crate) fn is_over(&self) -> bool {
        self.list.as_ref().is_none_or(|list| list.len() == self.sent)
    }
}

impl Iterator for Initial {
    type Item = Arc<Object>;

    fn next(&mut self) -> Option<Arc<Object>> {
        let next = self.list.as_ref()?.get(self.sent)?.clone();
        self.sent += 1;
        if self.is_over() {
            self.list = None;
        }
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use coracle_api::kinds;
    use serde_json::json;

    use super::*;

    #[test]
    fn those_who_begin_alike_share_it() {
        let object = |n: usize| {
            let value = json!({"metadata": {"name": format!("m{n}"), "namespace": "a"}});
            Arc::new(Object::from_value(&kinds::CONFIG_MAP, &value).expect("an object"))
        };
        let all: Vec<_> = (0..LONG).map(object).collect();
        let lists = Lists::default();
        let share = |objects: &[Arc<Object>]| lists.share("configmaps", "a", objects.to_vec());
        let (first, second) = (share(&all), share(&all));
        assert!(Arc::ptr_eq(&first, &second));
        let mut changed = all.clone();
        changed[3] = object(3);
        let third = share(&changed);
        assert!(!Arc::ptr_eq(&first, &third) && Arc::ptr_eq(&third, &share(&changed)));
        assert!(!Arc::ptr_eq(&first, &lists.share("configmaps", "b", all.clone())));
        let mut none = lists.begin("configmaps", "a", Vec::new());
        assert!(none.is_over() && none.next().is_none() && none.is_over());
        let begun = lists.begin("configmaps", "a", all.clone());
        assert!(begun.zip(&all).all(|(a, b)| Arc::ptr_eq(&a, b)));
        drop((first, second, third));
        lists.share("configmaps", "c", all);
        assert_eq!(lists.0.lock().expect("nobody panicked").len(), 1, "what nobody is sent goes");
    }
}
