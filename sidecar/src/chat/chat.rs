//! A chat as templates see it, and the forms that its messages take for one of them.

use super::{ChatError, Ordered};
use crate::tokenizer::Rendered;

/// What is rendered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chat {
    /// Objects with at least `role`. `content` is a text or a list of text parts.
    pub messages: Vec<Ordered>,
    pub tools: Option<Ordered>,
    /// More variables for the template, such as `enable_thinking`.
    pub variables: Vec<(String, Ordered)>,
    pub ending: Ending,
}

/// How a prompt ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// Where the assistant begins to answer.
    #[default]
    Prompt,
    /// Behind the last message.
    Open,
    /// Inside the last message, which the model goes on with.
    Continue,
}

/// A message of plain text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatMessage {
    pub role: String,
    pub content: String,
    pub name: Option<String>,
}

/// A message of plain text, as an object.
pub fn message(role: &str, content: &str) -> Ordered {
    Ordered::Object(vec![
        ("role".to_owned(), Ordered::text(role)),
        ("content".to_owned(), Ordered::text(content)),
    ])
}

impl From<&ChatMessage> for Ordered {
    fn from(from: &ChatMessage) -> Ordered {
        let mut object = message(&from.role, &from.content);
        if let (Ordered::Object(fields), Some(name)) = (&mut object, &from.name) {
            fields.push(("name".to_owned(), Ordered::text(name)));
        }
        object
    }
}

impl Chat {
    /// Bytes of all its texts.
    pub fn bytes(&self) -> usize {
        let mut bytes = 0;
        self.visit(&mut |text| bytes += text.len());
        bytes
    }

    /// Every text in it.
    pub(super) fn visit<'a>(&'a self, see: &mut dyn FnMut(&'a str)) {
        let Chat {
            messages,
            tools,
            variables,
            ending: _,
        } = self;
        messages
            .iter()
            .chain(tools)
            .for_each(|value| value.visit(see));
        variables.iter().for_each(|(_, value)| value.visit(see));
    }
}

/// The forms of `content` that a template takes. Templates of models that also see write lists of
/// parts out; others would write them as Python does, quotes and all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Forms {
    text: bool,
    list: bool,
}

impl Default for Forms {
    fn default() -> Forms {
        Forms {
            text: true,
            list: false,
        }
    }
}

const PROBE: &str = "PLIMSOLL-PROBE";

impl Forms {
    /// Asks the template: the form is taken where its text comes out, and only its text.
    pub(super) fn found(render: impl Fn(&Chat) -> Option<Rendered>) -> Forms {
        let takes = |content: Ordered| {
            let user = Ordered::Object(vec![
                ("role".to_owned(), Ordered::text("user")),
                ("content".to_owned(), content),
            ]);
            let chat = Chat {
                messages: vec![user],
                ..Chat::default()
            };
            render(&chat).map(|Rendered { text, .. }| {
                let quoted = ["'", "\""].map(|quote| format!("{quote}{PROBE}{quote}"));
                text.contains(PROBE) && !quoted.iter().any(|quoted| text.contains(quoted.as_str()))
            })
        };
        let list = takes(Ordered::List(vec![part(PROBE)])).unwrap_or(false);
        // A template that fails here says nothing about text.
        let text = takes(Ordered::text(PROBE)).unwrap_or(true) || !list;
        Forms { text, list }
    }

    /// Gives a message's content the form that the template takes. Parts that become one text have
    /// a line break between them, as with other servers.
    pub(super) fn shape(self, message: &mut Ordered) {
        let Ordered::Object(fields) = message else {
            return;
        };
        let Some((_, content)) = fields.iter_mut().find(|(name, _)| name == "content") else {
            return;
        };
        match content {
            Ordered::List(parts) if !self.list => {
                let texts: Vec<&str> = parts.iter().filter_map(text_of).collect();
                *content = Ordered::Text(texts.join("\n"));
            }
            Ordered::Text(text) if !self.text && self.list => {
                *content = Ordered::List(vec![part(text)]);
            }
            _ => {}
        }
    }
}

fn part(text: &str) -> Ordered {
    Ordered::Object(vec![
        ("type".to_owned(), Ordered::text("text")),
        ("text".to_owned(), Ordered::text(text)),
    ])
}

fn text_of(part: &Ordered) -> Option<&str> {
    match part.get("text") {
        Some(Ordered::Text(text)) => Some(text),
        _ => None,
    }
}

/// What transformers puts behind the message that goes on, to find its end again.
const TAG: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// Marks the end of the last message.
pub(super) fn continued(chat: &mut Chat) -> Result<(), ChatError> {
    let nothing = || ChatError::Failed {
        message: "the last message has no text to continue".to_owned(),
    };
    let Some(Ordered::Object(fields)) = chat.messages.last_mut() else {
        return Err(nothing());
    };
    let content = fields.iter_mut().find(|(name, _)| name == "content");
    let text = match content.map(|(_, content)| content) {
        Some(Ordered::Text(text)) => text,
        Some(Ordered::List(parts)) => match parts.last_mut() {
            Some(Ordered::Object(part)) => match part.iter_mut().find(|(name, _)| name == "text") {
                Some((_, Ordered::Text(text))) => text,
                _ => return Err(nothing()),
            },
            _ => return Err(nothing()),
        },
        _ => return Err(nothing()),
    };
    text.push_str(TAG);
    Ok(())
}

/// The prompt up to the end of the last message. Where the template trims its text, blanks before
/// the end go too.
pub(super) fn cut_at_the_end(rendered: Rendered) -> Result<Rendered, ChatError> {
    let Rendered { text, mut literal } = rendered;
    let Some(at) = text.rfind(TAG.trim()) else {
        return Err(ChatError::Failed {
            message: "it leaves out the end of the last message, which cannot be continued"
                .to_owned(),
        });
    };
    let kept = match text[at..].starts_with(TAG) {
        true => &text[..at],
        false => text[..at].trim_end(),
    };
    let text = kept.to_owned();
    literal.retain(|range| range.end <= text.len());
    Ok(Rendered { text, literal })
}
