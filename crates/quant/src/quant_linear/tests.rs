use burn::module::{ModuleVisitor, ParamId};
use burn::tensor::DType;
use flametune_testkit::{assert_close, cpu, devices, tol};

use super::*;
use crate::bnb_layout;
use crate::config::WeightDtype;

const SHAPE: [usize; 2] = [24, 37];

fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i as f32 * 0.37).sin() * 0.1).collect()
}

fn configs() -> Vec<QuantConfig> {
    let mut configs = Vec::new();
    for kind in [QuantKind::Nf4, QuantKind::Fp4, QuantKind::Int8] {
        for (block_size, double_quant) in [(64, false), (64, true), (128, true), (4096, false)] {
            configs.push(QuantConfig {
                kind,
                block_size,
                double_quant,
                dtype: WeightDtype::Bf16,
            });
        }
    }
    configs.push(rows());
    configs
}

fn rows() -> QuantConfig {
    QuantConfig {
        kind: QuantKind::Int8Vectorwise,
        block_size: 0,
        double_quant: false,
        dtype: WeightDtype::F16,
    }
}

fn tensor(config: QuantConfig) -> QuantTensor {
    quantize(&numbers(SHAPE[0] * SHAPE[1]), &SHAPE, config).unwrap()
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec::<f32>().unwrap()
}

#[test]
fn weights_go_to_the_device_and_back_without_a_change() {
    for device in devices() {
        for config in configs() {
            let tensor = tensor(config);
            let layer = QuantLinear::from_quant_tensor(&tensor, None, &device).unwrap();
            assert_eq!(layer.to_quant_tensor().unwrap(), tensor, "{config:?}");
            assert_eq!(layer.bytes(), tensor.bytes());
            assert_eq!(config.bytes(&SHAPE), tensor.bytes());
            assert_eq!(layer.bits_per_param(), tensor.bits_per_param());
            assert_eq!((layer.d_out(), layer.d_in()), (24, 37));
        }
    }
}

#[test]
fn the_device_dequantizes_as_the_host_does() {
    for config in configs() {
        let tensor = tensor(config);
        let layer = QuantLinear::from_quant_tensor(&tensor, None, &cpu()).unwrap();
        // One product of a code's number and its scale; the scale itself may be rounded once more
        // than on the host where a multiplication and an addition are fused.
        let what = format!("{config:?}");
        let tolerance = tol::roundings(DType::F32, 2).of_magnitude(0.1);
        assert_close(
            &values(layer.dequantize()),
            &tensor.dequantize(),
            tolerance,
            &what,
        );
    }
}

#[test]
fn forward_equals_the_dense_layer_of_the_same_numbers() {
    for device in devices() {
        for config in configs() {
            let tensor = tensor(config);
            let bias = || {
                let bias = TensorData::new(numbers(SHAPE[0]), [SHAPE[0]]);
                Some(Param::from_tensor(Tensor::from_data(bias, &device)))
            };
            let layer = QuantLinear::from_quant_tensor(&tensor, bias(), &device).unwrap();
            let weight = TensorData::new(tensor.dequantize(), SHAPE);
            let weight = Param::from_tensor(Tensor::from_data(weight, &device));
            let dense = crate::BaseLinear::Dense(DenseLinear::new(weight, bias()));
            for precision in [Precision::Full, Precision::Bf16] {
                if precision == Precision::Bf16 && !device.supports_dtype(DType::BF16) {
                    continue;
                }
                let x = TensorData::new(numbers(3 * SHAPE[1]), [1, 3, SHAPE[1]]);
                let x = Tensor::<3>::from_data(x, &device);
                let layer = crate::BaseLinear::Quant(layer.clone()).with_precision(precision);
                let got = values(layer.forward(x.clone()));
                let expected = values(dense.clone().with_precision(precision).forward(x));
                // Sums of 37 products of two numbers of at most 0.1, in any order; a bf16 operand
                // may fall on the other side of a rounding when a scale differs in its last bit.
                let tolerance = match precision {
                    Precision::Full => tol::roundings(DType::F32, 37),
                    Precision::Bf16 => tol::roundings(DType::BF16, 1),
                };
                let what = format!("{device:?}: {config:?} {precision:?}");
                assert_close(&got, &expected, tolerance.of_magnitude(0.05), &what);
            }
        }
    }
}

#[test]
fn quantizing_a_dense_layer_keeps_its_bias_and_its_switches() {
    let weight = TensorData::new(numbers(SHAPE[0] * SHAPE[1]), SHAPE);
    let bias = TensorData::new(numbers(SHAPE[0]), [SHAPE[0]]);
    let dense = DenseLinear {
        weight: Param::from_tensor(Tensor::from_data(weight, &cpu())),
        bias: Some(Param::from_tensor(Tensor::from_data(bias, &cpu()))),
        fan_in_fan_out: true,
        precision: Precision::Bf16,
    };
    let config = QuantConfig::default();
    let layer = QuantLinear::quantize(&dense, config).unwrap();
    assert_eq!(layer.to_quant_tensor().unwrap(), tensor(config));
    assert_eq!(
        values(layer.bias.as_ref().unwrap().val()),
        numbers(SHAPE[0])
    );
    assert!(layer.fan_in_fan_out);
    assert_eq!(layer.precision, Precision::Bf16);
    assert_eq!(layer.config(), config);
}

#[derive(Default)]
struct Active(Vec<ParamId>);

impl ModuleVisitor for Active {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.is_require_grad() {
            self.0.push(param.id);
        }
    }
}

#[test]
fn gradients_reach_x_and_no_parameter() {
    let device = cpu().autodiff();
    let bias = Tensor::<1>::zeros([SHAPE[0]], &cpu());
    for config in configs() {
        let tensor = tensor(config);
        let bias = Some(Param::from_tensor(bias.clone()));
        let layer = QuantLinear::from_quant_tensor(&tensor, bias, &cpu()).unwrap();
        for layer in [layer.clone().train(), layer.to_device(&device)] {
            let mut active = Active::default();
            layer.visit(&mut active);
            assert!(active.0.is_empty(), "{config:?}");
            let x = Tensor::<2>::ones([1, SHAPE[1]], &device).require_grad();
            let grads = layer.forward(x.clone()).sum().backward();
            let got = values(x.grad(&grads).unwrap());
            let dense = tensor.dequantize();
            let expected: Vec<f32> = (0..SHAPE[1])
                .map(|column| {
                    (0..SHAPE[0])
                        .map(|row| dense[row * SHAPE[1] + column])
                        .sum()
                })
                .collect();
            let tolerance = tol::roundings(DType::F32, 24);
            assert_close(
                &got,
                &expected,
                tolerance,
                &format!("{config:?}: gradient of x"),
            );
        }
    }
}

#[test]
fn stored_parts_are_those_of_the_host() {
    for config in configs() {
        let tensor = tensor(config);
        let layer = QuantLinear::from_quant_tensor(&tensor, None, &cpu()).unwrap();
        if config.kind == QuantKind::Int8 {
            let error = layer.stored_parts("a.weight").unwrap_err();
            assert_eq!(
                error.to_string(),
                "weight `a.weight`: int8 weights have no place in bitsandbytes' layout, \
                 which has nf4, fp4 and int8_vectorwise"
            );
            continue;
        }
        let expected = bnb_layout::write("a.weight", &tensor).unwrap();
        let parts = layer.stored_parts("a.weight").unwrap();
        assert_eq!(parts.len(), expected.len());
        for (part, (name, expected)) in parts.iter().zip(&expected) {
            assert_eq!(&part.name, name);
            assert_eq!((part.dtype, &part.shape), (expected.dtype, &expected.shape));
            assert_eq!(part.bytes(), &*expected.bytes, "{name}");
        }
    }
}

#[test]
fn only_matrices_and_biases_that_fit_make_layers() {
    let vector = quantize(&[1.0; 8], &[8], QuantConfig::default()).unwrap();
    let error = QuantLinear::from_quant_tensor(&vector, None, &cpu()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the weight of a linear layer must be a matrix, got shape [8]"
    );
    let bias = Param::from_tensor(Tensor::zeros([3], &cpu()));
    let tensor = tensor(QuantConfig::default());
    let error = QuantLinear::from_quant_tensor(&tensor, Some(bias), &cpu()).unwrap_err();
    assert_eq!(error.to_string(), "bias must have 24 elements, got 3");
}
