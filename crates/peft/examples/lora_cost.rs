//! What LoRA costs on a stack of linear layers of SmolLM2-135M's sizes, and what Burn's own costs.
//!
//! `cargo run --release -p flametune-peft --example lora_cost [LAYERS [ROUNDS [TOKENS]]]`
//!
//! A step is a forward and a backward pass of 4 × 256 tokens unless told otherwise; the base is frozen, and the input
//! wants a gradient, as every layer's but the first one's does. All cases take turns, and each
//! reports its best step: elapsed time, and processor time of all threads.

#![allow(clippy::print_stdout, reason = "a program whose output is its purpose")]
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    reason = "a program that reads its command line, and has nobody to report errors to"
)]

use std::time::Instant;

use burn::module::{Lora, Module, Param, QLora, Quantizer};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::quantization::{Calibration, QuantValue};
use burn::tensor::{DType, Device, Distribution, Tensor};
use flametune_kernels::{Precision, in_pool, instruction_set};
use flametune_peft::{
    AdapterLinear, AdapterPass, AdapterTable, LoraConfig, Slot, Slots, TargetModules, inject,
    set_trainable,
};
use flametune_quant::{BaseLinear, DenseLinear, QuantConfig, QuantLinear};

const WIDTH: usize = 576;
const KV: usize = 192;
const INNER: usize = 1536;
const R: usize = 16;

/// The sizes of q, k, v, o, gate, up and down.
const SIZES: [[usize; 2]; 7] = [
    [WIDTH, WIDTH],
    [WIDTH, KV],
    [WIDTH, KV],
    [WIDTH, WIDTH],
    [WIDTH, INNER],
    [WIDTH, INNER],
    [INNER, WIDTH],
];

/// Seconds of processor time that this process's threads have used, where the system tells.
fn processor_time() -> Option<f64> {
    let tasks = std::fs::read_dir("/proc/self/task").ok()?;
    let nanoseconds = tasks.flatten().filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    });
    Some(nanoseconds.sum::<f64>() * 1e-9)
}

/// A stack whose layers all matter for the loss.
trait Stack {
    fn layers(&self) -> usize;
    /// Layer `layer`'s projection `index` of `x`.
    fn apply(&self, layer: usize, index: usize, x: Tensor<2>) -> Tensor<2>;

    fn loss(&self, mut h: Tensor<2>) -> Tensor<1> {
        let mut side = Vec::new();
        for layer in 0..self.layers() {
            let apply = |index, x: &Tensor<2>| self.apply(layer, index, x.clone());
            side.extend([apply(1, &h).sum(), apply(2, &h).sum()]);
            let attended = apply(3, &apply(0, &h));
            let inner = apply(4, &attended) + apply(5, &attended);
            h = apply(6, &inner);
        }
        side.into_iter().fold(h.sum(), |sum, term| sum + term)
    }
}

/// Our layers.
#[derive(Module, Debug)]
struct Ours {
    linears: Vec<AdapterLinear>,
    #[module(skip)]
    adapters: AdapterTable,
    #[module(skip)]
    pass: AdapterPass,
}

impl Slots for Ours {
    fn adapters(&self) -> &AdapterTable {
        &self.adapters
    }

    fn adapters_mut(&mut self) -> &mut AdapterTable {
        &mut self.adapters
    }

    fn visit_slots(&mut self, visit: &mut dyn FnMut(Slot<'_>)) {
        for (index, linear) in self.linears.iter_mut().enumerate() {
            visit(Slot::linear(&format!("layers.{index}.proj"), linear));
        }
    }
}

impl Stack for Ours {
    fn layers(&self) -> usize {
        self.linears.len() / SIZES.len()
    }

    fn apply(&self, layer: usize, index: usize, x: Tensor<2>) -> Tensor<2> {
        self.linears[layer * SIZES.len() + index].forward(x, &self.pass)
    }
}

impl Ours {
    fn new(layers: usize, nf4: bool, dtype: DType, precision: Precision, device: &Device) -> Self {
        let linear = |[d_in, d_out]: [usize; 2]| {
            let bound = (d_in as f64).sqrt().recip();
            let weight: Tensor<2> =
                Tensor::random([d_out, d_in], Distribution::Uniform(-bound, bound), device);
            let dense = DenseLinear::new(Param::from_tensor(weight.cast(dtype)), None);
            let base = if nf4 {
                let quant = QuantLinear::quantize(&dense, QuantConfig::default());
                BaseLinear::Quant(quant.expect("finite weights"))
            } else {
                BaseLinear::Dense(dense)
            };
            AdapterLinear::new(base.with_precision(precision)).no_grad()
        };
        Self {
            linears: (0..layers).flat_map(|_| SIZES.map(linear)).collect(),
            adapters: AdapterTable::default(),
            pass: AdapterPass::default(),
        }
    }

    fn with_adapter(mut self) -> Self {
        let config = LoraConfig {
            r: R,
            lora_alpha: 32.0,
            target_modules: Some(TargetModules::list(["proj"])),
            ..LoraConfig::default()
        };
        inject(&mut self, "a", &config.into(), 1).expect("every layer is a target");
        set_trainable(&mut self, &["a"]).expect("the adapter exists");
        self.pass = AdapterPass::one("a");
        self
    }
}

/// Burn's layers.
#[derive(Module, Debug)]
struct Theirs {
    linears: Vec<Linear>,
}

impl Stack for Theirs {
    fn layers(&self) -> usize {
        self.linears.len() / SIZES.len()
    }

    fn apply(&self, layer: usize, index: usize, x: Tensor<2>) -> Tensor<2> {
        self.linears[layer * SIZES.len() + index].forward(x)
    }
}

impl Theirs {
    fn new(layers: usize, device: &Device) -> Self {
        let linear = |[d_in, d_out]: [usize; 2]| {
            LinearConfig::new(d_in, d_out).with_bias(false).init(device)
        };
        Self {
            linears: (0..layers).flat_map(|_| SIZES.map(linear)).collect(),
        }
    }
}

/// A stack and the best of its steps.
struct Case {
    name: &'static str,
    stack: Box<dyn Stack + Send>,
    elapsed: f64,
    processor: f64,
}

impl Case {
    fn new(name: &'static str, stack: impl Stack + Send + 'static) -> Self {
        Self {
            name,
            stack: Box::new(stack),
            elapsed: f64::INFINITY,
            processor: f64::INFINITY,
        }
    }

    fn step(&mut self, x: &Tensor<2>) {
        let (start, used) = (Instant::now(), processor_time());
        let gradients = self.stack.loss(x.clone()).backward();
        assert!(x.grad(&gradients).is_some());
        drop(gradients);
        self.elapsed = self.elapsed.min(start.elapsed().as_secs_f64());
        if let (Some(used), Some(now)) = (used, processor_time()) {
            self.processor = self.processor.min(now - used);
        }
    }

    fn print(&self, beside: &Self) {
        println!(
            "{:<28} {:>8.1} ms {:>8.1} ms cpu   {:>5.3}x time {:>5.3}x cpu of {}",
            self.name,
            self.elapsed * 1e3,
            self.processor * 1e3,
            self.elapsed / beside.elapsed,
            self.processor / beside.processor,
            beside.name,
        );
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<usize>());
    let layers = arguments.next().and_then(Result::ok).unwrap_or(30);
    let rounds = arguments.next().and_then(Result::ok).unwrap_or(5);
    let tokens = arguments.next().and_then(Result::ok).unwrap_or(4 * 256);
    let device = Device::flex().autodiff();
    let ours = |nf4, dtype, precision| Ours::new(layers, nf4, dtype, precision, &device);
    let (f32, bf16) = (DType::F32, DType::BF16);
    let (full, half) = (Precision::Full, Precision::Bf16);
    let lora = || Lora::new(R, 32.0);
    let scheme = device
        .settings()
        .quantization
        .scheme
        .with_value(QuantValue::Q8S);
    let quantizer = Quantizer::new(Calibration::MinMax, scheme);
    let mut cases = [
        Case::new("dense f32", ours(false, f32, full)),
        Case::new("dense f32 + LoRA", ours(false, f32, full).with_adapter()),
        Case::new("dense bf16", ours(false, bf16, half)),
        Case::new("dense bf16 + LoRA", ours(false, bf16, half).with_adapter()),
        Case::new("NF4 f32", ours(true, f32, full)),
        Case::new("NF4 f32 + LoRA", ours(true, f32, full).with_adapter()),
        Case::new("NF4 bf16", ours(true, bf16, half)),
        Case::new("NF4 bf16 + LoRA", ours(true, bf16, half).with_adapter()),
        Case::new(
            "Burn apply_lora",
            Theirs::new(layers, &device).apply_lora(lora()),
        ),
        Case::new(
            "Burn apply_qlora",
            Theirs::new(layers, &device).apply_qlora(QLora::new(lora(), quantizer)),
        ),
    ];
    let shape = [tokens, WIDTH];
    let x = Tensor::random(shape, Distribution::Normal(0.0, 1.0), &device).require_grad();
    println!(
        "{layers} layers, {tokens} tokens, r = {R}, instruction set {}",
        instruction_set()
    );
    in_pool(|| {
        for _ in 0..rounds {
            for case in &mut cases {
                case.step(&x);
            }
        }
    });
    for pair in cases[..8].chunks_exact(2) {
        pair[0].print(&pair[0]);
        pair[1].print(&pair[0]);
    }
    cases[8].print(&cases[8]);
    cases[9].print(&cases[9]);
    for index in [1, 3, 5, 7] {
        cases[index].print(&cases[9]);
    }
}
