//! The process that renders, seen from inside: it limits itself, then takes one chat after the
//! other from its input.
//!
//! A template is a program, and the interpreter bounds its steps but not the bytes a step makes:
//! thirty steps double a string to a gigabyte. The kernel bounds both bytes and time here, whatever
//! a template does; it ends this process and not the engine's.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::frames;
use super::template::{Inputs, Known, Template};
use super::{ChatError, Ordered};

/// What a rendering may take beside its messages and the process as it starts.
pub const MEMORY_BYTES: u64 = 64 << 20;
/// And for each byte of the messages: they are held as sent, as JSON, as values and as the prompt.
const MEMORY_PER_BYTE: u64 = 16;
/// Seconds of CPU for one chat; honest ones take milliseconds.
pub(super) const CPU_SECONDS: u64 = 2;

/// The first text of every answer.
pub(super) const READY: &str = "ready";
pub(super) const RENDERED: &str = "rendered";
pub(super) const REFUSED: &str = "refused";
pub(super) const FAILED: &str = "failed";

/// Renders until the input ends.
///
/// # Errors
/// When the limits cannot be set, or a pipe breaks.
pub fn run(mut input: impl Read, mut output: impl Write) -> io::Result<()> {
    let limits = Limits::new()?;
    let setup = frames::read(&mut input, |bytes| limits.set(bytes))?;
    let Some(sources) = setup.into_iter().collect::<Option<Vec<String>>>() else {
        return Err(frames::invalid("not a template"));
    };
    let mut say = |kind, text: &str| frames::write(&mut output, &[Some(kind), Some(text)]);
    let parsed = sources.iter().map(|source| Template::parse(source));
    let templates: Vec<Template> = match parsed.collect() {
        Ok(templates) => templates,
        Err(message) => return say(FAILED, &message),
    };
    let known = templates.iter().map(|template| {
        let Known { needles, reads } = template.known();
        [needles, reads]
    });
    say(READY, &serde_json::to_string(&known.collect::<Vec<_>>())?)?;
    loop {
        let chat = match frames::read(&mut input, |bytes| limits.set(bytes)) {
            Ok(chat) => chat,
            // The engine has let go.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        };
        let (which, inputs) = inputs(chat)?;
        let Some(template) = templates.get(which) else {
            return Err(frames::invalid("no such template"));
        };
        match template.render(inputs) {
            Ok(text) => say(RENDERED, &text)?,
            Err(ChatError::Refused { message }) => say(REFUSED, &message)?,
            Err(error @ ChatError::Busy) => say(FAILED, &error.to_string())?,
            Err(ChatError::Failed { message }) => say(FAILED, &message)?,
        }
    }
}

/// Inputs as the engine sends them: which template, the variables as JSON, then pairs of a character
/// and the text it stands for.
pub(super) fn texts(which: usize, inputs: &Inputs) -> io::Result<Vec<Option<String>>> {
    let Inputs { variables, hidden } = inputs;
    let variables = serde_json::to_string(&Ordered::Object(variables.clone()))?;
    let pairs = hidden
        .iter()
        .flat_map(|(c, text)| [c.to_string(), text.clone()]);
    let first = [which.to_string(), variables];
    Ok(first.into_iter().chain(pairs).map(Some).collect())
}

/// The inverse of [`texts`].
fn inputs(texts: Vec<Option<String>>) -> io::Result<(usize, Inputs)> {
    let mut texts = texts.into_iter();
    let Some(which) = texts.next().flatten().and_then(|which| which.parse().ok()) else {
        return Err(frames::invalid("no number of a template"));
    };
    let Some(Some(variables)) = texts.next() else {
        return Err(frames::invalid("no variables"));
    };
    let Ordered::Object(variables) = serde_json::from_str(&variables)? else {
        return Err(frames::invalid("variables of another form"));
    };
    let mut hidden = std::collections::HashMap::new();
    while let Some(c) = texts.next() {
        match (c.and_then(|c| c.chars().next()), texts.next()) {
            (Some(c), Some(Some(text))) => hidden.insert(c, text),
            _ => return Err(frames::invalid("half a placeholder")),
        };
    }
    Ok((which, Inputs { variables, hidden }))
}

/// What the first answer says of each template.
pub(super) fn known(text: &str) -> serde_json::Result<Vec<Known>> {
    let all: Vec<[BTreeSet<String>; 2]> = serde_json::from_str(text)?;
    let known = all
        .into_iter()
        .map(|[needles, reads]| Known { needles, reads });
    Ok(known.collect())
}

struct Limits {
    /// Address space of this process as it started.
    start_bytes: u64,
}

impl Limits {
    fn new() -> io::Result<Limits> {
        // A core of a process that ran out of memory tells nothing.
        limit(Resource::Core, 0)?;
        let status = fs::read_to_string("/proc/self/status")?;
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmSize:"))
            .and_then(|size| size.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
            .ok_or_else(|| frames::invalid("/proc/self/status has no VmSize"))?;
        Ok(Limits {
            start_bytes: kib.saturating_mul(1024),
        })
    }

    /// Bounds what the work on a frame of `bytes` may take.
    fn set(&self, bytes: u64) -> io::Result<()> {
        let memory = bytes
            .saturating_mul(MEMORY_PER_BYTE)
            .saturating_add(MEMORY_BYTES);
        limit(Resource::As, self.start_bytes.saturating_add(memory))?;
        // The kernel counts whole seconds, this one included.
        let used = clock_gettime(ClockId::ProcessCPUTime).tv_sec;
        let used = u64::try_from(used).unwrap_or(0);
        limit(Resource::Cpu, used + 1 + CPU_SECONDS)
    }
}

/// Sets what is in force, not the most it may be raised to.
fn limit(resource: Resource, value: u64) -> io::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(resource);
    let current = Some(maximum.map_or(value, |most| most.min(value)));
    Ok(setrlimit(resource, Rlimit { current, maximum })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_arrive_as_they_were_sent() {
        let object = |pairs: &[(&str, Ordered)]| {
            pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect()
        };
        let variables = object(&[
            ("z", Ordered::List(vec![Ordered::Null, Ordered::Bool(true)])),
            (
                "a",
                Ordered::Object(object(&[
                    ("y", Ordered::Int(-3)),
                    ("x", Ordered::Float(1.0)),
                ])),
            ),
            ("text", Ordered::text("\u{e000} \"ü\n")),
        ]);
        let hidden = [('\u{e000}', "<|im_end|>".to_owned())].into();
        let sent = Inputs { variables, hidden };
        let frame = texts(1, &sent).unwrap();
        assert_eq!(inputs(frame.clone()).unwrap(), (1, sent));
        assert!(inputs(frame[..3].to_vec()).is_err());
        assert!(inputs(frame[..1].to_vec()).is_err());
        assert!(inputs(frame[1..].to_vec()).is_err());
        assert!(inputs(vec![None]).is_err());
        assert!(inputs(vec![]).is_err());
    }
}
