//! Files that are as they should be, and files that lie.

mod folder;
mod gguf;
mod safetensors;
mod split;
mod stream;
mod validate;
