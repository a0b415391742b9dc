//! The engine that runs beside (or instead of) a user's containers, and its HTTP APIs.
//!
//! Modules in the order of the flow: a model folder is read, planned and loaded (`boot`), the
//! engine's one loop turns commands into tokens, the ledger says who holds which bytes, and the
//! HTTP layer is the only one that knows JSON.
#![forbid(unsafe_code)]

pub mod args;
pub mod config;

// A model on disk: files, tokenizer, chat template, facts.
pub mod model;
pub mod tokenizer;
pub mod weights;
pub mod adapters;
mod digest;
pub mod model_error;

pub mod chat;
pub mod inspect;
pub mod merge;
pub mod devices;

// The whole life of `serve`.
pub mod boot;
mod opened;
pub mod room;

// The engine, from bytes up.
pub mod memory;
pub mod forward;

pub mod cache;
pub mod scheduler;

pub mod engine;

// What it is told, and what others see of it.
pub mod resizes;
pub mod target;

pub mod report;

pub mod metrics;

pub mod http;

pub mod bench;
pub mod digits;
pub mod error;
