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
#[cfg(test)]
mod tests;
pub mod worker;

use std::collections::BTreeSet;
use std::path::Path;

use crate::model::{Model, ModelError};
use crate::tokenizer::{Rendered, Tokenizer};
pub use chat::{Chat, ChatMessage, Ending, message};
use chat::{Forms, continued, cut_at_the_end};
use confined::{Confined, NotStarted};
pub use ordered::Ordered;
use protect::Placeholders;
use template::{Inputs, NAME, Template};

/// Why a chat could not be rendered.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// The template refused the messages with `raise_exception`; the user's to fix.
    #[error("the chat template refuses these messages: {message}")]
    Refused { message: String },
    /// The template failed, ran too long or wrote too much.
    #[error("the chat template failed: {message}")]
    Failed { message: String },
}

/// A model's chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    runs: Runs,
    source: String,
    tokenizer: Tokenizer,
    /// Names and texts of special tokens: `bos_token` and its kin.
    tokens: Vec<(String, String)>,
    /// Special tokens that the template looks for in messages (`</think>`): in what the assistant
    /// said they are what it looks for, not text.
    markers: BTreeSet<String>,
    /// The forms of content that the template takes.
    forms: Forms,
}

/// Where a template runs.
#[derive(Debug)]
enum Runs {
    Here(Box<Template>),
    Confined(Confined),
}

impl ChatTemplate {
    /// The model's template, run in this process: its memory has no bound. None where the model
    /// has none.
    ///
    /// # Errors
    /// [`ModelError::InvalidChatTemplate`] where it does not parse.
    pub fn load(model: &Model, tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>, ModelError> {
        let Some(source) = &model.chat_template else {
            return Ok(None);
        };
        ChatTemplate::parse(source, tokenizer, tokens(model)).map(Some)
    }

    /// The model's template, run in a process of its own. `program` is this one. Where the machine
    /// gives no process it runs in this one, with a warning: chats matter more than the bound.
    ///
    /// # Errors
    /// As [`ChatTemplate::load`].
    pub fn load_confined(
        model: &Model,
        tokenizer: &Tokenizer,
        program: &Path,
    ) -> Result<Option<ChatTemplate>, ModelError> {
        let Some(source) = &model.chat_template else {
            return Ok(None);
        };
        match Confined::start(program, source) {
            Ok((confined, needles)) => Ok(Some(ChatTemplate::new(
                Runs::Confined(confined),
                source,
                tokenizer,
                tokens(model),
                &needles,
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
        source: &str,
        tokenizer: &Tokenizer,
        tokens: Vec<(String, String)>,
    ) -> Result<ChatTemplate, ModelError> {
        let template =
            Template::parse(source).map_err(|message| ModelError::template(NAME, message))?;
        let needles = template.needles().clone();
        let runs = Runs::Here(Box::new(template));
        Ok(ChatTemplate::new(runs, source, tokenizer, tokens, &needles))
    }

    fn new(
        runs: Runs,
        source: &str,
        tokenizer: &Tokenizer,
        tokens: Vec<(String, String)>,
        needles: &BTreeSet<String>,
    ) -> ChatTemplate {
        // Ends and beginnings of a text are never a message's own.
        let is_frame = |special: &str| {
            let framing = ["bos_token", "eos_token"];
            let mut named = tokens
                .iter()
                .filter(|(name, _)| framing.contains(&name.as_str()));
            named.any(|(_, text)| text == special)
        };
        let markers = needles
            .iter()
            .flat_map(|needle| protect::specials(tokenizer, needle))
            .filter(|special| !is_frame(special))
            .collect();
        let mut template = ChatTemplate {
            runs,
            source: source.to_owned(),
            tokenizer: tokenizer.clone(),
            tokens,
            markers,
            forms: Forms::default(),
        };
        // Who reads no content takes any form of it.
        if template.names("content") {
            template.forms = Forms::found(|chat| template.write(chat).ok());
        }
        template
    }

    /// Whether the template names `word` anywhere: a field that it never names it cannot honour.
    pub fn names(&self, word: &str) -> bool {
        self.source.contains(word)
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
        for message in &mut chat.messages {
            self.forms.shape(message);
        }
        if chat.ending == Ending::Continue {
            continued(&mut chat)?;
        }
        let rendered = self.write(&chat)?;
        match chat.ending {
            Ending::Continue => cut_at_the_end(rendered),
            Ending::Prompt | Ending::Open => Ok(rendered),
        }
    }

    fn write(&self, chat: &Chat) -> Result<Rendered, ChatError> {
        let tokens = self.tokens.iter().map(|(_, text)| text.as_str());
        let fixed = std::iter::once(self.source.as_str()).chain(tokens);
        let mut placeholders = Placeholders::new(&self.tokenizer, fixed, chat);
        let none = BTreeSet::new();
        let mut messages = Vec::with_capacity(chat.messages.len());
        for message in &chat.messages {
            let kept = match message.get("role") {
                Some(Ordered::Text(role)) if role == "assistant" => &self.markers,
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
            Runs::Here(template) => template.render(inputs),
            Runs::Confined(confined) => confined.render(&inputs),
        };
        Ok(placeholders.restore(&text?))
    }
}

/// The model's special tokens as its template names them.
fn tokens(model: &Model) -> Vec<(String, String)> {
    let pair = |(name, text): (&str, &str)| (name.to_owned(), text.to_owned());
    model.special_tokens.iter().map(pair).collect()
}
