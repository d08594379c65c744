//! A tiny model with every kind of slot.

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use flametune_peft::{
    AdapterEmbedding, AdapterLinear, AdapterNorm, AdapterPass, AdapterSublayer, AdapterTable,
    BaseRef, LinearSlot, Norm, Slot, SlotModule, Slots, Sublayer,
};
use flametune_quant::{BaseLinear, DenseLinear, QuantConfig, QuantLinear, WeightDtype};

pub(crate) const VOCAB: usize = 12;
pub(crate) const WIDTH: usize = 8;
pub(crate) const INNER: usize = 10;

/// Embedding, two blocks, normalisation, head: `h + down(tanh(up(norm(h)) ∘ gate(norm(h))))`.
#[derive(Module, Debug)]
pub(crate) struct Tiny {
    pub(crate) embed_tokens: AdapterEmbedding,
    pub(crate) layers: Vec<Block>,
    pub(crate) norm: AdapterNorm,
    pub(crate) lm_head: AdapterLinear,
    #[module(skip)]
    adapters: AdapterTable,
}

#[derive(Module, Debug)]
pub(crate) struct Block {
    input_layernorm: AdapterNorm,
    up_proj: AdapterLinear,
    gate_proj: AdapterLinear,
    down_proj: AdapterLinear,
    output: AdapterSublayer,
}

impl Slots for Tiny {
    fn adapters(&self) -> &AdapterTable {
        &self.adapters
    }

    fn adapters_mut(&mut self) -> &mut AdapterTable {
        &mut self.adapters
    }

    fn visit_slots(&mut self, visit: &mut dyn FnMut(Slot<'_>)) {
        visit(Slot::embedding("embed_tokens", &mut self.embed_tokens));
        for (index, block) in self.layers.iter_mut().enumerate() {
            let at = |name: &str| format!("model.layers.{index}.{name}");
            visit(Slot::norm(
                &at("input_layernorm"),
                &mut block.input_layernorm,
            ));
            visit(Slot::linear(&at("up_proj"), &mut block.up_proj));
            visit(Slot::linear(&at("gate_proj"), &mut block.gate_proj));
            visit(Slot::linear(&at("down_proj"), &mut block.down_proj));
            let device = block.down_proj.base_layer.device();
            visit(Slot::sublayer(&at("mlp"), &mut block.output, device));
        }
        visit(Slot::norm("norm", &mut self.norm));
        visit(Slot::head("lm_head", &mut self.lm_head));
    }
}

/// Numbers that look random and are the same everywhere.
pub(crate) fn numbers(len: usize, salt: usize) -> Vec<f32> {
    (0..len)
        .map(|i| {
            let x = ((i * 7919 + salt * 104_729 + 17) % 2003) as f32 / 2003.0;
            2.0 * x - 1.0
        })
        .collect()
}

fn tensor<const D: usize>(
    shape: [usize; D],
    salt: usize,
    place: (&Device, DType),
) -> Param<Tensor<D>> {
    let data = TensorData::new(numbers(shape.iter().product(), salt), shape);
    Param::from_tensor(Tensor::from_data(data, place))
}

impl Tiny {
    /// The model with weights of `dtype`.
    pub(crate) fn new(device: &Device, dtype: DType) -> Self {
        let linear = |d_in: usize, d_out: usize, bias: bool, salt: usize| {
            AdapterLinear::new(BaseLinear::Dense(DenseLinear {
                weight: tensor([d_out, d_in], salt, (device, dtype)),
                bias: bias.then(|| tensor([d_out], salt + 1, (device, DType::F32))),
                precision: Default::default(),
                fan_in_fan_out: false,
            }))
        };
        let norm = |salt| {
            let place = (device, DType::F32);
            let kind = Norm::Layer { eps: 1e-5 };
            AdapterNorm::new(
                tensor([WIDTH], salt, place),
                Some(tensor([WIDTH], salt + 1, place)),
                kind,
            )
        };
        let block = |salt: usize| Block {
            input_layernorm: norm(salt),
            up_proj: linear(WIDTH, INNER, true, salt + 2),
            gate_proj: linear(WIDTH, INNER, false, salt + 4),
            down_proj: linear(INNER, WIDTH, true, salt + 6),
            output: AdapterSublayer::new(Sublayer::FeedForward, WIDTH),
        };
        Self {
            embed_tokens: AdapterEmbedding::new(tensor([VOCAB, WIDTH], 1, (device, dtype))),
            layers: vec![block(10), block(20)],
            norm: norm(30),
            lm_head: linear(WIDTH, VOCAB, false, 40),
            adapters: AdapterTable::default(),
        }
    }

    /// The same model over NF4, and over the numbers that its codes stand for.
    pub(crate) fn packed_and_unpacked(self) -> (Self, Self) {
        let (mut packed, mut unpacked) = (self.clone(), self);
        packed.visit_slots(&mut |slot| {
            if let SlotModule::Linear(LinearSlot {
                base: BaseRef::Own(base),
                ..
            }) = slot.module
            {
                let BaseLinear::Dense(dense) = &*base else {
                    panic!("dense")
                };
                let config = QuantConfig {
                    dtype: WeightDtype::F32,
                    ..QuantConfig::default()
                };
                let quant = QuantLinear::quantize(dense, config).unwrap();
                *base = BaseLinear::Quant(quant);
            }
        });
        let mut weights = Vec::new();
        packed.visit_slots(&mut |slot| {
            if let SlotModule::Linear(linear) = slot.module {
                let base = linear.base.get();
                let weight = Param::from_tensor(base.dense_weight());
                weights.push(DenseLinear::new(weight, base.bias().cloned()));
            }
        });
        let mut weights = weights.into_iter();
        unpacked.visit_slots(&mut |slot| {
            if let SlotModule::Linear(LinearSlot {
                base: BaseRef::Own(base),
                ..
            }) = slot.module
            {
                *base = BaseLinear::Dense(weights.next().unwrap());
            }
        });
        (packed, unpacked)
    }

    /// Logits `[batch, seq, vocab]` of ids that differ in every place.
    pub(crate) fn logits(&self, pass: &AdapterPass, batch: usize, seq: usize) -> Tensor<3> {
        pass.check(&self.adapters, batch).unwrap();
        let ids: Vec<u32> = (0..batch * seq)
            .map(|i| u32::try_from((i * 5 + i / seq) % VOCAB).unwrap())
            .collect();
        let mut h = self.embed_tokens.forward(&ids, batch, DType::F32, pass);
        for block in &self.layers {
            let x = block.input_layernorm.forward(h.clone(), pass);
            let up = block.up_proj.forward(x.clone(), pass);
            let inner = (up * block.gate_proj.forward(x.clone(), pass)).tanh();
            let fed = block.down_proj.forward(inner, pass);
            h = h.clone() + block.output.forward(&h, &x, fed, pass);
        }
        self.lm_head.forward(self.norm.forward(h, pass), pass)
    }

    /// Logits as numbers, of three rows of four.
    pub(crate) fn values(&self, pass: &AdapterPass) -> Vec<f32> {
        values(self.logits(pass, 3, 4))
    }

    /// Adds numbers of order `size` to every parameter of an adapter, so that all of it shows.
    pub(crate) fn disturb(&mut self, name: &str, size: f32, salt: usize) {
        let mut noise = Noise { size, salt };
        self.visit_slots(&mut |slot| match slot.module {
            SlotModule::Linear(linear) => {
                for part in linear.adapters.iter_mut().filter(|part| part.name == name) {
                    part.method = part.method.clone().map(&mut noise);
                }
            }
            SlotModule::Embedding(table) => {
                for part in table.adapters.iter_mut().filter(|part| part.name == name) {
                    part.method = part.method.clone().map(&mut noise);
                }
            }
            SlotModule::Norm(norm) => {
                for part in norm.adapters.iter_mut().filter(|part| part.name == name) {
                    part.method = part.method.clone().map(&mut noise);
                }
            }
            SlotModule::Sublayer(sublayer) => {
                for part in sublayer
                    .adapters
                    .iter_mut()
                    .filter(|part| part.name == name)
                {
                    part.method = part.method.clone().map(&mut noise);
                }
            }
            SlotModule::Prompt(_) | SlotModule::Vector(_) => {}
        });
    }
}

pub(crate) fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

struct Noise {
    size: f32,
    salt: usize,
}

impl burn::module::ModuleMapper for Noise {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.salt += 1;
        let noise = numbers(param.dims().iter().product(), self.salt);
        let (size, dims) = (self.size, param.dims());
        param.map(|tensor| {
            let place = (&tensor.device(), tensor.dtype());
            let noise = Tensor::from_data(TensorData::new(noise, dims), place);
            let tracked = tensor.is_require_grad();
            (tensor + noise * size).detach().set_require_grad(tracked)
        })
    }
}
