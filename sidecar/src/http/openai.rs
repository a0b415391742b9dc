//! `/v1/completions`, `/v1/chat/completions` and `/v1/models`.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use futures::Stream;

use super::answers::{Head, chat_chunks, completion_chunks, role_chunk};
use super::app::{App, Loaded, unix_seconds};
use super::body::JsonBody;
use super::choice::{Piece, Scored};
use super::error::ApiError;
use super::generation::{Generation, Update};
use super::listed;
use super::params::Params;
use super::prompt;
use super::requests::{self, ChatRequest, CompletionRequest};
use super::sse;
use super::types::{EndReason, ModelCard, ModelList};
use super::whole::{self, Whole};
use crate::engine::dynamic::AdapterInSlot;

/// OpenAI's default length of a completion; a chat goes on to its end.
const DEFAULT_COMPLETION_TOKENS: u32 = 16;

/// Which of the two endpoints a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Chat,
    Completion,
}

pub async fn models(State(app): State<Arc<App>>) -> Json<ModelList> {
    let served = app.served.iter().map(|name| card(&app, name));
    let dynamic = app.dynamic().adapters;
    let adapters = dynamic.iter().filter(|of| !of.leaving);
    let data = served
        .chain(adapters.map(|of| adapter_card(&app, of)))
        .collect();
    Json(ModelList {
        object: "list",
        data,
    })
}

pub async fn model(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Json<ModelCard>, ApiError> {
    app.check_slots(&id)?;
    Ok(Json(match app.dynamic().find(&id) {
        Some(of) if !app.served.contains(&id) => adapter_card(&app, of),
        Some(_) | None => card(&app, &id),
    }))
}

/// As vLLM has it: where it was read from, and what it is laid over.
fn adapter_card(app: &App, of: &AdapterInSlot) -> ModelCard {
    ModelCard {
        root: of.path.display().to_string(),
        parent: app.served.first().cloned(),
        ..card(app, &of.name)
    }
}

fn card(app: &App, name: &str) -> ModelCard {
    ModelCard {
        id: name.to_owned(),
        object: "model",
        created: app.created,
        owned_by: "plimsoll",
        root: app.root.clone(),
        parent: None,
        max_model_len: app.peek().map(|loaded| loaded.engine.facts().max_model_len),
    }
}

pub async fn chat(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    JsonBody(fields): JsonBody,
) -> Result<Response, ApiError> {
    let loaded = app.ready()?;
    let ChatRequest {
        model,
        id,
        messages,
        options,
        params,
    } = requests::chat(
        fields,
        &|name| app.model_of(name),
        &loaded.bounds,
        &loaded.sampling,
    )?;
    let names = Names {
        model,
        id: requests::answer_id(&headers, id)?,
    };
    let ids = prompt::encode_chat(Arc::clone(&loaded), messages, options).await?;
    let default = loaded.sampling.max_new_tokens;
    let asked = ("messages", adapter_of(&app, &loaded, &names).await?);
    let generation = Generation::start(&app, loaded, vec![ids], &params, default, asked)?;
    answer(&app, Kind::Chat, names, generation, &params).await
}

pub async fn completions(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    JsonBody(fields): JsonBody,
) -> Result<Response, ApiError> {
    let loaded = app.ready()?;
    let CompletionRequest {
        model,
        id,
        prompts,
        add_special,
        params,
    } = requests::completion(
        fields,
        &|name| app.model_of(name),
        &loaded.bounds,
        &loaded.sampling,
    )?;
    let names = Names {
        model,
        id: requests::answer_id(&headers, id)?,
    };
    let prompts = prompt::encode_prompts(Arc::clone(&loaded), prompts, add_special).await?;
    let default = Some(DEFAULT_COMPLETION_TOKENS);
    let asked = ("prompt", adapter_of(&app, &loaded, &names).await?);
    let generation = Generation::start(&app, loaded, prompts, &params, default, asked)?;
    answer(&app, Kind::Completion, names, generation, &params).await
}

/// What an answer calls its model and itself.
struct Names {
    model: String,
    /// None: a random one.
    id: Option<String>,
}

/// The adapter that is answered with, once the engine has it.
async fn adapter_of(
    app: &App,
    loaded: &Arc<Loaded>,
    names: &Names,
) -> Result<Option<Arc<str>>, ApiError> {
    let adapter = app.adapter_of(&names.model);
    if let Some(name) = &adapter {
        listed::settled(app, loaded, name).await?;
    }
    Ok(adapter)
}

async fn answer(
    app: &App,
    kind: Kind,
    names: Names,
    mut generation: Generation,
    params: &Params,
) -> Result<Response, ApiError> {
    let Names { model, id } = names;
    let prefix = match kind {
        Kind::Chat => "chatcmpl",
        Kind::Completion => "cmpl",
    };
    let head = Head {
        id: format!("{prefix}-{}", id.unwrap_or_else(random_id)),
        created: unix_seconds(),
        model,
        logprobs: params.sampling.logprobs.is_some(),
        tokens_as_ids: params.tokens_as_ids,
        include_usage: params.include_usage,
    };
    generation.enter(&app.named, &head.id);
    generation.awake(app.limits.wake_timeout).await?;
    let choices = generation.choices();
    tracing::debug!(
        id = head.id,
        choices,
        stream = params.stream,
        "request accepted"
    );
    if params.stream {
        let continuous = params.continuous_usage;
        let share = generation.share();
        let mut response = sse::response(events(kind, head, generation, continuous));
        response.extensions_mut().insert(share);
        return Ok(response);
    }
    whole(kind, head, generation).await
}

async fn whole(kind: Kind, head: Head, mut generation: Generation) -> Result<Response, ApiError> {
    let mut choices = Vec::new();
    choices.resize_with(generation.choices(), Whole::default);
    while let Some(update) = generation.next().await {
        let Update { index, piece } = update?;
        choices[index as usize].add(piece);
    }
    let (usage, share) = (generation.usage(), generation.share());
    let loaded = generation.into_loaded();
    let respond = match kind {
        Kind::Chat => whole::chat,
        Kind::Completion => whole::completion,
    };
    Ok(respond(loaded, head, choices, usage, share))
}

/// Where a stream stands between two polls.
struct Streaming {
    kind: Kind,
    head: Head,
    generation: Generation,
    continuous_usage: bool,
    /// Choices whose first chunk (a chat's role) is out.
    begun: Vec<bool>,
    /// What is left of a piece too long for one event: an echoed prompt's.
    rest: Option<Rest>,
    over: bool,
}

/// Tokens that one event tells of, and bytes of text in it, at most.
const EVENT_TOKENS: usize = 8;
const EVENT_TEXT: usize = 16 << 10;

/// An update that is told in several events.
struct Rest {
    index: u32,
    text: String,
    told: usize,
    scored: std::vec::IntoIter<Scored>,
    end: Option<EndReason>,
}

impl Rest {
    fn of(Update { index, piece }: Update) -> Rest {
        Rest {
            index,
            text: piece.text,
            told: 0,
            scored: piece.scored.into_iter(),
            end: piece.end,
        }
    }

    /// What the next event tells; the second value is what it leaves.
    fn next(mut self) -> (Update, Option<Rest>) {
        let to = self.text.floor_char_boundary(self.told + EVENT_TEXT);
        let mut piece = Piece {
            text: self.text[self.told..to].to_owned(),
            scored: self.scored.by_ref().take(EVENT_TOKENS).collect(),
            end: None,
        };
        self.told = to;
        let over = to == self.text.len() && self.scored.as_slice().is_empty();
        piece.end = self.end.take_if(|_| over);
        let index = self.index;
        (Update { index, piece }, (!over).then_some(self))
    }
}

/// The events of a streamed answer. Dropping the stream drops the generation, which cancels it.
fn events(
    kind: Kind,
    head: Head,
    generation: Generation,
    continuous_usage: bool,
) -> impl Stream<Item = Bytes> + Send + 'static {
    let begun = vec![false; generation.choices()];
    let start = Streaming {
        kind,
        head,
        generation,
        continuous_usage,
        begun,
        rest: None,
        over: false,
    };
    futures::stream::unfold(start, |mut streaming| async move {
        if streaming.over {
            return None;
        }
        let update = match streaming.rest.take() {
            Some(rest) => Some(Ok(rest)),
            None => streaming.generation.next().await.map(|u| u.map(Rest::of)),
        };
        let bytes = match update {
            Some(Ok(rest)) => {
                let (update, rest) = rest.next();
                streaming.rest = rest;
                streaming.update(update)
            }
            Some(Err(error)) => {
                streaming.over = true;
                sse::failure(&error)
            }
            None => {
                streaming.over = true;
                streaming.end()
            }
        };
        Some((bytes, streaming))
    })
}

impl Streaming {
    fn update(&mut self, Update { index, piece }: Update) -> Bytes {
        let first = !std::mem::replace(&mut self.begun[index as usize], true);
        let mut bytes = Vec::new();
        let naming = self.head.naming(&self.generation.loaded().tokenizer);
        let usage = self.continuous_usage.then(|| self.generation.usage());
        self.generation.sent(&piece);
        match self.kind {
            Kind::Chat => {
                let mut chunks = chat_chunks(index, piece, naming);
                if first {
                    chunks.insert(0, role_chunk(index));
                }
                for chunk in chunks {
                    bytes.extend(sse::event(&self.head.chat_chunk(vec![chunk], usage)));
                }
            }
            Kind::Completion => {
                for chunk in completion_chunks(index, piece, naming) {
                    bytes.extend(sse::event(&self.head.completion_chunk(vec![chunk], usage)));
                }
            }
        }
        Bytes::from(bytes)
    }

    fn end(&self) -> Bytes {
        let mut bytes = Vec::new();
        if self.head.include_usage {
            let usage = Some(self.generation.usage());
            bytes.extend(match self.kind {
                Kind::Chat => sse::event(&self.head.chat_chunk(Vec::new(), usage)),
                Kind::Completion => sse::event(&self.head.completion_chunk(Vec::new(), usage)),
            });
        }
        bytes.extend_from_slice(sse::DONE);
        Bytes::from(bytes)
    }
}

/// 32 hexadecimal digits; unique, not secret.
fn random_id() -> String {
    use std::hash::{BuildHasher, RandomState};
    let half = || RandomState::new().hash_one(std::time::Instant::now());
    format!("{:016x}{:016x}", half(), half())
}
