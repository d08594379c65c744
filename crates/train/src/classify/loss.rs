//! Class scores of a batch, and how far they are from its classes.

use burn::tensor::{Int, Tensor, TensorData, activation};
use flametune_data::{Batch, ClassifiedBatch};
use flametune_lm::{BertModel, TokenBatch};
use flametune_peft::AdapterPass;

use crate::error::Result;

/// The ids of a batch as an encoder takes them: padding, which every token would see, is masked.
///
/// # Errors
/// When the batch is empty.
pub fn masked_tokens(batch: &Batch) -> Result<TokenBatch> {
    let rows: Vec<Vec<u32>> = batch
        .input_ids
        .chunks(batch.seq.max(1))
        .map(<[u32]>::to_vec)
        .collect();
    let segments = batch
        .lengths
        .iter()
        .flat_map(|&length| (0..batch.seq).map(move |at| u32::from(at < length)))
        .collect();
    Ok(TokenBatch::from_rows(&rows)?
        .with_segment_ids(segments)?
        .with_position_ids(batch.position_ids.clone())?)
}

/// The scores of every class for every row.
///
/// # Shapes
/// - returns `[batch, classes]`
///
/// # Errors
/// Those of the model's forward pass.
pub fn class_scores(
    model: &BertModel,
    batch: &ClassifiedBatch,
    pass: &AdapterPass,
) -> Result<Tensor<2>> {
    Ok(model.classify(&masked_tokens(&batch.tokens)?, pass)?)
}

/// The **sum** over the rows of `-(1 − ε)·log p(class) − ε·mean log p`, with `ε` the smoothing.
///
/// # Shapes
/// - `scores`: `[batch, classes]`; `classes`: one of `0..classes` for every row
///
/// # Panics
/// When there are not as many classes as rows.
pub fn class_cross_entropy(
    scores: Tensor<2>,
    classes: &[usize],
    label_smoothing: f64,
) -> Tensor<1> {
    let [rows, count] = scores.dims();
    assert_eq!(rows, classes.len(), "one class for every row");
    let device = scores.device();
    let log_p = activation::log_softmax(scores, 1);
    let ids: Vec<i64> = classes
        .iter()
        .map(|&class| i64::try_from(class).unwrap_or(i64::MAX))
        .collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [rows, 1]), &device);
    let own = log_p.clone().gather(1, ids).sum();
    if label_smoothing == 0.0 {
        return own.neg();
    }
    #[expect(clippy::cast_precision_loss, reason = "a number of classes")]
    let even = log_p.sum() / count as f64;
    (own * (1.0 - label_smoothing) + even * label_smoothing).neg()
}
