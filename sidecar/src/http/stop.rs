//! Finds stop strings in text that arrives in pieces, whatever the pieces are.
//!
//! The match is the one that is complete first in the text (the longest, where several end
//! together), so the result does not depend on where tokens cut. Text that may still become a
//! stop string is held back; a stop string itself is told apart from the text.

/// What one piece of text led to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Emitted {
    /// Text that is safe to send.
    pub text: String,
    /// A stop string was completed: this one. Nothing more will come.
    pub stop: Option<String>,
}

#[derive(Clone, Debug)]
pub struct StopMatcher {
    stops: Vec<String>,
    /// The end of the text so far that is a prefix of some stop string.
    held: String,
    stopped: bool,
}

impl StopMatcher {
    /// `stops` without empty strings.
    pub fn new(stops: Vec<String>) -> StopMatcher {
        StopMatcher {
            stops,
            held: String::new(),
            stopped: false,
        }
    }

    pub fn push(&mut self, piece: &str) -> Emitted {
        if self.stopped {
            return Emitted::default();
        }
        self.held.push_str(piece);
        let first_complete = self
            .stops
            .iter()
            .filter_map(|stop| {
                self.held
                    .find(stop)
                    .map(|start| (start + stop.len(), start))
            })
            .min();
        if let Some((end, start)) = first_complete {
            self.stopped = true;
            let mut text = std::mem::take(&mut self.held);
            text.truncate(end);
            let stop = Some(text.split_off(start));
            return Emitted { text, stop };
        }
        let kept = self.held.split_off(self.undecided());
        Emitted {
            text: std::mem::replace(&mut self.held, kept),
            stop: None,
        }
    }

    /// The generation ended for another reason: what was held back is text after all.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Where the longest end of `held` starts that is a proper prefix of a stop string.
    fn undecided(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest.saturating_sub(1));
        self.held
            .char_indices()
            .map(|(start, _)| start)
            .filter(|start| *start >= from)
            .find(|start| {
                self.stops
                    .iter()
                    .any(|stop| stop.starts_with(&self.held[*start..]))
            })
            .unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut matcher = StopMatcher::new(stops.iter().map(|s| (*s).to_owned()).collect());
        let mut text = String::new();
        for piece in pieces {
            let emitted = matcher.push(piece);
            text.push_str(&emitted.text);
            if let Some(stop) = emitted.stop {
                assert!(stops.contains(&stop.as_str()), "{stop:?}");
                return (text, true);
            }
        }
        text.push_str(&matcher.finish());
        (text, false)
    }

    #[test]
    fn stop_strings_are_found_across_borders_and_not_emitted() {
        for (stops, pieces, text, stopped) in [
            (&["END"][..], &["one E", "N", "D two"][..], "one ", true),
            (&["END"], &["one EN", "OUGH"], "one ENOUGH", false),
            (&["\n\n"], &["a\n", "b\n", "\nc"], "a\nb", true),
            (&["aab"], &["a", "a", "a", "b"], "a", true),
            (&["bc", "abcd"], &["abcd"], "a", true),
            (&["bcd", "abcd"], &["ab", "cd"], "", true),
            (&["é"], &["caf", "é!"], "caf", true),
            (&[], &["x", "y"], "xy", false),
            (&["never"], &["ne"], "ne", false),
        ] {
            assert_eq!(
                run(stops, pieces),
                (text.to_owned(), stopped),
                "{stops:?} {pieces:?}"
            );
        }
    }

    #[test]
    fn text_before_a_possible_stop_is_sent_at_once() {
        let mut matcher = StopMatcher::new(vec!["###".into()]);
        assert_eq!(matcher.push("hello #").text, "hello ");
        assert_eq!(matcher.push("1").text, "#1");
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_text(
            text in "[abé]{0,24}",
            stops in proptest::collection::vec("[abé]{1,4}", 0..4),
            cuts in proptest::collection::vec(0usize..25, 0..8),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let whole = run(&stops, &[&text]);
            let mut borders: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
            borders.push(text.len());
            let mut cuts: Vec<usize> =
                cuts.iter().map(|cut| borders[cut % borders.len()]).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&str> = cuts.windows(2).map(|w| &text[w[0]..w[1]]).collect();
            prop_assert_eq!(&run(&stops, &pieces), &whole);
            for stop in &stops {
                prop_assert!(!whole.0.contains(stop));
            }
        }
    }
}
