//! Every state that rolling can get into, for up to four replicas, three revisions, every phase
//! of a pod and every kind of room: the operator's move and all moves of its environment as a
//! graph, walked to its end. From each state two continuations say how it ends.

mod world;

use std::collections::{HashMap, HashSet};

use super::*;
use world::{Ground, Rule, State, World};

const PATIENCE: Duration = Duration::from_secs(60);
const REVISIONS: usize = 3;

impl World {
    /// How a state goes on when nothing fails any more: pods of revisions that ever answered
    /// answer again, those of others do if `good`; ends where nothing moves.
    fn end(
        &self,
        from: &State,
        good: bool,
        known: &mut HashMap<State, State>,
    ) -> Result<State, String> {
        let mut path = Vec::new();
        let mut state = *from;
        let end = loop {
            if let Some(end) = known.get(&state) {
                break *end;
            }
            if path.contains(&state) || path.len() > 200 {
                return Err(format!("it goes round for ever: {state:?}"));
            }
            path.push(state);
            let Some(next) = self.onward(&state, good) else {
                break state;
            };
            state = next;
        };
        known.extend(path.into_iter().map(|state| (state, end)));
        Ok(end)
    }

    fn onward(&self, state: &State, good: bool) -> Option<State> {
        let mut next = *state;
        for it in &mut next.revisions {
            it.ready += std::mem::take(&mut it.unready);
            if it.answered || good {
                it.answered |= it.starting > 0;
                it.ready += std::mem::take(&mut it.starting);
            }
        }
        if next != *state {
            return Some(next);
        }
        let next = self.operate(state, REVISIONS);
        if next != *state {
            return Some(next);
        }
        let mut moves = Vec::new();
        self.nature(state, &mut moves);
        moves.into_iter().find(|next| next != state)
    }

    /// Walks every state that can be reached.
    fn walk(&self, wanted: u8) -> Result<usize, String> {
        let mut seen = HashSet::from([State::start(wanted)]);
        let mut rest: Vec<State> = seen.iter().copied().collect();
        let (mut bad, mut good) = (HashMap::new(), HashMap::new());
        while let Some(state) = rest.pop() {
            self.check(&state, &mut bad, &mut good)
                .map_err(|why| format!("{:?}, {wanted} replicas: {why}: {state:?}", self.ground))?;
            for mut next in self.moves(&state) {
                if self.prompt {
                    next = self.controlled(next);
                }
                if seen.insert(next) {
                    rest.push(next);
                }
            }
        }
        Ok(seen.len())
    }

    fn check(
        &self,
        state: &State,
        bad: &mut HashMap<State, State>,
        good: &mut HashMap<State, State>,
    ) -> Result<(), String> {
        let step = self.step(state);
        let counts: u32 = step.replicas.iter().map(|(_, count)| *count).sum();
        if counts > u32::from(state.wanted.max(self.places)) + 1 {
            return Err(format!("{counts} pods"));
        }
        if !state.newest().answered {
            let end = self.end(state, false, bad)?;
            let least = match self.cure() {
                // What cannot help costs nothing.
                Cure::Nothing if self.scales.is_none() => state.wanted,
                Cure::Nothing => state.wanted - 1,
                Cure::Perhaps | Cure::Sure if state.single => 0,
                Cure::Perhaps | Cure::Sure => state.wanted - 1,
            };
            if end.ready() < least {
                return Err(format!("it ends with {} of {least}: {end:?}", end.ready()));
            }
        }
        let end = self.end(state, true, good)?;
        if end.settled() {
            return Ok(());
        }
        // Nothing moves any more, and it is not what was asked for: somebody has to be told.
        match self.ground {
            Ground::Plenty | Ground::Full | Ground::Rationed if end.wanted <= self.places => {
                Err(format!("there is room, and yet it ends with {end:?}"))
            }
            _ if end.newest().fresh + end.newest().weary == 0 && end.newest().unmade == 0 => {
                Err(format!("it waits for nothing: {end:?}"))
            }
            _ if self.step(&end).stuck
                || end.newest().pods() == end.ready() + end.newest().weary =>
            {
                Ok(())
            }
            _ => Err(format!("it waits in silence: {end:?}")),
        }
    }
}

const GROUNDS: [Ground; 7] = [
    Ground::Plenty,
    Ground::Full,
    Ground::TooSmall,
    Ground::Contested,
    Ground::Nowhere,
    Ground::Rationed,
    Ground::Forbidden,
];

fn real(wanted: u32, old: &[RevisionPods], new: &RevisionPods, room: Room) -> Step {
    step(wanted, old, new, room, PATIENCE)
}

fn walk_all(rule: Rule, (least, most): (u8, u8), scales: bool) -> Result<usize, String> {
    let mut states = 0;
    for ground in GROUNDS {
        let starts = if scales { most..=most } else { least..=most };
        for start in starts {
            let world = |revisions, prompt| World {
                ground,
                places: if scales { most } else { start },
                scales: scales.then_some((least, most)),
                revisions,
                prompt,
                rule,
            };
            states += world(3, true).walk(start)?;
            if start <= 2 && !scales {
                states += world(2, false).walk(start)?;
            }
        }
    }
    Ok(states)
}

#[test]
fn no_state_loses_a_service_to_a_revision_that_never_answered_and_none_waits_in_silence() {
    let fixed = walk_all(real, (1, 4), false).unwrap();
    println!("{fixed} states with a fixed number of replicas");
    assert!(fixed > 10_000, "{fixed} states are no walk");
}

#[test]
fn nor_does_any_state_while_the_number_of_replicas_changes() {
    for range in [(1, 2), (2, 3)] {
        let scaled = walk_all(real, range, true).unwrap();
        println!("{scaled} states with {range:?} replicas");
        assert!(scaled > 10_000, "{scaled} states are no walk");
    }
}

/// The walk sees what it is for: each of these was, or could have been, the rule.
#[test]
fn every_mutant_of_the_rule_is_found() {
    // Every while that a pod has no place, another old one makes way.
    let impatient: Rule = |wanted, old, new, room| {
        let mut step = real(wanted, old, new, room);
        let waits =
            |pod: &PodPhase| matches!(pod, PodPhase::Blocked { for_, .. } if !for_.is_zero());
        let leaves = new.pods.contains(&PodPhase::Leaving);
        if let Some((_, count)) = step.replicas.iter_mut().find(|(_, count)| *count > 0)
            && new.pods.iter().any(waits)
            && !leaves
        {
            *count -= 1;
        }
        step
    };
    // Whatever a pod lacks, an old one's leaving is said to cure it.
    let hopeful: Rule = |wanted, old, new, room| {
        let mut new = new.clone();
        for pod in &mut new.pods {
            if let PodPhase::Blocked { cure, .. } | PodPhase::Unmade { cure, .. } = pod {
                *cure = Cure::Sure;
            }
        }
        real(wanted, old, &new, room)
    };
    // That a revision answered is forgotten with its pods.
    let forgetful: Rule = |wanted, old, new, room| {
        let mut old = old.to_vec();
        old.iter_mut().for_each(|old| old.answered = false);
        real(wanted, &old, new, room)
    };
    // A pod without a place is waited for, and nothing is said.
    let silent: Rule = |wanted, old, new, room| Step {
        stuck: false,
        ..real(wanted, old, new, room)
    };
    for (name, mutant) in [
        ("impatient", impatient),
        ("hopeful", hopeful),
        ("forgetful", forgetful),
        ("silent", silent),
    ] {
        let found = walk_all(mutant, (1, 3), false);
        println!(
            "{name}: {}",
            found.as_ref().err().map_or("", String::as_str)
        );
        assert!(found.is_err(), "{name} passes");
    }
}
