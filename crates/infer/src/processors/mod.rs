//! Logit processors: each changes the logits of one position in place, −∞ removes a token.
//!
//! Inputs are finite or −∞.
//! Cut-offs leave the logits of the tokens they keep, and all but `typical_p` keep the most likely token.
//! None of them sorts a whole vocabulary.

mod bad_words;
mod epsilon_cutoff;
mod eta_cutoff;
mod min_p;
mod min_tokens;
mod no_repeat_ngram;
mod occurrence;
mod repetition;
mod scratch;
mod sequence_bias;
mod temperature;
mod top_h;
mod top_k;
mod top_p;
mod typical_p;

pub use bad_words::bad_words;
pub use epsilon_cutoff::epsilon_cutoff;
pub use eta_cutoff::eta_cutoff;
pub use min_p::min_p;
pub use min_tokens::min_tokens;
pub use no_repeat_ngram::no_repeat_ngram;
pub use occurrence::occurrence_penalties;
pub use repetition::repetition_penalty;
pub use scratch::Scratch;
pub use sequence_bias::sequence_bias;
pub use temperature::temperature;
pub use top_h::top_h;
pub use top_k::top_k;
pub use top_p::top_p;
pub use typical_p::typical_p;

pub(crate) use scratch::{Softmax, collect_keys, order_descending, token_of};
