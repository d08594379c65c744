//! The handlers, a file for each part of the interface.

pub(crate) mod adapters;
pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod embeddings;
pub(crate) mod models;
pub(crate) mod probes;
pub(crate) mod tokenize;
