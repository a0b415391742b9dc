//! The process that renders, seen from inside: it limits itself, then takes one chat after the
//! other from its input.
//!
//! A template is a program, and the interpreter bounds its steps but not the bytes a step makes:
//! thirty steps double a string to a gigabyte. The kernel bounds both bytes and time here, whatever
//! a template does; it ends this process and not the engine's.

use std::fs;
use std::io::{self, Read, Write};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::frames;
use super::template::Template;
use super::{ChatError, ChatMessage};

/// What a rendering may take beside its messages and the process as it starts.
pub const MEMORY_BYTES: u64 = 64 << 20;
/// And for each byte of the messages: they are held as sent, as values and as the prompt.
const MEMORY_PER_BYTE: u64 = 8;
/// Seconds of CPU for one chat; honest ones take milliseconds.
pub(super) const CPU_SECONDS: u64 = 2;

/// The first text of every answer.
pub(super) const READY: &str = "ready";
pub(super) const RENDERED: &str = "rendered";
pub(super) const REFUSED: &str = "refused";
pub(super) const FAILED: &str = "failed";

/// Texts per message: role, content, name.
const FIELDS: usize = 3;

/// Renders until the input ends.
///
/// # Errors
/// When the limits cannot be set, or a pipe breaks.
pub fn run(mut input: impl Read, mut output: impl Write) -> io::Result<()> {
    let limits = Limits::new()?;
    let setup = frames::read(&mut input, |bytes| limits.set(bytes))?;
    let Ok([Some(source), bos_token, eos_token]) = <[_; 3]>::try_from(setup) else {
        return Err(frames::invalid("not a template"));
    };
    let mut say = |kind, text: &str| frames::write(&mut output, &[Some(kind), Some(text)]);
    let template = match Template::parse(&source, bos_token, eos_token) {
        Ok(template) => template,
        Err(message) => return say(FAILED, &message),
    };
    say(READY, "")?;
    loop {
        let chat = match frames::read(&mut input, |bytes| limits.set(bytes)) {
            Ok(chat) => chat,
            // The engine has let go.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        };
        let (add_generation_prompt, messages) = messages(chat)?;
        match template.render(&messages, add_generation_prompt) {
            Ok(text) => say(RENDERED, &text)?,
            Err(ChatError::Refused { message }) => say(REFUSED, &message)?,
            Err(ChatError::Failed { message }) => say(FAILED, &message)?,
        }
    }
}

/// A chat as the engine sends it.
pub(super) fn texts(messages: &[ChatMessage], add_generation_prompt: bool) -> Vec<Option<&str>> {
    let fields = messages.iter().flat_map(|message| {
        let ChatMessage {
            role,
            content,
            name,
        } = message;
        [Some(role.as_str()), Some(content.as_str()), name.as_deref()]
    });
    let flag = add_generation_prompt.then_some("");
    std::iter::once(flag).chain(fields).collect()
}

/// The inverse of [`texts`].
fn messages(texts: Vec<Option<String>>) -> io::Result<(bool, Vec<ChatMessage>)> {
    let mut texts = texts.into_iter();
    let flag = texts
        .next()
        .ok_or_else(|| frames::invalid("an empty chat"))?;
    let mut messages = Vec::with_capacity(texts.len() / FIELDS);
    while let Some(role) = texts.next() {
        let (Some(role), Some(Some(content)), Some(name)) = (role, texts.next(), texts.next())
        else {
            return Err(frames::invalid("half a message"));
        };
        messages.push(ChatMessage {
            role,
            content,
            name,
        });
    }
    Ok((flag.is_some(), messages))
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
    fn chats_arrive_as_they_were_sent() {
        let message = |role: &str, content: &str, name: Option<&str>| ChatMessage {
            role: role.to_owned(),
            content: content.to_owned(),
            name: name.map(str::to_owned),
        };
        let chat = [
            message("user", "", Some("ann")),
            message("system", "b", None),
        ];
        for flag in [false, true] {
            let sent: Vec<_> = texts(&chat, flag)
                .into_iter()
                .map(|text| text.map(str::to_owned))
                .collect();
            assert_eq!(messages(sent.clone()).unwrap(), (flag, chat.to_vec()));
            assert!(messages(sent[..sent.len() - 1].to_vec()).is_err());
        }
        assert_eq!(messages(vec![None]).unwrap(), (false, vec![]));
        assert!(messages(vec![]).is_err());
    }
}
