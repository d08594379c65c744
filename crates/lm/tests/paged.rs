//! Steps over pages against plain forward passes, for every architecture.

use burn::tensor::Device;
use flametune_kernels::rows_alone;
use flametune_lm::{AdapterPass, CausalLm, Error, PagedKv, PagedRow, RowInput, TokenBatch};
use flametune_testkit::{Tolerance, assert_close};

use crate::models::{CAUSAL, Golden, base, values};

/// Two texts whose pages lie among each other's.
const PAGES: [&[u32]; 2] = [&[3, 0, 7, 4, 9, 11], &[1, 8, 2, 5, 10, 6]];

/// The logits of every token of two texts, read in pieces of the given sizes.
fn in_pieces(
    model: &CausalLm,
    kv: &mut PagedKv,
    texts: [&[u32]; 2],
    sizes: [usize; 2],
    alone: bool,
) -> [Vec<f32>; 2] {
    let mut logits = [Vec::new(), Vec::new()];
    let mut starts = [0, 0];
    let base = AdapterPass::default();
    loop {
        let new: Vec<(usize, usize)> = (0..2)
            .map(|text| (text, sizes[text].min(texts[text].len() - starts[text])))
            .filter(|&(_, count)| count > 0)
            .collect();
        if new.is_empty() {
            return logits;
        }
        let rows: Vec<PagedRow<'_>> = new
            .iter()
            .map(|&(text, count)| PagedRow {
                pages: PAGES[text],
                start: starts[text],
                input: RowInput::Tokens(&texts[text][starts[text]..][..count]),
                length: texts[text].len(),
            })
            .collect();
        let run = |kv: &mut PagedKv| {
            let hidden = model.forward_paged(&rows, kv, &base, alone).unwrap();
            values(model.logits(hidden, &base))
        };
        let all = if alone {
            rows_alone(|| run(kv))
        } else {
            run(kv)
        };
        let mut rest = all.as_slice();
        for (text, count) in new {
            let (own, others) = rest.split_at(count * model.vocab_size());
            logits[text].extend_from_slice(own);
            rest = others;
            starts[text] += count;
        }
    }
}

#[test]
fn pieces_over_pages_equal_whole_texts() {
    for name in CAUSAL {
        let golden = Golden::open(name);
        let model = golden.model(&Device::flex());
        let ids = golden.ids("input_ids");
        let texts = [&ids[0][..], &ids[1][..5]];
        let expected = texts.map(|text| {
            let batch = TokenBatch::from_rows(&[text.to_vec()]).unwrap();
            let hidden = model.forward(&batch, None, &base()).unwrap();
            values(model.logits(hidden, &base()))
        });
        let alone = {
            let mut kv = model.new_paged_kv(12, 5);
            in_pieces(&model, &mut kv, texts, [1, 2], true)
        };
        for sizes in [[100, 100], [1, 1], [4, 3]] {
            let mut kv = model.new_paged_kv(12, 5);
            let got = in_pieces(&model, &mut kv, texts, sizes, false);
            for (got, expected) in got.iter().zip(&expected) {
                // As for whole texts: f32 sums of up to 272 terms in another order.
                let tolerance = Tolerance::rel_abs(1e-4, 1e-4);
                assert_close(got, expected, tolerance, &format!("{name} {sizes:?}"));
            }
            let mut kv = model.new_paged_kv(12, 5);
            let got = in_pieces(&model, &mut kv, texts, sizes, true);
            assert_eq!(got, alone, "{name} {sizes:?}, to the bit");
        }
    }
}

#[test]
fn steps_that_cannot_be_made_are_refused() {
    let model = Golden::open("llama").model(&Device::flex());
    let mut kv = model.new_paged_kv(4, 2);
    let mut step = |pages: &[u32], start, input| {
        let row = PagedRow {
            pages,
            start,
            input,
            length: 1,
        };
        model.forward_paged(&[row], &mut kv, &base(), false)
    };
    let error = step(&[0], 1, RowInput::Tokens(&[5, 6])).unwrap_err();
    let (requested, limit) = (3, 2);
    assert!(
        matches!(error, Error::ContextOverflow { requested: r, limit: l } if (r, l) == (requested, limit)),
        "{error}"
    );
    let error = step(&[0], 0, RowInput::Tokens(&[])).unwrap_err();
    assert!(matches!(error, Error::EmptyInput), "{error}");
    let error = step(&[0], 0, RowInput::Tokens(&[9999])).unwrap_err();
    assert!(error.to_string().contains("9999"), "{error}");
    let error = step(&[0], 0, RowInput::Vectors { len: 1 }).unwrap_err();
    assert!(
        matches!(
            error,
            Error::BatchLength {
                expected: 0,
                got: 1,
                ..
            }
        ),
        "{error}"
    );
    step(&[3, 1], 0, RowInput::Tokens(&[5, 6, 7])).unwrap();
}
