//! How virtual tokens stand among the slots of a batch.
//!
//! ```text
//! slots    [ prefix: keys and values alone | vectors in front of the input | tokens … ]
//! row 0      · · ·                           v v v v                         t t t t
//! row 1      p p p                           · · · ·                         · t t t
//! ```
//!
//! Rows with fewer virtual tokens than others have padding (`·`) in their place, which nothing
//! attends to.
//! Positions count what a row has, so each row computes what it would compute alone.
//!
//! # Source
//! - reference: peft `peft_model.py::PeftModelForCausalLM.forward`
//! - differs: PEFT counts padding on the left as positions, so that there a row with virtual
//!   tokens depends on its neighbours

use burn::tensor::Tensor;
use flametune_kernels::AttentionMask;
use flametune_peft::{AdapterPass, AdapterPrompt, PrefixKeysValues, VirtualTokens};

use crate::batch::TokenBatch;
use crate::cache::{KvCache, Slots};
use crate::error::{Error, Result};

/// A batch that has taken its slots.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The position of every query, `[batch, virtual + seq]`.
    pub(crate) positions: Vec<u32>,
    /// Which keys each query sees.
    pub(crate) mask: AttentionMask,
    /// The vectors in front of the input that enter with this batch.
    pub(crate) input: Option<Tensor<3>>,
    /// The keys and values that enter with it.
    pub(crate) prefix: Option<PrefixKeysValues>,
}

impl Entry {
    /// Gives `batch` its slots, behind the virtual tokens of `pass` when it is the first.
    pub(crate) fn new(
        prompt: &AdapterPrompt,
        batch: &TokenBatch,
        cache: Option<&mut KvCache>,
        pass: &AdapterPass,
        dtype: burn::tensor::DType,
    ) -> Result<Self> {
        let rows = batch.batch();
        let begins = cache.as_ref().is_none_or(|cache| cache.is_empty());
        let tokens = match begins {
            true => prompt.rows(pass, rows),
            false => VirtualTokens::default(),
        };
        let (positions, mask) = match cache {
            Some(cache) => {
                let positions = cache.extend(batch, &tokens)?;
                (positions, causal_mask(cache.slots(), batch, &tokens))
            }
            None => {
                let mut slots = Slots::new(rows);
                slots.check(batch, &tokens)?;
                let positions = slots.extend(batch, &tokens);
                (positions, causal_mask(&slots, batch, &tokens))
            }
        };
        let (input, prefix) = match begins {
            true => (
                prompt.input(pass, rows, dtype),
                prompt.keys_values(pass, rows, dtype),
            ),
            false => (None, None),
        };
        Ok(Self {
            positions,
            mask,
            input,
            prefix,
        })
    }
}

/// The causal mask of tokens, and of the vectors in front of them, whose slots are the last ones.
fn causal_mask(slots: &Slots, batch: &TokenBatch, tokens: &VirtualTokens) -> AttentionMask {
    let mask = AttentionMask::causal(slots.len() - batch.seq() - tokens.input_len());
    let plain = slots.segments.iter().flatten().all(|&segment| segment == 1);
    if plain {
        mask
    } else {
        mask.with_segments(slots.segments.as_slice())
    }
}

/// Puts vectors in front of the embeddings.
pub(crate) fn in_front(input: Option<Tensor<3>>, embedded: Tensor<3>) -> Tensor<3> {
    match input {
        Some(input) => Tensor::cat(vec![input, embedded], 1),
        None => embedded,
    }
}

/// Puts keys or values in front of the tokens' own.
pub(crate) fn in_front_of_heads(prefix: Tensor<4>, own: Tensor<4>) -> Tensor<4> {
    Tensor::cat(vec![prefix, own], 2)
}

/// The states of the tokens alone, without those of virtual tokens.
pub(crate) fn tokens_only(states: Tensor<3>, seq: usize) -> Tensor<3> {
    match states.dims()[1] {
        all if all > seq => states.narrow(1, all - seq, seq),
        _ => states,
    }
}

/// Checks that no row holds several sequences, which virtual tokens cannot be in front of at once.
pub(crate) fn check_single(batch: &TokenBatch) -> Result<()> {
    let segments = batch.segment_ids().unwrap_or_default();
    match segments.iter().position(|&segment| segment > 1) {
        None => Ok(()),
        Some(place) => Err(Error::PackedPrompt {
            row: place / batch.seq(),
            segment: segments[place],
        }),
    }
}
