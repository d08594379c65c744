//! Reading `fixtures/align`, and comparing with it.

use std::collections::HashMap;

use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use flametune_testkit::{
    Tolerance, assert_close, cpu, fixture_json, fixture_safetensors, max_difference,
};
use serde_json::Value;

/// Losses are sums of a few dozen f32 of order one to ten, in another order than torch's.
pub(crate) fn tolerance() -> Tolerance {
    Tolerance::rel_abs(2e-5, 2e-6)
}

/// A file of tensors.
pub(crate) struct File(HashMap<String, TensorData>);

impl File {
    pub(crate) fn open(name: &str) -> Self {
        Self(fixture_safetensors(format!("align/{name}.safetensors")))
    }

    pub(crate) fn data(&self, name: &str) -> TensorData {
        self.0[name].clone()
    }

    pub(crate) fn f32(&self, name: &str) -> Vec<f32> {
        self.data(name).try_to_vec().unwrap()
    }

    pub(crate) fn i64(&self, name: &str) -> Vec<i64> {
        self.data(name).try_to_vec().unwrap()
    }

    pub(crate) fn bool(&self, name: &str) -> Vec<bool> {
        let bytes: Vec<u8> = self.data(name).try_to_vec().unwrap();
        bytes.into_iter().map(|byte| byte != 0).collect()
    }

    /// A leaf of the graph.
    pub(crate) fn leaf<const D: usize>(&self, name: &str) -> Tensor<D> {
        Tensor::from_data(self.data(name), &device()).require_grad()
    }
}

pub(crate) fn device() -> Device {
    cpu().autodiff()
}

/// The numbers of a case.
pub(crate) fn case(name: &str) -> Value {
    thread_local! {
        static RESULTS: Value = fixture_json("align/results.json");
    }
    RESULTS.with(|results| {
        let case = results[name].clone();
        assert!(case.is_object(), "no case {name}");
        case
    })
}

/// The names of all cases that begin so.
pub(crate) fn cases(prefix: &str) -> Vec<String> {
    let results = fixture_json("align/results.json");
    let names = results.as_object().unwrap().keys();
    names
        .filter(|name| name.starts_with(prefix))
        .cloned()
        .collect()
}

/// Compares a loss with that of its case.
#[track_caller]
pub(crate) fn check_loss(name: &str, loss: &Tensor<1>) {
    let expected = case(name)["loss"].as_f64().unwrap();
    check_number(name, f64::from(loss.clone().into_scalar::<f32>()), expected);
}

#[track_caller]
pub(crate) fn check_number(name: &str, got: f64, expected: f64) {
    assert!(
        tolerance().accepts(got, expected),
        "{name}: {got} != {expected}"
    );
}

/// Compares the gradient of a leaf.
#[track_caller]
pub(crate) fn check_gradient<const D: usize>(
    name: &str,
    loss: &Tensor<1>,
    leaf: &Tensor<D>,
    expected: &TensorData,
) {
    let gradients = loss.backward();
    let gradient = leaf.grad(&gradients).unwrap().into_data();
    let scale = max_difference(expected, &vec![0.0_f64; expected.num_elements()]);
    let tolerance = Tolerance::rel_abs(1e-4, 1e-5 * scale.max(1e-3));
    let shape = expected.shape().to_vec();
    let flat = TensorData::new(gradient.try_to_vec::<f32>().unwrap(), shape);
    assert_close(&flat, expected, tolerance, name);
}

/// Log-probabilities of the next tokens, `[rows, seq − 1]`, from logits `[rows, seq, vocab]`.
pub(crate) fn token_logps(logits: Tensor<3>, ids: &[i64]) -> Tensor<2> {
    let [rows, seq, _] = logits.dims();
    let targets: Vec<i64> = ids
        .chunks(seq)
        .flat_map(|row| row[1..].iter().copied())
        .collect();
    let targets = TensorData::new(targets, [rows, seq - 1, 1]);
    let targets = Tensor::<3, Int>::from_data(targets, &logits.device());
    activation::log_softmax(logits.narrow(1, 0, seq - 1), 2)
        .gather(2, targets)
        .squeeze_dim::<2>(2)
}

/// A mask `[rows, seq]` at the targets of each place, `[rows, seq − 1]`.
pub(crate) fn target_mask(mask: &[i64], rows: usize) -> Tensor<2> {
    let seq = mask.len() / rows;
    let shifted: Vec<f32> = mask
        .chunks(seq)
        .flat_map(|row| row[1..].iter().map(|m| if *m == 0 { 0.0 } else { 1.0 }))
        .collect();
    Tensor::from_data(TensorData::new(shifted, [rows, seq - 1]), &device())
}

/// The number of ones in each row.
pub(crate) fn row_lengths(mask: &[i64], rows: usize) -> Vec<usize> {
    let seq = mask.len() / rows;
    let row = |row: &[i64]| row.iter().filter(|m| **m != 0).count();
    mask.chunks(seq).map(row).collect()
}
