//! Chat templates: messages to one prompt, by the model's own Jinja template, bounded.
//!
//! A template is a program of the model's publisher: it gets no files and no environment, steps and
//! output are counted (`template`), and it runs in a process that the kernel holds to its memory and
//! time (`worker`, seen from here `confined`). Its language is Jinja2's to the letter (`jinja`).
//! What users write never becomes a special token (`protect`). What a chat is made of says `chat`.

#[expect(
    clippy::module_inception,
    reason = "the room is named after what it renders"
)]
mod chat;
mod confined;
mod frames;
mod jinja;
mod ordered;
mod protect;
mod template;
mod turns;
#[cfg(test)]
mod tests;
pub mod worker;

use std::collections::BTreeSet;
use std::path::Path;

use crate::model::{ChatTemplates, Model, ModelError};
use crate::tokenizer::{Rendered, Tokenizer};
pub use chat::{Chat, ChatMessage, Ending, message};
use chat::{Forms, continued, cut_at_the_end};
use confined::{Confined, NotStarted};
pub use ordered::{Ordered, is_beyond};
use protect::Placeholders;
use template::{Inputs, Known, NAME, Template};

/// Why a chat could not be rendered.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// The template refused the messages with `raise_exception`; the user's to fix.
    #[error("the chat template refuses these messages: {message}")]
    Refused { message: String },
    /// The template failed, ran too long or wrote too much.
    #[error("the chat template failed: {message}")]
    Failed { message: String },
    /// Other chats are rendered, for longer than this one waits.
    #[error("other chats wait to be rendered")]
    Busy,
}

/// A model's chat templates: one for every chat, and where the model has it one for chats with
/// tools.
#[derive(Debug)]
pub struct ChatTemplate {
    runs: Runs,
    /// The first is for every chat.
    each: Vec<One>,
    tokenizer: Tokenizer,
    /// Names and texts of special tokens: `bos_token` and its kin.
    tokens: Vec<(String, String)>,
}

/// One of them.
#[derive(Debug)]
struct One {
    source: String,
    /// Names that it reads.
    reads: BTreeSet<String>,
    /// Special tokens that the template looks for in messages (`</think>`): in what the assistant
    /// said they are what it looks for, not text.
    markers: BTreeSet<String>,
    /// The forms of content that the template takes.
    forms: Forms,
}

/// Where templates run.
#[derive(Debug)]
enum Runs {
    Here(Vec<Template>),
    Confined(Confined),
}

impl ChatTemplate {
    /// The model's templates, run in this process: their memory has no bound. None where the model
    /// has none.
    ///
    /// # Errors
    /// [`ModelError::InvalidChatTemplate`] where one does not parse.
    pub fn load(model: &Model, tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>, ModelError> {
        let Some(templates) = &model.chat_templates else {
            return Ok(None);
        };
        ChatTemplate::parse(templates.clone(), tokenizer, tokens(model)).map(Some)
    }

    /// The model's templates, run in a process of its own. `program` is this one. Where the machine
    /// gives no process they run in this one, with a warning: chats matter more than the bound.
    ///
    /// # Errors
    /// As [`ChatTemplate::load`].
    pub fn load_confined(
        model: &Model,
        tokenizer: &Tokenizer,
        program: &Path,
    ) -> Result<Option<ChatTemplate>, ModelError> {
        let Some(templates) = &model.chat_templates else {
            return Ok(None);
        };
        let sources = sources(templates.clone());
        match Confined::start(program, &sources) {
            Ok((confined, known)) => Ok(Some(ChatTemplate::new(
                Runs::Confined(confined),
                sources,
                tokenizer,
                tokens(model),
                known,
            ))),
            Err(NotStarted::Template(message)) => Err(ModelError::template(NAME, message)),
            Err(NotStarted::Machine(error)) => {
                tracing::warn!(
                    %error,
                    "no process for the chat template: it runs in this one, without a bound on its \
                     memory"
                );
                ChatTemplate::load(model, tokenizer)
            }
        }
    }

    fn parse(
        templates: ChatTemplates,
        tokenizer: &Tokenizer,
        tokens: Vec<(String, String)>,
    ) -> Result<ChatTemplate, ModelError> {
        let sources = sources(templates);
        let parsed = sources.iter().map(|source| Template::parse(source));
        let parsed: Vec<Template> = parsed
            .collect::<Result<_, _>>()
            .map_err(|message| ModelError::template(NAME, message))?;
        let known = parsed.iter().map(Template::known).collect();
        let runs = Runs::Here(parsed);
        Ok(ChatTemplate::new(runs, sources, tokenizer, tokens, known))
    }

    fn new(
        runs: Runs,
        sources: Vec<String>,
        tokenizer: &Tokenizer,
        tokens: Vec<(String, String)>,
        known: Vec<Known>,
    ) -> ChatTemplate {
        // Ends and beginnings of a text are never a message's own.
        let is_frame = |special: &str| {
            let framing = ["bos_token", "eos_token"];
            let mut named = tokens
                .iter()
                .filter(|(name, _)| framing.contains(&name.as_str()));
            named.any(|(_, text)| text == special)
        };
        let one = |(source, Known { needles, reads }): (String, Known)| One {
            source,
            reads,
            markers: needles
                .iter()
                .flat_map(|needle| protect::specials(tokenizer, needle))
                .filter(|special| !is_frame(special))
                .collect(),
            forms: Forms::default(),
        };
        let mut template = ChatTemplate {
            runs,
            each: sources.into_iter().zip(known).map(one).collect(),
            tokenizer: tokenizer.clone(),
            tokens,
        };
        for which in 0..template.each.len() {
            // Who reads no content takes any form of it.
            if template.each[which].reads.contains("content") {
                let forms = Forms::found(|chat| template.write(which, chat).ok());
                template.each[which].forms = forms;
            }
        }
        template
    }

    /// The number of the template for this chat: as transformers chooses it.
    fn which(&self, chat: &Chat) -> usize {
        usize::from(chat.tools.is_some() && self.each.len() > 1)
    }

    /// Whether the template for this chat reads a variable or a field of this name: what it never
    /// names it cannot honour.
    pub fn reads(&self, name: &str, chat: &Chat) -> bool {
        self.each[self.which(chat)].reads.contains(name)
    }

    /// Whether the template for this chat speaks of thinking anywhere.
    pub fn speaks_of_thinking(&self, chat: &Chat) -> bool {
        let source = self.each[self.which(chat)].source.to_lowercase();
        ["think", "reasoning"]
            .iter()
            .any(|word| source.contains(word))
    }

    /// Renders messages of plain text, see [`ChatTemplate::render_chat`].
    ///
    /// # Errors
    /// [`ChatError`].
    pub fn render(
        &self,
        messages: &[ChatMessage],
        add_generation_prompt: bool,
    ) -> Result<Rendered, ChatError> {
        let ending = match add_generation_prompt {
            true => Ending::Prompt,
            false => Ending::Open,
        };
        self.render_chat(&Chat {
            messages: messages.iter().map(Ordered::from).collect(),
            ending,
            ..Chat::default()
        })
    }

    /// Renders a chat to a prompt. Takes its time: not for the threads that answer requests.
    ///
    /// # Errors
    /// [`ChatError`].
    pub fn render_chat(&self, chat: &Chat) -> Result<Rendered, ChatError> {
        let mut chat = chat.clone();
        let which = self.which(&chat);
        let forms = self.each[which].forms;
        for message in &mut chat.messages {
            forms.shape(message);
        }
        if chat.ending == Ending::Continue {
            continued(&mut chat)?;
        }
        let rendered = self.write(which, &chat)?;
        match chat.ending {
            Ending::Continue => cut_at_the_end(rendered),
            Ending::Prompt | Ending::Open => Ok(rendered),
        }
    }

    fn write(&self, which: usize, chat: &Chat) -> Result<Rendered, ChatError> {
        let One {
            source, markers, ..
        } = &self.each[which];
        let tokens = self.tokens.iter().map(|(_, text)| text.as_str());
        let fixed = std::iter::once(source.as_str()).chain(tokens);
        let mut placeholders = Placeholders::new(&self.tokenizer, fixed, chat);
        let none = BTreeSet::new();
        let mut messages = Vec::with_capacity(chat.messages.len());
        for message in &chat.messages {
            let kept = match message.get("role") {
                Some(Ordered::Text(role)) if role == "assistant" => markers,
                _ => &none,
            };
            messages.push(message.map(&mut |text| placeholders.hide(text, kept)));
        }
        let mut hide = |value: &Ordered| value.map(&mut |text| placeholders.hide(text, &none));
        let tools = chat.tools.as_ref().map_or(Ordered::Null, &mut hide);
        let given: Vec<(String, Ordered)> = chat
            .variables
            .iter()
            .map(|(name, value)| (name.clone(), hide(value)))
            .collect();
        let named = |(name, text): &(String, String)| (name.clone(), Ordered::text(text));
        let mut variables: Vec<(String, Ordered)> = self.tokens.iter().map(named).collect();
        variables.extend(given);
        let prompt = chat.ending == Ending::Prompt;
        variables.extend([
            ("messages".to_owned(), Ordered::List(messages)),
            ("tools".to_owned(), tools),
            ("documents".to_owned(), Ordered::Null),
            ("add_generation_prompt".to_owned(), Ordered::Bool(prompt)),
        ]);
        let inputs = Inputs {
            variables,
            hidden: placeholders.hidden(),
        };
        let text = match &self.runs {
            Runs::Here(templates) => templates[which].render(inputs),
            Runs::Confined(confined) => confined.render(which, &inputs),
        };
        Ok(placeholders.restore(&text?))
    }
}

/// Sources in the order of their numbers.
fn sources(templates: ChatTemplates) -> Vec<String> {
    let ChatTemplates { default, tool_use } = templates;
    std::iter::once(default).chain(tool_use).collect()
}

/// The model's special tokens as its template names them.
fn tokens(model: &Model) -> Vec<(String, String)> {
    let pair = |(name, text): (&str, &str)| (name.to_owned(), text.to_owned());
    model.special_tokens.iter().map(pair).collect()
}
