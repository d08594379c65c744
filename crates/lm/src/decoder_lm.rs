//! A decoder with a head: next-token logits, or the scores of a sequence classifier.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Int, Tensor, TensorData};
use flametune_peft::{AdapterLinear, AdapterPass, TiedLinear};

use crate::batch::{PADDING, TokenBatch};
use crate::config::{ConfigFile, DecoderConfig};
use crate::decoder::{Decoder, scale};
use crate::error::{Error, Result};
use crate::weights::Scope;

/// A decoder of the Llama family with its head.
#[derive(Module, Debug)]
pub struct DecoderLm {
    /// The decoder.
    pub model: Decoder,
    /// Logits of the next token; absent where the embedding's matrix serves for it.
    pub lm_head: Option<AdapterLinear>,
    /// The adapters of the head where the embedding's matrix serves for it.
    pub tied_head: Option<TiedLinear>,
    /// Scores of a sequence classifier or reward model, in place of logits.
    pub score: Option<AdapterLinear>,
}

impl DecoderLm {
    pub(crate) fn load(root: &Scope<'_>, file: &ConfigFile) -> Result<Self> {
        let config = Arc::new(DecoderConfig::read(file)?);
        let (width, vocab) = (config.hidden_size, config.vocab_size);
        let model = Decoder::load(&root.at("model"), &config)?;
        let classifies = architecture(file)?.ends_with("ForSequenceClassification");
        let score = classifies.then(|| {
            // transformers leaves num_labels out where the labels' names give it.
            let labels = match file.nested("id2label") {
                Some(labels) => labels.raw().len(),
                None => file.usize_or("num_labels", 2)?,
            };
            root.at("score").linear(width, labels, false)
        });
        let lm_head = (!classifies && !config.tie_word_embeddings)
            .then(|| root.at("lm_head").linear(width, vocab, false));
        let tied_head = (!classifies && config.tie_word_embeddings).then(TiedLinear::new);
        Ok(Self {
            model,
            tied_head,
            lm_head: lm_head.transpose()?,
            score: score.transpose()?,
        })
    }

    /// Logits of the next token for each hidden state.
    ///
    /// `softcap(head(h) / logits_scaling)`.
    ///
    /// Without `lm_head` the embedding's matrix serves, as it stands in the base; a classifier's
    /// means nothing here, see
    /// [`CausalLm::check_predicts_tokens`](crate::CausalLm::check_predicts_tokens).
    ///
    /// # Shapes
    /// - `hidden`: `[batch, seq, d_model]`, returns `[batch, seq, vocab]`
    pub fn logits(&self, hidden: Tensor<3>, pass: &AdapterPass) -> Tensor<3> {
        let config = self.model.config();
        let logits = match (&self.lm_head, &self.tied_head) {
            (Some(head), _) => head.forward(hidden, pass),
            (None, Some(head)) => head.forward(hidden, &self.model.embed_tokens, pass),
            (None, None) => TiedLinear::new().forward(hidden, &self.model.embed_tokens, pass),
        };
        let logits = scale(logits, 1.0 / config.logits_scaling);
        match config.final_logit_softcapping {
            Some(cap) => (logits / cap).tanh() * cap,
            None => logits,
        }
    }

    /// Scores of each row, read at its last token.
    ///
    /// # Shapes
    /// - returns `[batch, num_labels]`
    ///
    /// # Errors
    /// [`Error::NoHead`] for a model without a `score` head, and those of [`Decoder::forward`].
    ///
    /// # Source
    /// - transformers `modeling_layers.py::GenericForSequenceClassification`; golden
    ///   `fixtures/models/llama_seqcls`
    pub fn classify(&self, batch: &TokenBatch, pass: &AdapterPass) -> Result<Tensor<2>> {
        let Some(score) = &self.score else {
            return Err(Error::NoHead { head: "score" });
        };
        let hidden = self
            .model
            .forward(batch, None, pass, &mut |_, state| state)?;
        let [rows, seq, width] = hidden.dims();
        let last: Vec<i64> = (0..rows)
            .map(|row| {
                let segments = batch
                    .segment_ids()
                    .map(|ids| &ids[row * seq..(row + 1) * seq]);
                let last = match segments {
                    Some(ids) => ids.iter().rposition(|&id| id != PADDING).unwrap_or(seq - 1),
                    None => seq - 1,
                };
                i64::try_from(row * seq + last).unwrap_or(i64::MAX)
            })
            .collect();
        let last: Tensor<1, Int> =
            Tensor::from_data(TensorData::new(last, [rows]), &hidden.device());
        Ok(score.forward(hidden.reshape([rows * seq, width]).select(0, last), pass))
    }
}

/// The first entry of `architectures`, or an empty string.
pub(crate) fn architecture(file: &ConfigFile) -> Result<String> {
    let list = file.opt_array("architectures")?;
    let first = list
        .and_then(|list| list.first())
        .and_then(|name| name.as_str());
    Ok(first.unwrap_or_default().to_owned())
}
