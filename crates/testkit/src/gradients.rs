//! Gradients by central differences, against those of automatic differentiation.

use burn::tensor::{Device, Tensor, TensorData};

use crate::close::{Values, assert_close};
use crate::devices::cpu;
use crate::tol::Tolerance;

/// The inputs of a function under test.
///
/// Kept flat, so that tensors of different ranks can stand side by side.
#[derive(Debug)]
pub struct Inputs {
    tensors: Vec<(Tensor<1>, Vec<usize>)>,
}

impl Inputs {
    /// Input `i`, in the shape of its data.
    ///
    /// # Panics
    /// When there is no such input, or its rank is not `D`.
    #[track_caller]
    pub fn get<const D: usize>(&self, i: usize) -> Tensor<D> {
        let Some((tensor, shape)) = self.tensors.get(i) else {
            panic!("input {i} of {}", self.tensors.len());
        };
        match <[usize; D]>::try_from(shape.as_slice()) {
            Ok(shape) => tensor.clone().reshape(shape),
            Err(_) => panic!("input {i} has shape {shape:?}, not rank {D}"),
        }
    }

    /// Inputs on a device, in f32.
    fn new(numbers: &[Vec<f64>], shapes: &[Vec<usize>], device: &Device) -> Self {
        let tensors = numbers.iter().zip(shapes).map(|(numbers, shape)| {
            #[allow(clippy::cast_possible_truncation, reason = "the check runs in f32")]
            let numbers: Vec<f32> = numbers.iter().map(|&x| x as f32).collect();
            (Tensor::from_data(numbers.as_slice(), device), shape.clone())
        });
        Self {
            tensors: tensors.collect(),
        }
    }
}

/// Checks the gradients of `f` with respect to every element of every input, on the CPU in f32.
///
/// The output, of any shape, is weighted by fixed numbers of changing sign and summed in f64, so
/// that one scalar sees every output element. Each input element is then moved by `±eps`:
/// `∂f/∂x ≈ (f(x + eps) − f(x − eps)) / 2·eps`.
/// [`tol::central_differences`](crate::tol::central_differences) is the tolerance for functions of
/// order one. The cost is two forward passes for each input element: keep the shapes small.
///
/// # Panics
/// When a gradient deviates by more than `tolerance`; the message names the input and the element.
#[track_caller]
pub fn check_gradients<const D: usize>(
    f: impl Fn(&Inputs) -> Tensor<D>,
    inputs: &[TensorData],
    eps: f64,
    tolerance: Tolerance,
) {
    let shapes: Vec<Vec<usize>> = inputs.iter().map(|data| data.shape().to_vec()).collect();
    // Rounded to f32 first, so that both sides see the same numbers.
    let mut numbers: Vec<Vec<f64>> = inputs.iter().map(Values::numbers).collect();

    let gradients = differentiate(&f, &numbers, &shapes);
    let weighted = |numbers: &[Vec<f64>]| {
        let output = f(&Inputs::new(numbers, &shapes, &cpu()))
            .into_data()
            .numbers();
        output
            .iter()
            .enumerate()
            .map(|(i, y)| y * weight(i))
            .sum::<f64>()
    };
    for (input, gradient) in gradients.iter().enumerate() {
        let differences: Vec<f64> = (0..gradient.len())
            .map(|element| {
                let x = numbers[input][element];
                let (above, below) = (in_f32(x + eps), in_f32(x - eps));
                numbers[input][element] = above;
                let rise = weighted(&numbers);
                numbers[input][element] = below;
                let fall = weighted(&numbers);
                numbers[input][element] = x;
                (rise - fall) / (above - below)
            })
            .collect();
        let differences = TensorData::new(differences, shapes[input].clone());
        let gradient = TensorData::new(gradient.clone(), shapes[input].clone());
        assert_close(
            &gradient,
            &differences,
            tolerance,
            &format!("gradient of input {input}"),
        );
    }
}

/// The gradients that automatic differentiation gives, zero for an input that is not used.
fn differentiate<const D: usize>(
    f: &impl Fn(&Inputs) -> Tensor<D>,
    numbers: &[Vec<f64>],
    shapes: &[Vec<usize>],
) -> Vec<Vec<f64>> {
    let device = cpu().autodiff();
    let mut inputs = Inputs::new(numbers, shapes, &device);
    for (tensor, _) in &mut inputs.tensors {
        *tensor = tensor.clone().require_grad();
    }
    let output = f(&inputs);
    let count = output.shape().num_elements();
    #[allow(clippy::cast_possible_truncation, reason = "the check runs in f32")]
    let weights: Vec<f32> = (0..count).map(|i| weight(i) as f32).collect();
    let weights = Tensor::<1>::from_data(weights.as_slice(), &device);
    let gradients = (output.reshape([count]) * weights).sum().backward();
    inputs
        .tensors
        .iter()
        .zip(numbers)
        .map(|((tensor, _), numbers)| match tensor.grad(&gradients) {
            Some(gradient) => gradient.into_data().numbers(),
            None => vec![0.0; numbers.len()],
        })
        .collect()
}

/// The weight of output element `i`: between 0.5 and 1.5 in size, of changing sign, exact in f32.
fn weight(i: usize) -> f64 {
    const SIZES: [f64; 7] = [0.5, 1.25, 0.75, 1.5, 1.0, 0.625, 1.375];
    let sign = if i.is_multiple_of(3) { -1.0 } else { 1.0 };
    sign * SIZES[i % SIZES.len()]
}

/// The nearest number that f32 can hold.
fn in_f32(x: f64) -> f64 {
    #[allow(
        clippy::cast_possible_truncation,
        reason = "rounding is what is asked for"
    )]
    let rounded = x as f32;
    rounded.into()
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::tol;

    const EPS: f64 = 1e-2;

    fn data() -> [TensorData; 2] {
        let x = TensorData::from([[0.5_f32, -1.0, 0.25], [2.0, 0.75, -0.5]]);
        let w = TensorData::from([[0.1_f32, 0.4], [-0.3, 0.2], [0.7, -0.6]]);
        [x, w]
    }

    #[test]
    fn right_gradients_pass() {
        let f = |inputs: &Inputs| inputs.get::<2>(0).matmul(inputs.get(1)).tanh();
        check_gradients(f, &data(), EPS, tol::central_differences(EPS));
    }

    #[test]
    fn inputs_of_different_ranks_stand_side_by_side() {
        let [x, _] = data();
        let bias = TensorData::from([0.5_f32, 0.0, -0.5]);
        let f = |inputs: &Inputs| {
            let sum = inputs.get::<2>(0) + inputs.get::<1>(1).unsqueeze();
            sum.exp().sum_dim(1)
        };
        check_gradients(
            f,
            &[x, bias],
            EPS,
            tol::central_differences(EPS).of_magnitude(8.0),
        );
    }

    #[test]
    fn a_detached_term_is_found() {
        let f = |inputs: &Inputs| {
            let x = inputs.get::<2>(0);
            x.clone().detach() * x
        };
        let [x, _] = data();
        let panic = catch_unwind(AssertUnwindSafe(|| {
            check_gradients(f, &[x], EPS, tol::central_differences(EPS));
        }));
        let message = *panic.unwrap_err().downcast::<String>().unwrap();
        assert!(
            message.starts_with("gradient of input 0: 6 of 6 numbers deviate"),
            "{message}"
        );
    }

    #[test]
    fn an_unused_input_has_no_gradient() {
        let f = |inputs: &Inputs| inputs.get::<2>(0).powi_scalar(2);
        check_gradients(f, &data(), EPS, tol::central_differences(EPS));
    }
}
