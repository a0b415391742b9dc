//! Whole models: configs, token ids, facts, digests, tokenizers; good ones and bad ones.

mod config;
mod folder;
mod gguf;
mod gguf_tokenizer;
mod packed;
mod rope;
mod special;
mod transformers;
mod two_homes;
