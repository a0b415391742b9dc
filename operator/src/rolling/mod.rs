//! Rolling: how many pods each revision should have. A pure function from (revisions, pods,
//! room) to replica counts; it knows nothing of Kubernetes and remembers nothing.
//!
//! A new revision shows with one pod that it answers before it takes anything away: one pod more
//! than wanted may exist (surge), and as many as wanted keep answering. Where that pod has no
//! place, and an old one holds what it lacks, an old one makes way; the next one only once a new
//! pod answers in the place of the last. What no old pod's leaving would cure is waited for, and
//! said. `model.rs` walks every state of it.

use std::time::Duration;

/// Empty ReplicaSets of old revisions that are kept, so that a rollback finds its history.
pub(crate) const KEPT_REVISIONS: usize = 2;

/// Whether there is room for a pod more than wanted, as far as is remembered of this revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Room {
    /// Not known to be short: try a surge.
    Assumed,
    /// The nodes were full: old pods made way.
    Full,
    /// A quota was used up: old pods made way, and have to be gone before new ones are made.
    Rationed,
}

/// What an old pod's leaving would do for a pod that has no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Cure {
    /// Nothing: it lacks what no old pod holds, or fits nowhere at all.
    Nothing,
    /// An old pod holds what it lacks; whether that is enough shows only afterwards.
    Perhaps,
    /// An old pod holds what it lacks, and enough of it.
    Sure,
}

/// One engine pod, as far as rolling cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum PodPhase {
    /// Wanted, and its ReplicaSet is not allowed to make it, for this long.
    Unmade { for_: Duration, cure: Cure },
    /// Made, and without a place to run, for this long.
    Blocked { for_: Duration, cure: Cure },
    /// Never answered: being made, pulled, loaded, or failing before it was ready.
    Starting,
    /// Answered once and does not now: it may come back.
    Unready,
    /// Answers requests.
    Ready,
    /// Being deleted: no longer one of the ReplicaSet's, but it still holds its room.
    Leaving,
}

/// A revision's ReplicaSet and its pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RevisionPods {
    pub(crate) revision: String,
    /// `spec.replicas` of its ReplicaSet.
    pub(crate) replicas: u32,
    /// Known to have answered, whatever its pods do now.
    pub(crate) answered: bool,
    pub(crate) pods: Vec<PodPhase>,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Replica counts, in the order of the revisions given; the wanted revision is last.
    pub(crate) replicas: Vec<(String, u32)>,
    /// An old pod makes way with this step, for lack of this room.
    pub(crate) making_way: Option<Room>,
    /// An old pod will make way after this long, unless the new one finds its place before.
    pub(crate) makes_way_in: Option<Duration>,
    /// A new pod has had no place for too long, and no old one makes way for it.
    pub(crate) stuck: bool,
    /// When to look again although nothing moved: a pod's patience runs out.
    pub(crate) look_again: Option<Duration>,
}

impl RevisionPods {
    /// Pods of this revision that answer, if it had `replicas` pods: a ReplicaSet gives up those
    /// that do not answer first.
    fn ready_within(&self, replicas: u32) -> u32 {
        self.count(|pod| pod == PodPhase::Ready).min(replicas)
    }

    fn count(&self, which: impl Fn(PodPhase) -> bool) -> u32 {
        u32::try_from(self.pods.iter().filter(|pod| which(**pod)).count()).unwrap_or(u32::MAX)
    }

    /// Whether a pod of it ever answered. What never did gives no service.
    fn proved(&self) -> bool {
        self.answered || self.count(|pod| matches!(pod, PodPhase::Ready | PodPhase::Unready)) > 0
    }
}

/// The next replica counts.
///
/// `old` are the other revisions, oldest first; `new` is the wanted one (zero replicas before it
/// exists). Calling it again with the same arguments gives the same answer.
///
/// Promises, while `new` has never answered: of the old revisions that did, as many pods stay as
/// are wanted, but for one where its leaving makes room; with one wanted, that one goes only where
/// its room is known to do. It never costs an answer to give up what never answered.
pub(crate) fn step(
    wanted: u32,
    old: &[RevisionPods],
    new: &RevisionPods,
    room: Room,
    patience: Duration,
) -> Step {
    let mut targets: Vec<u32> = old
        .iter()
        .map(|old| if old.proved() { old.replicas } else { 0 })
        .collect();
    let rolling = wanted > 0 && targets.iter().sum::<u32>() > 0;
    let ready: u32 = old.iter().map(|old| old.ready_within(old.replicas)).sum();
    let way = match rolling {
        true => way(wanted, new, ready, room, patience),
        false => Way::NotNeeded,
    };
    // With every place taken or answered, the next one to be given up is one that runs.
    let kept: u32 = targets.iter().sum();
    let full = kept + new.ready_within(new.replicas.min(wanted)) == wanted;
    let makes_way_in = match way {
        Way::Wait { rest, helps: true } if full => Some(rest),
        _ => None,
    };
    let making_way = shrink(wanted, old, new, &mut targets, way);
    let new_target = grow(wanted, old, new, &mut targets, (room, making_way));

    let before = old.iter().map(|old| old.replicas).chain([new.replicas]);
    let after: Vec<u32> = targets.into_iter().chain([new_target]).collect();
    let rests = before.eq(after.iter().copied())
        && new.count(|pod| pod == PodPhase::Starting) == 0
        && old
            .iter()
            .chain([new])
            .all(|of| of.count(|pod| pod == PodPhase::Leaving) == 0);
    let names = old.iter().chain([new]).map(|of| of.revision.clone());
    Step {
        replicas: names.zip(after).collect(),
        making_way,
        makes_way_in,
        stuck: rests && matches!(way, Way::Clear(_) | Way::Closed) && longest_wait(new).is_some(),
        look_again: match way {
            Way::Wait { rest, .. } => Some(rest),
            Way::NotNeeded | Way::Clear(_) | Way::Closed => None,
        },
    }
}

/// Whether an old pod may make way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Every new pod has its place.
    NotNeeded,
    /// Not before this long, and then only where it helps.
    Wait { rest: Duration, helps: bool },
    /// Yes, for lack of this room.
    Clear(Room),
    /// It would not help, or cost the only pod that answers for a hope.
    Closed,
}

fn way(wanted: u32, new: &RevisionPods, ready: u32, room: Room, patience: Duration) -> Way {
    let Some((waited, cure, lack)) = longest_wait(new) else {
        return match room {
            // The next one at once: it is known what the last one's place was good for.
            Room::Full | Room::Rationed if wanted > 1 => Way::Clear(room),
            Room::Assumed | Room::Full | Room::Rationed => Way::NotNeeded,
        };
    };
    let helps = match cure {
        Cure::Nothing => false,
        Cure::Perhaps => wanted > 1 || ready == 0,
        Cure::Sure => true,
    };
    match helps {
        true if room != Room::Assumed => Way::Clear(lack),
        _ if waited < patience => Way::Wait {
            rest: patience - waited,
            helps,
        },
        true => Way::Clear(lack),
        false => Way::Closed,
    }
}

/// How long the new pods without a place have waited, what would cure the worst of them, and what
/// is short.
fn longest_wait(new: &RevisionPods) -> Option<(Duration, Cure, Room)> {
    let waits = new.pods.iter().filter_map(|pod| match *pod {
        PodPhase::Blocked { for_, cure } => Some((for_, cure, Room::Full)),
        PodPhase::Unmade { for_, cure } => Some((for_, cure, Room::Rationed)),
        PodPhase::Ready | PodPhase::Unready | PodPhase::Starting | PodPhase::Leaving => None,
    });
    waits.reduce(|(a_for, a_cure, a), (b_for, b_cure, b)| {
        let lack = if a == Room::Rationed { a } else { b };
        (a_for.max(b_for), a_cure.min(b_cure), lack)
    })
}

/// Takes from the old revisions what the new one has replaced, and the one pod that makes way.
fn shrink(
    wanted: u32,
    old: &[RevisionPods],
    new: &RevisionPods,
    targets: &mut [u32],
    way: Way,
) -> Option<Room> {
    let new_ready = new.ready_within(new.replicas.min(wanted));
    let kept: u32 = targets.iter().sum();
    let replaced = (kept + new_ready).saturating_sub(wanted);
    let (mut removable, floor, making_way) = match way {
        // Every place that was given up answers again: the next one.
        Way::Clear(lack) if replaced == 0 && kept > 0 && kept + new_ready == wanted => {
            (1, wanted.saturating_sub(1), Some(lack))
        }
        _ => (replaced, wanted, None),
    };
    let ready = old.iter().zip(&*targets);
    let ready: u32 = ready.map(|(old, target)| old.ready_within(*target)).sum();
    let mut spare = (ready + new_ready).saturating_sub(floor);
    // Those that do not answer count as capacity that may come back; they go first all the same,
    // as in their ReplicaSets.
    for (old, target) in old.iter().zip(&mut *targets) {
        let silent = *target - old.ready_within(*target);
        let dropped = silent.min(removable);
        removable -= dropped;
        *target -= dropped;
    }
    for target in &mut *targets {
        let dropped = (*target).min(removable).min(spare);
        removable -= dropped;
        spare -= dropped;
        *target -= dropped;
    }
    making_way.filter(|_| targets.iter().sum::<u32>() < kept)
}

/// The new revision's count. While it has never answered it is one pod, and the old revision
/// follows the wanted count in its stead.
fn grow(
    wanted: u32,
    old: &[RevisionPods],
    new: &RevisionPods,
    targets: &mut [u32],
    (room, making_way): (Room, Option<Room>),
) -> u32 {
    let now = new.replicas.min(wanted);
    let kept: u32 = targets.iter().sum();
    let unmade = new.count(|pod| matches!(pod, PodPhase::Unmade { .. }));
    let leaving: u32 = old
        .iter()
        .chain([new])
        .map(|of| of.count(|pod| pod == PodPhase::Leaving))
        .sum();
    // A ReplicaSet that was refused asks again ever more seldom, but at once when its count grows:
    // so it asks for nothing until the room is there.
    let made = new.replicas.saturating_sub(unmade).min(wanted);
    if making_way == Some(Room::Rationed) {
        return made;
    }
    let short = room != Room::Assumed || making_way.is_some();
    let surge = if short { 0 } else { 1 };
    let target = match kept > 0 && !new.proved() {
        // It holds the place of one that would answer.
        true if crowds_out(wanted, old) => return 0,
        true => 1,
        false => (wanted + surge).saturating_sub(kept).max(1),
    };
    let target = target.min(wanted).max(now);
    if !new.proved()
        && kept > 0
        && let Some(missing) = wanted.checked_sub(kept + target)
        && let Some((_, keeper)) = old.iter().zip(targets).rfind(|(old, _)| old.proved())
    {
        *keeper += missing;
    }
    match room == Room::Rationed && leaving > 0 {
        true => target.min(now),
        false => target,
    }
}

/// Whether a pod of an old revision lacks a place that a new one may have taken, although too few
/// answer. One that nobody's leaving would give a place keeps no new one away: that may be the cure.
fn crowds_out(wanted: u32, old: &[RevisionPods]) -> bool {
    let without_place = |pod| match pod {
        PodPhase::Blocked { cure, .. } | PodPhase::Unmade { cure, .. } => cure != Cure::Nothing,
        PodPhase::Ready | PodPhase::Unready | PodPhase::Starting | PodPhase::Leaving => false,
    };
    let proved = || old.iter().filter(|old| old.proved());
    let ready: u32 = proved().map(|old| old.ready_within(old.replicas)).sum();
    ready + 1 < wanted && proved().any(|old| old.count(without_place) > 0)
}

/// Counts for revisions whose rollout is suspended (the newest spec was refused, or its turn has
/// not come): what runs stays, and its number follows the spec. `revisions` are oldest first.
pub(crate) fn rescale(wanted: u32, revisions: &[RevisionPods]) -> Vec<u32> {
    let mut targets: Vec<u32> = revisions.iter().map(|of| of.replicas).collect();
    if wanted == 0 {
        return vec![0; targets.len()];
    }
    let proved = revisions.iter().any(RevisionPods::proved);
    let serves = |of: &RevisionPods| of.replicas > 0 && (of.proved() || !proved);
    let serving = || revisions.iter().enumerate().filter(|(_, of)| serves(of));
    let total: u32 = serving().map(|(_, of)| of.replicas).sum();
    // The one that answers most grows; of two that are alike the newer.
    let keeper = serving().max_by_key(|(_, of)| of.ready_within(of.replicas));
    if let (Some(missing), Some((keeper, _))) = (wanted.checked_sub(total), keeper) {
        targets[keeper] += missing;
    }
    let mut excess = total.saturating_sub(wanted);
    for silent_only in [true, false] {
        for (index, of) in serving() {
            let ready = of.ready_within(targets[index]);
            let most = targets[index] - if silent_only { ready } else { 0 };
            let dropped = most.min(excess);
            targets[index] -= dropped;
            excess -= dropped;
        }
    }
    targets
}

/// Which of the old revisions' empty ReplicaSets may be deleted. `empty` is oldest first.
pub(crate) fn expired<T>(empty: &[T]) -> &[T] {
    &empty[..empty.len().saturating_sub(KEPT_REVISIONS)]
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod stories;
#[cfg(test)]
mod tests;
