use burn::tensor::{DType, Device, Tensor, TensorData};
use flametune_testkit::{Tolerance, assert_close, check_gradients, devices, tol};
use proptest::prelude::*;

use super::{
    CrossEntropy, CrossEntropyOutput, Inputs, LogitOptions, chunked, linear_cross_entropy,
    linear_logps, linear_logps_with_entropy, native, reference,
};
use crate::precision::Precision;
use crate::sample::{assert_same_on_any_threads, leaf, numbers, pull_back, tensor};

/// Tokens, d_model, vocab.
type Shape = [usize; 3];

/// Labels of which about a third are ignored; all of them, if `ignored` says so.
fn labels([tokens, _, vocab]: Shape, ignored: bool) -> Vec<i64> {
    (0..tokens as i64)
        .map(|i| {
            if ignored || i % 3 == 1 {
                -100
            } else {
                (i * 7919 + 3) % vocab as i64
            }
        })
        .collect()
}

/// Which form, with which budget for a chunk.
#[derive(Debug, Clone, Copy)]
enum Form {
    Reference,
    Native(usize),
    Chunked(usize),
}

impl Form {
    fn loss(
        self,
        [hidden, weight]: [Tensor<2>; 2],
        bias: Option<Tensor<1>>,
        labels: &[i64],
        options: &CrossEntropy,
    ) -> Tensor<1> {
        let inputs = || {
            let (hidden, weight, bias) = (hidden.clone(), weight.clone(), bias.clone());
            Inputs::checked(hidden, weight, bias, labels, &options.logits)
        };
        match self {
            Self::Reference => {
                reference::linear_cross_entropy(hidden, weight, bias, labels, options).loss
            }
            Self::Native(budget) => native::loss(inputs(), options, budget),
            Self::Chunked(budget) => chunked::loss(inputs(), options, budget),
        }
    }

    fn logps(
        self,
        [hidden, weight]: [Tensor<2>; 2],
        bias: Option<Tensor<1>>,
        labels: &[i64],
        options: &LogitOptions,
    ) -> [Tensor<1>; 2] {
        let inputs = Inputs::checked(hidden, weight, bias, labels, options);
        let (logps, entropies) = match self {
            Self::Reference => reference::logps(inputs, options),
            Self::Native(budget) => native::logps(inputs, options, budget, true),
            Self::Chunked(budget) => chunked::logps(inputs, options, budget),
        };
        [logps, entropies]
    }
}

/// What is tracked: hidden states, weight, bias.
type Tracked = [bool; 3];

/// The leaves of a case: hidden states of order one, a weight that gives logits of a few.
fn leaves(
    [tokens, width, vocab]: Shape,
    dtype: DType,
    tracked: Tracked,
    device: &Device,
) -> ([Tensor<2>; 2], Tensor<1>) {
    let device = device.clone().autodiff();
    let hidden = tensor([tokens, width], 1, &device) * 2.0;
    let weight = (tensor([vocab, width], 2, &device) * 1.5).cast(dtype);
    let bias = tensor([vocab], 3, &device);
    let track = |yes: bool, x: Tensor<2>| if yes { x.detach().require_grad() } else { x };
    let bias = if tracked[2] {
        bias.require_grad()
    } else {
        bias
    };
    ([track(tracked[0], hidden), track(tracked[1], weight)], bias)
}

/// The value and the gradients of what is tracked.
fn results(
    values: &Tensor<1>,
    [hidden, weight]: &[Tensor<2>; 2],
    bias: &Tensor<1>,
) -> Vec<TensorData> {
    let mut all = vec![values.clone().inner().into_data()];
    if values.is_tracked() {
        let gradients = pull_back(values.clone());
        all.extend(hidden.grad(&gradients).map(Tensor::into_data));
        let weight = weight.grad(&gradients);
        all.extend(weight.map(|weight| weight.cast(DType::F32).into_data()));
        all.extend(bias.grad(&gradients).map(Tensor::into_data));
    }
    all
}

fn assert_same(got: &[TensorData], expected: &[TensorData], tolerance: Tolerance, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}: gradients");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert_eq!(got.shape(), expected.shape(), "{what}: {i}");
        assert_close(got, expected, tolerance, &format!("{what}: {i}"));
    }
}

/// Loss and log-probabilities of a form, against the reference.
fn check(
    form: Form,
    device: &Device,
    shape: Shape,
    (tracked, with_bias, dtype): (Tracked, bool, DType),
    options: &CrossEntropy,
    tolerance: Tolerance,
) {
    let labels = labels(shape, false);
    let run = |form: Form| {
        let (matrices, bias) = leaves(shape, dtype, tracked, device);
        let given = with_bias.then(|| bias.clone());
        let loss = form.loss(matrices.clone(), given, &labels, options);
        let loss = results(&loss, &matrices, &bias);
        let (matrices, bias) = leaves(shape, dtype, tracked, device);
        let given = with_bias.then(|| bias.clone());
        let [logps, entropies] = form.logps(matrices.clone(), given, &labels, &options.logits);
        let mut logps = results(&logps, &matrices, &bias);
        logps.push(entropies.into_data());
        (loss, logps)
    };
    let ((loss, logps), (loss_expected, logps_expected)) = (run(form), run(Form::Reference));
    assert_same(&loss, &loss_expected, tolerance, "loss");
    assert_same(&logps, &logps_expected, tolerance, "logps");
}

fn options() -> impl Strategy<Value = CrossEntropy> {
    let smoothing = prop_oneof![Just(0.0), Just(0.1), Just(1.0)];
    let scale = prop_oneof![Just(1.0), Just(0.25), Just(-1.5)];
    let cap = prop_oneof![Just(None), Just(Some(2.0)), Just(Some(30.0))];
    let z_loss = prop_oneof![Just(0.0), Just(1e-2)];
    (smoothing, scale, cap, z_loss).prop_map(|(label_smoothing, logit_scale, softcap, z_loss)| {
        CrossEntropy {
            logits: LogitOptions {
                logit_scale,
                softcap,
                ..LogitOptions::default()
            },
            label_smoothing,
            z_loss,
        }
    })
}

/// Sums of up to 600 terms in each of a few steps; gradients and losses are sums of up to twenty
/// rows of size up to ten.
fn close() -> Tolerance {
    tol::f32_sum(2048).of_magnitude(16.0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn fast_path_equals_the_reference(
        tokens in 1usize..20,
        width in 1usize..70,
        vocab in prop_oneof![1usize..40, 250usize..260, 500usize..600],
        options in options(),
        tracked in any::<Tracked>(),
        with_bias: bool,
        half: bool,
        rows in 1usize..5,
    ) {
        let dtype = if half { DType::BF16 } else { DType::F32 };
        let tolerance = if half && tracked[1] {
            // The gradient of a bf16 weight is rounded once.
            tol::roundings(DType::BF16, 1).of_magnitude(4.0)
        } else {
            close()
        };
        let budget = rows * vocab.next_multiple_of(256) * 4;
        let shape = [tokens, width, vocab];
        let case = (tracked, with_bias, dtype);
        check(Form::Native(budget), &Device::flex(), shape, case, &options, tolerance);
    }

    #[test]
    fn chunked_form_equals_the_reference(
        tokens in 1usize..20,
        width in 1usize..20,
        vocab in 1usize..40,
        options in options(),
        tracked in any::<Tracked>(),
        with_bias: bool,
        rows in 1usize..5,
    ) {
        let shape = [tokens, width, vocab];
        let case = (tracked, with_bias, DType::F32);
        let form = Form::Chunked(rows * vocab * 4);
        check(form, &Device::flex(), shape, case, &options, close());
    }
}

#[test]
fn every_device_agrees() {
    let options = CrossEntropy {
        logits: LogitOptions {
            logit_scale: 0.5,
            softcap: Some(3.0),
            ..LogitOptions::default()
        },
        label_smoothing: 0.1,
        z_loss: 1e-2,
    };
    for device in devices() {
        let shape = [7, 12, 33];
        for tracked in [[true, false, false], [true; 3], [false; 3]] {
            for options in [options, CrossEntropy::default()] {
                let run = |device: &Device| {
                    let labels = labels(shape, false);
                    let (matrices, bias) = leaves(shape, DType::F32, tracked, device);
                    let [hidden, weight] = matrices.clone();
                    let given = Some(bias.clone());
                    let CrossEntropyOutput { loss, supervised } =
                        linear_cross_entropy(hidden, weight, given.clone(), &labels, &options);
                    assert_eq!(supervised, 5);
                    let mut all = results(&loss, &matrices, &bias);
                    let [hidden, weight] = matrices.clone();
                    let (logps, entropies) =
                        linear_logps_with_entropy(hidden, weight, given, &labels, &options.logits);
                    all.extend(results(&logps, &matrices, &bias));
                    all.push(entropies.into_data());
                    all
                };
                assert_same(&run(&device), &run(&Device::flex()), close(), "device");
            }
        }
    }
}

/// The definitions, in f64: `(1 − ε)·nll + ε·mean(−log p)`, as torch's `cross_entropy` has it,
/// and `ζ·logsumexp²`.
#[test]
fn loss_has_the_value_of_its_formula() {
    let z = [[0.5, -1.25, 2.0], [3.0, 0.0, -2.0], [9.0, 9.0, 9.0]];
    let identity = Tensor::<2>::from_floats(
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
        &Device::flex(),
    );
    let hidden = Tensor::<2>::from_floats(z, &Device::flex());
    let labels = [2, 1, -100];
    for (smoothing, zeta, scale, cap) in [
        (0.0, 0.0, 1.0, None),
        (0.1, 0.0, 1.0, None),
        (0.0, 1e-2, 1.0, None),
        (0.2, 1e-3, 0.125, Some(2.0)),
    ] {
        let mut expected = 0.0;
        for (row, class) in [(0, 2), (1, 1)] {
            let z = z[row].map(|z: f32| {
                let z = f64::from(z) * scale;
                cap.map_or(z, |cap: f64| cap * (z / cap).tanh())
            });
            let log_sum = z.iter().map(|z| z.exp()).sum::<f64>().ln();
            let log_p = z.map(|z| z - log_sum);
            expected += (1.0 - smoothing) * -log_p[class];
            expected += smoothing * -log_p.iter().sum::<f64>() / 3.0;
            expected += zeta * log_sum * log_sum;
        }
        let options = CrossEntropy {
            logits: LogitOptions {
                logit_scale: scale,
                softcap: cap,
                ..LogitOptions::default()
            },
            label_smoothing: smoothing,
            z_loss: zeta,
        };
        let output =
            linear_cross_entropy(hidden.clone(), identity.clone(), None, &labels, &options);
        assert_eq!(output.supervised, 2);
        assert_close(
            &output.loss.into_data(),
            &[expected],
            tol::f32_sum(16).of_magnitude(4.0),
            "loss",
        );
    }
}

#[test]
fn gradients_pass_finite_differences() {
    let inputs = [numbers([4, 5], 1), numbers([6, 5], 2), numbers([6], 3)];
    let labels = [5, -100, 0, 2];
    for (smoothing, zeta, softcap) in [(0.0, 0.0, None), (0.1, 0.02, Some(1.5))] {
        let options = CrossEntropy {
            logits: LogitOptions {
                logit_scale: 1.25,
                softcap,
                ..LogitOptions::default()
            },
            label_smoothing: smoothing,
            z_loss: zeta,
        };
        check_gradients(
            |inputs| {
                let (hidden, weight) = (inputs.get::<2>(0), inputs.get::<2>(1));
                let bias = Some(inputs.get::<1>(2));
                linear_cross_entropy(hidden, weight, bias, &labels, &options).loss
            },
            &inputs,
            1e-2,
            tol::central_differences(1e-2).of_magnitude(4.0),
        );
        check_gradients(
            |inputs| {
                let (hidden, weight) = (inputs.get::<2>(0), inputs.get::<2>(1));
                linear_logps(hidden, weight, None, &labels, &options.logits)
            },
            &inputs[..2],
            1e-2,
            tol::central_differences(1e-2).of_magnitude(4.0),
        );
        let weight = inputs[1].clone();
        check_gradients(
            |inputs| {
                let hidden = inputs.get::<2>(0);
                let weight = Tensor::from_data(weight.clone(), &hidden.device());
                linear_logps(hidden, weight, None, &labels, &options.logits)
            },
            &inputs[..1],
            1e-2,
            tol::central_differences(1e-2).of_magnitude(4.0),
        );
    }
}

#[test]
fn a_tied_weight_gets_the_gradient_of_both_uses() {
    let labels = labels([9, 6, 300], false);
    let gradient = |form: Form| {
        let weight = leaf([300, 6], 2);
        let hidden = weight.clone().narrow(0, 20, 9).tanh();
        let loss = form.loss(
            [hidden, weight.clone()],
            None,
            &labels,
            &CrossEntropy::default(),
        );
        weight.grad(&pull_back(loss)).unwrap().into_data()
    };
    let expected = gradient(Form::Reference);
    for form in [Form::Native(1 << 20), Form::Chunked(1 << 20)] {
        assert_close(&gradient(form), &expected, close(), "dw");
    }
}

#[test]
fn ignored_tokens_alone_give_zero_and_zero_gradients() {
    let shape = [5, 4, 10];
    let labels = labels(shape, true);
    for device in devices() {
        let (matrices, bias) = leaves(shape, DType::F32, [true; 3], &device);
        let [hidden, weight] = matrices.clone();
        let given = Some(bias.clone());
        let output = linear_cross_entropy(
            hidden,
            weight,
            given.clone(),
            &labels,
            &CrossEntropy::default(),
        );
        assert_eq!(output.supervised, 0);
        let [hidden, weight] = matrices.clone();
        let logps = linear_logps(hidden, weight, given, &labels, &LogitOptions::default());
        assert_eq!(logps.dims(), [5]);
        for values in [output.loss, logps] {
            for data in results(&values, &matrices, &bias) {
                let values = data.try_to_vec::<f32>().unwrap();
                assert!(values.iter().all(|&value| value == 0.0));
            }
        }
    }
}

#[test]
fn ignored_tokens_do_no_harm() {
    let device = Device::flex().autodiff();
    let hidden =
        Tensor::<2>::from_floats([[f32::NAN, f32::INFINITY], [0.5, 1.0]], &device).require_grad();
    let weight = tensor([5, 2], 1, &device);
    for form in [Form::Native(1 << 20), Form::Chunked(1 << 20)] {
        let matrices = [hidden.clone(), weight.clone()];
        let [logps, entropies] = form.logps(matrices, None, &[-100, 3], &LogitOptions::default());
        // The chunked form attaches its gradient by an identity that reads all hidden states.
        if matches!(form, Form::Native(_)) {
            let values = logps
                .clone()
                .inner()
                .into_data()
                .try_to_vec::<f32>()
                .unwrap();
            assert_eq!(values[0], 0.0);
            assert!(values[1].is_finite());
        }
        let values = entropies.inner().into_data().try_to_vec::<f32>().unwrap();
        assert!(values[0] == 0.0 && values[1] > 0.0);
        let gradient = hidden.grad(&pull_back(logps)).unwrap().into_data();
        let gradient = gradient.try_to_vec::<f32>().unwrap();
        assert_eq!(gradient[..2], [0.0, 0.0]);
        assert!(gradient.iter().all(|value| value.is_finite()));
    }
}

#[test]
fn no_tokens_give_zero() {
    let device = Device::flex();
    let hidden = Tensor::<2>::zeros([0, 4], &device);
    let weight = tensor([7, 4], 1, &device);
    let output = linear_cross_entropy(hidden, weight, None, &[], &CrossEntropy::default());
    assert_eq!(output.supervised, 0);
    assert_eq!(output.loss.into_scalar::<f32>(), 0.0);
}

#[test]
fn impossible_and_undefined_classes_behave() {
    let device = Device::flex();
    let hidden = tensor([2, 3], 1, &device);
    let weight = tensor([300, 3], 2, &device);
    let labels = [299, 270];
    let mask = |value: f32| {
        // A whole tile of classes.
        let mut bias = vec![0.0f32; 300];
        bias[..256].fill(value);
        Tensor::<1>::from_data(bias.as_slice(), &device)
    };
    let masked = Some(mask(f32::NEG_INFINITY));
    let (logps, entropies) = linear_logps_with_entropy(
        hidden.clone(),
        weight.clone(),
        masked,
        &labels,
        &LogitOptions::default(),
    );
    let narrow = weight.clone().narrow(0, 256, 44);
    let (expected, entropies_expected) = linear_logps_with_entropy(
        hidden.clone(),
        narrow,
        None,
        &[43, 14],
        &LogitOptions::default(),
    );
    assert_close(&logps.into_data(), &expected.into_data(), close(), "logps");
    assert_close(
        &entropies.into_data(),
        &entropies_expected.into_data(),
        close(),
        "entropies",
    );
    let undefined = Some(mask(f32::NAN));
    let logps = linear_logps(hidden, weight, undefined, &labels, &LogitOptions::default());
    let logps = logps.into_data().try_to_vec::<f32>().unwrap();
    assert!(logps.iter().all(|value| value.is_nan()));
}

#[test]
fn bf16_products_follow_the_reference() {
    let options = CrossEntropy {
        logits: LogitOptions {
            precision: Precision::Bf16,
            ..LogitOptions::default()
        },
        ..CrossEntropy::default()
    };
    // The reference rounds gradients where operands were rounded, the fused forms round what
    // enters a product: one rounding more or less of terms of order four.
    let tolerance = tol::roundings(DType::BF16, 2).of_magnitude(4.0);
    for form in [Form::Native(1 << 14), Form::Chunked(1 << 14)] {
        for dtype in [DType::F32, DType::BF16] {
            let case = ([true; 3], true, dtype);
            check(
                form,
                &Device::flex(),
                [11, 40, 300],
                case,
                &options,
                tolerance,
            );
        }
    }
    let values = |form: Form| {
        let device = Device::flex();
        let (hidden, weight) = (tensor([9, 64], 1, &device), tensor([300, 64], 2, &device));
        let labels = labels([9, 64, 300], false);
        let [logps, _] = form.logps([hidden, weight], None, &labels, &options.logits);
        logps.into_data()
    };
    // Forward, the same operands are rounded the same way.
    let expected = values(Form::Reference);
    assert_close(&values(Form::Native(1 << 20)), &expected, close(), "logps");
    assert_close(&values(Form::Chunked(1 << 20)), &expected, close(), "logps");
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let labels = labels([50, 64, 2000], false);
    for dtype in [DType::F32, DType::BF16] {
        let gradient = |which: usize| {
            let tracked = [true, true, true];
            let ([hidden, weight], bias) = leaves([50, 64, 2000], dtype, tracked, &Device::flex());
            let loss = Form::Native(10 * 2048 * 4).loss(
                [hidden.clone(), weight.clone()],
                Some(bias.clone()),
                &labels,
                &CrossEntropy::default(),
            );
            let value = loss.clone().inner().into_data();
            let gradients = loss.backward();
            match which {
                0 => value,
                1 => hidden.grad(&gradients).unwrap().into_data(),
                2 => {
                    let weight = weight.grad(&gradients).unwrap();
                    weight.cast(DType::F32).into_data()
                }
                _ => bias.grad(&gradients).unwrap().into_data(),
            }
        };
        for which in 0..4 {
            assert_same_on_any_threads(|| gradient(which));
        }
    }
}

#[test]
fn strided_inputs_are_read_where_they_lie() {
    let device = Device::flex();
    let hidden = tensor([6, 20], 1, &device).slice([0..6, 3..15]);
    let weight = tensor([12, 40], 2, &device).transpose();
    let labels = labels([6, 12, 40], false);
    let run = |form: Form| {
        let matrices = [hidden.clone(), weight.clone()];
        form.loss(matrices, None, &labels, &CrossEntropy::default())
            .into_data()
    };
    assert_close(
        &run(Form::Native(1 << 20)),
        &run(Form::Reference),
        close(),
        "loss",
    );
}

#[test]
fn nothing_tracked_gives_a_value_without_a_graph() {
    let ([hidden, weight], bias) = leaves([4, 3, 9], DType::F32, [false; 3], &Device::flex());
    let labels = labels([4, 3, 9], false);
    let options = CrossEntropy::default();
    let loss = linear_cross_entropy(hidden, weight, Some(bias), &labels, &options).loss;
    assert!(loss.is_autodiff() && !loss.is_tracked());
}

#[test]
fn a_scaled_loss_scales_its_gradients() {
    let labels = labels([6, 5, 20], false);
    let gradient = |factor: f64| {
        let hidden = leaf([6, 5], 1);
        let weight = tensor([20, 5], 2, &Device::flex());
        let options = CrossEntropy::default();
        let loss = linear_cross_entropy(hidden.clone(), weight, None, &labels, &options).loss;
        hidden.grad(&(loss * factor).backward()).unwrap()
    };
    let expected = gradient(1.0) * 0.25;
    assert_close(
        &gradient(0.25).into_data(),
        &expected.into_data(),
        Tolerance::exact(),
        "dh",
    );
}
