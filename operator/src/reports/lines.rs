//! NDJSON from a peer that is not trusted: lines of bounded length, each a memory report or not.

use plimsoll_crds::v1alpha1::MemoryReport;

/// 16 ranks with 8 accounts each take about 20 KB.
pub(crate) const LINE_BYTES_MAX: usize = 256 * 1024;

/// Why a stream is given up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LineError {
    #[error("a line of the report stream is longer than {LINE_BYTES_MAX} bytes")]
    TooLong,
    #[error("a line of the report stream is no report: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Takes the next bytes, and gives the reports of the lines that are complete with them.
    ///
    /// # Errors
    /// A line that is too long or no report; the stream is then of no further use.
    pub(crate) fn take(&mut self, mut bytes: &[u8]) -> Result<Vec<MemoryReport>, LineError> {
        let mut reports = Vec::new();
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.keep(&bytes[..end])?;
            bytes = &bytes[end + 1..];
            let line = std::mem::take(&mut self.rest);
            // Blank lines keep a connection alive.
            if !line.trim_ascii().is_empty() {
                reports.push(serde_json::from_slice(&line)?);
            }
        }
        self.keep(bytes)?;
        Ok(reports)
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), LineError> {
        if self.rest.len() + bytes.len() > LINE_BYTES_MAX {
            return Err(LineError::TooLong);
        }
        self.rest.extend_from_slice(bytes);
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use plimsoll_crds::v1alpha1::report::EngineState;
    use proptest::prelude::*;

    use super::*;

    /// A report as an engine writes it.
    pub(crate) fn line() -> String {
        serde_json::json!({
            "time": "2026-01-01T00:00:00Z",
            "state": "Serving",
            "backend": "CPU",
            "revision": "abc",
            "kvUsedPercent": 3,
            "ranks": [{
                "rank": 0, "device": "cpu-0", "budgetBytes": 1000, "driverBytes": 900,
                "otherBytes": 10, "kvWastedBytes": 0,
                "accounts": [{
                    "name": "Weights", "plannedBytes": 890, "reservedBytes": 890,
                    "usedBytes": 890, "highWaterBytes": 890,
                }],
            }],
            "host": {"cgroupBytes": 2000, "otherBytes": 100, "accounts": []},
        })
        .to_string()
    }

    #[test]
    fn lines_may_come_in_any_pieces() {
        let text = format!("{}\n\n  \n{}\n{}", line(), line(), line());
        for size in [1, 7, 64, 100_000] {
            let mut lines = Lines::default();
            let reports: Vec<MemoryReport> = text
                .as_bytes()
                .chunks(size)
                .flat_map(|piece| lines.take(piece).unwrap())
                .collect();
            assert_eq!(
                reports.len(),
                2,
                "pieces of {size}; the third line is not complete"
            );
            assert_eq!(reports[0].state, EngineState::Serving);
        }
    }

    #[test]
    fn lines_without_end_are_given_up_and_take_no_more_memory_than_allowed() {
        let mut lines = Lines::default();
        let piece = [b'x'; 8192];
        let error = (0..1000).find_map(|_| lines.take(&piece).err());
        assert!(matches!(error, Some(LineError::TooLong)));
        assert!(lines.rest.len() <= LINE_BYTES_MAX);
        let whole = vec![b' '; LINE_BYTES_MAX + 1];
        assert!(matches!(
            Lines::default().take(&whole),
            Err(LineError::TooLong)
        ));
    }

    #[test]
    fn what_is_no_report_is_an_error() {
        for text in [
            "{}\n",
            "null\n",
            "[1]\n",
            "{\"state\":\"Serving\"}\n",
            "\u{0}\n",
            "{\n",
        ] {
            let outcome = Lines::default().take(text.as_bytes());
            assert!(matches!(outcome, Err(LineError::Malformed(_))), "{text:?}");
        }
    }

    proptest! {
        /// Arbitrary bytes never panic, and never keep more than a line.
        #[test]
        fn arbitrary_bytes_are_survived(
            pieces in proptest::collection::vec(
                proptest::collection::vec(any::<u8>(), 0..200), 0..20),
        ) {
            let mut lines = Lines::default();
            for piece in pieces {
                if lines.take(&piece).is_err() {
                    break;
                }
                prop_assert!(lines.rest.len() <= LINE_BYTES_MAX);
            }
        }

        /// A report with a byte changed is either a report or an error, never a panic.
        #[test]
        fn damaged_reports_are_survived(at in 0usize..400, byte in any::<u8>()) {
            let mut text = format!("{}\n", line()).into_bytes();
            let at = at % text.len();
            text[at] = byte;
            let _ = Lines::default().take(&text);
        }
    }
}
