//! One record of a dataset, whatever format it came in.

use serde_json::Value;

use crate::message::Message;

/// What training or evaluation reads: a conversation, a text, or answers compared.
#[derive(Debug, Clone, PartialEq)]
pub enum Example {
    /// A conversation; what the assistant says in it is learned.
    Chat {
        /// The turns, in order.
        messages: Vec<Message>,
        /// The tools that the assistant may call, as the OpenAI API declares them.
        tools: Option<Vec<Value>>,
    },
    /// A text and how it goes on, without a chat template.
    Completion {
        /// What is given.
        prompt: String,
        /// What is learned.
        completion: String,
    },
    /// Plain text, learned from the first token to the last.
    Text(String),
    /// Two answers to one prompt, the first preferred.
    Preference {
        /// The turns before the answers.
        prompt: Vec<Message>,
        /// The preferred answer.
        chosen: Vec<Message>,
        /// The other answer.
        rejected: Vec<Message>,
        /// By how much the first is better, where the dataset says.
        margin: Option<f32>,
    },
    /// An answer that is wanted or not (KTO).
    Judged {
        /// The turns before the answer.
        prompt: Vec<Message>,
        /// The answer.
        completion: Vec<Message>,
        /// Whether the answer is wanted.
        label: bool,
    },
    /// An answer in steps, each right or wrong (process rewards).
    Stepwise {
        /// The turns before the answer.
        prompt: Vec<Message>,
        /// The steps.
        steps: Vec<String>,
        /// Whether each step is right.
        labels: Vec<bool>,
    },
    /// A text and the index of its class.
    Classified {
        /// The text.
        text: String,
        /// Its class, from 0.
        label: usize,
    },
}
