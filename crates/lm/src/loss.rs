//! From hidden states to losses and log-probabilities, without the logits of a whole batch.

use burn::tensor::{Int, Tensor, TensorData, activation};
use flametune_kernels::{
    CrossEntropy, CrossEntropyOutput, LogitOptions, linear_cross_entropy, linear_logps,
};
use flametune_peft::{AdapterEmbedding, AdapterLinear, AdapterPass, TiedLinear};
use flametune_quant::{BaseLinear, DenseLinear};

use crate::error::{Error, Result};
use crate::model::CausalLm;

/// The head as the fused operations take it.
struct Head {
    layer: DenseLinear,
    scale: f64,
    softcap: Option<f64>,
}

impl CausalLm {
    /// Cross-entropy of the head's logits: the **sum** over the supervised positions.
    ///
    /// Only supervised positions reach the head, and their logits never exist as a whole, unless
    /// the head is quantized or carries an adapter that `pass` chooses.
    ///
    /// # Shapes
    /// - `hidden`: `[batch, seq, d_model]`, of [`forward`](Self::forward)
    /// - `labels`: `batch·seq` ids, `options.logits.ignore_index` where there is nothing to learn;
    ///   label `t` is what position `t` predicts
    ///
    /// Scale and soft cap of `options.logits` are those of the model, whatever they say.
    ///
    /// # Errors
    /// [`Error::BatchLength`] for another number of labels, [`Error::TokenOutOfRange`] for a label
    /// outside the vocabulary, [`Error::NoHead`] for a classifier.
    pub fn cross_entropy(
        &self,
        hidden: Tensor<3>,
        labels: &[i64],
        options: &CrossEntropy,
        pass: &AdapterPass,
    ) -> Result<CrossEntropyOutput> {
        self.check_labels(&hidden, labels, options.logits.ignore_index)?;
        let [batch, seq, width] = hidden.dims();
        if let Some(head) = self.plain_head(pass) {
            let mut options = *options;
            head.apply(&mut options.logits);
            return Ok(linear_cross_entropy(
                hidden.reshape([batch * seq, width]),
                head.layer.weight.val(),
                head.layer.bias.map(|bias| bias.val()),
                labels,
                &options,
            ));
        }
        let (logits, supervised) = self.some_logits(hidden, labels, &options.logits, pass);
        let logps = activation::log_softmax(logits.clone(), 1);
        let nll = picked(&logps, &supervised).sum().neg();
        let mut loss = nll * (1.0 - options.label_smoothing);
        if options.label_smoothing > 0.0 {
            let uniform = logps.clone().mean_dim(1).sum().neg();
            loss = loss + uniform * options.label_smoothing;
        }
        if options.z_loss > 0.0 {
            let sum = logits.narrow(1, 0, 1) - logps.narrow(1, 0, 1);
            loss = loss + sum.powi_scalar(2).sum() * options.z_loss;
        }
        Ok(CrossEntropyOutput {
            loss,
            supervised: supervised.len(),
        })
    }

    /// The log-probability of each position's label, 0 where it is ignored.
    ///
    /// # Shapes
    /// - as [`cross_entropy`](Self::cross_entropy); returns `[batch, seq]`
    ///
    /// # Errors
    /// As [`cross_entropy`](Self::cross_entropy).
    pub fn logps(
        &self,
        hidden: Tensor<3>,
        labels: &[i64],
        options: &LogitOptions,
        pass: &AdapterPass,
    ) -> Result<Tensor<2>> {
        self.check_labels(&hidden, labels, options.ignore_index)?;
        let [batch, seq, width] = hidden.dims();
        if let Some(head) = self.plain_head(pass) {
            let mut options = *options;
            head.apply(&mut options);
            let logps = linear_logps(
                hidden.reshape([batch * seq, width]),
                head.layer.weight.val(),
                head.layer.bias.map(|bias| bias.val()),
                labels,
                &options,
            );
            return Ok(logps.reshape([batch, seq]));
        }
        let device = hidden.device();
        let (logits, supervised) = self.some_logits(hidden, labels, options, pass);
        let logps = activation::log_softmax(logits, 1);
        let places: Vec<i64> = supervised.iter().map(|&(place, _)| place).collect();
        let count = places.len();
        let places = Tensor::<1, Int>::from_data(TensorData::new(places, [count]), &device);
        let zeros = Tensor::<1>::zeros([batch * seq], (&device, logps.dtype()));
        let logps = zeros.select_assign(
            0,
            places,
            picked(&logps, &supervised),
            burn::tensor::IndexingUpdateOp::Add,
        );
        Ok(logps.reshape([batch, seq]))
    }

    fn check_labels(&self, hidden: &Tensor<3>, labels: &[i64], ignored: i64) -> Result<()> {
        self.check_predicts_tokens()?;
        let [batch, seq, _] = hidden.dims();
        if labels.len() != batch * seq {
            return Err(Error::BatchLength {
                what: "labels",
                expected: batch * seq,
                got: labels.len(),
            });
        }
        let vocab = self.vocab_size();
        let valid =
            |label: i64| label == ignored || usize::try_from(label).is_ok_and(|id| id < vocab);
        match labels.iter().position(|&label| !valid(label)) {
            None => Ok(()),
            Some(position) => Err(Error::TokenOutOfRange {
                id: labels[position],
                vocab_size: vocab,
                position: position % seq,
            }),
        }
    }

    /// The head, if it is a plain matrix in this pass.
    fn plain_head(&self, pass: &AdapterPass) -> Option<Head> {
        let (own, tied, table): (_, _, &AdapterEmbedding) = match self {
            Self::Decoder(lm) => (&lm.lm_head, &lm.tied_head, &lm.model.embed_tokens),
            Self::Gpt2(lm) => (&lm.lm_head, &lm.tied_head, &lm.transformer.wte),
        };
        let (scale, softcap) = self.logit_shape();
        let plain = |adapted: bool| !adapted || pass.is_base();
        let layer = match (own, tied) {
            (
                Some(AdapterLinear {
                    base_layer: BaseLinear::Dense(dense),
                    adapters,
                    ..
                }),
                _,
            ) if plain(!adapters.is_empty()) => dense.clone(),
            (Some(_), _) => return None,
            (None, tied) => {
                let adapted = |tied: &TiedLinear| !tied.adapters.is_empty();
                if !plain(tied.as_ref().is_some_and(adapted)) {
                    return None;
                }
                DenseLinear {
                    precision: table.head_precision,
                    ..DenseLinear::new(table.weight.clone(), None)
                }
            }
        };
        Some(Head {
            layer,
            scale,
            softcap,
        })
    }

    /// What happens to the head's output: a factor, and a soft cap.
    fn logit_shape(&self) -> (f64, Option<f64>) {
        match self {
            Self::Decoder(lm) => {
                let config = lm.model.config();
                (1.0 / config.logits_scaling, config.final_logit_softcapping)
            }
            Self::Gpt2(_) => (1.0, None),
        }
    }

    /// Logits `[supervised, vocab]`, and the place and label of each row.
    fn some_logits(
        &self,
        hidden: Tensor<3>,
        labels: &[i64],
        options: &LogitOptions,
        pass: &AdapterPass,
    ) -> (Tensor<2>, Vec<(i64, i64)>) {
        let [batch, seq, _] = hidden.dims();
        let device = hidden.device();
        let places = 0_i64..;
        let supervised: Vec<(i64, i64)> = places
            .zip(labels.iter().copied())
            .filter(|(_, label)| *label != options.ignore_index)
            .collect();
        let logits = self.logits(hidden, pass);
        let vocab = logits.dims()[2];
        let rows: Vec<i64> = supervised.iter().map(|&(place, _)| place).collect();
        let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [supervised.len()]), &device);
        let logits = logits.reshape([batch * seq, vocab]).select(0, rows);
        (logits, supervised)
    }
}

impl Head {
    fn apply(&self, options: &mut LogitOptions) {
        options.logit_scale = self.scale;
        options.softcap = self.softcap;
        options.precision = self.layer.precision;
    }
}

/// The log-probability of each row's label.
fn picked(logps: &Tensor<2>, supervised: &[(i64, i64)]) -> Tensor<1> {
    let labels: Vec<i64> = supervised.iter().map(|&(_, label)| label).collect();
    let labels = TensorData::new(labels, [supervised.len(), 1]);
    let labels = Tensor::<2, Int>::from_data(labels, &logps.device());
    logps.clone().gather(1, labels).squeeze_dim::<1>(1)
}
