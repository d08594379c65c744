//! The tensors that bitsandbytes' 4-bit and 8-bit layers are stored as.
//!
//! ```text
//! X.weight                                U8  [⌈n/2⌉, 1]    codes, two a byte
//! X.weight.absmax                         F32 [n_blocks], or U8 where scales are quantized in turn
//! X.weight.quant_map                      F32 [16]          the codebook
//! X.weight.nested_absmax                  F32 [⌈n_blocks / nested_blocksize⌉]
//! X.weight.nested_quant_map               F32 [256]         the signed dynamic map
//! X.weight.quant_state.bitsandbytes__nf4  U8  [..]          JSON: type, block sizes, shape, offset
//! ```
//!
//! `__nf4` is `__fp4` for that kind, and the `nested_` parts exist only with double quantization.
//! 8-bit layers (`Linear8bitLt`) have one scale for every row, and their codes keep their shape:
//!
//! ```text
//! X.weight         I8  [d_out, d_in]  codes
//! X.SCB            F32 [d_out]        the largest magnitude of each row
//! X.weight_format  U8  []             0
//! ```
//!
//! This module maps between a [`QuantTensor`](crate::QuantTensor) and these parts; finding them in
//! a file is the business of whoever reads the file.
//!
//! # Source
//! - reference: bitsandbytes `functional.py::QuantState.{as_dict, from_dict}` and
//!   `nn/modules.py::{Linear4bit, Linear8bitLt}._save_to_state_dict`; goldens
//!   `fixtures/quant/linear4bit_state_dict*.safetensors`

mod error;
mod plan;
mod read;
mod rows;
mod state;
mod write;

use std::borrow::Cow;

use safetensors::Dtype;

use crate::config::QuantKind;

pub(crate) use plan::{Header, PartBytes, plan};

pub use error::BnbLayoutError;
pub use read::{Description, describe, read};
pub use write::write;

/// The kinds that the layout knows.
const KINDS: [QuantKind; 2] = [QuantKind::Nf4, QuantKind::Fp4];

/// The names of the parts, behind the weight's and a dot.
const ABSMAX: &str = "absmax";
const QUANT_MAP: &str = "quant_map";
const NESTED_ABSMAX: &str = "nested_absmax";
const NESTED_QUANT_MAP: &str = "nested_quant_map";

/// The names of what stands beside an 8-bit weight, behind its layer's and a dot.
const ROW_SCALES: &str = "SCB";
const WEIGHT_FORMAT: &str = "weight_format";

/// A stored tensor: element type, shape and little-endian bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct BnbPart<'a> {
    /// The element type.
    pub dtype: Dtype,
    /// The shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// The elements in row-major order.
    pub bytes: Cow<'a, [u8]>,
}

/// The name of the part that says how a weight is quantized, for each kind there is.
///
/// A weight is stored in this layout when one of them exists.
///
/// # Examples
/// ```
/// use flametune_quant::bnb_layout::state_names;
///
/// let [nf4, _] = state_names("lm.q_proj.weight");
/// assert_eq!(nf4, "lm.q_proj.weight.quant_state.bitsandbytes__nf4");
/// ```
pub fn state_names(weight: &str) -> [String; 2] {
    KINDS.map(|kind| part_name(weight, &state_part(kind)))
}

/// The weight that a stored tensor is a part of, unless it is a weight itself.
///
/// # Examples
/// ```
/// use flametune_quant::bnb_layout::weight_of;
///
/// assert_eq!(weight_of("lm.q_proj.weight.absmax"), Some("lm.q_proj.weight"));
/// assert_eq!(weight_of("lm.q_proj.weight"), None);
/// ```
pub fn weight_of(name: &str) -> Option<&str> {
    let states = KINDS.map(state_part);
    [ABSMAX, QUANT_MAP, NESTED_ABSMAX, NESTED_QUANT_MAP]
        .into_iter()
        .chain(states.iter().map(String::as_str))
        .find_map(|part| name.strip_suffix(part)?.strip_suffix('.'))
}

/// Whether the weight of this name is stored as a quantized one, by what else is stored.
///
/// # Examples
/// ```
/// use flametune_quant::bnb_layout::is_stored;
///
/// let stored = ["a.weight", "a.weight.quant_state.bitsandbytes__nf4", "b.weight", "b.SCB"];
/// let has = |name: &str| stored.contains(&name);
/// assert!(is_stored("a.weight", has) && is_stored("b.weight", has));
/// assert!(!is_stored("a.bias", has));
/// ```
pub fn is_stored(weight: &str, has: impl Fn(&str) -> bool) -> bool {
    let states = state_names(weight);
    // Scales without a state are a broken weight, not an ordinary one.
    states.iter().any(|name| has(name))
        || has(&part_name(weight, ABSMAX))
        || sibling_name(weight, ROW_SCALES).is_some_and(|name| has(&name))
}

/// The name of what stands beside `X.weight`: `X.part`.
fn sibling_name(weight: &str, part: &str) -> Option<String> {
    let layer = weight.strip_suffix("weight")?;
    (layer.is_empty() || layer.ends_with('.')).then(|| format!("{layer}{part}"))
}

fn state_part(kind: QuantKind) -> String {
    format!("quant_state.bitsandbytes__{kind}")
}

fn part_name(weight: &str, part: &str) -> String {
    format!("{weight}.{part}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_belongs_to_its_weight() {
        let states = state_names("a.weight");
        let parts = [
            "a.weight.absmax",
            "a.weight.quant_map",
            "a.weight.nested_absmax",
            "a.weight.nested_quant_map",
            &states[0],
            &states[1],
        ];
        for part in parts {
            assert_eq!(weight_of(part), Some("a.weight"), "{part}");
        }
        for other in [
            "a.weight",
            "a.bias",
            "absmax",
            "a.weight.SCB",
            "a.weightabsmax",
        ] {
            assert_eq!(weight_of(other), None, "{other}");
        }
    }
}
