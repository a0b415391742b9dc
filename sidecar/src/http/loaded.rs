//! What there is once the model is open.

use std::sync::Arc;

use plimsoll_crds::v1alpha1::report::Effective;
use plimsoll_planner::host;

use super::bounds::Bounds;
use super::encoders::Encoders;
use super::generator::Generator;
use super::unsent::Unsent;
use crate::chat::ChatTemplate;
use crate::engine::handle::EngineFacts;
use crate::memory::snapshot::LedgerSnapshot;
use crate::model::SamplingDefaults;
use crate::tokenizer::Tokenizer;

/// What exists once the model is open and the engine is started (it may still load weights).
#[derive(Debug)]
pub struct Loaded {
    pub engine: Arc<dyn Generator>,
    pub tokenizer: Tokenizer,
    pub template: Option<ChatTemplate>,
    /// Ids that end a sequence.
    pub eos: Vec<u32>,
    /// For what requests leave out.
    pub sampling: SamplingDefaults,
    pub bounds: Bounds,
    /// The limits and types that it began with.
    effective: Effective,
    /// A text of more bytes has more tokens than the context, or takes more memory to tokenize
    /// than the host's reserve holds.
    pub longest_text: usize,
    /// Where texts are tokenized: a long one takes more than a hundred times its size meanwhile.
    pub encoders: Encoders,
    /// What answers may hold until they are sent.
    pub unsent: Arc<Unsent>,
}

impl Loaded {
    /// The limits and types in force, with what the ledger says.
    pub fn effective(&self, ledger: &LedgerSnapshot) -> Effective {
        Effective {
            kv_cache_tokens: ledger.kv.tokens(),
            ..self.effective.clone()
        }
    }

    pub fn new(
        engine: Arc<dyn Generator>,
        tokenizer: Tokenizer,
        template: Option<ChatTemplate>,
        eos: Vec<u32>,
        sampling: SamplingDefaults,
        effective: Effective,
    ) -> std::io::Result<Loaded> {
        let EngineFacts {
            max_model_len,
            vocabulary,
            ..
        } = engine.facts();
        let longest_token = (0..vocabulary)
            .map(|id| tokenizer.token_bytes(id).len())
            .max();
        let longest_text = longest_token
            .unwrap_or(1)
            .saturating_mul(max_model_len as usize)
            .min(usize::try_from(host::largest_text(max_model_len)).unwrap_or(usize::MAX));
        let unsent = host::answers_bytes(effective.max_num_seqs);
        let bounds = Bounds {
            max_model_len,
            max_num_seqs: effective.max_num_seqs,
            vocabulary,
        };
        Ok(Loaded {
            engine,
            tokenizer,
            template,
            eos,
            sampling,
            bounds,
            effective,
            longest_text,
            encoders: Encoders::start()?,
            unsent: Unsent::new(usize::try_from(unsent).unwrap_or(usize::MAX)),
        })
    }
}
