//! Answers under way by the ids that clients know, so that they can be aborted by name.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Kinds of answers, which vLLM's and our ids begin with.
const PREFIXES: [&str; 3] = ["", "cmpl-", "chatcmpl-"];

/// Ids of the engine's requests by their answer's id; as many entries as answers are under way.
/// Clients may give several answers one id.
#[derive(Debug, Default)]
pub struct Named(Mutex<HashMap<String, Vec<u64>>>);

/// Keeps an answer's name; dropped with the answer.
#[derive(Debug)]
pub struct Name {
    named: Arc<Named>,
    name: String,
    ids: Vec<u64>,
}

impl Named {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Vec<u64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn enter(self: &Arc<Named>, name: &str, ids: Vec<u64>) -> Name {
        self.lock()
            .entry(name.to_owned())
            .or_default()
            .extend_from_slice(&ids);
        Name {
            named: Arc::clone(self),
            name: name.to_owned(),
            ids,
        }
    }

    /// The engine's ids of the answers of this name: the answer's own id, the `X-Request-Id` that it
    /// was made of, or either with the number of a prompt behind it, as vLLM counts them.
    pub fn ids(&self, name: &str) -> Vec<u64> {
        let named = self.lock();
        let numbered = name
            .rsplit_once('-')
            .filter(|(_, number)| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
            .map(|(name, _)| name);
        for name in [Some(name), numbered].into_iter().flatten() {
            let found: Vec<u64> = PREFIXES
                .iter()
                .filter_map(|prefix| named.get(&format!("{prefix}{name}")))
                .flatten()
                .copied()
                .collect();
            if !found.is_empty() {
                return found;
            }
        }
        Vec::new()
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let mut named = self.named.lock();
        if let Some(ids) = named.get_mut(&self.name) {
            ids.retain(|id| !self.ids.contains(id));
            if ids.is_empty() {
                named.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_found_by_all_their_names_while_they_live() {
        let named = Arc::new(Named::default());
        let first = named.enter("cmpl-a-7", vec![1, 2]);
        let second = named.enter("cmpl-a-7", vec![3]);
        let chat = named.enter("chatcmpl-b", vec![4]);
        for name in ["cmpl-a-7", "a-7", "cmpl-a-7-0", "a-7-1"] {
            assert_eq!(named.ids(name), [1, 2, 3], "{name}");
        }
        assert_eq!(named.ids("b"), [4]);
        drop(first);
        assert_eq!(named.ids("a-7"), [3]);
        drop((second, chat));
        assert_eq!(named.ids("a-7").len() + named.ids("b").len(), 0);
        assert!(named.lock().is_empty());
    }
}
