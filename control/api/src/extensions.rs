//! What other API servers behind this one have in namespaces that are being deleted, as far as somebody has asked them: nothing of
//! it is stored.

use std::collections::HashMap;

/// By the UID of the namespace.
#[derive(Debug, Default)]
pub struct Extensions(HashMap<String, Leftover>);

/// What is left of one namespace's content in other API servers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leftover {
    /// Groups and versions (`example.com/v1`) that cannot be asked, with the reason.
    pub unknown: Vec<(String, String)>,
    /// What was said against deleting something.
    pub failed: Vec<String>,
    /// Resources (`boats.example.com`) of which there is something, and how much.
    pub remaining: Vec<(String, usize)>,
    /// Finalizers that these have, each with how many have it.
    pub finalizers: Vec<(String, usize)>,
}

impl Leftover {
    /// Whether nothing is left, as far as could be seen, and everything could be.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Extensions {
    /// What is known of a namespace; nothing before its content was first looked for.
    pub fn of(&self, uid: &str) -> Option<&Leftover> {
        self.0.get(uid)
    }

    /// Takes in what was found.
    pub fn tell(&mut self, uid: &str, left: Leftover) {
        self.0.insert(uid.to_owned(), left);
    }

    /// The namespace is gone.
    pub fn forget(&mut self, uid: &str) {
        self.0.remove(uid);
    }
}
