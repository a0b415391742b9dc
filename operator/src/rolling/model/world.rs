//! The environment of rolling, as small as it can be: what the operator sees and does, what
//! ReplicaSets' controllers, the scheduler and engines do, and what may happen to them.

use super::super::*;
use super::{PATIENCE, REVISIONS};

/// The rule that is walked: the real one, or a mutant of it.
pub(super) type Rule = fn(u32, &[RevisionPods], &RevisionPods, Room) -> Step;

/// What the environment has for pods. Revision 0 is the one that serves at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ground {
    /// A place for every pod.
    Plenty,
    /// As many places as replicas; an old pod's is good for a new one.
    Full,
    /// The same, and the place of an old pod is too small for a new one.
    TooSmall,
    /// The same, and somebody else may take one place that is free.
    Contested,
    /// New pods fit no node: a typo in a selector, a gate that nobody opens.
    Nowhere,
    /// A quota of as many pods as replicas.
    Rationed,
    /// New pods are not made at all.
    Forbidden,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Revision {
    pub(super) replicas: u8,
    /// Without a place: for a moment, and beyond patience.
    pub(super) fresh: u8,
    pub(super) weary: u8,
    pub(super) starting: u8,
    pub(super) unready: u8,
    pub(super) ready: u8,
    /// 0: none is missing; 1: some may not be made, for a moment; 2: beyond patience.
    pub(super) unmade: u8,
    /// Some pod of it answered, ever; and whether a pass has seen one that did, and noted it.
    pub(super) answered: bool,
    pub(super) noted: bool,
}

impl Revision {
    pub(super) fn placed(&self) -> u8 {
        self.starting + self.unready + self.ready
    }

    pub(super) fn pods(&self) -> u8 {
        self.placed() + self.fresh + self.weary
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) wanted: u8,
    /// The wanted revision.
    pub(super) newest: u8,
    pub(super) revisions: [Revision; REVISIONS],
    pub(super) leaving: u8,
    pub(super) taken: u8,
    pub(super) room: Room,
    /// One replica was wanted: the one pod may have made way, and a number that grows afterwards
    /// finds no other.
    pub(super) single: bool,
}

pub(super) struct World {
    pub(super) ground: Ground,
    pub(super) places: u8,
    /// Between which numbers of replicas it is scaled on the way, if at all.
    pub(super) scales: Option<(u8, u8)>,
    /// How many revisions there are, and whether ReplicaSets' controllers are done before anything
    /// else moves: two revisions take their time, of three the states would be too many.
    pub(super) revisions: u8,
    pub(super) prompt: bool,
    pub(super) rule: Rule,
}

impl State {
    pub(super) fn start(wanted: u8) -> State {
        let serving = Revision {
            replicas: wanted,
            ready: wanted,
            answered: true,
            noted: true,
            ..Revision::default()
        };
        State {
            wanted,
            newest: 0,
            revisions: [serving, Revision::default(), Revision::default()],
            leaving: 0,
            taken: 0,
            room: Room::Assumed,
            single: wanted == 1,
        }
    }

    pub(super) fn ready(&self) -> u8 {
        self.revisions.iter().map(|it| it.ready).sum()
    }

    pub(super) fn newest(&self) -> &Revision {
        &self.revisions[usize::from(self.newest)]
    }

    pub(super) fn settled(&self) -> bool {
        let others: u8 =
            self.revisions.iter().map(Revision::pods).sum::<u8>() - self.newest().pods();
        others == 0 && self.newest().ready == self.wanted && self.newest().pods() == self.wanted
    }
}

impl World {
    /// Whether a pod of this revision could get a place, or be made, just now.
    pub(super) fn place(&self, state: &State, revision: usize) -> bool {
        let used: u8 = state.revisions.iter().map(Revision::placed).sum::<u8>() + state.leaving;
        let free = used + state.taken < self.places;
        match self.ground {
            Ground::Plenty | Ground::Rationed | Ground::Forbidden => true,
            Ground::Full | Ground::Contested => free,
            Ground::TooSmall => free && revision == 0,
            Ground::Nowhere => revision == 0,
        }
    }

    pub(super) fn makes(&self, state: &State, revision: usize) -> bool {
        let made: u8 = state.revisions.iter().map(Revision::pods).sum::<u8>() + state.leaving;
        match self.ground {
            Ground::Rationed => made < self.places,
            Ground::Forbidden => revision == 0,
            _ => true,
        }
    }

    pub(super) fn cure(&self) -> Cure {
        match self.ground {
            Ground::Plenty | Ground::Full | Ground::Contested | Ground::Rationed => Cure::Sure,
            Ground::TooSmall => Cure::Perhaps,
            Ground::Nowhere | Ground::Forbidden => Cure::Nothing,
        }
    }

    /// Pods that leave are told apart from one that does only where each holds a place.
    pub(super) fn most_leaving(&self) -> u8 {
        match self.ground {
            Ground::Plenty | Ground::Nowhere | Ground::Forbidden => 1,
            _ => 2,
        }
    }

    pub(super) fn seen(&self, state: &State, index: usize) -> RevisionPods {
        let it = &state.revisions[index];
        let (cure, long) = (self.cure(), PATIENCE);
        let blocked = |for_| PodPhase::Blocked { for_, cure };
        let mut pods = Vec::new();
        let mut add = |count: u8, phase| pods.extend(std::iter::repeat_n(phase, count.into()));
        add(it.fresh, blocked(Duration::ZERO));
        add(it.weary, blocked(long));
        add(it.starting, PodPhase::Starting);
        add(it.unready, PodPhase::Unready);
        add(it.ready, PodPhase::Ready);
        if it.unmade > 0 {
            let for_ = if it.unmade > 1 { long } else { Duration::ZERO };
            add(
                it.replicas.saturating_sub(it.pods()),
                PodPhase::Unmade { for_, cure },
            );
        }
        if index == usize::from(state.newest) {
            add(state.leaving, PodPhase::Leaving);
        }
        RevisionPods {
            revision: index.to_string(),
            replicas: it.replicas.into(),
            answered: it.noted,
            pods,
        }
    }

    pub(super) fn step(&self, state: &State) -> Step {
        let newest = usize::from(state.newest);
        let others = (0..REVISIONS).filter(|index| *index != newest);
        let old: Vec<RevisionPods> = others.map(|index| self.seen(state, index)).collect();
        (self.rule)(
            state.wanted.into(),
            &old,
            &self.seen(state, newest),
            state.room,
        )
    }

    /// The operator's pass, of which only the first `writes` counts are written before it dies.
    pub(super) fn operate(&self, state: &State, writes: usize) -> State {
        let (step, mut next) = (self.step(state), *state);
        for it in &mut next.revisions {
            it.noted |= it.ready + it.unready > 0;
        }
        for (name, replicas) in step.replicas.iter().take(writes) {
            let index: usize = name.parse().unwrap();
            next.revisions[index].replicas = u8::try_from(*replicas).unwrap();
        }
        next.room = step.making_way.unwrap_or(state.room);
        next
    }

    /// What a ReplicaSet's controller may do next: make one, or delete one of the lowest rank.
    pub(super) fn controller(&self, state: &State, index: usize) -> Vec<State> {
        let it = &state.revisions[index];
        let with = |change: &dyn Fn(&mut State, usize)| {
            let mut next = *state;
            change(&mut next, index);
            if next.revisions[index].pods() == next.revisions[index].replicas {
                next.revisions[index].unmade = 0;
            }
            next
        };
        if it.pods() < it.replicas {
            if !self.makes(state, index) {
                return vec![with(&|s, i| {
                    s.revisions[i].unmade = s.revisions[i].unmade.max(1)
                })];
            }
            return vec![match self.place(state, index) {
                true => with(&|s, i| s.revisions[i].starting += 1),
                false => with(&|s, i| s.revisions[i].fresh += 1),
            }];
        }
        let leave = |phase: fn(&mut Revision) -> &mut u8| {
            with(&|s, i| {
                *phase(&mut s.revisions[i]) -= 1;
                s.leaving = (s.leaving + 1).min(self.most_leaving());
            })
        };
        match it {
            _ if it.pods() == it.replicas => vec![with(&|_, _| {})],
            Revision { fresh: 1.., .. } => vec![with(&|s, i| s.revisions[i].fresh -= 1)],
            Revision { weary: 1.., .. } => vec![with(&|s, i| s.revisions[i].weary -= 1)],
            // Which of those that run and are not ready goes first depends on more than this.
            Revision {
                starting: 1..,
                unready: 1..,
                ..
            } => {
                vec![leave(|it| &mut it.starting), leave(|it| &mut it.unready)]
            }
            Revision { starting: 1.., .. } => vec![leave(|it| &mut it.starting)],
            Revision { unready: 1.., .. } => vec![leave(|it| &mut it.unready)],
            _ => vec![leave(|it| &mut it.ready)],
        }
    }

    /// Moves that come about by themselves: pods find places, and are gone when told to go.
    pub(super) fn nature(&self, state: &State, moves: &mut Vec<State>) {
        let mut with = |change: &dyn Fn(&mut State)| {
            let mut next = *state;
            change(&mut next);
            moves.push(next);
        };
        if state.leaving > 0 {
            with(&|s| s.leaving -= 1);
        }
        for index in 0..REVISIONS {
            let it = state.revisions[index];
            let at =
                |s: &mut State, change: &dyn Fn(&mut Revision)| change(&mut s.revisions[index]);
            if it.fresh + it.weary > 0 && self.place(state, index) {
                let weary = it.weary > 0;
                with(&|s| {
                    at(s, &|it| {
                        *(if weary { &mut it.weary } else { &mut it.fresh }) -= 1;
                        it.starting += 1;
                    })
                });
            }
            if it.fresh > 0 || it.unmade == 1 {
                with(&|s| {
                    at(s, &|it| {
                        it.weary += std::mem::take(&mut it.fresh);
                        it.unmade = if it.unmade > 0 { 2 } else { 0 };
                    })
                });
            }
        }
        for index in 0..REVISIONS {
            moves.extend(self.controller(state, index));
        }
    }

    /// Every move from a state, the operator's included.
    pub(super) fn moves(&self, state: &State) -> Vec<State> {
        let mut moves: Vec<State> = (0..=REVISIONS).map(|n| self.operate(state, n)).collect();
        self.nature(state, &mut moves);
        let mut with = |change: &dyn Fn(&mut State)| {
            let mut next = *state;
            change(&mut next);
            moves.push(next);
        };
        // The operator dies: what it remembered is gone.
        with(&|s| s.room = Room::Assumed);
        // The spec changes.
        if state.newest + 1 < self.revisions {
            with(&|s| {
                s.newest += 1;
                s.room = Room::Assumed;
            });
        }
        let free = self.ground == Ground::Contested && state.taken == 0 && self.place(state, 0);
        if free {
            with(&|s| s.taken += 1);
        }
        if let Some((least, most)) = self.scales {
            with(&|s| {
                s.wanted = if s.wanted == most {
                    least
                } else {
                    s.wanted + 1
                };
                s.single |= s.wanted == 1;
            });
        }
        for index in 0..REVISIONS {
            let it = state.revisions[index];
            let at =
                |s: &mut State, change: &dyn Fn(&mut Revision)| change(&mut s.revisions[index]);
            if it.starting > 0 {
                with(&|s| {
                    at(s, &|it| {
                        it.starting -= 1;
                        it.ready += 1;
                        it.answered = true;
                    })
                });
                with(&|s| at(s, &|it| it.starting -= 1));
            }
            if it.ready > 0 {
                with(&|s| {
                    at(s, &|it| {
                        it.ready -= 1;
                        it.unready += 1;
                    })
                });
                with(&|s| at(s, &|it| it.ready -= 1));
            }
            if it.unready > 0 {
                with(&|s| {
                    at(s, &|it| {
                        it.unready -= 1;
                        it.ready += 1;
                    })
                });
            }
        }
        moves
    }

    /// All that ReplicaSets' controllers have to do, done.
    pub(super) fn controlled(&self, mut state: State) -> State {
        loop {
            let of = |index| self.controller(&state, index).pop();
            let next = (0..REVISIONS).filter_map(of).find(|next| *next != state);
            match next {
                Some(next) => state = next,
                None => return state,
            }
        }
    }
}
