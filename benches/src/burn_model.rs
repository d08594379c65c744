//! The same decoder in Burn's own modules, with Burn's own `apply_qlora`: what a user of Burn would
//! write without us.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use burn::module::{Lora, Module, Param, QLora, Quantizer};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{
    Linear, LinearConfig, RmsNorm, RmsNormConfig, RotaryEncoding, RotaryEncodingConfig,
};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::quantization::{Calibration, QuantScheme, QuantStore, QuantValue, ScaleDtype};
use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use flametune_lm::{CausalLm, Checkpoint, LoadOptions, NamedTensor};

use crate::protocol::Rows;

/// Rank and `lora_alpha` of the races.
const LORA: (usize, f64) = (16, 32.0);

/// Tokens of the longest row.
const MAX_LENGTH: usize = 2048;

/// A Llama decoder whose head is its embedding.
#[derive(Module, Debug)]
struct Llama {
    layers: Vec<Layer>,
    norm: RmsNorm,
    rotary: RotaryEncoding,
    /// No parameter, so that neither quantization nor adapters reach it, as in the other races.
    #[module(skip)]
    embedding: Tensor<2>,
    #[module(skip)]
    heads: [usize; 2],
}

#[derive(Module, Debug)]
struct Layer {
    input_norm: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    mlp_norm: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// The model and its optimizer.
pub(crate) struct BurnTraining {
    model: Option<Llama>,
    optimizer: ModuleOptimizer,
    rate: f64,
    device: Device,
}

impl BurnTraining {
    /// Loads the model into Burn's modules, quantizes it, and puts Burn's adapters on it.
    pub(crate) fn new(path: &Path, rate: f64) -> Result<Self> {
        let device = Device::flex().autodiff();
        let scheme = QuantScheme::default()
            .with_value(QuantValue::Q4S)
            .with_store(QuantStore::PackedU32(0))
            .per_block([32], ScaleDtype::F32);
        let quantizer = Quantizer::new(Calibration::MinMax, scheme);
        let (rank, alpha) = LORA;
        let model =
            Llama::load(path, &device)?.apply_qlora(QLora::new(Lora::new(rank, alpha), quantizer));
        Ok(Self {
            model: Some(model),
            optimizer: AdamWConfig::new().with_weight_decay(0.0).init(),
            rate,
            device,
        })
    }

    /// Takes a step; returns the loss before it.
    pub(crate) fn step(&mut self, Rows { rows }: &Rows) -> Result<f64> {
        let model = self.model.take().context("an earlier step failed")?;
        let loss = model.loss(rows, &self.device);
        let gradients = loss.backward();
        let loss = f64::from(loss.into_scalar::<f32>());
        let gradients = GradientsParams::from_grads(gradients, &model);
        self.model = Some(self.optimizer.step(self.rate, model, gradients));
        Ok(loss)
    }
}

impl Llama {
    fn load(path: &Path, device: &Device) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let options = LoadOptions::f32(&Device::flex());
        let source = CausalLm::load(&checkpoint, &options, &mut |_| {})?;
        let CausalLm::Decoder(lm) = &source else {
            anyhow::bail!("not of the Llama family");
        };
        let config = lm.model.config();
        let heads = [config.num_attention_heads, config.num_key_value_heads];
        let head_dim = config.head_dim;
        #[allow(
            clippy::cast_possible_truncation,
            reason = "as the configuration takes it"
        )]
        let theta = config.ropes.first().context("no rotation")?.rope_theta as f32;
        let rotary = RotaryEncodingConfig::new(MAX_LENGTH, head_dim).with_theta(theta);
        let tensors = source.named_tensors()?;
        let weights = Weights {
            tensors: &tensors,
            device,
        };
        let layers = (0..config.num_hidden_layers()).map(|index| {
            let linear = |name: &str, heads| {
                weights.linear(&format!("model.layers.{index}.{name}.weight"), heads)
            };
            let norm = |name: &str| weights.norm(&format!("model.layers.{index}.{name}.weight"));
            Ok(Layer {
                input_norm: norm("input_layernorm")?,
                q: linear("self_attn.q_proj", Some(head_dim))?,
                k: linear("self_attn.k_proj", Some(head_dim))?,
                v: linear("self_attn.v_proj", None)?,
                o: linear("self_attn.o_proj", None)?,
                mlp_norm: norm("post_attention_layernorm")?,
                gate: linear("mlp.gate_proj", None)?,
                up: linear("mlp.up_proj", None)?,
                down: linear("mlp.down_proj", None)?,
            })
        });
        Ok(Self {
            layers: layers.collect::<Result<_>>()?,
            norm: weights.norm("model.norm.weight")?,
            rotary: rotary.init(device),
            embedding: Tensor::from_data(weights.data("model.embed_tokens.weight")?, device),
            heads,
        })
    }

    fn loss(&self, rows: &[Vec<u32>], device: &Device) -> Tensor<1> {
        let (batch, seq) = (rows.len(), rows.first().map_or(0, Vec::len));
        let ids: Vec<i64> = rows.iter().flatten().map(|&id| i64::from(id)).collect();
        let ids: Tensor<2, Int> = Tensor::from_data(TensorData::new(ids, [batch, seq]), device);
        let vocab = self.embedding.dims()[0];
        let mut hidden = self
            .embedding
            .clone()
            .select(0, ids.clone().flatten(0, 1))
            .reshape([batch as i64, seq as i64, -1]);
        for layer in &self.layers {
            hidden = layer.forward(hidden, &self.rotary, self.heads);
        }
        let hidden = self.norm.forward(hidden).narrow(1, 0, seq - 1);
        let logits = hidden.matmul(self.embedding.clone().transpose().unsqueeze());
        let logits = logits.reshape([batch * (seq - 1), vocab]);
        let targets = ids.narrow(1, 1, seq - 1).flatten(0, 1);
        CrossEntropyLossConfig::new()
            .init(device)
            .forward(logits, targets)
    }
}

impl Layer {
    fn forward(&self, x: Tensor<3>, rotary: &RotaryEncoding, heads: [usize; 2]) -> Tensor<3> {
        let x = x.clone() + self.attention(self.input_norm.forward(x), rotary, heads);
        let h = self.mlp_norm.forward(x.clone());
        let inner = activation::silu(self.gate.forward(h.clone())) * self.up.forward(h);
        x + self.down.forward(inner)
    }

    fn attention(
        &self,
        x: Tensor<3>,
        rotary: &RotaryEncoding,
        [heads, kv_heads]: [usize; 2],
    ) -> Tensor<3> {
        let [batch, seq, width] = x.dims();
        let split = |x: Tensor<3>, heads: usize| {
            let dim = x.dims()[2] / heads;
            x.reshape([batch, seq, heads, dim]).swap_dims(1, 2)
        };
        let repeated = |x: Tensor<4>| {
            let dim = x.dims()[3];
            x.unsqueeze_dim::<5>(2)
                .repeat_dim(2, heads / kv_heads)
                .reshape([batch, heads, seq, dim])
        };
        let q = rotary.forward(split(self.q.forward(x.clone()), heads));
        let k = repeated(rotary.forward(split(self.k.forward(x.clone()), kv_heads)));
        let v = repeated(split(self.v.forward(x), kv_heads));
        let scale = (q.dims()[3] as f64).sqrt().recip();
        let future = Tensor::<2>::ones([seq, seq], &q.device()).triu(1).bool();
        let scores = q.matmul(k.swap_dims(2, 3)) * scale;
        let scores = scores.mask_fill(future.unsqueeze(), f32::NEG_INFINITY);
        let mixed = activation::softmax(scores, 3).matmul(v);
        self.o
            .forward(mixed.swap_dims(1, 2).reshape([batch, seq, width]))
    }
}

/// The tensors of a model by name.
struct Weights<'a> {
    tensors: &'a [NamedTensor],
    device: &'a Device,
}

impl Weights<'_> {
    fn data(&self, name: &str) -> Result<TensorData> {
        let tensor = self.tensors.iter().find(|tensor| tensor.name == name);
        Ok(tensor.with_context(|| format!("no tensor {name}"))?.data())
    }

    fn norm(&self, name: &str) -> Result<RmsNorm> {
        let weight = Tensor::<1>::from_data(self.data(name)?, self.device);
        let mut norm = RmsNormConfig::new(weight.dims()[0])
            .with_epsilon(1e-5)
            .init(self.device);
        norm.gamma = Param::from_tensor(weight);
        Ok(norm)
    }

    /// A linear layer; with the width of heads, the halves of each head are interleaved, as Burn's
    /// rotation wants them.
    fn linear(&self, name: &str, head_dim: Option<usize>) -> Result<Linear> {
        let data = self.data(name)?;
        let shape = data.shape().to_vec();
        ensure!(shape.len() == 2, "{name} is no matrix");
        let (d_out, d_in) = (shape[0], shape[1]);
        let values: Vec<f32> = data.try_into_vec()?;
        let from = |row: usize| match head_dim {
            None => row,
            Some(dim) => {
                let (head, at) = (row / dim, row % dim);
                head * dim + at / 2 + at % 2 * (dim / 2)
            }
        };
        let mut transposed = vec![0.0; values.len()];
        for row in 0..d_out {
            for (col, value) in values[from(row) * d_in..][..d_in].iter().enumerate() {
                transposed[col * d_out + row] = *value;
            }
        }
        let weight = TensorData::new(transposed, [d_in, d_out]);
        // The weight that `init` makes is never computed: parameters are lazy.
        let mut linear = LinearConfig::new(d_in, d_out)
            .with_bias(false)
            .init(self.device);
        linear.weight = Param::from_tensor(Tensor::from_data(weight, self.device));
        Ok(linear)
    }
}
