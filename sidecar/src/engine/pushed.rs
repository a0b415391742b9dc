//! What has come of an update that is sent, and what it lacks.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::weights::piece::Piece;

/// Names of missing tensors that are shown.
const NAMES_SHOWN: usize = 4;

/// How the engine stands to weights that are sent.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub(super) open: Option<Pushed>,
    /// The memory of the weights holds none: they were sent, and went with a sleep.
    pub(super) blank: bool,
}

/// An update that is open.
#[derive(Debug)]
pub(super) struct Pushed {
    /// Every tensor must come.
    whole: bool,
    /// The memory of the weights was taken for it.
    pub(super) took: bool,
    pub(super) began: Instant,
    /// Needed, and not come whole.
    missing: BTreeSet<String>,
    /// The tensor that comes now, its next row, and its rows.
    under_way: Option<(String, usize, usize)>,
    last: String,
    tensors: usize,
    bytes: u64,
}

impl Pushed {
    pub(super) fn new(whole: bool, took: bool, needed: &[String], began: Instant) -> Pushed {
        Pushed {
            whole: whole || took,
            took,
            began,
            missing: needed.iter().cloned().collect(),
            under_way: None,
            last: String::new(),
            tensors: 0,
            bytes: 0,
        }
    }

    /// The tensor that came last, or the beginning of it; empty before the first.
    pub(super) fn last(&self) -> &str {
        &self.last
    }

    /// Tensors that came whole.
    pub(super) fn tensors(&self) -> usize {
        self.tensors
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// # Errors
    /// Where a piece is not the next.
    pub(super) fn takes(&self, piece: &Piece) -> Result<(), String> {
        let (name, start) = (&piece.tensor().name, piece.rows().start);
        let expected = match &self.under_way {
            Some((of, row, _)) => (of, *row),
            None => (name, 0),
        };
        if expected == (name, start) {
            return Ok(());
        }
        Err(format!(
            "row {start} of `{name}` came where row {} of `{}` was to come",
            expected.1, expected.0
        ))
    }

    pub(super) fn wrote(&mut self, piece: &Piece) {
        let (name, rows) = (&piece.tensor().name, piece.tensor().rows_cols().0);
        self.bytes += piece.bytes() as u64;
        self.last.clone_from(name);
        if piece.rows().end < rows {
            self.under_way = Some((name.clone(), piece.rows().end, rows));
            return;
        }
        self.under_way = None;
        self.tensors += 1;
        self.missing.remove(name);
    }

    /// Why it cannot be closed yet.
    pub(super) fn lacks(&self) -> Option<String> {
        if let Some((name, row, rows)) = &self.under_way {
            return Some(format!(
                "{row} of {rows} rows of the tensor `{name}` have come"
            ));
        }
        if self.tensors == 0 {
            return Some("no tensor has come".to_owned());
        }
        if !self.whole || self.missing.is_empty() {
            return None;
        }
        let names: Vec<String> = self
            .missing
            .iter()
            .map(|name| format!("`{name}`"))
            .collect();
        let shown = names[..names.len().min(NAMES_SHOWN)].join(", ");
        let more = match names.len().saturating_sub(NAMES_SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Some(format!(
            "{} tensors are missing: {shown}{more}; send them, or start the update with \
             {{\"partial\": true}} where the others stay as they are",
            names.len()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::stream::{SafetensorsStream, Step};
    use crate::weights::testing::safetensors;

    fn pieces(tensors: &[(&str, &[usize])]) -> Vec<Piece> {
        let bytes = safetensors(tensors);
        let (mut stream, mut left) = (SafetensorsStream::new(None), &bytes[..]);
        let mut pieces = Vec::new();
        loop {
            match stream.feed(&mut left).unwrap() {
                Step::Taken => return pieces,
                Step::HeaderBegins(_) | Step::Tensors(_) => {}
                Step::Piece(piece) => pieces.push(piece),
            }
        }
    }

    #[test]
    fn rows_come_in_order_and_it_lacks_what_has_not_come_whole() {
        let needed = ["a", "b", "c", "d", "e", "f"].map(str::to_owned);
        let pieces = pieces(&[("a", &[900, 1024]), ("b", &[2]), ("c", &[2])]);
        let (parts, rest) = pieces.split_at(pieces.len() - 2);
        assert_eq!(parts.len(), 2);
        let mut pushed = Pushed::new(true, false, &needed, Instant::now());
        assert!(pushed.lacks().unwrap().contains("no tensor"));
        assert!(
            pushed
                .takes(&parts[1])
                .unwrap_err()
                .contains("row 0 of `a`")
        );
        pushed.takes(&parts[0]).unwrap();
        pushed.wrote(&parts[0]);
        for other in [&rest[0], &parts[0]] {
            let refused = pushed.takes(other).unwrap_err();
            assert!(refused.contains("row 512 of `a` was to come"), "{refused}");
        }
        assert_eq!(
            pushed.lacks().unwrap(),
            "512 of 900 rows of the tensor `a` have come"
        );
        for piece in [&parts[1], &rest[1]] {
            pushed.takes(piece).unwrap();
            pushed.wrote(piece);
        }
        let lacks = pushed.lacks().unwrap();
        assert!(
            lacks.starts_with("4 tensors are missing: `b`, `d`, `e`, `f`;"),
            "{lacks}"
        );
        // Again, and the rest of a part.
        for whole in [false, true] {
            let mut pushed = Pushed::new(whole, false, &needed[1..3], Instant::now());
            pushed.wrote(&rest[0]);
            assert_eq!(pushed.lacks().is_some(), whole);
            pushed.wrote(&rest[1]);
            assert_eq!(pushed.lacks(), None);
        }
        // Memory that came for it holds nothing else.
        let mut pushed = Pushed::new(false, true, &needed, Instant::now());
        pushed.wrote(&rest[0]);
        assert!(pushed.lacks().is_some());
    }
}
