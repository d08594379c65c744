//! Our side of the races of single operations.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use burn::module::Param;
use burn::tensor::quantization::{QuantScheme, QuantStore, QuantValue, ScaleDtype};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use flametune_kernels::{
    AttentionMask, CrossEntropy, Precision, attention, dequantize, linear_cross_entropy,
    linear_with, packed_linear, reference, rms_norm, swiglu,
};
use flametune_quant::{DenseLinear, QuantConfig, QuantLinear, quantize};

use crate::machine::peak_bytes;
use crate::protocol::{Number, Operated, Operation, OperationKind};

/// Numbers compared with the peer's.
const SAMPLE: usize = 64;

/// How long an operation is repeated, at most [`MOST`] and at least three times.
const SECONDS: f64 = 0.3;

/// See [`SECONDS`].
const MOST: usize = 200;

/// An operation with its inputs made.
pub(crate) struct Prepared {
    operation: Operation,
    device: Device,
    run: Run,
}

impl Prepared {
    /// Makes the inputs on `device`, unless `last` has them.
    pub(crate) fn new(operation: Operation, device: &Device, last: Option<Self>) -> Result<Self> {
        match last {
            Some(last) if last.operation == operation => Ok(last),
            _ => Ok(Self {
                operation,
                device: device.clone(),
                run: prepare(operation, device)?,
            }),
        }
    }

    /// Does the operation again and again.
    pub(crate) fn measure(&self) -> Result<Operated> {
        let mut result = (self.run)()?;
        let (mut times, begin) = (Vec::new(), Instant::now());
        while times.len() < 3 || (begin.elapsed().as_secs_f64() < SECONDS && times.len() < MOST) {
            drop(result);
            let before = Instant::now();
            result = (self.run)()?;
            self.device.sync()?;
            times.push(before.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        let mut numbers = Vec::new();
        for tensor in result {
            numbers.extend(values(tensor)?);
        }
        Ok(Operated {
            seconds: times[times.len() / 2],
            sample: (0..SAMPLE)
                .map(|i| numbers[i * numbers.len() / SAMPLE])
                .collect(),
            peak_bytes: peak_bytes(std::process::id()).context("the peak of memory")?,
        })
    }
}

/// Numbers between -`scale` and `scale` that the peer makes alike.
fn numbers<const D: usize>(shape: [usize; D], seed: u32, scale: f32) -> TensorData {
    let start = seed.wrapping_mul(40503);
    let values: Vec<f32> = (0..shape.iter().product::<usize>())
        .map(|index| {
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            let mut bits = index.wrapping_mul(2_654_435_761).wrapping_add(start);
            bits ^= bits >> 15;
            bits = bits.wrapping_mul(2_246_822_519);
            bits ^= bits >> 13;
            #[expect(clippy::cast_precision_loss, reason = "24 bits fit an f32")]
            let fraction = (bits >> 8) as f32 / (1u32 << 23) as f32 - 1.0;
            fraction * scale
        })
        .collect();
    TensorData::new(values, shape)
}

/// A device, as the maker of inputs.
#[derive(Clone)]
struct Inputs {
    device: Device,
    /// Of activations.
    dtype: DType,
}

impl Inputs {
    fn tensor<const D: usize>(&self, shape: [usize; D], seed: u32, scale: f32) -> Tensor<D> {
        Tensor::from_data(numbers(shape, seed, scale), (&self.device, DType::F32))
    }

    /// Activations.
    fn input<const D: usize>(&self, shape: [usize; D], seed: u32) -> Tensor<D> {
        self.tensor(shape, seed, 1.0).cast(self.dtype)
    }

    /// Activations that want a gradient.
    fn leaf<const D: usize>(&self, shape: [usize; D], seed: u32) -> Tensor<D> {
        Tensor::from_inner(self.input(shape, seed)).require_grad()
    }
}

fn values<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>> {
    Ok(tensor.cast(DType::F32).into_data().try_into_vec()?)
}

/// The gradient of a leaf after a backward pass from `Σ y·dy`.
macro_rules! gradients {
    ($y:expr, $dy:expr, $($leaf:expr),+) => {{
        let y = $y;
        let mut all = vec![flat(y.clone().inner())];
        let gradients = (y * Tensor::from_inner($dy)).sum().backward();
        $(all.push(flat($leaf.grad(&gradients).context("a gradient")?));)+
        Ok(all)
    }};
}

type Run = Box<dyn Fn() -> Result<Vec<Tensor<1>>> + Send>;

fn flat<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    tensor.flatten(0, D - 1)
}

fn one<const D: usize>(tensor: Tensor<D>) -> Result<Vec<Tensor<1>>> {
    Ok(vec![flat(tensor)])
}

fn prepare(operation: Operation, device: &Device) -> Result<Run> {
    let Operation {
        kind,
        m,
        k,
        n,
        dtype,
    } = operation;
    let precision = match dtype {
        Number::F32 => Precision::Full,
        Number::Bf16 => Precision::Bf16,
    };
    let stored = match dtype {
        Number::F32 => DType::F32,
        Number::Bf16 => DType::BF16,
    };
    // On the CPU activations stay in f32 and are rounded as they enter a product.
    let cpu = *device == Device::flex();
    let inputs = Inputs {
        device: device.clone(),
        dtype: if cpu { DType::F32 } else { stored },
    };
    let weight = || inputs.tensor([n, k], 2, 0.05);
    Ok(match kind {
        OperationKind::Dense => {
            let (x, w) = (inputs.input([m, k], 1), weight().cast(stored));
            Box::new(move || one(linear_with(x.clone(), w.clone(), None, precision)))
        }
        OperationKind::DenseGradient => {
            let w = weight().cast(stored);
            gradient_of_x(&inputs, [m, k, n], move |x| {
                linear_with(x, w.clone(), None, precision)
            })
        }
        OperationKind::BurnQuantized => {
            let scheme = QuantScheme::default()
                .with_value(QuantValue::Q4S)
                .with_store(QuantStore::PackedU32(0))
                .per_block([32], ScaleDtype::F32);
            let w = weight().transpose().quantize_dynamic(&scheme);
            let x = inputs.input([m, k], 1);
            Box::new(move || one(x.clone().matmul(w.clone())))
        }
        OperationKind::Quantize => {
            let w = values(weight())?;
            let config = nf4();
            Box::new(move || {
                let packed = quantize(&w, &[n, k], config)?;
                let codes = TensorData::new(packed.codes().to_vec(), [packed.codes().len()]);
                one(Tensor::<1, Int>::from_data(codes, (&Device::flex(), DType::U8)).float())
            })
        }
        OperationKind::Dequantize => {
            let w = packed(weight())?;
            Box::new(move || one(dequantize(&w.packed_weight())))
        }
        OperationKind::Nf4 => {
            let (x, w) = (inputs.input([m, k], 1), packed(weight())?);
            Box::new(move || {
                one(packed_linear(
                    x.clone(),
                    &w.packed_weight(),
                    None,
                    precision,
                ))
            })
        }
        OperationKind::Nf4Gradient => {
            let w = packed(weight())?;
            gradient_of_x(&inputs, [m, k, n], move |x| {
                packed_linear(x, &w.packed_weight(), None, precision)
            })
        }
        OperationKind::RmsNorm => {
            let (x, w) = (inputs.leaf([m, k], 1), inputs.input([k], 2));
            let dy = inputs.input([m, k], 3);
            Box::new(move || {
                let w = Tensor::from_inner(w.clone());
                gradients!(rms_norm(x.clone(), w, 1e-6), dy.clone(), x)
            })
        }
        OperationKind::Swiglu => {
            let (gate, up) = (inputs.leaf([m, k], 1), inputs.leaf([m, k], 2));
            let dy = inputs.input([m, k], 3);
            Box::new(move || gradients!(swiglu(gate.clone(), up.clone()), dy.clone(), gate, up))
        }
        OperationKind::Attention => {
            let shape = [m / k, n, k, 64];
            let [q, key, v] = [1, 2, 3].map(|seed| inputs.leaf(shape, seed));
            let dy = inputs.input(shape, 4);
            Box::new(move || {
                let mask = AttentionMask::causal(0);
                let y = attention(q.clone(), key.clone(), v.clone(), &mask, 0.125, None);
                gradients!(y, dy.clone(), q, key, v)
            })
        }
        OperationKind::CrossEntropy | OperationKind::UnfusedCrossEntropy => {
            let (h, w) = (inputs.leaf([m, k], 1), weight().cast(stored));
            let labels: Vec<i64> = (0..m)
                .map(|i| (i * 7919 % n).cast_signed() as i64)
                .collect();
            let mut options = CrossEntropy::default();
            options.logits.precision = precision;
            let fused = kind == OperationKind::CrossEntropy;
            Box::new(move || {
                let (h, w) = (h.clone(), Tensor::from_inner(w.clone()));
                let operation = if fused {
                    linear_cross_entropy
                } else {
                    reference::linear_cross_entropy
                };
                let loss = operation(h.clone(), w, None, &labels, &options).loss;
                let mut all = vec![loss.clone().inner()];
                let gradients = loss.backward();
                all.push(flat(h.grad(&gradients).context("a gradient")?));
                Ok(all)
            })
        }
        OperationKind::Nf4Packed => bail!("{} is not done here", kind.name()),
    })
}

/// A linear map and its gradient for x.
fn gradient_of_x(
    inputs: &Inputs,
    [m, k, n]: [usize; 3],
    map: impl Fn(Tensor<2>) -> Tensor<2> + Send + 'static,
) -> Run {
    let (x, dy) = (inputs.leaf([m, k], 1), inputs.input([m, n], 3));
    Box::new(move || gradients!(map(x.clone()), dy.clone(), x))
}

fn nf4() -> QuantConfig {
    QuantConfig {
        double_quant: false,
        ..QuantConfig::default()
    }
}

fn packed(weight: Tensor<2>) -> Result<QuantLinear> {
    let dense = DenseLinear::new(Param::from_tensor(weight), None);
    Ok(QuantLinear::quantize(&dense, nf4())?)
}
