//! Texts to vectors, with an encoder.

use burn::tensor::Tensor;
use flametune_kernels::in_pool;
use flametune_lm::{AdapterPass, BertModel, TokenBatch};

use crate::error::{Error, Result};

/// How the states of a text's tokens become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pooling {
    /// Their mean.
    #[default]
    Mean,
    /// The state of the first token, `[CLS]`.
    First,
}

/// Turns token ids into vectors, each text by itself.
///
/// With the defaults, `v = m / max(‖m‖₂, 10⁻¹²)` for the mean `m` of the last layer's states, as
/// sentence-transformers computes it for its models with mean pooling and normalisation.
///
/// A vector does not depend on the other texts of a call: nothing is padded.
///
/// # Examples
/// ```no_run
/// use flametune_infer::{Embedder, Pooling};
///
/// # fn example(model: flametune_lm::BertModel) -> flametune_infer::Result<()> {
/// let embedder = Embedder::new(model).with_pooling(Pooling::First);
/// let vectors = embedder.embed(&[vec![101, 7592, 102]])?;
/// assert_eq!(vectors.len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Embedder {
    model: BertModel,
    pooling: Pooling,
    normalize: bool,
    pass: AdapterPass,
}

/// The least length that a vector is divided by, torch's.
const LEAST_LENGTH: f64 = 1e-12;

impl Embedder {
    /// Embeds with the mean of the last states, at length one.
    #[must_use]
    pub fn new(model: BertModel) -> Self {
        Self {
            model,
            pooling: Pooling::Mean,
            normalize: true,
            pass: AdapterPass::default(),
        }
    }

    /// Makes one vector of the states in another way.
    #[must_use]
    pub fn with_pooling(mut self, pooling: Pooling) -> Self {
        self.pooling = pooling;
        self
    }

    /// Brings vectors to length one, or leaves their lengths.
    #[must_use]
    pub fn with_normalization(mut self, normalize: bool) -> Self {
        self.normalize = normalize;
        self
    }

    /// Embeds with the adapters of `pass`, which must be the same for all rows.
    #[must_use]
    pub fn with_pass(mut self, pass: AdapterPass) -> Self {
        self.pass = pass;
        self
    }

    /// The most tokens of a text.
    #[must_use]
    pub fn max_tokens(&self) -> usize {
        self.model.bert.config().max_position_embeddings
    }

    /// The length of the vectors.
    #[must_use]
    pub fn width(&self) -> usize {
        self.model.bert.config().hidden_size
    }

    /// A vector for each text, special tokens included.
    ///
    /// # Errors
    /// - [`Error::EmptyPrompt`] and [`Error::EmbeddingTooLong`] with the number of the text, found
    ///   before anything runs
    /// - [`Error::Lm`] for what the model reports
    pub fn embed(&self, texts: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
        let max_tokens = self.max_tokens();
        for (request, text) in texts.iter().enumerate() {
            let len = text.len();
            if len == 0 {
                return Err(Error::EmptyPrompt { request });
            }
            if len > max_tokens {
                return Err(Error::EmbeddingTooLong {
                    request,
                    len,
                    max_tokens,
                });
            }
        }
        in_pool(|| texts.iter().map(|text| self.one(text)).collect())
    }

    fn one(&self, text: &[u32]) -> Result<Vec<f32>> {
        let batch = TokenBatch::from_rows(&[text.to_vec()])?;
        let hidden: Tensor<3> = self.model.bert.forward(&batch, &self.pass, &mut |_| ())?;
        let states = hidden.into_data().convert::<f32>();
        // After the conversion the data are f32; an empty list would be refused by its length.
        let states = states.try_into_vec::<f32>().unwrap_or_default();
        let width = self.width();
        let mut vector = vec![0.0_f64; width];
        let rows = match self.pooling {
            Pooling::Mean => text.len(),
            Pooling::First => 1,
        };
        for state in states.chunks_exact(width.max(1)).take(rows) {
            for (sum, &value) in vector.iter_mut().zip(state) {
                *sum += f64::from(value);
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "lengths of texts are small")]
        let mut divisor = rows as f64;
        if self.normalize {
            let squares: f64 = vector.iter().map(|sum| (sum / divisor).powi(2)).sum();
            divisor *= squares.sqrt().max(LEAST_LENGTH);
        }
        #[expect(clippy::cast_possible_truncation, reason = "rounded once at the end")]
        Ok(vector.iter().map(|sum| (sum / divisor) as f32).collect())
    }
}
