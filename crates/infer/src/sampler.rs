//! The processors and the draw of one request, step by step.

use crate::draw::{argmax, inverse_cdf, uniform};
use crate::error::{Error, Result};
use crate::history::History;
use crate::params::SamplingParams;
use crate::processors::{self as apply, Scratch};

/// Chooses the tokens of one request.
///
/// # Examples
/// ```
/// use flametune_infer::{Sampler, SamplingParams};
///
/// let params = SamplingParams { temperature: 1.0, top_k: 1, ..SamplingParams::default() };
/// let mut sampler = Sampler::new(params, &[4, 2], 0)?;
/// assert_eq!(sampler.choose(&mut [0.5, 2.0, 1.0])?, 1);
/// assert_eq!(sampler.history().tokens(), [4, 2, 1]);
/// # Ok::<(), flametune_infer::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SamplingParams,
    history: History,
    index: u64,
    scratch: Scratch,
}

impl Sampler {
    /// Starts a request after its prompt; `index` tells apart requests with the same seed.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] when an option is outside its range.
    pub fn new(params: SamplingParams, prompt: &[u32], index: u64) -> Result<Self> {
        params.validate()?;
        Ok(Self {
            params,
            history: History::new(prompt),
            index,
            scratch: Scratch::default(),
        })
    }

    /// The options of the request.
    #[must_use]
    pub fn params(&self) -> &SamplingParams {
        &self.params
    }

    /// Prompt and output so far.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Applies the options to the logits of the next position, in the order that
    /// [`SamplingParams`] states.
    pub fn process(&mut self, logits: &mut [f32]) {
        self.adjust(logits);
        if !self.params.is_greedy() {
            self.cut_off(logits);
        }
    }

    /// Processes the logits of the next position, chooses a token and appends it to the output.
    ///
    /// # Errors
    /// - [`Error::NonFiniteLogit`] when a logit is NaN or +∞
    /// - [`Error::NoCandidate`] when the options leave no token to choose from
    pub fn choose(&mut self, logits: &mut [f32]) -> Result<u32> {
        let step = self.history.output().len();
        let unusable = |&x: &f32| x.is_nan() || x == f32::INFINITY;
        if let Some(id) = logits.iter().position(unusable) {
            return Err(Error::NonFiniteLogit {
                step,
                id,
                value: logits[id],
            });
        }
        self.process(logits);
        let token = if self.params.is_greedy() {
            argmax(logits)
        } else {
            let uniform = uniform(self.params.seed, self.index, step as u64);
            inverse_cdf(logits, uniform, &mut self.scratch)
        };
        let token = token.ok_or(Error::NoCandidate { step })?;
        self.history.push(token);
        Ok(token)
    }

    /// The options that also change a greedy choice.
    fn adjust(&self, logits: &mut [f32]) {
        let (params, rules) = (&self.params, &self.params.token_rules);
        let (history, tokens) = (&self.history, self.history.tokens());
        apply::sequence_bias(logits, tokens, &rules.logit_bias);
        apply::repetition_penalty(logits, history, params.repetition_penalty);
        let (presence, frequency) = (params.presence_penalty, params.frequency_penalty);
        apply::occurrence_penalties(logits, history, presence, frequency);
        apply::no_repeat_ngram(logits, tokens, rules.no_repeat_ngram_size);
        apply::bad_words(logits, tokens, &rules.bad_words);
        let generated = history.output().len();
        apply::min_tokens(logits, &params.stop_token_ids, generated, params.min_tokens);
    }

    /// The options that shape the distribution to draw from.
    fn cut_off(&mut self, logits: &mut [f32]) {
        let (params, cutoffs, scratch) = (&self.params, &self.params.cutoffs, &mut self.scratch);
        apply::temperature(logits, params.temperature);
        if let Some(h) = cutoffs.top_h {
            apply::top_h(logits, h, scratch);
        }
        apply::top_k(logits, params.top_k, scratch);
        apply::top_p(logits, params.top_p, scratch);
        apply::min_p(logits, params.min_p);
        if let Some(mass) = cutoffs.typical_p {
            apply::typical_p(logits, mass, scratch);
        }
        if let Some(epsilon) = cutoffs.epsilon_cutoff {
            apply::epsilon_cutoff(logits, epsilon, scratch);
        }
        if let Some(epsilon) = cutoffs.eta_cutoff {
            apply::eta_cutoff(logits, epsilon, scratch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(params: SamplingParams) -> Sampler {
        Sampler::new(params, &[0], 0).unwrap()
    }

    #[test]
    fn bad_logits_are_named() {
        let mut greedy = sampler(SamplingParams::default());
        greedy.choose(&mut [1.0, 0.0]).unwrap();
        let error = greedy.choose(&mut [0.0, f32::NAN]).unwrap_err().to_string();
        assert_eq!(error, "logit of token 1 is NaN at generation step 1");
        let error = greedy
            .choose(&mut [f32::INFINITY, 0.0])
            .unwrap_err()
            .to_string();
        assert_eq!(error, "logit of token 0 is inf at generation step 1");
    }

    #[test]
    fn a_ban_on_every_token_is_an_error() {
        for temperature in [0.0, 1.0] {
            let mut params = SamplingParams {
                temperature,
                ..SamplingParams::default()
            };
            params.token_rules.bad_words = vec![vec![0], vec![1]];
            let error = sampler(params)
                .choose(&mut [1.0, 2.0])
                .unwrap_err()
                .to_string();
            assert_eq!(
                error,
                "no token is left to choose from at generation step 0"
            );
        }
    }

    #[test]
    fn a_bias_beyond_f32_is_an_error_and_no_nonsense() {
        let mut params = SamplingParams {
            temperature: 1.0,
            top_p: 0.9,
            ..SamplingParams::default()
        };
        params.token_rules.logit_bias = vec![(vec![1], f32::MAX), (vec![1], f32::MAX)];
        assert!(matches!(
            sampler(params).choose(&mut [1.0, 2.0]),
            Err(Error::NoCandidate { step: 0 })
        ));
    }

    #[test]
    fn greedy_ignores_what_shapes_a_draw_and_heeds_penalties() {
        let mut greedy = sampler(SamplingParams {
            frequency_penalty: 1.0,
            top_k: 1,
            ..SamplingParams::default()
        });
        let tokens: Vec<u32> = (0..4)
            .map(|_| greedy.choose(&mut [0.0, 1.5, 1.0, 0.9]).unwrap())
            .collect();
        assert_eq!(tokens, [1, 2, 3, 1]);
    }

    #[test]
    fn stop_tokens_wait_for_min_tokens() {
        let params = SamplingParams {
            stop_token_ids: vec![1],
            min_tokens: 2,
            ..SamplingParams::default()
        };
        let mut greedy = sampler(params);
        let tokens: Vec<u32> = (0..3)
            .map(|_| greedy.choose(&mut [0.0, 9.0]).unwrap())
            .collect();
        assert_eq!(tokens, [0, 0, 1]);
    }
}
