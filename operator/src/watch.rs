//! From a watch to what matters: which resources must be looked at again. Changes that mean
//! nothing to us (heartbeats, our own writes) end here, so at rest nothing is reconciled.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use futures::{Stream, StreamExt, stream};
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};

/// An object that changed in a way that matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change<K> {
    Touched(K),
    Gone(K),
}

/// Remembers of every object what mattered, and tells changes from noise.
struct Filter<K> {
    relevant: fn(&K) -> u64,
    seen: HashMap<String, (u64, K)>,
    /// While the watch restarts: what has been listed so far.
    listed: Option<HashMap<String, (u64, K)>>,
}

impl<K: Resource + Clone> Filter<K> {
    fn changes(&mut self, event: Event<K>) -> Vec<Change<K>> {
        match event {
            Event::Init => {
                self.listed = Some(HashMap::new());
                Vec::new()
            }
            Event::InitApply(object) => {
                let hash = (self.relevant)(&object);
                let uid = object.uid().unwrap_or_default();
                let known = self.seen.get(&uid).is_some_and(|(seen, _)| *seen == hash);
                if let Some(listed) = &mut self.listed {
                    listed.insert(uid, (hash, object.clone()));
                }
                if known {
                    Vec::new()
                } else {
                    vec![Change::Touched(object)]
                }
            }
            // What was there before the watch restarted and is not now went in between.
            Event::InitDone => match self.listed.take() {
                Some(listed) => {
                    let before = std::mem::replace(&mut self.seen, listed);
                    let gone = before
                        .into_iter()
                        .filter(|(uid, _)| !self.seen.contains_key(uid));
                    gone.map(|(_, (_, object))| Change::Gone(object)).collect()
                }
                None => Vec::new(),
            },
            Event::Apply(object) => {
                let hash = (self.relevant)(&object);
                let uid = object.uid().unwrap_or_default();
                match self.seen.insert(uid, (hash, object.clone())) {
                    Some((seen, _)) if seen == hash => Vec::new(),
                    _ => vec![Change::Touched(object)],
                }
            }
            Event::Delete(object) => {
                self.seen.remove(&object.uid().unwrap_or_default());
                vec![Change::Gone(object)]
            }
        }
    }
}

/// The changes of a watch in which `relevant` differs from before.
pub(crate) fn changes<K: Resource + Clone + Send + 'static>(
    events: impl Stream<Item = Event<K>> + Send + 'static,
    relevant: fn(&K) -> u64,
) -> impl Stream<Item = Change<K>> + Send + 'static {
    let mut filter = Filter {
        relevant,
        seen: HashMap::new(),
        listed: None,
    };
    events.flat_map(move |event| stream::iter(filter.changes(event)))
}

/// A hash of what matters.
pub(crate) fn hash_of(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    fn pod(name: &str, version: u8) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.to_owned());
        pod.metadata.uid = Some(name.to_owned());
        pod.metadata.labels = Some([("version".to_owned(), version.to_string())].into());
        pod
    }

    fn labels(pod: &Pod) -> u64 {
        hash_of(&pod.metadata.labels)
    }

    fn names(filter: &mut Filter<Pod>, events: Vec<Event<Pod>>) -> Vec<String> {
        let changes = events.into_iter().flat_map(|event| filter.changes(event));
        changes
            .map(|change| match change {
                Change::Touched(pod) => format!("+{}", pod.name_any()),
                Change::Gone(pod) => format!("-{}", pod.name_any()),
            })
            .collect()
    }

    #[test]
    fn only_changes_that_matter_pass_also_across_a_restart_of_the_watch() {
        let mut filter = Filter {
            relevant: labels,
            seen: HashMap::new(),
            listed: None,
        };
        let start = vec![
            Event::Init,
            Event::InitApply(pod("a", 1)),
            Event::InitApply(pod("b", 1)),
            Event::InitDone,
        ];
        assert_eq!(names(&mut filter, start), ["+a", "+b"]);
        let noise = vec![Event::Apply(pod("a", 1)), Event::Apply(pod("a", 2))];
        assert_eq!(names(&mut filter, noise), ["+a"]);
        let restart = vec![
            Event::Init,
            Event::InitApply(pod("a", 2)),
            Event::InitApply(pod("c", 1)),
            Event::InitDone,
        ];
        assert_eq!(names(&mut filter, restart), ["+c", "-b"]);
        let gone = vec![Event::Delete(pod("a", 2)), Event::Apply(pod("a", 2))];
        assert_eq!(names(&mut filter, gone), ["-a", "+a"]);
    }
}
