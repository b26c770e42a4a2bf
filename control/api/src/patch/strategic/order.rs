//! Which items of lists are the same, and the order of merged lists.
//!
//! Items are told apart by their merge key, scalars by themselves. Everything goes through an index, because lists
//! come from clients and may be as long as a body allows.

use std::collections::HashMap;

use serde_json::Value;

use super::{DIRECTIVE, PatchError, SET_ORDER};

/// What tells an item apart; none if it lacks the merge key.
pub(super) fn identity(item: &Value, merge_key: Option<&str>) -> Option<String> {
    match merge_key {
        Some(key) => item.get(key).map(Value::to_string),
        None => Some(item.to_string()),
    }
}

/// Where each item of a list is first.
pub(super) struct Index<'k> {
    places: HashMap<String, usize>,
    merge_key: Option<&'k str>,
}

impl<'k> Index<'k> {
    pub(super) fn new(list: &[Value], merge_key: Option<&'k str>) -> Self {
        let mut index = Index { places: HashMap::with_capacity(list.len()), merge_key };
        for (i, item) in list.iter().enumerate() {
            if let Some(id) = identity(item, merge_key) {
                index.places.entry(id).or_insert(i);
            }
        }
        index
    }

    /// The place of the item that is the same as this one.
    pub(super) fn find(&self, item: &Value) -> Option<usize> {
        self.places.get(&identity(item, self.merge_key)?).copied()
    }

    /// Notes an item at a place, unless the same one is noted already; whether it was new.
    pub(super) fn note(&mut self, item: &Value, place: usize) -> bool {
        let Some(id) = identity(item, self.merge_key) else { return true };
        let mut new = false;
        self.places.entry(id).or_insert_with(|| {
            new = true;
            place
        });
        new
    }
}

/// The patch's items must occur in the directive's list, in the same order.
pub(super) fn check(
    given: &[Value],
    order: &[Value],
    merge_key: Option<&str>,
) -> Result<(), PatchError> {
    let mut rest = order.iter().map(|item| identity(item, merge_key));
    let mut kept = given.iter().filter(|item| item.get(DIRECTIVE).is_none());
    if kept.all(|item| {
        let id = identity(item, merge_key);
        id.is_some() && rest.any(|other| other == id)
    }) {
        return Ok(());
    }
    let text = |items: &[Value]| Value::Array(items.to_vec()).to_string();
    Err(PatchError::BadRequest(format!(
        "The order in patch list:\n{}\n doesn't match {SET_ORDER} list:\n{}\n",
        text(given),
        text(order)
    )))
}

/// Orders a merged list: items named in `order` by it; the others keep their place relative to those that `before`
/// has too.
pub(super) fn arrange(
    merged: Vec<Value>,
    order: &[Value],
    before: &[Value],
    merge_key: Option<&str>,
) -> Vec<Value> {
    let (order, before) = (Index::new(order, merge_key), Index::new(before, merge_key));
    let (mut ours, mut servers) = (Vec::new(), Vec::new());
    for item in merged {
        let was = before.find(&item);
        match order.find(&item) {
            Some(place) => ours.push((place, was, item)),
            None => servers.push((was, item)),
        }
    }
    ours.sort_by_key(|(place, ..)| *place);
    servers.sort_by_key(|(was, _)| was.unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(ours.len() + servers.len());
    let mut servers = servers.into_iter().peekable();
    for (_, was, item) in ours {
        while let Some((_, earlier)) =
            servers.next_if(|(s, _)| matches!((s, was), (Some(s), Some(was)) if *s < was))
        {
            out.push(earlier);
        }
        out.push(item);
    }
    out.extend(servers.map(|(_, item)| item));
    out
}
