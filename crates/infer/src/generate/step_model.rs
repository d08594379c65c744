//! What the decoding loop needs of a model.

use burn::tensor::Tensor;
use flametune_lm::{AdapterPass, CausalLm, KvCache, TokenBatch};

use crate::error::Result;

/// A model that reads columns of a batch and returns the logits of the next tokens.
pub(crate) trait StepModel {
    /// What the model remembers of the columns it has read.
    type Cache;

    /// Number of logits per row.
    fn vocab_size(&self) -> usize;

    /// Most tokens a row can have, prompt and output together.
    fn max_context(&self) -> usize;

    /// An empty memory for `rows` rows of at most `columns` columns, padding included.
    fn new_cache(&self, rows: usize, columns: usize) -> Self::Cache;

    /// Reads the next columns.
    fn read(&self, columns: &TokenBatch, cache: &mut Self::Cache) -> Result<()>;

    /// Reads the next columns and returns the logits after the last of them, `[rows, vocab]`.
    fn step(&self, columns: &TokenBatch, cache: &mut Self::Cache) -> Result<Vec<f32>>;

    /// Forgets all but these rows.
    fn keep_rows(&self, cache: &mut Self::Cache, rows: &[usize]);
}

/// A language model with the adapters that take part.
#[derive(Debug, Clone, Copy)]
pub(super) struct Adapted<'m> {
    pub(super) model: &'m CausalLm,
    pub(super) pass: &'m AdapterPass,
}

impl StepModel for Adapted<'_> {
    type Cache = KvCache;

    fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }

    fn max_context(&self) -> usize {
        self.model.max_position_embeddings()
    }

    fn new_cache(&self, rows: usize, columns: usize) -> KvCache {
        self.model.new_cache(rows, columns)
    }

    fn read(&self, columns: &TokenBatch, cache: &mut KvCache) -> Result<()> {
        self.model.forward(columns, Some(cache), self.pass)?;
        Ok(())
    }

    fn step(&self, columns: &TokenBatch, cache: &mut KvCache) -> Result<Vec<f32>> {
        let hidden: Tensor<3> = self.model.forward(columns, Some(cache), self.pass)?;
        let [rows, seq, d_model] = hidden.dims();
        let last = hidden.slice([0..rows, seq - 1..seq, 0..d_model]);
        let logits = self
            .model
            .logits(last, self.pass)
            .into_data()
            .convert::<f32>();
        // After the conversion the data are f32; an empty list would be refused by its length.
        Ok(logits.try_into_vec::<f32>().unwrap_or_default())
    }

    fn keep_rows(&self, cache: &mut KvCache, rows: &[usize]) {
        cache.select_rows(rows);
    }
}
