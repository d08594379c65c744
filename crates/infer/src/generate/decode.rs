//! The decoding loop: read the prompts, then one token per row and step.

use flametune_lm::TokenBatch;
use rayon::prelude::*;

use super::request::{Control, Event, Output, Request};
use super::row::Row;
use super::step_model::StepModel;
use crate::error::{Error, Result};

/// The id in padding slots; any would do, since nothing attends to them.
const PAD_ID: u32 = 0;

/// Continues all requests together; the outputs are in the order of the requests.
///
/// Prompts of different lengths are padded at their left ends, so that all rows end in the same
/// column. A row that is done leaves the batch before the next step.
pub(super) fn decode<M: StepModel>(
    model: &M,
    requests: &[Request],
    prefill_chunk: usize,
    on_event: &mut dyn FnMut(Event<'_>) -> Control,
) -> Result<Vec<Output>> {
    let (vocab_size, max_context) = (model.vocab_size(), model.max_context());
    let admit = |request| Row::admit(request, vocab_size, max_context);
    let mut rows = requests
        .iter()
        .enumerate()
        .map(admit)
        .collect::<Result<Vec<Row>>>()?;
    let Some(prompt_columns) = rows.iter().map(|row| row.tokens().len()).max() else {
        return Ok(Vec::new());
    };
    let output_columns = rows.iter().map(Row::limit).max().unwrap_or(0);
    let mut cache = model.new_cache(rows.len(), prompt_columns + output_columns);
    let mut logits = prefill(
        model,
        &rows,
        prompt_columns,
        prefill_chunk.max(1),
        &mut cache,
    )?;
    let mut outputs: Vec<Option<Output>> = requests.iter().map(|_| None).collect();
    loop {
        choose_all(&mut rows, &mut logits, vocab_size)?;
        let before = rows.len();
        let mut kept = Vec::with_capacity(before);
        let mut alive = Vec::with_capacity(before);
        for (place, row) in rows.into_iter().enumerate() {
            let request = row.request;
            if let Some(reason) = row.settle(on_event) {
                on_event(Event::Finished { request, reason });
                outputs[request] = Some(row.finish(reason));
            } else {
                kept.push(place);
                alive.push(row);
            }
        }
        rows = alive;
        if rows.is_empty() {
            return Ok(outputs.into_iter().flatten().collect());
        }
        if kept.len() < before {
            model.keep_rows(&mut cache, &kept);
        }
        let newest: Vec<Vec<u32>> = rows
            .iter()
            .filter_map(|row| row.tokens().last().map(|&token| vec![token]))
            .collect();
        logits = model.step(&TokenBatch::from_rows(&newest)?, &mut cache)?;
    }
}

/// Reads the prompts, at most `chunk` columns at a time, and returns the logits after them.
fn prefill<M: StepModel>(
    model: &M,
    rows: &[Row],
    columns: usize,
    chunk: usize,
    cache: &mut M::Cache,
) -> Result<Vec<f32>> {
    let mut start = 0;
    while columns - start > chunk {
        model.read(&prompt_columns(rows, columns, start..start + chunk)?, cache)?;
        start += chunk;
    }
    model.step(&prompt_columns(rows, columns, start..columns)?, cache)
}

/// Some of the columns of the prompts when they are padded on the left to `columns`.
fn prompt_columns(
    rows: &[Row],
    columns: usize,
    range: std::ops::Range<usize>,
) -> Result<TokenBatch> {
    let mut input_ids = Vec::with_capacity(rows.len());
    let mut segment_ids = Vec::with_capacity(rows.len() * range.len());
    for row in rows {
        let padding = columns - row.tokens().len();
        let token = |column: usize| column.checked_sub(padding).map(|at| row.tokens()[at]);
        input_ids.push(
            range
                .clone()
                .map(|at| token(at).unwrap_or(PAD_ID))
                .collect(),
        );
        segment_ids.extend(range.clone().map(|at| u32::from(at >= padding)));
    }
    let batch = TokenBatch::from_rows(&input_ids)?;
    if segment_ids.contains(&0) {
        Ok(batch.with_segment_ids(segment_ids)?)
    } else {
        Ok(batch)
    }
}

/// Chooses a token for every row, rows in parallel.
fn choose_all(rows: &mut [Row], logits: &mut [f32], vocab_size: usize) -> Result<()> {
    let expected = rows.len() * vocab_size;
    if logits.len() != expected {
        return Err(Error::LogitCount {
            expected,
            got: logits.len(),
        });
    }
    rows.par_iter_mut()
        .zip(logits.par_chunks_mut(vocab_size))
        .try_for_each(|(row, logits)| row.choose(logits))
}

#[cfg(test)]
mod tests;
