//! What must hold of any model: caches, batches and packing change nothing.

use burn::tensor::Device;
use flametune_lm::{CausalLm, TokenBatch};
use flametune_testkit::{Tolerance, assert_close};

use crate::models::{CAUSAL, Golden, base, logits, values};

/// The same sums in another order of blocks.
fn tolerance() -> Tolerance {
    Tolerance::rel_abs(2e-5, 2e-5)
}

/// Models whose rotation changes with the length are left out: there the cached keys keep the
/// rotation they got, as in the reference.
fn fixed_rotation() -> impl Iterator<Item = &'static &'static str> {
    CAUSAL
        .iter()
        .filter(|name| !["llama_rope_dynamic", "phi3_longrope"].contains(*name))
}

fn rows(model: &CausalLm, lengths: &[usize]) -> Vec<Vec<u32>> {
    let vocab = u32::try_from(model.vocab_size()).unwrap();
    lengths
        .iter()
        .zip(0u32..)
        .map(|(&length, row)| {
            (0..u32::try_from(length).unwrap())
                .map(|i| (7 + 31 * i + 17 * row) % vocab)
                .collect()
        })
        .collect()
}

#[test]
fn decoding_with_the_cache_equals_the_full_forward() {
    for name in fixed_rotation() {
        let model = Golden::open(name).model(&Device::flex());
        let tokens = rows(&model, &[21]).concat();
        let full = logits(
            &model,
            &TokenBatch::from_rows(std::slice::from_ref(&tokens)).unwrap(),
        );
        let mut cache = model.new_cache(1, tokens.len());
        let mut stepwise = Vec::new();
        // A first piece, single tokens, and pieces of other sizes.
        for piece in [0..5, 5..6, 6..7, 7..15, 15..21] {
            let batch = TokenBatch::from_rows(&[tokens[piece].to_vec()]).unwrap();
            let hidden = model.forward(&batch, Some(&mut cache), &base()).unwrap();
            stepwise.extend(values(model.logits(hidden, &base())));
        }
        assert_close(
            &stepwise,
            &full,
            tolerance(),
            &format!("{name}: cached logits"),
        );
    }
}

#[test]
fn a_left_padded_batch_equals_its_rows_alone() {
    for name in fixed_rotation() {
        let model = Golden::open(name).model(&Device::flex());
        let rows = rows(&model, &[13, 4, 9]);
        let vocab = model.vocab_size();
        let batch = TokenBatch::left_padded(&rows, 0).unwrap();
        let mut cache = model.new_cache(3, 14);
        let prefill = values(model.logits(
            model.forward(&batch, Some(&mut cache), &base()).unwrap(),
            &base(),
        ));
        let next = TokenBatch::from_rows(&[vec![5], vec![6], vec![7]]).unwrap();
        let step = values(model.logits(
            model.forward(&next, Some(&mut cache), &base()).unwrap(),
            &base(),
        ));
        for (index, row) in rows.iter().enumerate() {
            let mut alone = row.clone();
            alone.push(next.input_ids()[index]);
            let alone = logits(&model, &TokenBatch::from_rows(&[alone]).unwrap());
            let (expected, last) = alone.split_at(row.len() * vocab);
            let end = (index + 1) * batch.seq() * vocab;
            let what = format!("{name}: row {index}");
            assert_close(
                &prefill[end - row.len() * vocab..end],
                expected,
                tolerance(),
                &what,
            );
            assert_close(
                &step[index * vocab..(index + 1) * vocab],
                last,
                tolerance(),
                &what,
            );
        }
    }
}

#[test]
fn packed_segments_equal_separate_sequences() {
    for name in fixed_rotation() {
        let model = Golden::open(name).model(&Device::flex());
        let rows = rows(&model, &[7, 1, 11]);
        let segments: Vec<u32> = rows
            .iter()
            .zip(1..)
            .flat_map(|(row, id)| std::iter::repeat_n(id, row.len()))
            .collect();
        let packed = TokenBatch::from_rows(&[rows.concat()])
            .unwrap()
            .with_segment_ids(segments)
            .unwrap();
        let packed = logits(&model, &packed);
        let alone: Vec<f32> = rows
            .iter()
            .flat_map(|row| {
                logits(
                    &model,
                    &TokenBatch::from_rows(std::slice::from_ref(row)).unwrap(),
                )
            })
            .collect();
        assert_close(
            &packed,
            &alone,
            tolerance(),
            &format!("{name}: packed logits"),
        );
    }
}

#[test]
fn dropping_rows_from_the_cache_leaves_the_others_as_they_were() {
    let model = Golden::open("llama").model(&Device::flex());
    let rows = rows(&model, &[6, 3, 5]);
    let mut cache = model.new_cache(3, 8);
    model
        .forward(
            &TokenBatch::left_padded(&rows, 0).unwrap(),
            Some(&mut cache),
            &base(),
        )
        .unwrap();
    cache.select_rows(&[2, 0]);
    let next = TokenBatch::from_rows(&[vec![11], vec![12]]).unwrap();
    let got = values(model.logits(
        model.forward(&next, Some(&mut cache), &base()).unwrap(),
        &base(),
    ));
    let expected: Vec<f32> = [(2, 11), (0, 12)]
        .into_iter()
        .flat_map(|(row, token): (usize, u32)| {
            let mut alone = rows[row].clone();
            alone.push(token);
            let all = logits(&model, &TokenBatch::from_rows(&[alone]).unwrap());
            all[all.len() - model.vocab_size()..].to_vec()
        })
        .collect();
    assert_close(&got, &expected, tolerance(), "rows after the cache was cut");
}
