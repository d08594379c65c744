//! How the next token is chosen and when a request ends.

use crate::error::{Error, Result};

/// Below this temperature sampling is greedy, since dividing by it would only overflow.
pub(crate) const GREEDY_BELOW: f32 = 1e-5;

/// Sampling and length options of one request.
///
/// Meanings and neutral values are those of transformers and vLLM.
/// The default chooses greedily, changes no logit and stops after 256 tokens.
///
/// The options apply in the order of transformers' `generate`: `logit_bias`, `repetition_penalty`,
/// `frequency_penalty` and `presence_penalty`, `no_repeat_ngram_size`, `bad_words`, `min_tokens`;
/// then, unless the choice is greedy, `temperature`, `top_h`, `top_k`, `top_p`, `min_p`,
/// `typical_p`, `epsilon_cutoff`, `eta_cutoff`.
///
/// # Examples
/// ```
/// use flametune_infer::SamplingParams;
///
/// let params = SamplingParams { temperature: 0.7, top_p: 0.9, seed: 3, ..SamplingParams::default() };
/// assert!(params.validate().is_ok());
///
/// let wrong = SamplingParams { temperature: f32::NAN, ..SamplingParams::default() };
/// let message = wrong.validate().unwrap_err().to_string();
/// assert_eq!(message, "temperature must be finite and >= 0, got NaN");
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 (and anything below 1e-5) chooses the most likely token.
    pub temperature: f32,
    /// Keeps the `top_k` most likely tokens and those tied with the last of them; 0 keeps all.
    pub top_k: usize,
    /// Keeps the fewest tokens whose probabilities sum to `top_p`; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least `min_p` times as likely as the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens in prompt and output; 1 is neutral.
    pub repetition_penalty: f32,
    /// Subtracted once from each token of the output; 0 is neutral.
    pub presence_penalty: f32,
    /// Subtracted from each token of the output as often as it occurs there; 0 is neutral.
    pub frequency_penalty: f32,
    /// Rarely used ways to cut off unlikely tokens.
    pub cutoffs: Cutoffs,
    /// Tokens and sequences to favour or forbid.
    pub token_rules: TokenRules,
    /// Seed of the draws; a request draws the same numbers whatever else is in its batch.
    pub seed: u64,
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// Fewest tokens to generate: before, no token of `stop_token_ids` can be chosen.
    pub min_tokens: usize,
    /// Tokens that end the output.
    pub stop_token_ids: Vec<u32>,
}

/// Cut-offs beyond top-k, top-p and min-p; `None` switches one off.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cutoffs {
    /// Keeps the tokens nearest to the expected surprise until they sum to this mass.
    pub typical_p: Option<f32>,
    /// Keeps the most likely tokens up to this share of the entropy of the 100 most likely ones.
    pub top_h: Option<f32>,
    /// Drops tokens below this probability.
    pub epsilon_cutoff: Option<f32>,
    /// Drops tokens below `min(ε, √ε·exp(−entropy))`.
    pub eta_cutoff: Option<f32>,
}

/// Tokens and sequences to favour or forbid.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TokenRules {
    /// Added to the logit of the last token of a sequence whenever the tokens before it are
    /// already there; a sequence of one token is always biased.
    pub logit_bias: Vec<(Vec<u32>, f32)>,
    /// Sequences that never appear in the output.
    pub bad_words: Vec<Vec<u32>>,
    /// No n-gram of this size appears twice in prompt and output; 0 allows all.
    pub no_repeat_ngram_size: usize,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            cutoffs: Cutoffs::default(),
            token_rules: TokenRules::default(),
            seed: 0,
            max_tokens: 256,
            min_tokens: 0,
            stop_token_ids: Vec::new(),
        }
    }
}

impl SamplingParams {
    /// Whether the most likely token is chosen without a draw.
    #[must_use]
    pub fn is_greedy(&self) -> bool {
        self.temperature < GREEDY_BELOW
    }

    /// Checks every option on its own and the token counts against each other.
    ///
    /// # Errors
    /// [`Error::InvalidParam`] for the first option outside its range.
    pub fn validate(&self) -> Result<()> {
        let finite = f32::is_finite;
        let unit = |x: f32| (0.0..=1.0).contains(&x);
        let open_unit = |x: f32| x > 0.0 && x < 1.0;
        check("temperature", self.temperature, "finite and >= 0", |t| {
            finite(t) && t >= 0.0
        })?;
        check("top_p", self.top_p, "between 0 and 1", unit)?;
        check("min_p", self.min_p, "between 0 and 1", unit)?;
        check(
            "repetition_penalty",
            self.repetition_penalty,
            "finite and > 0",
            |p| finite(p) && p > 0.0,
        )?;
        check("presence_penalty", self.presence_penalty, "finite", finite)?;
        check(
            "frequency_penalty",
            self.frequency_penalty,
            "finite",
            finite,
        )?;
        let cutoffs = [
            ("typical_p", self.cutoffs.typical_p),
            ("epsilon_cutoff", self.cutoffs.epsilon_cutoff),
            ("eta_cutoff", self.cutoffs.eta_cutoff),
        ];
        for (field, value) in cutoffs {
            if let Some(value) = value {
                check(field, value, "above 0 and below 1", open_unit)?;
            }
        }
        if let Some(top_h) = self.cutoffs.top_h {
            check("top_h", top_h, "above 0 and at most 1", |h| {
                h > 0.0 && h <= 1.0
            })?;
        }
        self.token_rules.validate()?;
        if self.max_tokens == 0 {
            return Err(invalid("max_tokens", "at least 1", &0));
        }
        if self.min_tokens > self.max_tokens {
            return Err(invalid(
                "min_tokens",
                "at most max_tokens",
                &self.min_tokens,
            ));
        }
        Ok(())
    }

    /// Checks that the options name only tokens of a vocabulary.
    ///
    /// Stop ids outside it are allowed: they never occur, so they never stop anything.
    ///
    /// # Errors
    /// [`Error::UnknownToken`] for the first id outside.
    pub fn validate_vocab(&self, vocab_size: usize) -> Result<()> {
        let biases = self
            .token_rules
            .logit_bias
            .iter()
            .map(|(ids, _)| ("logit_bias", ids));
        let bans = self
            .token_rules
            .bad_words
            .iter()
            .map(|ids| ("bad_words", ids));
        for (field, ids) in biases.chain(bans) {
            if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
                return Err(Error::UnknownToken {
                    field,
                    id,
                    vocab_size,
                });
            }
        }
        Ok(())
    }
}

impl TokenRules {
    fn validate(&self) -> Result<()> {
        for (ids, bias) in &self.logit_bias {
            if ids.is_empty() {
                return Err(invalid(
                    "logit_bias",
                    "for at least one token",
                    &"an empty sequence",
                ));
            }
            check("logit_bias", *bias, "finite or -inf", |b| {
                b.is_finite() || b == f32::NEG_INFINITY
            })?;
        }
        if self.bad_words.iter().any(Vec::is_empty) {
            return Err(invalid(
                "bad_words",
                "sequences of at least one token",
                &"an empty one",
            ));
        }
        Ok(())
    }
}

fn check(
    field: &'static str,
    value: f32,
    expected: &'static str,
    accepts: impl Fn(f32) -> bool,
) -> Result<()> {
    if accepts(value) {
        Ok(())
    } else {
        Err(invalid(field, expected, &value))
    }
}

fn invalid(field: &'static str, expected: &'static str, got: &dyn ToString) -> Error {
    Error::InvalidParam {
        field,
        expected,
        got: got.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(change: impl FnOnce(&mut SamplingParams)) -> String {
        let mut params = SamplingParams::default();
        change(&mut params);
        params.validate().unwrap_err().to_string()
    }

    #[test]
    fn default_is_greedy_and_valid() {
        let params = SamplingParams::default();
        assert!(params.is_greedy());
        params.validate().unwrap();
    }

    #[test]
    fn every_option_is_checked_by_name_and_value() {
        let nan = f32::NAN;
        let cases: [(String, &str); 16] = [
            (
                message(|p| p.temperature = nan),
                "temperature must be finite and >= 0, got NaN",
            ),
            (
                message(|p| p.temperature = -0.5),
                "temperature must be finite and >= 0, got -0.5",
            ),
            (
                message(|p| p.top_p = 1.5),
                "top_p must be between 0 and 1, got 1.5",
            ),
            (
                message(|p| p.min_p = nan),
                "min_p must be between 0 and 1, got NaN",
            ),
            (
                message(|p| p.repetition_penalty = 0.0),
                "repetition_penalty must be finite and > 0, got 0",
            ),
            (
                message(|p| p.presence_penalty = f32::INFINITY),
                "presence_penalty must be finite, got inf",
            ),
            (
                message(|p| p.frequency_penalty = nan),
                "frequency_penalty must be finite, got NaN",
            ),
            (
                message(|p| p.cutoffs.typical_p = Some(1.0)),
                "typical_p must be above 0 and below 1, got 1",
            ),
            (
                message(|p| p.cutoffs.epsilon_cutoff = Some(0.0)),
                "epsilon_cutoff must be above 0 and below 1, got 0",
            ),
            (
                message(|p| p.cutoffs.eta_cutoff = Some(nan)),
                "eta_cutoff must be above 0 and below 1, got NaN",
            ),
            (
                message(|p| p.cutoffs.top_h = Some(0.0)),
                "top_h must be above 0 and at most 1, got 0",
            ),
            (
                message(|p| p.token_rules.logit_bias = vec![(vec![1], f32::INFINITY)]),
                "logit_bias must be finite or -inf, got inf",
            ),
            (
                message(|p| p.token_rules.logit_bias = vec![(vec![], 1.0)]),
                "logit_bias must be for at least one token, got an empty sequence",
            ),
            (
                message(|p| p.token_rules.bad_words = vec![vec![]]),
                "bad_words must be sequences of at least one token, got an empty one",
            ),
            (
                message(|p| p.max_tokens = 0),
                "max_tokens must be at least 1, got 0",
            ),
            (
                message(|p| p.min_tokens = 300),
                "min_tokens must be at most max_tokens, got 300",
            ),
        ];
        for (got, expected) in cases {
            assert_eq!(got, expected);
        }
    }

    #[test]
    fn rules_name_only_known_tokens() {
        let mut params = SamplingParams {
            stop_token_ids: vec![99],
            ..SamplingParams::default()
        };
        params.validate_vocab(10).unwrap();
        params.token_rules.bad_words = vec![vec![3, 10]];
        assert_eq!(
            params.validate_vocab(10).unwrap_err().to_string(),
            "bad_words names token 10, but the vocabulary has 10 tokens"
        );
    }
}
