//! `kubectl port-forward`: a port of 127.0.0.1 that leads to a service or a pod.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::thread;

use anyhow::{Context as _, Result, bail};

use crate::kube::Kubectl;
use crate::process;

/// An open forward; it closes with this value.
#[derive(Debug)]
pub(crate) struct Forward {
    child: Child,
    port: u16,
}

impl Forward {
    /// Opens one to `what` (`service/NAME`, `pod/NAME`) on a free local port.
    pub(crate) fn open(kubectl: &Kubectl, namespace: &str, what: &str, port: u16) -> Result<Self> {
        let ports = format!(":{port}");
        let words = [
            "--namespace",
            namespace,
            "port-forward",
            "--address=127.0.0.1",
            what,
            &ports,
        ];
        let mut command = kubectl.command(&words);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot run kubectl port-forward")?;
        let stdout = child
            .stdout
            .take()
            .context("no output of kubectl port-forward")?;
        let mut line = String::new();
        let mut said = BufReader::new(stdout);
        said.read_line(&mut line)?;
        // It says something for every connection, and dies if nobody listens.
        thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        match local_port(&line) {
            Some(port) => Ok(Self { child, port }),
            None => {
                process::end(&mut child);
                let said = child
                    .stderr
                    .take()
                    .map(std::io::read_to_string)
                    .transpose()?;
                bail!(
                    "kubectl port-forward {what}: {line}{}",
                    said.unwrap_or_default()
                )
            }
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        process::end(&mut self.child);
    }
}

/// `Forwarding from 127.0.0.1:41234 -> 8000`
fn local_port(line: &str) -> Option<u16> {
    line.strip_prefix("Forwarding from 127.0.0.1:")?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_read_from_the_first_line() {
        assert_eq!(
            local_port("Forwarding from 127.0.0.1:41234 -> 8000\n"),
            Some(41234)
        );
        assert_eq!(local_port("error: unable to forward port\n"), None);
        assert_eq!(local_port(""), None);
    }
}
