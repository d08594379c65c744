//! Bottleneck adapters against a forward pass written out here.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Bool, Device, Tensor, TensorData, activation};
use flametune_lm::{AdapterPass, CausalLm, Gpt2Lm, TokenBatch};
use flametune_peft::{
    BottleneckConfig, MergeOptions, NonLinearity, SlotModule, Slots, adapter_tensors, inject,
    load_adapter, merge, report, save_adapter,
};
use flametune_quant::BaseLinear;
use flametune_testkit::{Tolerance, assert_close, max_difference};

use crate::adapters::{batch, last3, logits, model, tolerance};
use crate::models::{base, values};

/// Puts numbers of order `0.3` in the place of every parameter.
struct Noise(usize);

impl ModuleMapper for Noise {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.0 += 1;
        let (salt, dims, device) = (self.0, param.dims(), param.device());
        let numbers: Vec<f32> = (0..dims.iter().product())
            .map(|i: usize| ((i * 7919 + salt * 104_729) % 2003) as f32 / 2003.0 - 0.5)
            .collect();
        Param::from_tensor(Tensor::from_data(TensorData::new(numbers, dims), &device) * 0.6)
    }
}

fn disturb(model: &mut CausalLm) {
    let mut noise = Noise(0);
    model.visit_slots(&mut |slot| {
        if let SlotModule::Sublayer(sublayer) = slot.module {
            for part in sublayer.adapters.iter_mut() {
                part.method = part.method.clone().map(&mut noise);
            }
        }
    });
}

fn arrangements() -> Vec<(&'static str, BottleneckConfig)> {
    let small = |config: BottleneckConfig| BottleneckConfig {
        reduction_factor: 8.0,
        ..config
    };
    let both_parallel = BottleneckConfig {
        mh_adapter: true,
        non_linearity: NonLinearity::Tanh,
        ..BottleneckConfig::parallel()
    };
    let gelu = BottleneckConfig {
        non_linearity: NonLinearity::Gelu,
        scaling: 0.5,
        ..BottleneckConfig::houlsby()
    };
    vec![
        ("houlsby", small(BottleneckConfig::houlsby())),
        ("pfeiffer", small(BottleneckConfig::pfeiffer())),
        ("parallel", small(BottleneckConfig::parallel())),
        ("parallel on both", small(both_parallel)),
        ("gelu", small(gelu)),
    ]
}

type Tensors = BTreeMap<String, TensorData>;

/// What an adapter adds, from its tensors on disk.
fn bottleneck(
    tensors: &Tensors,
    path: &str,
    config: &BottleneckConfig,
    x: Tensor<2>,
) -> Option<Tensor<2>> {
    let key = |name: &str| format!("base_model.model.{path}.adapter_{name}");
    let device = x.device();
    let matrix = |name| Tensor::<2>::from_data(tensors[&key(name)].clone(), &device);
    let vector = |name| Tensor::<1>::from_data(tensors[&key(name)].clone(), &device).unsqueeze();
    tensors.get(&key("up.weight"))?;
    let inner = x.matmul(matrix("down.weight").transpose()) + vector("down.bias");
    let inner = match config.non_linearity {
        NonLinearity::Relu => inner.clamp_min(0.0),
        NonLinearity::Gelu => activation::gelu(inner),
        NonLinearity::Swish => inner.clone() * activation::sigmoid(inner),
        NonLinearity::Tanh => inner.tanh(),
    };
    Some((inner.matmul(matrix("up.weight").transpose()) + vector("up.bias")) * config.scaling)
}

/// GPT-2 written out for one row, with adapters.
fn gpt2(lm: &Gpt2Lm, ids: &[u32], tensors: &Tensors, config: &BottleneckConfig) -> Tensor<2> {
    let plain = AdapterPass::default();
    let dtype = lm.transformer.compute_dtype();
    let positions: Vec<u32> = (0..).take(ids.len()).collect();
    let embed = |table: &flametune_peft::AdapterEmbedding, ids: &[u32]| {
        let y = table.forward(ids, 1, dtype, &plain);
        let [_, seq, width] = y.dims();
        y.reshape([seq, width])
    };
    let (seq, heads) = (ids.len(), lm.transformer.config().n_head);
    let mut stream = embed(&lm.transformer.wte, ids) + embed(&lm.transformer.wpe, &positions);
    let width = stream.dims()[1];
    let adapted = |path: String, stream: &Tensor<2>, input: Tensor<2>, output: Tensor<2>| {
        let x = match (config.is_parallel, config.original_ln_before) {
            (true, _) => input,
            (_, true) => output.clone() + stream.clone(),
            _ => output.clone(),
        };
        match bottleneck(tensors, &path, config, x) {
            Some(added) => output + added,
            None => output,
        }
    };
    for (index, block) in lm.transformer.h.iter().enumerate() {
        let one = |x: Tensor<2>| x.unsqueeze::<3>();
        let two = |x: Tensor<3>| {
            let [_, seq, width] = x.dims();
            x.reshape([seq, width])
        };
        let normed = two(block.ln_1.forward(one(stream.clone()), &plain));
        let qkv = two(block.attn.c_attn.forward(one(normed.clone()), &plain));
        let part = |part: usize| {
            qkv.clone()
                .narrow(1, part * width, width)
                .reshape([seq, heads, width / heads])
                .swap_dims(0, 1)
        };
        let scores = part(0).matmul(part(1).transpose()) / ((width / heads) as f64).sqrt();
        let hidden = Tensor::<2, Bool>::tril_mask([seq, seq], 0, &stream.device());
        let scores = scores.mask_fill(hidden.unsqueeze::<3>().expand([heads, seq, seq]), -1e30);
        let y = activation::softmax(scores, 2).matmul(part(2));
        let y = y.swap_dims(0, 1).reshape([seq, width]);
        let attended = two(block.attn.c_proj.forward(one(y), &plain));
        let path = |name| format!("transformer.h.{index}.{name}");
        stream = stream.clone() + adapted(path("attn"), &stream, normed, attended);
        let normed = two(block.ln_2.forward(one(stream.clone()), &plain));
        let inner = two(block.mlp.c_fc.forward(one(normed.clone()), &plain));
        let inner = activation::gelu_approximate(inner);
        let fed = two(block.mlp.c_proj.forward(one(inner), &plain));
        stream = stream.clone() + adapted(path("mlp"), &stream, normed, fed);
    }
    let normed = lm.transformer.ln_f.forward(stream.unsqueeze::<3>(), &plain);
    let logits = lm.logits(normed, &plain);
    let vocab = logits.dims()[2];
    logits.reshape([seq, vocab])
}

#[test]
fn every_arrangement_computes_what_is_written_out_here() {
    for (what, config) in arrangements() {
        let mut model = model("base_gpt2", &Device::flex());
        inject(&mut model, "a", &config.clone().into(), 1).unwrap();
        let pass = AdapterPass::one("a");
        assert_eq!(last3(&model, &pass), last3(&model, &base()), "{what}: init");
        disturb(&mut model);
        let tensors = adapter_tensors(&model, "a").unwrap();
        let ids = [5, 60, 7, 100];
        let batch = TokenBatch::from_rows(&[ids.to_vec()]).unwrap();
        let got = values(model.logits(model.forward(&batch, None, &pass).unwrap(), &pass));
        let CausalLm::Gpt2(lm) = &model else {
            panic!("GPT-2")
        };
        let expected = values(gpt2(lm, &ids, &tensors, &config));
        let without = values(gpt2(lm, &ids, &Tensors::new(), &config));
        assert!(max_difference(&expected, &without) > 1e-2, "{what} shows");
        assert_close(&got, &expected, tolerance(), what);
    }
}

/// With `U = 0` an adapter is a constant on the sublayer's output, which a bias of the last layer
/// of the sublayer is too.
#[test]
fn in_a_decoder_the_adapter_sits_before_the_residual() {
    let mut adapted = model("base_llama", &Device::flex());
    inject(&mut adapted, "a", &BottleneckConfig::houlsby().into(), 1).unwrap();
    let constant = |salt: usize| -> Vec<f32> {
        (0..64)
            .map(|i| ((i * 37 + salt * 11) % 23) as f32 / 23.0 - 0.5)
            .collect()
    };
    let device = Device::flex();
    let vector =
        |salt| Param::from_tensor(Tensor::<1>::from_floats(constant(salt).as_slice(), &device));
    let mut salt = 0;
    adapted.visit_slots(&mut |slot| {
        if let SlotModule::Sublayer(sublayer) = slot.module {
            salt += 1;
            sublayer.adapters[0].method.adapter_up_bias = vector(salt);
        }
    });
    let mut biased = model("base_llama", &Device::flex());
    let mut salt = 0;
    biased.visit_slots(&mut |slot| {
        let last = slot.path.ends_with("o_proj") || slot.path.ends_with("down_proj");
        if let (SlotModule::Linear(linear), true) = (slot.module, last) {
            salt += 1;
            if let flametune_peft::BaseRef::Own(BaseLinear::Dense(dense)) = linear.base {
                dense.bias = Some(vector(salt));
            }
        }
    });
    let got = last3(&adapted, &AdapterPass::one("a"));
    assert_close(&got, &last3(&biased, &base()), tolerance(), "biases");
}

#[test]
fn gradients_are_those_of_central_differences() {
    for (what, mut config) in arrangements() {
        // Differences across the corner of ReLU are no derivatives.
        if config.non_linearity == NonLinearity::Relu {
            config.non_linearity = NonLinearity::Tanh;
        }
        let device = Device::flex().autodiff();
        let mut model = model("base_gpt2", &device);
        inject(&mut model, "a", &config.into(), 1).unwrap();
        disturb(&mut model);
        flametune_peft::set_trainable(&mut model, &["a"]).unwrap();
        let pass = AdapterPass::one("a");
        let loss = |model: &CausalLm| {
            let logits = logits(model, &pass);
            activation::log_softmax(logits, 2).narrow(2, 5, 1).mean()
        };
        let gradients = loss(&model).backward();
        let mut picked = Vec::new();
        model.visit_slots(&mut |slot| {
            if let SlotModule::Sublayer(sublayer) = slot.module {
                for part in sublayer.adapters.iter() {
                    let gradient = part.method.adapter_down.val().grad(&gradients).unwrap();
                    picked.push((slot.path.to_owned(), values(gradient)[3]));
                }
            }
        });
        assert!(!picked.is_empty());
        for (path, gradient) in picked {
            let moved = |by: f32| {
                let mut model = model.clone();
                model.visit_slots(&mut |slot| {
                    if let (SlotModule::Sublayer(sublayer), true) = (slot.module, slot.path == path)
                    {
                        let param = &mut sublayer.adapters[0].method.adapter_down;
                        let mut numbers = values(param.val());
                        numbers[3] += by;
                        let data = TensorData::new(numbers, param.dims());
                        *param = Param::from_tensor(Tensor::from_data(data, &device));
                    }
                });
                f64::from(loss(&model).into_scalar::<f32>())
            };
            let difference = (moved(2e-2) - moved(-2e-2)) / 4e-2;
            // f32 losses of order 6, a step of 2e-2: 1e-6 · 6 / 4e-2, and the curvature.
            let error = (difference - f64::from(gradient)).abs();
            assert!(error < 5e-4, "{what}: {path}: {difference} and {gradient}");
        }
    }
}

#[test]
fn counts_files_and_merging() {
    let mut llama = model("base_llama", &Device::flex());
    let config = BottleneckConfig {
        reduction_factor: 8.0,
        ..BottleneckConfig::houlsby()
    };
    inject(&mut llama, "a", &config.into(), 1).unwrap();
    // Two layers, two sublayers, 64 → 8 → 64 with biases.
    let counted = report(&llama);
    assert_eq!(counted.trainable, 2 * 2 * (2 * 64 * 8 + 8 + 64));
    let paths: Vec<&str> = counted
        .modules
        .iter()
        .map(|row| row.path.as_str())
        .collect();
    assert_eq!(
        paths[..2],
        ["model.layers.0.self_attn", "model.layers.0.mlp"]
    );
    disturb(&mut llama);
    let folder = tempfile::tempdir().unwrap();
    save_adapter(&llama, "a", folder.path()).unwrap();
    let mut again = model("base_llama", &Device::flex());
    load_adapter(&mut again, "b", folder.path()).unwrap();
    let expected = last3(&llama, &AdapterPass::one("a"));
    assert_eq!(last3(&again, &AdapterPass::one("b")), expected);
    let error = merge(&mut again, &["b"], &MergeOptions::default()).unwrap_err();
    assert!(
        error.to_string().contains("no change of a weight"),
        "{error}"
    );
    // A row with the adapter and a row without, in one batch.
    let rows = vec![Some("b".to_owned()), None];
    let rows = AdapterPass::new(flametune_lm::AdapterSelection::PerRow(rows));
    let mixed = last3(&again, &rows);
    let half = mixed.len() / 2;
    let close = Tolerance::rel_abs(2e-5, 2e-5);
    assert_close(&mixed[..half], &expected[..half], close, "with");
    assert_close(
        &mixed[half..],
        &last3(&again, &base())[half..],
        close,
        "without",
    );
    assert_eq!(batch().batch(), 2);
}
