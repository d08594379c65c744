use std::collections::HashMap;

use burn::module::ModuleVisitor;
use burn::tensor::Gradients;
use flametune_testkit::{Tolerance, assert_close, fixture_safetensors};

use super::super::lstm::LstmDirection;
use super::*;
use burn::tensor::TensorData;

type Golden = HashMap<String, TensorData>;

fn param<const D: usize>(golden: &Golden, name: &str, device: &Device) -> Param<Tensor<D>> {
    Param::from_tensor(Tensor::from_data(golden[name].clone(), device).require_grad())
}

fn affine(golden: &Golden, name: &str, device: &Device) -> Affine {
    Affine {
        weight: param(golden, &format!("{name}.weight"), device),
        bias: param(golden, &format!("{name}.bias"), device),
    }
}

fn direction(golden: &Golden, suffix: &str, device: &Device) -> LstmDirection {
    let name = |part: &str| format!("lstm.lstm_head.{part}_{suffix}");
    LstmDirection {
        weight_ih: param(golden, &name("weight_ih"), device),
        weight_hh: param(golden, &name("weight_hh"), device),
        bias_ih: param(golden, &name("bias_ih"), device),
        bias_hh: param(golden, &name("bias_hh"), device),
    }
}

fn encoder(golden: &Golden, kind: &str, device: &Device) -> PromptEncoder {
    let embedding = param(golden, &format!("{kind}.embedding.weight"), device);
    let maps = |field: &str, indices: &[usize]| {
        let map = |index: &usize| affine(golden, &format!("{kind}.{field}.{index}"), device);
        indices.iter().map(map).collect()
    };
    match kind {
        "mlp" => PromptEncoder::Mlp(Mlp {
            embedding,
            mlp_head: maps("mlp_head", &[0, 2, 4]),
        }),
        "projection" => PromptEncoder::Projection(Projection {
            embedding,
            transform: maps("transform", &[0, 2]),
        }),
        _ => PromptEncoder::Lstm(Lstm {
            embedding,
            lstm_head: (0..2)
                .map(|layer| LstmLayer {
                    forward: direction(golden, &format!("l{layer}"), device),
                    reverse: direction(golden, &format!("l{layer}_reverse"), device),
                })
                .collect(),
            mlp_head: maps("mlp_head", &[0, 2]),
            dropout: 0.5,
        }),
    }
}

/// The norms of all gradients, in the order of the module.
struct Norms<'a>(&'a Gradients, Vec<f64>);

impl ModuleVisitor for Norms<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let gradient = param.val().grad(self.0).unwrap().into_data();
        self.1.push(norm(&gradient));
    }
}

fn norm(data: &TensorData) -> f64 {
    data.iter::<f64>().map(|x| x * x).sum::<f64>().sqrt()
}

fn values(data: &TensorData) -> Vec<f32> {
    data.iter::<f32>().collect()
}

const EVALUATION: Dropout<'static> = Dropout {
    key: None,
    rows: None,
};

#[test]
fn encoders_and_their_gradients_match_peft() {
    let golden = fixture_safetensors("peft/prompt_encoders.safetensors");
    for kind in ["mlp", "projection", "lstm"] {
        let device = Device::flex().autodiff();
        let encoder = encoder(&golden, kind, &device);
        let output = encoder.vectors(EVALUATION);
        let expected = values(&golden[&format!("{kind}.output")]);
        let got = values(&output.clone().into_data());
        // f32 sums of at most a dozen products of order one.
        assert_close(&got, &expected, Tolerance::rel_abs(1e-5, 1e-6), kind);
        let gradients = output.powi_scalar(2).sum().backward();
        let mut norms = Norms(&gradients, Vec::new());
        encoder.visit(&mut norms);
        let prefix = format!("{kind}.grad.");
        let mut expected: Vec<f64> = golden
            .iter()
            .filter(|(name, _)| name.starts_with(&prefix))
            .map(|(_, gradient)| norm(gradient))
            .collect();
        let mut got = norms.1;
        got.sort_by(f64::total_cmp);
        expected.sort_by(f64::total_cmp);
        assert_eq!(got.len(), expected.len(), "{kind}");
        for (got, expected) in got.iter().zip(&expected) {
            assert!(
                (got - expected).abs() <= 1e-4 * expected,
                "{kind}: {got}, {expected}"
            );
        }
        assert_eq!(encoder.len(), 3);
    }
}

#[test]
fn dropout_between_the_layers_of_an_lstm_is_a_function_of_seed_and_step() {
    let golden = fixture_safetensors("peft/prompt_encoders.safetensors");
    let encoder = encoder(&golden, "lstm", &Device::flex().autodiff());
    let at = |step| {
        let dropout = Dropout {
            key: Some(crate::DropoutKey { seed: 1, step }),
            rows: None,
        };
        values(&encoder.vectors(dropout).into_data())
    };
    assert_eq!(at(3), at(3));
    assert_ne!(at(3), at(4));
    assert_ne!(at(3), values(&encoder.vectors(EVALUATION).into_data()));
}
