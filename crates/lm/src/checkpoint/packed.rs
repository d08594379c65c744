//! Weights that are stored quantized, in several tensors each.

use std::collections::{BTreeMap, BTreeSet};

use flametune_quant::bnb_layout::{self, BnbPart, Description};
use flametune_quant::{QuantTensor, Result as QuantResult};

use super::TensorSource;
use crate::error::{Error, Result};

/// A parameter of a checkpoint, whether it is stored as one tensor or as several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredWeight {
    /// The name, such as `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// The shape that it has in a model; GGUF's and packed weights included.
    pub shape: Vec<usize>,
    /// How it is stored: `BF16`, `Q4_1`, `nf4`, ….
    pub format: String,
    /// The bytes of all its tensors on disk.
    pub bytes: usize,
    /// What else is known of a quantized weight.
    pub packed: Option<Description>,
}

/// The parameters of a checkpoint, sorted by name, with the parts of quantized weights counted to
/// their weight.
///
/// # Errors
/// [`Error::StoredWeight`] for a quantized weight whose quant state cannot be read.
pub fn stored_weights(source: &dyn TensorSource) -> Result<Vec<StoredWeight>> {
    let names = source.names();
    let mut weights: BTreeMap<String, StoredWeight> = BTreeMap::new();
    let mut parts = BTreeSet::new();
    for name in names.iter().filter(|name| is_packed(source, name)) {
        let (used, described) = collect(source, name, |weight, lookup| {
            bnb_layout::describe(weight, lookup)
        })?;
        let is_part = |other: &&String| bnb_layout::weight_of(other) == Some(name.as_str());
        let all: BTreeSet<String> = used
            .into_iter()
            .chain(names.iter().filter(is_part).cloned())
            .chain([name.clone()])
            .collect();
        let sizes = all.iter().filter_map(|part| source.info(part));
        let weight = StoredWeight {
            name: name.clone(),
            shape: described.shape.clone(),
            format: described.kind.to_string(),
            bytes: sizes.fold(0, |sum, info| sum.saturating_add(info.bytes)),
            packed: Some(described),
        };
        weights.insert(name.clone(), weight);
        parts.extend(all);
    }
    for name in names.iter().filter(|name| !parts.contains(*name)) {
        let Some(info) = source.info(name) else {
            continue;
        };
        let weight = StoredWeight {
            name: name.clone(),
            shape: info.shape,
            format: info.dtype,
            bytes: info.bytes,
            packed: None,
        };
        weights.insert(name.clone(), weight);
    }
    Ok(weights.into_values().collect())
}

/// Whether the weight of this name is stored quantized.
pub(crate) fn is_packed(source: &dyn TensorSource, weight: &str) -> bool {
    bnb_layout::is_stored(weight, |name| source.info(name).is_some())
}

/// Reads a quantized weight, and names the tensors that it consists of.
pub(crate) fn read_packed(
    source: &dyn TensorSource,
    weight: &str,
) -> Result<(BTreeSet<String>, QuantTensor)> {
    let read = collect(source, weight, |weight, lookup| {
        bnb_layout::read(weight, lookup)
    })?;
    for part in &read.0 {
        source.release(part);
    }
    Ok(read)
}

type Lookup<'l, 'a> = &'l mut dyn FnMut(&str) -> Option<BnbPart<'a>>;

/// Does something with the stored parts of a weight, and remembers which parts there were.
fn collect<'a, T>(
    source: &'a dyn TensorSource,
    weight: &str,
    read: impl FnOnce(&str, Lookup<'_, 'a>) -> QuantResult<T>,
) -> Result<(BTreeSet<String>, T)> {
    let mut used = BTreeSet::new();
    let mut lookup = |name: &str| {
        let part = source.stored(name)?;
        used.insert(name.to_owned());
        Some(part)
    };
    let result = read(weight, &mut lookup);
    let file = || {
        source
            .info(weight)
            .map(|info| info.file)
            .unwrap_or_default()
    };
    match result {
        Ok(value) => Ok((used, value)),
        Err(source) => Err(Error::StoredWeight {
            file: file(),
            source: Box::new(source),
        }),
    }
}
