//! Rolling: how many pods each revision should have. A pure function from (revisions, pods,
//! room) to replica counts; it knows nothing of Kubernetes and remembers nothing.
//!
//! One pod more than wanted may exist (surge), and as many as wanted keep answering. Where the
//! cluster has no room for the additional pod, an old one makes way first, one at a time.

use std::time::Duration;

/// Empty ReplicaSets of old revisions that are kept, so that a rollback finds its history.
pub(crate) const KEPT_REVISIONS: usize = 2;

/// Whether the cluster has room for a pod more than wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Not known to be short: try a surge.
    Assumed,
    /// A surge pod of this revision stayed unschedulable: old pods make way first. The last one
    /// was told to go this long ago.
    None { since_last: Duration },
}

/// One engine pod, as far as rolling cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PodPhase {
    /// Answers requests.
    Ready,
    /// Answered once and does not now: it may come back.
    Unready,
    /// Never answered: being made, pulled, loaded, or failing before it was ready.
    Starting,
    /// The scheduler finds no node, for this long.
    Unschedulable { for_: Duration },
    /// Being deleted: no longer one of the ReplicaSet's, but it still holds its room.
    Leaving,
}

/// A revision's ReplicaSet and its pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RevisionPods {
    pub(crate) revision: String,
    /// `spec.replicas` of its ReplicaSet.
    pub(crate) replicas: u32,
    pub(crate) pods: Vec<PodPhase>,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Replica counts, in the order of the revisions given; the wanted revision is last.
    pub(crate) replicas: Vec<(String, u32)>,
    /// The surge pod has had no room for too long: an old pod makes way.
    pub(crate) replacing: bool,
    /// When to look again although nothing moved: an unschedulable pod's patience runs out.
    pub(crate) look_again: Option<Duration>,
}

impl RevisionPods {
    /// Pods of this revision that answer, if it had `replicas` pods: a ReplicaSet gives up those
    /// that do not answer first.
    fn ready_within(&self, replicas: u32) -> u32 {
        count(&self.pods, |pod| pod == PodPhase::Ready).min(replicas)
    }

    fn unready(&self) -> u32 {
        count(&self.pods, |pod| pod == PodPhase::Unready)
    }
}

fn count(pods: &[PodPhase], which: impl Fn(PodPhase) -> bool) -> u32 {
    u32::try_from(pods.iter().filter(|pod| which(**pod)).count()).unwrap_or(u32::MAX)
}

/// The next replica counts.
///
/// `old` are the other revisions, oldest first; `new` is the wanted one (zero replicas before it
/// exists). Calling it again with the same arguments gives the same answer, and following its
/// answers ends with `wanted` pods of `new` alone.
pub(crate) fn step(
    wanted: u32,
    old: &[RevisionPods],
    new: &RevisionPods,
    room: Room,
    patience: Duration,
) -> Step {
    if wanted == 0 {
        let all = old.iter().chain([new]);
        let replicas = all.map(|revision| (revision.revision.clone(), 0)).collect();
        return Step {
            replicas,
            replacing: false,
            look_again: None,
        };
    }
    let waited = longest_unschedulable(new);
    let old_replicas: u32 = old.iter().map(|revision| revision.replicas).sum();
    let rolling = old_replicas > 0;
    let short = matches!(room, Room::None { .. });
    let replacing = rolling && (short || waited.is_some_and(|waited| waited >= patience));

    let new_now = new.replicas.min(wanted);
    let new_ready = new.ready_within(new_now);
    let old_ready: u32 = old.iter().map(|old| old.ready_within(old.replicas)).sum();
    let pause = replacing_pause(old, new, room, patience);
    let (surge, floor) = match replacing {
        false => (1, wanted),
        // Fewer than that answer where not even the wanted count has room. Then, too, one makes
        // way, but only once the place of the one before it is taken.
        true if waited.is_some() && pause == Pause::Over => (
            0,
            (wanted - 1).min((old_ready + new_ready).saturating_sub(1)),
        ),
        true => (0, wanted - 1),
    };
    let targets = shrink_old(old, new_ready, floor);
    let old_targets: u32 = targets.iter().sum();
    let new_target = new_now.max(wanted.min((wanted + surge).saturating_sub(old_targets)));

    let names = old
        .iter()
        .chain([new])
        .map(|revision| revision.revision.clone());
    Step {
        replicas: names.zip(targets.into_iter().chain([new_target])).collect(),
        replacing,
        look_again: match (waited, pause) {
            (Some(waited), _) if rolling && !replacing => Some(patience.saturating_sub(waited)),
            (Some(_), Pause::For(rest)) if replacing => Some(rest),
            _ => None,
        },
    }
}

/// Whether the pod that last made way has been replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    Over,
    /// A pod is leaving or starting: its events will tell.
    Moving,
    For(Duration),
}

fn replacing_pause(
    old: &[RevisionPods],
    new: &RevisionPods,
    room: Room,
    patience: Duration,
) -> Pause {
    let leaving = old
        .iter()
        .chain([new])
        .any(|revision| revision.pods.contains(&PodPhase::Leaving));
    if leaving || new.pods.contains(&PodPhase::Starting) {
        return Pause::Moving;
    }
    match room {
        Room::None { since_last } if since_last < patience => Pause::For(patience - since_last),
        Room::None { .. } | Room::Assumed => Pause::Over,
    }
}

fn longest_unschedulable(revision: &RevisionPods) -> Option<Duration> {
    let waits = revision.pods.iter().filter_map(|pod| match pod {
        PodPhase::Unschedulable { for_ } => Some(*for_),
        PodPhase::Ready | PodPhase::Unready | PodPhase::Starting | PodPhase::Leaving => None,
    });
    waits.max()
}

/// Replica counts of the old revisions, such that `floor` pods keep answering.
fn shrink_old(old: &[RevisionPods], new_ready: u32, floor: u32) -> Vec<u32> {
    // Pods that never answered give no service: they go first, and make room.
    let answered = old.iter().map(|revision| {
        let kept = revision.ready_within(revision.replicas) + revision.unready();
        kept.min(revision.replicas)
    });
    let mut targets: Vec<u32> = answered.collect();
    let old_ready: u32 = old
        .iter()
        .zip(&targets)
        .map(|(revision, target)| revision.ready_within(*target))
        .sum();
    // Those that answered once count as capacity that may come back; those that answer now are
    // given up only where enough others answer.
    let mut removable = (targets.iter().sum::<u32>() + new_ready).saturating_sub(floor);
    let mut spare = (old_ready + new_ready).saturating_sub(floor);
    for (revision, target) in old.iter().zip(&mut targets) {
        let ready = revision.ready_within(*target);
        let unready = *target - ready;
        let dropped = unready.min(removable);
        removable -= dropped;
        *target -= dropped;
        if dropped == unready {
            let given_up = ready.min(spare).min(removable);
            removable -= given_up;
            spare -= given_up;
            *target -= given_up;
        }
    }
    targets
}

/// Which of the old revisions' empty ReplicaSets may be deleted. `empty` is oldest first.
pub(crate) fn expired<T>(empty: &[T]) -> &[T] {
    &empty[..empty.len().saturating_sub(KEPT_REVISIONS)]
}

#[cfg(test)]
mod stories;
#[cfg(test)]
mod tests;
