//! What a user types to get an answer: the official client, and the lines that `demo --keep` prints.

use std::net::TcpListener;

use anyhow::{Result, bail};

use crate::demo::QUESTION;
use crate::demo::next::Next;
use crate::http::Target;
use crate::paths;
use crate::process;
use crate::test::observe::service_port;
use crate::test::smollm2::{NAME, NAMESPACE, ready};
use crate::test::world::World;
use crate::test::{Passed, expect};

pub(super) fn official(world: &World<'_>) -> Passed {
    let kubernetes = ready(world)?;
    let Target::Tcp(address) = service_port(&kubernetes, kubernetes.resource(NAMESPACE, NAME))?
    else {
        bail!("a service has an address")
    };
    let base = format!("http://{address}/v1");
    let run = |script: &str, arguments: &[&str]| {
        let script = paths::repository().join("e2e/src").join(script);
        let mut client = process::command(world.python()?, [&script]);
        process::stdout_of(client.args([base.as_str(), NAME]).args(arguments))
    };
    let answer = run("ask.py", &[QUESTION])?;
    expect(answer.contains("Paris"), || {
        format!("the model says: {answer}")
    })?;
    let scored = run("score.py", &[])?;
    expect(scored.contains("ok"), || format!("score.py: {scored}"))?;
    Ok(2)
}

/// The lines of `demo --keep`, word for word, in a shell whose KUBECONFIG leads nowhere.
pub(super) fn as_printed(world: &World<'_>) -> Passed {
    let kubernetes = ready(world)?;
    let tools = world.tools()?;
    let next = Next {
        kubeconfig: kubernetes.kubectl.kubeconfig(),
        kubectl: tools.kubectl(),
        helm: tools.helm(),
        namespace: NAMESPACE,
        name: NAME,
        question: QUESTION,
        port: free_port()?,
    };
    // Only the forward is ours to end; in the user's shell it goes with the shell.
    let script = format!("set -e\ntrap 'kill $!' EXIT\n{}", next.ask());
    let mut shell = process::command("bash", ["-c", &script]);
    let said = process::stdout_of(shell.env("KUBECONFIG", "/nonexistent/kubeconfig"))?;
    for part in ["Serving", "\"choices\"", "Paris"] {
        expect(said.contains(part), || format!("no {part} in:\n{said}"))?;
    }
    Ok(1)
}

/// A port that nobody listened on a moment ago.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
