//! The bodies of requests and answers, as OpenAI and vLLM spell them.

mod adapters;
mod chat;
mod completion;
mod embedding;
mod error;
mod model;
mod options;
mod tokenize;
mod usage;

pub(crate) use adapters::{LoadLoraRequest, UnloadLoraRequest};
pub(crate) use chat::{
    ChatChoice, ChatChunk, ChatDelta, ChatLogprobs, ChatMessage, ChatRequest, ChatResponse,
    ChunkChoice, TokenLogprob, TopLogprob,
};
pub(crate) use completion::{
    CompletionChoice, CompletionLogprobs, CompletionRequest, CompletionResponse, Prompt,
};
pub(crate) use embedding::{
    Embedding, EmbeddingInput, EmbeddingRequest, EmbeddingResponse, Encoding, Vector,
};
pub(crate) use error::{ApiError, ErrorBody};
pub(crate) use model::{ModelInfo, ModelList};
pub(crate) use options::{ResponseFormat, SamplingOptions};
pub(crate) use tokenize::{TokenizeRequest, TokenizeResponse};
pub(crate) use usage::{PromptTokensDetails, UsageBody};
