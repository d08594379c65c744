//! Batches hold the rows, each example once an epoch, and go on where they were left.

use flametune_data::{
    Batch, BatchSampler, BatchSize, Collator, EncodedPair, EncodedText, Error, IGNORE_INDEX, Row,
    SamplerCursor, SamplerOptions, pack,
};
use proptest::prelude::*;

use crate::fixtures::{chat_tokenizer, tokenizer};
use crate::pack::examples;

fn options(batch_size: BatchSize, accumulation: usize, bucket: usize) -> SamplerOptions {
    SamplerOptions {
        batch_size,
        accumulation,
        bucket,
        seed: Some(11),
    }
}

/// The rows of a batch without their padding, which must be padding.
fn unpadded(batch: &Batch, pad_id: u32) -> Vec<Row> {
    let ones: Vec<u32> = batch
        .lengths
        .iter()
        .flat_map(|&length| (0..batch.seq).map(move |index| u32::from(index < length)))
        .collect();
    let segments = batch.segment_ids.as_ref().unwrap_or(&ones);
    let mut rows = Vec::new();
    for (index, &length) in batch.lengths.iter().enumerate() {
        let (start, end) = (index * batch.seq, (index + 1) * batch.seq);
        let (row, rest) = (start..start + length, start + length..end);
        assert!(batch.input_ids[rest.clone()].iter().all(|&id| id == pad_id));
        assert!(
            batch.labels[rest.clone()]
                .iter()
                .all(|&label| label == IGNORE_INDEX)
        );
        assert!(
            batch.position_ids[rest.clone()]
                .iter()
                .all(|&position| position == 0)
        );
        assert!(segments[rest].iter().all(|&segment| segment == 0));
        rows.push(Row {
            input_ids: batch.input_ids[row.clone()].to_vec(),
            labels: batch.labels[row.clone()].to_vec(),
            position_ids: batch.position_ids[row.clone()].to_vec(),
            segment_ids: segments[row].to_vec(),
        });
    }
    rows
}

#[test]
fn pairs_are_stacked_chosen_first() {
    let all = examples(&[3, 5, 4, 2]);
    let pair = |chosen: usize, rejected: usize| EncodedPair {
        chosen: all[chosen].clone(),
        rejected: all[rejected].clone(),
        prompt_tokens: 1,
        margin: None,
    };
    let pairs = [pair(0, 1), pair(2, 3)];
    let batch = Collator::new(99, 1).unwrap().collate_pairs(&pairs).unwrap();
    assert_eq!(batch.lengths, [3, 4, 5, 2]);
    let expected: Vec<Row> = [0, 2, 1, 3].map(|index| Row::from(&all[index])).to_vec();
    assert_eq!(unpadded(&batch, 99), expected);
    assert_eq!(batch.segment_ids, None);
}

#[test]
fn classes_stand_beside_their_texts() {
    let text = |ids: &[u32], label| EncodedText {
        input_ids: ids.to_vec(),
        label,
    };
    let collator = Collator::new(0, 1).unwrap();
    let batch = collator
        .collate_classified(&[text(&[7, 8], 1), text(&[9], 0)])
        .unwrap();
    assert_eq!(batch.classes, [1, 0]);
    assert_eq!(batch.tokens.input_ids, [7, 8, 9, 0]);
    assert_eq!(batch.tokens.lengths, [2, 1]);
    assert_eq!(batch.tokens.num_supervised_tokens, 0);
    assert!(matches!(
        collator.collate_classified([]),
        Err(Error::NoExamples)
    ));
}

#[test]
fn batches_without_a_target_are_refused() {
    let collator = Collator::new(0, 1).unwrap();
    let mut all = examples(&[3, 4]);
    for example in &mut all {
        example.labels.fill(IGNORE_INDEX);
    }
    let rows: Vec<Row> = all.iter().map(Row::from).collect();
    assert_eq!(
        collator.collate(&rows).unwrap_err().to_string(),
        "none of the 7 tokens in the 2 rows of the batch is trained"
    );
    assert!(matches!(collator.collate([]), Err(Error::NoExamples)));
    assert!(matches!(
        collator.step(&rows, &[vec![2]]),
        Err(Error::NoExamples)
    ));
    for multiple_of in [0, 65537, usize::MAX] {
        assert_eq!(
            Collator::new(0, multiple_of).unwrap_err().to_string(),
            format!("pad_to_multiple_of must be between 1 and 65536, got {multiple_of}")
        );
    }
}

#[test]
fn padding_is_the_tokenizers_own_where_it_has_one() {
    let pad = |tokenizer| {
        let collator = Collator::for_tokenizer(&tokenizer, 4).unwrap();
        collator
            .collate([&Row::from(&examples(&[3])[0])])
            .unwrap()
            .input_ids[3]
    };
    assert_eq!(pad(chat_tokenizer()), 3);
    assert_eq!(pad(tokenizer("wordpiece")), 0);
}

/// 16 rows in one batch, in 16 batches of one, or in four of four: one step with the same targets.
#[test]
fn a_step_counts_the_targets_of_all_its_batches() {
    let all = examples(&[5, 9, 4, 7, 3, 3, 8, 6, 4, 5, 9, 4, 7, 3, 6, 8]);
    let rows: Vec<Row> = all.iter().map(Row::from).collect();
    let lengths: Vec<usize> = rows.iter().map(Row::len).collect();
    let collator = Collator::new(0, 8).unwrap();
    let step = |size, accumulation| {
        let options = options(BatchSize::Examples(size), accumulation, 1);
        let mut sampler = BatchSampler::new(&lengths, options).unwrap();
        collator.step(&rows, &sampler.next_step()).unwrap()
    };
    let whole = step(16, 1);
    let targets: usize = all
        .iter()
        .map(|example| example.num_supervised_tokens())
        .sum();
    assert_eq!(whole.num_supervised_tokens, targets);
    let flat = |step: &flametune_data::Step| -> Vec<Row> {
        step.batches
            .iter()
            .flat_map(|batch| unpadded(batch, 0))
            .collect()
    };
    for (size, accumulation) in [(1, 16), (4, 4), (2, 8)] {
        let parts = step(size, accumulation);
        assert_eq!(parts.batches.len(), accumulation);
        assert_eq!(parts.num_supervised_tokens, targets);
        assert_eq!(flat(&parts), flat(&whole));
    }
}

#[test]
fn buckets_save_padding() {
    let order = flametune_data::permutation(3, 0, 256);
    let lengths: Vec<usize> = order.iter().map(|rank| 10 + rank * 2).collect();
    let padded = |bucket| -> usize {
        let options = options(BatchSize::Examples(8), 1, bucket);
        let mut sampler = BatchSampler::new(&lengths, options).unwrap();
        let mut tokens = 0;
        for _ in 0..sampler.steps_per_epoch() {
            for batch in sampler.next_step() {
                tokens += batch.len() * batch.iter().map(|&index| lengths[index]).max().unwrap();
            }
        }
        tokens
    };
    let total: usize = lengths.iter().sum();
    let (none, some, full) = (padded(1), padded(64), padded(256));
    assert!(total < full && full < some && some < none);
    // Sorted within 64, a batch of 8 spans an eighth of the range of lengths: little is padding.
    assert!((some - total) * 10 < total, "{some} {total}");
}

#[test]
fn a_cursor_of_other_data_or_options_is_refused() {
    let lengths = [4, 5, 6, 7];
    let base = options(BatchSize::Examples(2), 1, 4);
    let cursor = BatchSampler::new(&lengths, base).unwrap().cursor();
    let check =
        |lengths: &[usize], options: SamplerOptions, cursor: &SamplerCursor, expected: &str| {
            let error = BatchSampler::resume(lengths, options, cursor).unwrap_err();
            assert_eq!(error.to_string(), expected);
        };
    let tokens = SamplerOptions {
        batch_size: BatchSize::Tokens(20),
        ..base
    };
    check(
        &lengths,
        tokens,
        &cursor,
        "cannot resume: batch_size was 2 examples, but is 20 tokens",
    );
    let seed = SamplerOptions { seed: None, ..base };
    check(
        &lengths,
        seed,
        &cursor,
        "cannot resume: seed was 11, but is none",
    );
    let accumulation = SamplerOptions {
        accumulation: 2,
        ..base
    };
    check(
        &lengths,
        accumulation,
        &cursor,
        "cannot resume: accumulation was 1, but is 2",
    );
    check(
        &lengths[..3],
        base,
        &cursor,
        "cannot resume: the number of examples was 4, but is 3",
    );
    let error = BatchSampler::resume(&[4, 5, 7, 6], base, &cursor).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot resume: the hash of the examples' lengths was "),
        "{error}"
    );
    let beyond = SamplerCursor { step: 3, ..cursor };
    check(
        &lengths,
        base,
        &beyond,
        "cannot resume: the step of the epoch was 3, but is at most 2",
    );
}

#[test]
fn impossible_samplers_are_refused() {
    let check = |lengths: &[usize], options, expected: &str| {
        let error = BatchSampler::new(lengths, options).unwrap_err();
        assert_eq!(error.to_string(), expected);
    };
    check(
        &[],
        options(BatchSize::Examples(1), 1, 1),
        "there are no examples",
    );
    check(
        &[1],
        options(BatchSize::Examples(0), 1, 1),
        "batch_size must be at least 1, got 0",
    );
    check(
        &[1],
        options(BatchSize::Examples(1), 0, 1),
        "accumulation must be at least 1, got 0",
    );
    check(
        &[1],
        options(BatchSize::Examples(1), 1, 0),
        "bucket must be at least 1, got 0",
    );
    check(
        &[5, 17],
        options(BatchSize::Tokens(16), 1, 1),
        "example 1 has 17 tokens, more than batch_size 16",
    );
}

/// The order is a promise: a run that is repeated on another machine or after an update sees the same batches.
#[test]
fn the_order_of_a_seed_stays_the_same() {
    let lengths: Vec<usize> = (1..=10).collect();
    let mut sampler = BatchSampler::new(&lengths, options(BatchSize::Tokens(16), 2, 5)).unwrap();
    let steps: Vec<_> = (0..4).map(|_| sampler.next_step()).collect();
    insta::assert_debug_snapshot!(
        "order_of_seed_11",
        steps
            .iter()
            .map(|step| format!("{step:?}"))
            .collect::<Vec<_>>()
    );
}

fn sizes() -> impl Strategy<Value = BatchSize> {
    prop_oneof![
        (1_usize..6).prop_map(BatchSize::Examples),
        (20_usize..60).prop_map(BatchSize::Tokens),
    ]
}

proptest! {
    #[test]
    fn a_batch_holds_its_rows(
        lengths in proptest::collection::vec(2_usize..=20, 1..20),
        multiple_of in 1_usize..9,
    ) {
        let rows = pack(&examples(&lengths), 20).unwrap();
        let batch = Collator::new(7, multiple_of).unwrap().collate(&rows).unwrap();
        let longest = rows.iter().map(Row::len).max().unwrap();
        prop_assert_eq!(batch.seq, longest.div_ceil(multiple_of) * multiple_of);
        prop_assert_eq!(batch.batch, rows.len());
        prop_assert_eq!(batch.segment_ids.is_some(), rows.iter().any(|row| row.segments() > 1));
        let targets: usize = rows.iter().map(Row::num_supervised_tokens).sum();
        prop_assert_eq!(batch.num_supervised_tokens, targets);
        prop_assert_eq!(unpadded(&batch, 7), rows);
    }

    #[test]
    fn every_example_comes_once_an_epoch(
        lengths in proptest::collection::vec(1_usize..=20, 1..50),
        size in sizes(),
        accumulation in 1_usize..4,
        bucket in 1_usize..20,
        seed in proptest::option::of(0_u64..1000),
    ) {
        let options = SamplerOptions { batch_size: size, accumulation, bucket, seed };
        let mut sampler = BatchSampler::new(&lengths, options).unwrap();
        for epoch in 0..3 {
            let mut seen = Vec::<usize>::new();
            // The number of steps is that of the epoch of the step before.
            let mut step = sampler.next_step();
            prop_assert_eq!(sampler.epoch(), epoch);
            let steps = sampler.steps_per_epoch();
            for left in (0..steps).rev() {
                prop_assert!(step.len() == accumulation || left == 0);
                for batch in &step {
                    let longest = batch.iter().map(|&index| lengths[index]).max().unwrap();
                    let fits = match size {
                        BatchSize::Examples(size) => batch.len() <= size,
                        BatchSize::Tokens(size) => batch.len() * longest <= size,
                    };
                    prop_assert!(fits);
                    seen.extend(batch);
                }
                if left > 0 {
                    step = sampler.next_step();
                }
            }
            if seed.is_none() && bucket == 1 {
                prop_assert!(seen.is_sorted());
            }
            seen.sort_unstable();
            prop_assert!(seen.into_iter().eq(0..lengths.len()));
        }
    }

    #[test]
    fn a_resumed_sampler_equals_an_unbroken_one(
        lengths in proptest::collection::vec(1_usize..=20, 1..30),
        size in sizes(),
        bucket in 1_usize..20,
        before in 0_usize..40,
    ) {
        let options = options(size, 2, bucket);
        let mut unbroken = BatchSampler::new(&lengths, options).unwrap();
        for _ in 0..before {
            unbroken.next_step();
        }
        let saved = serde_json::to_string(&unbroken.cursor()).unwrap();
        let cursor: SamplerCursor = serde_json::from_str(&saved).unwrap();
        let mut resumed = BatchSampler::resume(&lengths, options, &cursor).unwrap();
        for _ in 0..20 {
            prop_assert_eq!(resumed.next_step(), unbroken.next_step());
            prop_assert_eq!(resumed.cursor(), unbroken.cursor());
        }
    }
}
