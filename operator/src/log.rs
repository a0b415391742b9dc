//! The operator's log, on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::args::LogFormat;

/// Targets that print what they were sent: an answer that it cannot decode the client logs whole,
/// environment variables and Secrets included. What failed is told by who asked.
const QUIET: [&str; 1] = ["kube_client::client"];

pub(crate) fn to_stderr(format: LogFormat) {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,kube=warn"));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(quiet(filter))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Json => lines.json().flatten_event(true).init(),
        LogFormat::Text => lines.init(),
    }
}

/// Whatever the filter says.
fn quiet(filter: EnvFilter) -> EnvFilter {
    QUIET.iter().fold(filter, |filter, target| {
        let off = format!("{target}=off").parse();
        filter.add_directive(off.expect("a target and a level"))
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_answer_that_cannot_be_decoded_is_not_logged_whatever_the_filter_says() {
        for filter in [
            "info",
            "trace",
            "kube_client=trace",
            "error,kube_client::client=trace",
        ] {
            let lines = Lines::default();
            let into = lines.clone();
            let subscriber = tracing_subscriber::fmt()
                .with_env_filter(quiet(EnvFilter::new(filter)))
                .with_writer(move || into.clone())
                .finish();
            tracing::subscriber::with_default(subscriber, || {
                // As kube does.
                tracing::warn!(target: "kube_client::client", "{}, {:?}", "hunter2", "no u32");
                tracing::error!(target: "kube_client", "kept");
            });
            let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
            assert!(!text.contains("hunter2"), "{filter}: {text}");
            assert!(text.contains("kept"), "{filter}: {text}");
        }
    }
}
