//! Prompts in, continuations out.

mod decode;
mod request;
mod row;
mod steady;
mod step_model;

use flametune_kernels::in_pool;
use flametune_lm::{AdapterPass, CausalLm};

use crate::error::Result;

use step_model::Adapted;

pub use request::{Control, Event, FinishReason, Output, Request};
pub use steady::SteadyGenerator;

/// Columns of the prompts that are read at once, unless the caller wants another number.
const PREFILL_CHUNK: usize = 512;

/// Continues prompts with a language model.
///
/// All requests of a call run as one batch: the prompts are read in chunks, then every step adds a
/// token to each row that is not done. How many requests fit is for the caller to decide: the
/// memory of the KV cache is rows × (longest prompt + largest `max_tokens`).
///
/// Draws depend on a request's seed and index, never on its neighbours.
#[derive(Debug, Clone)]
pub struct Generator<'m> {
    model: &'m CausalLm,
    pass: AdapterPass,
    prefill_chunk: usize,
}

impl<'m> Generator<'m> {
    /// Generates with `model`, reading prompts 512 columns at a time.
    #[must_use]
    pub fn new(model: &'m CausalLm) -> Self {
        Self {
            model,
            pass: AdapterPass::default(),
            prefill_chunk: PREFILL_CHUNK,
        }
    }

    /// Generates with the adapters of `pass`, which must be the same for all rows.
    #[must_use]
    pub fn with_pass(mut self, pass: AdapterPass) -> Self {
        self.pass = pass;
        self
    }

    /// Reads prompts `columns` at a time, at least one: fewer need less memory, more are faster.
    #[must_use]
    pub fn with_prefill_chunk(mut self, columns: usize) -> Self {
        self.prefill_chunk = columns;
        self
    }

    /// Continues the requests together; the outputs are in their order.
    ///
    /// # Errors
    /// - [`EmptyPrompt`](crate::Error::EmptyPrompt), [`PromptTooLong`](crate::Error::PromptTooLong)
    ///   and [`PromptTokenOutOfRange`](crate::Error::PromptTokenOutOfRange) for a prompt,
    ///   [`InvalidParam`](crate::Error::InvalidParam) and
    ///   [`UnknownToken`](crate::Error::UnknownToken) for options: found before anything runs
    /// - [`NonFiniteLogit`](crate::Error::NonFiniteLogit) and
    ///   [`NoCandidate`](crate::Error::NoCandidate) while choosing
    /// - [`Lm`](crate::Error::Lm) for what the model reports
    pub fn generate(&self, requests: &[Request]) -> Result<Vec<Output>> {
        self.generate_with(requests, |_| Control::Continue)
    }

    /// Like [`generate`](Self::generate), and reports every token as soon as it is chosen.
    ///
    /// The callback may end a request, for example at a [stop string](crate::StopStrings).
    /// Within a step the requests are reported in their order.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn generate_with(
        &self,
        requests: &[Request],
        mut on_event: impl FnMut(Event<'_>) -> Control + Send,
    ) -> Result<Vec<Output>> {
        self.model.check_predicts_tokens()?;
        // One hand-over to the thread pool for the whole generation instead of one an operation.
        let model = Adapted {
            model: self.model,
            pass: &self.pass,
        };
        in_pool(|| decode::decode(&model, requests, self.prefill_chunk, &mut on_event))
    }
}
