//! How likely a model finds continuations, without an engine.

use burn::tensor::Tensor;
use flametune_kernels::in_pool;
use flametune_lm::{AdapterPass, CausalLm, KvCache, TokenBatch};

use crate::draw::argmax;
use crate::engine::Score;
use crate::error::{Error, Result};
use crate::logprobs::TokenLogprobs;
use crate::processors::Scratch;

/// Tokens that are read at once, and whose logits are in memory at once.
const CHUNK: usize = 256;

/// Judges continuations one after the other.
///
/// A context is read once for all continuations that follow each other with it. Its last token is
/// read together with the continuation whether others share the context or not, so a score depends
/// on context and continuation alone, to the bit: not on what else is in the call, nor on its order.
///
/// # Examples
/// ```no_run
/// # fn example(model: &flametune_lm::CausalLm) -> flametune_infer::Result<()> {
/// use flametune_infer::Scorer;
///
/// let pairs = [(vec![1, 2, 3], vec![4, 5]), (vec![1, 2, 3], vec![6])];
/// let scores = Scorer::new(model).score(&pairs)?;
/// let better = scores[0].total() > scores[1].total();
/// # let _ = better;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Scorer<'m> {
    model: &'m CausalLm,
    pass: AdapterPass,
}

impl<'m> Scorer<'m> {
    /// Judges with `model`.
    #[must_use]
    pub fn new(model: &'m CausalLm) -> Self {
        Self {
            model,
            pass: AdapterPass::default(),
        }
    }

    /// Judges with the adapters of `pass`, which must be the same for all rows.
    #[must_use]
    pub fn with_pass(mut self, pass: AdapterPass) -> Self {
        self.pass = pass;
        self
    }

    /// Judges pairs of context and continuation; the scores are in their order.
    ///
    /// # Errors
    /// - [`Error::EmptyPrompt`] for an empty context, [`Error::InvalidParam`] for an empty
    ///   continuation, [`Error::PromptTooLong`] and [`Error::PromptTokenOutOfRange`], each with the
    ///   number of the pair: found before anything runs
    /// - [`Error::NonFiniteLogit`] with the place in the continuation as its step
    /// - [`Error::Lm`] for what the model reports
    pub fn score<C: AsRef<[u32]> + Sync, D: AsRef<[u32]> + Sync>(
        &self,
        pairs: &[(C, D)],
    ) -> Result<Vec<Score>> {
        self.model.check_predicts_tokens()?;
        for (request, (context, continuation)) in pairs.iter().enumerate() {
            self.check(request, context.as_ref(), continuation.as_ref())?;
        }
        in_pool(|| self.run(pairs))
    }

    fn check(&self, request: usize, context: &[u32], continuation: &[u32]) -> Result<()> {
        if context.is_empty() {
            return Err(Error::EmptyPrompt { request });
        }
        if continuation.is_empty() {
            return Err(Error::InvalidParam {
                field: "continuation",
                expected: "at least one token",
                got: "none".to_owned(),
            });
        }
        // The last token is judged and not read.
        let len = context.len() + continuation.len() - 1;
        let max_context = self.model.max_position_embeddings();
        if len + self.model.virtual_tokens(&self.pass) > max_context {
            return Err(Error::PromptTooLong {
                request,
                len,
                max_context,
            });
        }
        let vocab_size = self.model.vocab_size();
        let mut tokens = context.iter().chain(continuation).enumerate();
        match tokens.find(|&(_, &id)| id as usize >= vocab_size) {
            None => Ok(()),
            Some((position, &id)) => Err(Error::PromptTokenOutOfRange {
                request,
                position,
                id,
                vocab_size,
            }),
        }
    }

    fn run<C: AsRef<[u32]>, D: AsRef<[u32]>>(&self, pairs: &[(C, D)]) -> Result<Vec<Score>> {
        let mut scores = Vec::with_capacity(pairs.len());
        let mut scratch = Scratch::default();
        let mut left = pairs;
        while let Some((context, _)) = left.first() {
            let context = context.as_ref();
            let alike = left
                .iter()
                .take_while(|(other, _)| other.as_ref() == context)
                .count();
            let (group, rest) = left.split_at(alike);
            let longest = group.iter().map(|(_, own)| own.as_ref().len()).max();
            let cache = self.read(context, longest.unwrap_or(0))?;
            for (_, continuation) in group {
                // Tensors are copied when the first of several owners writes to them.
                let mut cache = cache.clone();
                scores.push(self.judge(
                    context,
                    continuation.as_ref(),
                    &mut cache,
                    &mut scratch,
                )?);
            }
            left = rest;
        }
        Ok(scores)
    }

    /// Reads a context up to its last token.
    fn read(&self, context: &[u32], room: usize) -> Result<KvCache> {
        let mut cache = self.model.new_cache(1, context.len() + room);
        for tokens in context[..context.len() - 1].chunks(CHUNK) {
            let batch = TokenBatch::from_rows(&[tokens.to_vec()])?;
            self.model.forward(&batch, Some(&mut cache), &self.pass)?;
        }
        Ok(cache)
    }

    /// Reads the last token of the context and the continuation, and looks up each of its tokens.
    fn judge(
        &self,
        context: &[u32],
        continuation: &[u32],
        cache: &mut KvCache,
        scratch: &mut Scratch,
    ) -> Result<Score> {
        let mut read = context[context.len() - 1..].to_vec();
        read.extend_from_slice(&continuation[..continuation.len() - 1]);
        let mut score = Score {
            logprobs: Vec::with_capacity(continuation.len()),
            is_greedy: true,
        };
        for (tokens, targets) in read.chunks(CHUNK).zip(continuation.chunks(CHUNK)) {
            let batch = TokenBatch::from_rows(&[tokens.to_vec()])?;
            let hidden: Tensor<3> = self.model.forward(&batch, Some(cache), &self.pass)?;
            let logits = self.model.logits(hidden, &self.pass);
            let logits = logits.into_data().convert::<f32>();
            let logits = logits.try_into_vec::<f32>().unwrap_or_default();
            let rows = logits.chunks_exact(self.model.vocab_size().max(1));
            for (logits, &target) in rows.zip(targets) {
                note(&mut score, logits, target, scratch)?;
            }
        }
        if score.logprobs.len() != continuation.len() {
            return Err(Error::LogitCount {
                expected: continuation.len() * self.model.vocab_size(),
                got: score.logprobs.len() * self.model.vocab_size(),
            });
        }
        Ok(score)
    }
}

/// Adds one token to a score.
pub(crate) fn note(
    score: &mut Score,
    logits: &[f32],
    target: u32,
    scratch: &mut Scratch,
) -> Result<()> {
    let unusable = |x: &f32| x.is_nan() || *x == f32::INFINITY;
    if let Some(id) = logits.iter().position(unusable) {
        return Err(Error::NonFiniteLogit {
            step: score.logprobs.len(),
            id,
            value: logits[id],
        });
    }
    let logprob = TokenLogprobs::of(logits, target, 0, scratch).logprob;
    score.logprobs.push(logprob);
    score.is_greedy &= argmax(logits) == Some(target);
    Ok(())
}
