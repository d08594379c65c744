//! A new head on an encoder.

use burn::module::Param;
use burn::tensor::{Tensor, TensorData};
use flametune_lm::BertModel;
use flametune_peft::AdapterLinear;
use flametune_quant::{BaseLinear, DenseLinear};

use crate::error::{Error, Result};
use crate::random::{mixed, uniform};

/// The standard deviation of new weights, transformers' `initializer_range`.
const STD: f64 = 0.02;

/// Chooses the numbers of heads among all that a seed gives.
const PURPOSE: u64 = 0x6865_6164;

/// Gives an encoder a head for `classes` classes, unless it has one.
///
/// Weights are normal with a standard deviation of 0.02, and functions of the seed and their
/// place; biases are zero, as transformers initialises `BertForSequenceClassification`.
///
/// # Shapes
/// - `classifier`: weight `[classes, hidden_size]`, bias `[classes]`
///
/// # Errors
/// [`Error::InvalidConfig`] for fewer than two classes, for a head with another number of them,
/// and for an encoder without the pooler that the head reads from.
pub fn add_head(model: &mut BertModel, classes: usize, seed: u64) -> Result<()> {
    let invalid = |reason: String| {
        Err(Error::InvalidConfig {
            field: "classes",
            reason,
        })
    };
    if classes < 2 {
        return invalid(format!("must be at least 2, got {classes}"));
    }
    if model.bert.pooler.is_none() {
        return invalid("cannot be told apart: the model has no pooler".to_owned());
    }
    if let Some(head) = &model.classifier {
        let have = head.base_layer.d_out();
        if have != classes {
            return invalid(format!(
                "must be {have}, as many as the head of the model has, got {classes}"
            ));
        }
        return Ok(());
    }
    let width = model.bert.config().hidden_size;
    let place = (&model.bert.device(), model.bert.compute_dtype());
    let key = mixed(seed, PURPOSE);
    #[expect(clippy::cast_possible_truncation, reason = "rounded to f32")]
    let values: Vec<f32> = (0..(classes * width) as u64)
        .map(|index| (STD * normal(key, index)) as f32)
        .collect();
    let weight = Tensor::<2>::from_data(TensorData::new(values, [classes, width]), place);
    let bias = Tensor::<1>::zeros([classes], place);
    let frozen = DenseLinear::new(
        Param::from_tensor(weight).set_require_grad(false),
        Some(Param::from_tensor(bias).set_require_grad(false)),
    );
    model.classifier = Some(AdapterLinear::new(BaseLinear::Dense(frozen)));
    Ok(())
}

/// A standard normal number, by Box and Muller.
fn normal(key: u64, index: u64) -> f64 {
    // In (0, 1], so that the logarithm is finite.
    let radius = (-2.0 * (1.0 - uniform(key, 2 * index)).ln()).sqrt();
    radius * (std::f64::consts::TAU * uniform(key, 2 * index + 1)).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_weights_are_normal() {
        let count = 10_000;
        let values: Vec<f64> = (0..count).map(|index| normal(7, index)).collect();
        let mean = values.iter().sum::<f64>() / 1e4;
        let variance = values.iter().map(|x| x * x).sum::<f64>() / 1e4;
        // Five standard errors: 5/√10⁴ of the mean, 5·√2/√10⁴ of the variance.
        assert!(
            mean.abs() < 0.05 && (variance - 1.0).abs() < 0.071,
            "{mean} {variance}"
        );
    }
}
