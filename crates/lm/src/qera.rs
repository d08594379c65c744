//! LoRA that begins at what quantizing the base loses.

use flametune_peft::{QeraInit, QeraReport};

use crate::error::Result;
use crate::eva::EvaBatch;
use crate::model::CausalLm;

impl CausalLm {
    /// Sets the factors of the LoRA adapter `name` over this quantized model so that its layers'
    /// outputs are nearest to those of `dense`, the same model before it was quantized, on the inputs
    /// that its layers see of `batches`.
    ///
    /// # Errors
    /// Those of [`QeraInit`] and [`forward`](Self::forward).
    pub fn begin_at_dense(
        &mut self,
        name: &str,
        dense: &mut Self,
        batches: &[EvaBatch],
    ) -> Result<QeraReport> {
        let mut qera = QeraInit::begin(dense)?;
        for EvaBatch { batch, counts } in batches {
            dense.forward(batch, None, &qera.pass())?;
            qera.update(counts)?;
        }
        Ok(qera.finish(dense, self, name)?)
    }
}
