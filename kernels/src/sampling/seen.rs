//! Tokens of one sequence, counted: what penalties need of it, kept from step to step so that no
//! step reads the sequence again.

/// Bits of a token id in a word; the others count.
const ID_BITS: u32 = 18;
const ID: u32 = (1 << ID_BITS) - 1;
/// The most occurrences that one word counts.
const TIMES_MAX: u32 = u32::MAX >> ID_BITS;

const _: () = assert!(super::SHARD_ROWS_MAX <= 1 << ID_BITS);

/// A token that was seen in prompt or output, and how often in the output. One that came up more
/// often than a word can say has several, and their counts add up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen(u32);

impl Seen {
    pub(super) fn id(self) -> u32 {
        self.0 & ID
    }

    pub(super) fn times(self) -> u32 {
        self.0 >> ID_BITS
    }
}

/// The counts of a sequence that grows: at most a word for each of its tokens.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Ids ascend; of equal ones all but the last are full.
    seen: Vec<Seen>,
    tokens: usize,
}

impl Counts {
    /// Words by which a list grows: it holds few more than it needs.
    pub const GROWTH: usize = 256;

    /// Counts what `tokens` (the first `prompt` of which are the prompt) has more than it had last time. An
    /// id of more than 18 bits is in no vocabulary, has no logit and counts for nothing.
    ///
    /// # Panics
    /// When it has fewer than it had: our mistake.
    pub fn follow(&mut self, tokens: &[u32], prompt: usize) {
        let new = &tokens[self.tokens..];
        let (given, drawn) = new.split_at(prompt.saturating_sub(self.tokens).min(new.len()));
        let known = |ids: &[u32]| -> Vec<u32> {
            let ids = ids.iter().copied();
            ids.filter(|id| *id <= ID).collect()
        };
        if self.tokens == 0 {
            let mut ids = known(given);
            ids.sort_unstable();
            ids.dedup();
            self.seen.reserve_exact(ids.len() + Self::GROWTH);
            self.seen.extend(ids.into_iter().map(Seen));
        } else {
            known(given).into_iter().for_each(|id| self.add(id, 0));
        }
        known(drawn).into_iter().for_each(|id| self.add(id, 1));
        self.tokens = tokens.len();
    }

    fn add(&mut self, id: u32, times: u32) {
        let end = self.seen.partition_point(|seen| seen.id() <= id);
        let last = self.seen[..end].last_mut().filter(|seen| seen.id() == id);
        match last {
            Some(seen) if seen.times() + times <= TIMES_MAX => seen.0 += times << ID_BITS,
            Some(_) | None => {
                if self.seen.len() == self.seen.capacity() {
                    self.seen.reserve_exact(Self::GROWTH);
                }
                self.seen.insert(end, Seen(times << ID_BITS | id));
            }
        }
    }

    /// All of them, by ascending ids.
    pub fn all(&self) -> &[Seen] {
        &self.seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    #[test]
    fn counts_that_follow_a_sequence_are_those_of_the_whole() {
        let mut random = Random::new(21);
        for round in 0..20 {
            let tokens: Vec<u32> = (0..600)
                .map(|_| u32::try_from(random.below(90)).unwrap() * 2_900)
                .collect();
            let prompt = [0, 1, 250, 599][round % 4];
            let mut counts = Counts::default();
            let mut len = 0;
            while len < tokens.len() {
                len = (len + random.below(60)).min(tokens.len());
                counts.follow(&tokens[..len], prompt);
            }
            let ids: Vec<u32> = counts.all().iter().map(|seen| seen.id()).collect();
            assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
            for id in (0..=ID).step_by(2_900) {
                let of_id = |tokens: &[u32]| tokens.iter().filter(|other| **other == id).count();
                let seen = counts.all().iter().find(|seen| seen.id() == id);
                assert_eq!(seen.is_some(), of_id(&tokens) > 0, "{id}");
                let times = seen.map_or(0, |seen| seen.times() as usize);
                assert_eq!(times, of_id(&tokens[prompt..]), "{id}");
            }
        }
    }

    #[test]
    fn a_token_that_comes_up_without_end_is_counted_in_several_words() {
        let (mut counts, tokens) = (Counts::default(), vec![7; 2 * TIMES_MAX as usize + 3]);
        counts.follow(&tokens[..5], 2);
        counts.follow(&tokens, 2);
        let all = counts.all();
        let times: u32 = all.iter().map(|seen| seen.times()).sum();
        assert_eq!((all.len(), times as usize), (3, tokens.len() - 2));
        assert!(all.iter().all(|seen| seen.id() == 7));
    }

    #[test]
    fn an_id_that_no_vocabulary_has_counts_for_nothing() {
        let mut counts = Counts::default();
        counts.follow(&[u32::MAX, 5, ID + 1], 2);
        counts.follow(&[u32::MAX, 5, ID + 1, u32::MAX, 6, ID], 4);
        let all: Vec<_> = counts
            .all()
            .iter()
            .map(|it| (it.id(), it.times()))
            .collect();
        assert_eq!(all, [(5, 0), (6, 1), (ID, 1)]);
    }

    #[test]
    fn a_list_holds_little_more_than_its_words() {
        let tokens: Vec<u32> = (0..50_000).collect();
        let mut counts = Counts::default();
        for len in [40_000, 40_001, 41_000, 50_000] {
            counts.follow(&tokens[..len], 40_000);
            assert!(counts.seen.capacity() <= len + Counts::GROWTH);
        }
    }
}
