//! Rolling against a small simulated cluster, in seeded random stories.

use proptest::prelude::*;

use super::PodPhase::{Blocked, Ready, Starting};
use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster with room for `slots` pods, driven in whole seconds.
struct Cluster {
    slots: usize,
    wanted: u32,
    revisions: Vec<(String, u32, Vec<SimPod>)>,
    room: Room,
    /// Revisions that a pod has answered of.
    answered: Vec<String>,
    now: u64,
    /// When each pod that is being deleted will be gone.
    leaving: Vec<u64>,
    random: u64,
}

#[derive(Clone, Debug)]
struct SimPod {
    scheduled: bool,
    answered: bool,
    waited: u64,
    /// Seconds it still needs until it answers.
    loading: u64,
}

impl Cluster {
    fn new(slots: usize, wanted: u32, seed: u64) -> Cluster {
        let revisions = vec![("r0".to_owned(), 0, Vec::new())];
        Cluster {
            slots,
            wanted,
            revisions,
            room: Room::Assumed,
            answered: Vec::new(),
            now: 0,
            leaving: Vec::new(),
            random: seed | 1,
        }
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    fn change_spec(&mut self) {
        self.room = Room::Assumed;
        self.revisions
            .push((format!("r{}", self.revisions.len()), 0, Vec::new()));
    }

    fn ready(&self) -> usize {
        self.revisions
            .iter()
            .flat_map(|(_, _, pods)| pods)
            .filter(|p| p.answered)
            .count()
    }

    fn pods(&self) -> usize {
        self.revisions.iter().map(|(_, _, pods)| pods.len()).sum()
    }

    fn phase(pod: &SimPod) -> PodPhase {
        match (pod.scheduled, pod.answered) {
            (true, true) => Ready,
            (true, false) => Starting,
            (false, _) => Blocked {
                for_: Duration::from_secs(pod.waited),
                cure: Cure::Sure,
            },
        }
    }

    /// The operator's turn.
    fn roll(&mut self) {
        let mut all: Vec<RevisionPods> = self
            .revisions
            .iter()
            .map(|(name, replicas, pods)| RevisionPods {
                revision: name.clone(),
                replicas: *replicas,
                answered: self.answered.contains(name),
                pods: pods.iter().map(Cluster::phase).collect(),
            })
            .collect();
        let mut new = all.pop().unwrap();
        new.pods
            .extend(self.leaving.iter().map(|_| PodPhase::Leaving));
        let next = step(self.wanted, &all, &new, self.room, PATIENCE);
        self.room = next.making_way.unwrap_or(self.room);
        let answer = self
            .revisions
            .iter()
            .filter(|(_, _, pods)| pods.iter().any(|pod| pod.answered));
        self.answered
            .extend(answer.map(|(name, _, _)| name.clone()));
        for ((_, replicas, _), (_, target)) in self.revisions.iter_mut().zip(&next.replicas) {
            *replicas = *target;
        }
    }

    /// ReplicaSet controller, scheduler and engines: `seconds` pass.
    fn pass(&mut self, seconds: u64) {
        let (loading, farewell) = (1 + self.draw(20), self.draw(12));
        self.now += seconds;
        let now = self.now;
        self.leaving.retain(|gone_at| *gone_at > now);
        for (_, replicas, pods) in &mut self.revisions {
            pods.sort_by_key(|pod| (!pod.answered, !pod.scheduled));
            let dropped = pods.split_off(pods.len().min(*replicas as usize));
            let held_room = dropped.iter().filter(|pod| pod.scheduled).count();
            self.leaving
                .extend(std::iter::repeat_n(now + farewell, held_room));
            while pods.len() < *replicas as usize {
                pods.push(SimPod {
                    scheduled: false,
                    answered: false,
                    waited: 0,
                    loading,
                });
            }
        }
        let taken = self
            .revisions
            .iter()
            .flat_map(|(_, _, p)| p)
            .filter(|p| p.scheduled)
            .count();
        let mut free = self.slots.saturating_sub(taken + self.leaving.len());
        for pod in self.revisions.iter_mut().flat_map(|(_, _, pods)| pods) {
            if !pod.scheduled && free > 0 {
                free -= 1;
                pod.scheduled = true;
            }
            if pod.scheduled {
                pod.loading = pod.loading.saturating_sub(seconds);
                pod.answered |= pod.loading == 0;
            } else {
                pod.waited += seconds;
            }
        }
    }

    fn settled(&self) -> bool {
        let (old, new) = self.revisions.split_at(self.revisions.len() - 1);
        let wanted = self.wanted as usize;
        old.iter().all(|(_, _, pods)| pods.is_empty())
            && new[0].2.len() == wanted
            && new[0].2.iter().all(|pod| pod.answered)
    }

    /// Runs until nothing moves; panics when that takes too long.
    fn settle(&mut self, least_ready: usize, story: &str) {
        for _ in 0..400 {
            if self.settled() {
                return;
            }
            self.roll();
            self.pass(5);
            assert!(
                self.pods() <= self.wanted as usize + 1 + least_ready,
                "{story}: too many"
            );
            assert!(
                self.ready() >= least_ready,
                "{story}: {} answer, {least_ready} must: {:?}",
                self.ready(),
                self.revisions
            );
        }
        panic!("{story}: never settled: {:?}", self.revisions);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// With room for a pod more, as many as wanted keep answering; without, one less; and every
    /// story ends with the wanted pods of the newest revision.
    #[test]
    fn stories_end_well(
        seed in any::<u64>(),
        wanted in 1u32..6,
        spare in 0usize..3,
        changes in 1usize..4,
    ) {
        let slots = wanted as usize + spare;
        let story = format!("seed {seed} wanted {wanted} slots {slots}");
        let mut cluster = Cluster::new(slots, wanted, seed);
        cluster.settle(0, &story);
        for _ in 0..changes {
            cluster.change_spec();
            let floor = if spare > 0 { wanted } else { wanted - 1 };
            // Sometimes the spec changes again before the rollout is over.
            let interrupted = cluster.draw(2) == 0;
            if interrupted {
                for _ in 0..cluster.draw(30) {
                    cluster.roll();
                    cluster.pass(5);
                    prop_assert!(cluster.ready() >= floor as usize, "{story}");
                }
            } else {
                cluster.settle(floor as usize, &story);
            }
        }
        let least = cluster.ready().min((if spare > 0 { wanted } else { wanted - 1 }) as usize);
        cluster.settle(least, &story);
    }

    /// Scaling while rolling settles too, where there is room for what is wanted.
    #[test]
    fn scaling_settles(seed in any::<u64>(), from in 0u32..6, to in 0u32..6, spare in 0usize..2) {
        let slots = from.max(to) as usize + spare;
        let story = format!("seed {seed} from {from} to {to} slots {slots}");
        let mut cluster = Cluster::new(slots, from, seed);
        cluster.settle(0, &story);
        cluster.change_spec();
        cluster.roll();
        cluster.pass(5);
        cluster.wanted = to;
        for _ in 0..400 {
            cluster.roll();
            cluster.pass(5);
        }
        prop_assert!(cluster.settled(), "{story}: {:?}", cluster.revisions);
    }
}
