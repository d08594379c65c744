//! What a checkpoint and a model say for an adapter's passport.

use burn::tensor::DType;
use flametune_peft::{AdapterPass, BaseDigest, Probe};

use crate::batch::TokenBatch;
use crate::checkpoint::TensorSource;
use crate::error::Result;
use crate::model::CausalLm;

/// The digest of a checkpoint's weights, see [`BaseDigest`].
///
/// Tensors are taken in the order of their names, so that shards make no difference. Those of
/// safetensors go in as they are stored, those of GGUF as the f32 numbers they stand for.
///
/// # Errors
/// When a tensor of a GGUF file cannot be read.
pub fn base_digest(source: &dyn TensorSource) -> Result<String> {
    let mut digest = BaseDigest::new();
    for name in source.names() {
        let Some(info) = source.info(&name) else {
            continue;
        };
        match source.stored(&name) {
            Some(part) => digest.add(&name, &info.dtype, &info.shape, &part.bytes),
            None => {
                let numbers = source.read(&name, DType::F32)?;
                digest.add(&name, &info.dtype, &info.shape, numbers.as_bytes());
            }
        }
    }
    Ok(digest.finish())
}

impl CausalLm {
    /// What the model answers to a prompt with the adapters of `pass`: the `top` largest logits
    /// after its last token, the largest first, the lower id first among equals.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward).
    pub fn probe(&self, input_ids: &[u32], pass: &AdapterPass, top: usize) -> Result<Probe> {
        let batch = TokenBatch::from_rows(&[input_ids.to_vec()])?;
        let hidden = self.forward(&batch, None, pass)?;
        let last = hidden.narrow(1, batch.seq() - 1, 1);
        let logits = self.logits(last, pass).into_data();
        let mut ranked: Vec<(u32, f32)> = (0..).zip(logits.iter::<f32>()).collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        ranked.truncate(top);
        Ok(Probe {
            input_ids: input_ids.to_vec(),
            top: ranked,
        })
    }

    /// The largest difference between the logits of a probe and what this model answers.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward).
    pub fn probe_difference(&self, probe: &Probe, pass: &AdapterPass) -> Result<f32> {
        let own = self.probe(&probe.input_ids, pass, self.vocab_size())?;
        let value = |id: u32| own.top.iter().find(|(own, _)| *own == id).map(|&(_, x)| x);
        let differences = probe
            .top
            .iter()
            .map(|&(id, expected)| value(id).map_or(f32::INFINITY, |own| (own - expected).abs()));
        Ok(differences.fold(0.0, f32::max))
    }
}
