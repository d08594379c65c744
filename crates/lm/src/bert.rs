//! BERT: an encoder that sees both directions, with heads for classes, masked tokens and pooling.

use std::sync::Arc;

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor, activation};
use flametune_kernels::{AttentionMask, attention, linear};
use flametune_peft::{
    AdapterEmbedding, AdapterLinear, AdapterNorm, AdapterPass, AdapterTable, Norm, VirtualTokens,
};

use crate::batch::TokenBatch;
use crate::cache::Slots;
use crate::config::ConfigFile;
use crate::decoder_lm::architecture;
use crate::error::{Error, Result};
use crate::gpt2::check_positions;
use crate::weights::Scope;

/// The configuration of BERT, under the names of its file.
#[derive(Debug, Clone, PartialEq)]
pub struct BertConfig {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Heads.
    pub num_attention_heads: usize,
    /// Rows of the position table.
    pub max_position_embeddings: usize,
    /// Rows of the sentence table.
    pub type_vocab_size: usize,
    /// Added to variances.
    pub layer_norm_eps: f64,
    /// Whether GELU is the tanh form.
    pub gelu_tanh: bool,
}

impl BertConfig {
    /// Reads a `config.json` whose `model_type` is `bert`.
    ///
    /// # Errors
    /// When a field is missing, out of range or contradicts another, and for options that are not
    /// implemented.
    pub fn read(file: &ConfigFile) -> Result<Self> {
        let hidden_size = file.usize("hidden_size")?;
        let num_attention_heads = file.usize("num_attention_heads")?;
        if !hidden_size.is_multiple_of(num_attention_heads) {
            return Err(file.invalid(
                "num_attention_heads",
                format!("must divide hidden_size {hidden_size}, got {num_attention_heads}"),
            ));
        }
        let gelu_tanh = match file.opt_str("hidden_act")?.unwrap_or("gelu") {
            "gelu" => false,
            "gelu_new" | "gelu_pytorch_tanh" => true,
            other => return Err(ConfigFile::unsupported("hidden_act", other, "use gelu")),
        };
        match file.opt_str("position_embedding_type")? {
            None | Some("absolute") => {}
            Some(other) => {
                let hint = "use absolute";
                return Err(ConfigFile::unsupported(
                    "position_embedding_type",
                    other,
                    hint,
                ));
            }
        }
        Ok(Self {
            vocab_size: file.usize("vocab_size")?,
            hidden_size,
            intermediate_size: file.usize("intermediate_size")?,
            num_hidden_layers: file.usize("num_hidden_layers")?,
            num_attention_heads,
            max_position_embeddings: file.usize_or("max_position_embeddings", 512)?,
            type_vocab_size: file.usize_or("type_vocab_size", 2)?,
            layer_norm_eps: file.f64_or("layer_norm_eps", 1e-12)?,
            gelu_tanh,
        })
    }

    fn norm(&self) -> Norm {
        Norm::Layer {
            eps: self.layer_norm_eps,
        }
    }
}

/// BERT with the heads that its checkpoint has.
///
/// # Source
/// - Devlin et al. 2018, BERT, arXiv:1810.04805, §3
/// - reference: transformers `models/bert/modeling_bert.py`; goldens `fixtures/models/bert_*`
#[derive(Module, Debug)]
pub struct BertModel {
    /// The encoder.
    pub bert: Bert,
    /// Class scores of a sequence.
    pub classifier: Option<AdapterLinear>,
    /// Logits of masked tokens.
    pub cls: Option<MaskedLmHead>,
}

/// The encoder.
#[derive(Module, Debug)]
pub struct Bert {
    /// Token, position and sentence embeddings.
    pub embeddings: BertEmbeddings,
    /// The layers.
    pub encoder: BertEncoder,
    /// A view of the whole sequence, read at its first token.
    pub pooler: Option<BertPooler>,
    #[module(skip)]
    config: Arc<BertConfig>,
    #[module(skip)]
    pub(crate) adapters: AdapterTable,
}

/// Token, position and sentence embeddings.
#[derive(Module, Debug)]
pub struct BertEmbeddings {
    /// By token.
    pub word_embeddings: AdapterEmbedding,
    /// By position.
    pub position_embeddings: AdapterEmbedding,
    /// By sentence of a pair.
    pub token_type_embeddings: AdapterEmbedding,
    /// Normalises their sum; `LayerNorm` on disk.
    pub layer_norm: AdapterNorm,
}

/// The stack of layers.
#[derive(Module, Debug)]
pub struct BertEncoder {
    /// The layers.
    pub layer: Vec<BertLayer>,
}

/// One layer: attention and MLP, each normalised after its residual sum.
#[derive(Module, Debug)]
pub struct BertLayer {
    /// The attention and its output.
    pub attention: BertAttention,
    /// Into the MLP.
    pub intermediate: BertDense,
    /// Out of the MLP.
    pub output: BertOutput,
}

/// Attention and its output projection.
#[derive(Module, Debug)]
pub struct BertAttention {
    /// Query, key and value; `self` on disk.
    pub self_: BertSelfAttention,
    /// Back to the residual stream.
    pub output: BertOutput,
}

/// Query, key and value.
#[derive(Module, Debug)]
pub struct BertSelfAttention {
    /// Query.
    pub query: AdapterLinear,
    /// Key.
    pub key: AdapterLinear,
    /// Value.
    pub value: AdapterLinear,
}

/// A linear layer under the name `dense`.
#[derive(Module, Debug)]
pub struct BertDense {
    /// The layer.
    pub dense: AdapterLinear,
}

/// A linear layer, and the normalisation of its sum with the residual.
#[derive(Module, Debug)]
pub struct BertOutput {
    /// The layer.
    pub dense: AdapterLinear,
    /// The normalisation; `LayerNorm` on disk.
    pub layer_norm: AdapterNorm,
}

/// `tanh(dense(first token))`.
#[derive(Module, Debug)]
pub struct BertPooler {
    /// The layer.
    pub dense: AdapterLinear,
}

/// The head of masked language modelling.
#[derive(Module, Debug)]
pub struct MaskedLmHead {
    /// Its layers.
    pub predictions: Predictions,
}

/// `gelu`, normalisation, then the embedding's matrix and a bias.
#[derive(Module, Debug)]
pub struct Predictions {
    /// Dense layer and normalisation.
    pub transform: BertOutput,
    /// The bias of each token.
    pub bias: Param<Tensor<1>>,
}

impl BertModel {
    pub(crate) fn load(root: &Scope<'_>, file: &ConfigFile) -> Result<Self> {
        let config = Arc::new(BertConfig::read(file)?);
        let width = config.hidden_size;
        let architecture = architecture(file)?;
        // A bare encoder is stored without the prefix.
        let bare = root.has("embeddings.word_embeddings.weight");
        let scope = if bare { root.clone() } else { root.at("bert") };
        let bert = Bert::load(&scope, &config)?;
        let classifier = (architecture == "BertForSequenceClassification").then(|| {
            let labels = match file.nested("id2label") {
                Some(labels) => labels.raw().len(),
                None => file.usize_or("num_labels", 2)?,
            };
            root.at("classifier").linear(width, labels, true)
        });
        let cls = root.has("cls.predictions.bias").then(|| {
            let scope = root.at("cls").at("predictions");
            let transform = BertOutput::load(&scope.at("transform"), width, &config)?;
            let bias = scope.vector("bias", config.vocab_size)?;
            Ok::<_, Error>(MaskedLmHead {
                predictions: Predictions { transform, bias },
            })
        });
        Ok(Self {
            bert,
            classifier: classifier.transpose()?,
            cls: cls.transpose()?,
        })
    }

    /// Class scores of each row.
    ///
    /// # Shapes
    /// - returns `[batch, num_labels]`
    ///
    /// # Errors
    /// [`Error::NoHead`] for a model without classifier or pooler, and those of [`Bert::forward`].
    pub fn classify(&self, batch: &TokenBatch, pass: &AdapterPass) -> Result<Tensor<2>> {
        let classifier = self
            .classifier
            .as_ref()
            .ok_or(Error::NoHead { head: "classifier" })?;
        let pooler = self
            .bert
            .pooler
            .as_ref()
            .ok_or(Error::NoHead { head: "pooler" })?;
        let hidden = self.bert.forward(batch, pass, &mut |_| {})?;
        let first = hidden.narrow(1, 0, 1).squeeze_dim(1);
        let pooled = pooler.dense.forward::<2>(first, pass).tanh();
        Ok(classifier.forward(pooled, pass))
    }

    /// Logits of every token of every hidden state.
    ///
    /// # Shapes
    /// - `hidden`: `[batch, seq, d_model]`, returns `[batch, seq, vocab]`
    ///
    /// # Errors
    /// [`Error::NoHead`] for a model without the head.
    pub fn masked_lm_logits(&self, hidden: Tensor<3>, pass: &AdapterPass) -> Result<Tensor<3>> {
        let head = self.cls.as_ref().ok_or(Error::NoHead { head: "cls" })?;
        let transform = &head.predictions.transform;
        let inner = self.bert.gelu(transform.dense.forward(hidden, pass));
        let inner = transform.layer_norm.forward(inner, pass);
        let embedding = self.bert.embeddings.word_embeddings.weight.val();
        Ok(linear(inner, embedding, Some(head.predictions.bias.val())))
    }
}

impl BertOutput {
    fn load(scope: &Scope<'_>, d_in: usize, config: &BertConfig) -> Result<Self> {
        Ok(Self {
            dense: scope.at("dense").linear(d_in, config.hidden_size, true)?,
            layer_norm: scope
                .at("LayerNorm")
                .norm(config.norm(), config.hidden_size)?,
        })
    }

    fn forward(&self, x: Tensor<3>, residual: Tensor<3>, pass: &AdapterPass) -> Tensor<3> {
        let sum = self.dense.forward(x, pass) + residual;
        self.layer_norm.forward(sum, pass)
    }
}

impl Bert {
    fn load(scope: &Scope<'_>, config: &Arc<BertConfig>) -> Result<Self> {
        let width = config.hidden_size;
        let embeddings = scope.at("embeddings");
        let table = |name: &str, rows| -> Result<AdapterEmbedding> {
            Ok(AdapterEmbedding::new(
                embeddings.at(name).table("weight", [rows, width])?,
            ))
        };
        let words = embeddings
            .at("word_embeddings")
            .weight("weight", [config.vocab_size, width])?;
        let layer = |index: usize| -> Result<BertLayer> {
            let scope = scope.at("encoder").at("layer").at(index);
            let attention = scope.at("attention");
            let projection = |name: &str| attention.at("self").at(name).linear(width, width, true);
            Ok(BertLayer {
                attention: BertAttention {
                    self_: BertSelfAttention {
                        query: projection("query")?,
                        key: projection("key")?,
                        value: projection("value")?,
                    },
                    output: BertOutput::load(&attention.at("output"), width, config)?,
                },
                intermediate: BertDense {
                    dense: scope.at("intermediate").at("dense").linear(
                        width,
                        config.intermediate_size,
                        true,
                    )?,
                },
                output: BertOutput::load(&scope.at("output"), config.intermediate_size, config)?,
            })
        };
        let pooler = scope.has("pooler.dense.weight").then(|| {
            let dense = scope.at("pooler").at("dense").linear(width, width, true)?;
            Ok::<_, Error>(BertPooler { dense })
        });
        Ok(Self {
            embeddings: BertEmbeddings {
                word_embeddings: AdapterEmbedding::new(words),
                position_embeddings: table("position_embeddings", config.max_position_embeddings)?,
                token_type_embeddings: table("token_type_embeddings", config.type_vocab_size)?,
                layer_norm: embeddings.at("LayerNorm").norm(config.norm(), width)?,
            },
            encoder: BertEncoder {
                layer: (0..config.num_hidden_layers)
                    .map(layer)
                    .collect::<Result<_>>()?,
            },
            pooler: pooler.transpose()?,
            config: Arc::clone(config),
            adapters: AdapterTable::default(),
        })
    }

    /// The configuration.
    pub fn config(&self) -> &BertConfig {
        &self.config
    }

    /// The device of the parameters.
    pub fn device(&self) -> Device {
        self.embeddings.word_embeddings.weight.device()
    }

    /// The dtype of hidden states.
    pub fn compute_dtype(&self) -> DType {
        self.embeddings.layer_norm.weight.dtype()
    }

    fn gelu(&self, x: Tensor<3>) -> Tensor<3> {
        if self.config.gelu_tanh {
            activation::gelu_approximate(x)
        } else {
            activation::gelu(x)
        }
    }

    /// Runs every layer; `observe` sees the embeddings, then the output of each layer.
    ///
    /// # Shapes
    /// - returns `[batch, seq, d_model]`
    ///
    /// # Errors
    /// When an id, a sentence id or a position is outside its table, or the model lacks an adapter.
    pub fn forward(
        &self,
        batch: &TokenBatch,
        pass: &AdapterPass,
        observe: &mut dyn FnMut(&Tensor<3>),
    ) -> Result<Tensor<3>> {
        let config = &self.config;
        batch.check_vocab(config.vocab_size)?;
        pass.check(&self.adapters, batch.batch())?;
        let mut slots = Slots::new(batch.batch());
        let positions = slots.extend(batch, &VirtualTokens::default());
        check_positions(&positions, config.max_position_embeddings)?;
        let zeros = vec![0; positions.len()];
        let types = batch.token_type_ids().unwrap_or(&zeros);
        if let Some(&id) = types
            .iter()
            .find(|&&id| id as usize >= config.type_vocab_size)
        {
            return Err(Error::TokenTypeOutOfRange {
                id,
                types: config.type_vocab_size,
            });
        }
        let (rows, dtype) = (batch.batch(), self.compute_dtype());
        let hidden = self
            .embeddings
            .word_embeddings
            .forward(batch.input_ids(), rows, dtype, pass)
            + self
                .embeddings
                .position_embeddings
                .forward(&positions, rows, dtype, pass)
            + self
                .embeddings
                .token_type_embeddings
                .forward(types, rows, dtype, pass);
        let mut hidden = self.embeddings.layer_norm.forward(hidden, pass);
        observe(&hidden);
        let mask = AttentionMask::bidirectional().with_segments(slots.segments.as_slice());
        for layer in &self.encoder.layer {
            let attended = self.attend(&layer.attention.self_, hidden.clone(), &mask, pass);
            hidden = layer.attention.output.forward(attended, hidden, pass);
            let inner = self.gelu(layer.intermediate.dense.forward(hidden.clone(), pass));
            hidden = layer.output.forward(inner, hidden, pass);
            observe(&hidden);
        }
        Ok(hidden)
    }

    fn attend(
        &self,
        layer: &BertSelfAttention,
        x: Tensor<3>,
        mask: &AttentionMask,
        pass: &AdapterPass,
    ) -> Tensor<3> {
        let [batch, seq, width] = x.dims();
        let heads = self.config.num_attention_heads;
        let head_dim = width / heads;
        let split = |x: Tensor<3>| x.reshape([batch, seq, heads, head_dim]).swap_dims(1, 2);
        let q = split(layer.query.forward(x.clone(), pass));
        let k = split(layer.key.forward(x.clone(), pass));
        let v = split(layer.value.forward(x, pass));
        let y = attention(q, k, v, mask, score_scale(head_dim), None);
        y.swap_dims(1, 2).reshape([batch, seq, width])
    }
}

#[expect(clippy::cast_precision_loss, reason = "widths are small")]
fn score_scale(head_dim: usize) -> f64 {
    1.0 / (head_dim as f64).sqrt()
}
