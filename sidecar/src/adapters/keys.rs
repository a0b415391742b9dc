//! The names of an adapter's tensors: which part of which module each one is.

/// What PEFT puts before the name of every module.
const PREFIX: &str = "base_model.model.";
/// Behind these some tools keep the adapter's name, which PEFT takes out.
const BEFORE_A_NAME: [&str; 7] = [
    "lora_A",
    "lora_B",
    "lora_embedding_A",
    "lora_embedding_B",
    "lora_magnitude_vector",
    "modules_to_save",
    "trainable_tokens_delta",
];

/// A part of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// `[rank, in]`
    A,
    /// `[out, rank]`
    B,
    /// `[out]`
    BiasOfB,
    /// `[rank, vocabulary]`
    EmbeddingA,
    /// `[hidden, rank]`
    EmbeddingB,
    /// `[out]`
    Magnitude,
    /// The base's own weight, which is saved along with adapters of embeddings.
    BaseCopy,
    /// `[tokens, hidden]`, rows that take the place of the base's.
    Tokens,
    /// A tensor that takes the place of the base's.
    Whole,
}

impl Part {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Part::A => "lora_A.weight",
            Part::B => "lora_B.weight",
            Part::BiasOfB => "lora_B.bias",
            Part::EmbeddingA => "lora_embedding_A",
            Part::EmbeddingB => "lora_embedding_B",
            Part::Magnitude => "lora_magnitude_vector",
            Part::BaseCopy => "base_layer.weight",
            Part::Tokens => "token_adapter.trainable_tokens_delta",
            Part::Whole => "weight",
        }
    }
}

/// A key, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// For [`Part::Whole`] the base's tensor, `weight` or `bias` included.
    pub(crate) module: String,
    pub(crate) part: Part,
}

/// # Errors
/// What is wrong with the name.
pub(crate) fn parse(key: &str) -> Result<Key, String> {
    let Some(rest) = key.strip_prefix(PREFIX) else {
        return Err(format!(
            "does not begin with `{PREFIX}`, as PEFT's names do"
        ));
    };
    let mut parts: Vec<&str> = rest.split('.').collect();
    if let Some(at) = parts.iter().position(|part| BEFORE_A_NAME.contains(part))
        && parts.get(at + 1) == Some(&"default")
    {
        parts.remove(at + 1);
    }
    let (module, part) = match parts.as_slice() {
        [module @ .., "lora_A", "weight"] => (module, Part::A),
        [module @ .., "lora_B", "weight"] => (module, Part::B),
        [module @ .., "lora_B", "bias"] => (module, Part::BiasOfB),
        [module @ .., "lora_embedding_A"] => (module, Part::EmbeddingA),
        [module @ .., "lora_embedding_B"] => (module, Part::EmbeddingB),
        [module @ .., "lora_magnitude_vector"]
        | [module @ .., "lora_magnitude_vector", "weight"] => (module, Part::Magnitude),
        [module @ .., "base_layer", "weight"] => (module, Part::BaseCopy),
        [module @ .., "modules_to_save", leaf @ ("weight" | "bias")] => {
            let tensor = format!("{}.{leaf}", module.join("."));
            return Ok(whole(tensor));
        }
        [module @ .., "token_adapter", "trainable_tokens_delta"] => (module, Part::Tokens),
        [module @ .., "weight" | "bias"]
            if !module.iter().any(|part| part.starts_with("lora_")) =>
        {
            return Ok(whole(rest.to_owned()));
        }
        _ => return Err("is no part of a LoRA that is known here".to_owned()),
    };
    Ok(Key {
        module: module.join("."),
        part,
    })
}

fn whole(tensor: String) -> Key {
    Key {
        module: tensor,
        part: Part::Whole,
    }
}
