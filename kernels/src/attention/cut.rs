//! How the card's kernels cut a sequence's keys into spans that different blocks sum: enough blocks
//! to fill the card, spans long enough to be worth a block, parts that fit the scratch there is.

/// Fewer keys are not worth a block of their own.
const LEAST_SPAN: usize = 256;
/// Spans begin where every kernel's tiles begin.
const STEP: usize = 64;

/// The sequences' keys as `splits` spans of `span` keys; sequences with fewer keys have fewer spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) span: u32,
    pub(super) splits: u32,
}

/// What there is to cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys {
    /// The longest context.
    pub(super) most_context: usize,
    /// The most keys that the new rows of one sequence see between them.
    pub(super) most_seen: usize,
}

impl Cut {
    /// All keys of a row in one block.
    pub(super) const WHOLE: Cut = Cut {
        span: i32::MAX.unsigned_abs(),
        splits: 1,
    };

    /// For `blocks` blocks that would each see all keys, where up to `wanted_blocks` are better and
    /// a block should see no more than `most_span` keys; `room` is how many spans scratch has room
    /// for.
    pub(super) fn new(
        (wanted_blocks, most_span): (usize, usize),
        blocks: usize,
        keys: Keys,
        room: usize,
    ) -> Cut {
        let for_card = wanted_blocks / blocks.max(1);
        let for_balance = keys.most_seen.div_ceil(most_span);
        let worthwhile = keys.most_seen / LEAST_SPAN;
        let mut wanted = for_card.max(for_balance).min(worthwhile).min(room);
        while wanted > 1 {
            let span = keys.most_seen.div_ceil(wanted).next_multiple_of(STEP);
            let splits = keys.spans(span);
            if splits <= room {
                // Both are below 2^31: `span` is at most a context rounded up.
                return Cut {
                    span: u32::try_from(span).unwrap_or(u32::MAX),
                    splits: u32::try_from(splits).unwrap_or(u32::MAX),
                };
            }
            wanted -= 1;
        }
        Cut::WHOLE
    }
}

impl Keys {
    /// The most spans of `span` keys that the rows of one sequence touch.
    fn spans(&self, span: usize) -> usize {
        // A window may begin with the last key of a span.
        let touched = (self.most_seen + span - 2) / span + 1;
        touched.min(self.most_context.div_ceil(span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(context: usize) -> Keys {
        Keys {
            most_context: context,
            most_seen: context,
        }
    }

    #[test]
    fn a_full_card_is_not_cut_and_an_empty_one_is() {
        for (blocks, context, room, span, splits) in [
            (8, 8192, usize::MAX, 256, 32), // one sequence: as short as is worthwhile
            (64, 8192, usize::MAX, 704, 12), // 64 x 12 blocks of the 792
            (512, 4096, usize::MAX, 0, 1),  // two for each would be too many
            (1024, 32768, usize::MAX, 8192, 4), // full, but too long for one block
            (8, 511, usize::MAX, 0, 1),     // two spans of less than 256
            (8, 8192, 5, 1664, 5),
            (8, 8192, 1, 0, 1),
            (8, 8192, 0, 0, 1),
        ] {
            let cut = Cut::new((792, 8192), blocks, whole(context), room);
            let wanted = match splits {
                1 => Cut::WHOLE,
                _ => Cut { span, splits },
            };
            assert_eq!(cut, wanted, "{blocks} blocks of {context} keys");
        }
    }

    #[test]
    fn every_key_of_every_context_is_in_a_span() {
        for most_context in (1..5000).step_by(37) {
            for room in [2, 3, 7, 100] {
                let cut = Cut::new((792, 8192), 8, whole(most_context), room);
                let (span, splits) = (cut.span as usize, cut.splits as usize);
                assert!(
                    span * splits >= most_context && splits <= room,
                    "{most_context}"
                );
            }
        }
    }

    #[test]
    fn a_window_touches_no_more_spans_than_are_counted() {
        for seen in [2, 63, 64, 65, 300, 1000] {
            for span in [64, 128, 320] {
                let keys = Keys {
                    most_context: 4000,
                    most_seen: seen,
                };
                let touched =
                    (0..4000 - seen).map(|first| (first + seen - 1) / span - first / span + 1);
                assert_eq!(
                    touched.max(),
                    Some(keys.spans(span)),
                    "{seen} keys, spans of {span}"
                );
            }
        }
    }
}
