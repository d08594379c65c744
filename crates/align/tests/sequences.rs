//! Answers in batches: padded or packed, their log-probabilities are the same.

use flametune_align::{Part, Sequence, SequenceBatch};
use flametune_data::{Collator, EncodedExample, IGNORE_INDEX};
use flametune_lm::{AdapterPass, CausalLm, Checkpoint, LoadOptions};
use flametune_testkit::{assert_close, cpu, fixture_path, tol};
use proptest::prelude::*;

fn base() -> CausalLm {
    let checkpoint = Checkpoint::open(fixture_path("training/base")).unwrap();
    CausalLm::load(&checkpoint, &LoadOptions::f32(&cpu()), &mut |_| {}).unwrap()
}

fn example(prompt: usize, answer: usize, seed: u32) -> EncodedExample {
    let ids: Vec<u32> = (0..u32::try_from(prompt + answer).unwrap())
        .map(|n| 4 + (seed * 31 + n * 17) % 290)
        .collect();
    let label = |(at, &id): (usize, &u32)| match at < prompt {
        true => IGNORE_INDEX,
        false => i64::from(id),
    };
    EncodedExample {
        labels: ids.iter().enumerate().map(label).collect(),
        input_ids: ids,
    }
}

fn batch(examples: &[EncodedExample], with_prompt: bool, packing: Option<usize>) -> SequenceBatch {
    let sequences: Vec<Sequence<'_>> = examples
        .iter()
        .map(|example| Sequence {
            example,
            with_prompt,
        })
        .collect();
    SequenceBatch::new(&sequences, &Collator::new(0, 4).unwrap(), packing).unwrap()
}

fn sums(model: &CausalLm, batch: &SequenceBatch, part: Part) -> Vec<f32> {
    let pass = AdapterPass::default();
    let hidden = model.forward(batch.tokens(), None, &pass).unwrap();
    let logps = batch.logps(model, hidden, &pass).unwrap();
    batch.sums(&logps, part).into_data().try_to_vec().unwrap()
}

#[test]
fn packed_answers_equal_padded_and_single_ones() {
    let model = base();
    let examples = [
        example(5, 3, 1),
        example(2, 9, 2),
        example(7, 1, 3),
        example(3, 4, 4),
    ];
    let padded = batch(&examples, false, None);
    let packed = batch(&examples, false, Some(20));
    assert_eq!(padded.lengths(), [3, 9, 1, 4]);
    assert_eq!(packed.lengths(), [3, 9, 1, 4]);
    assert!(packed.slots() < padded.slots());
    let alone: Vec<f32> = examples
        .iter()
        .flat_map(|example| {
            let one = batch(std::slice::from_ref(example), false, None);
            sums(&model, &one, Part::Answer)
        })
        .collect();
    // Sums of up to nine log-probabilities of about five.
    let tolerance = tol::f32().of_magnitude(50.0);
    assert_close(
        &sums(&model, &padded, Part::Answer),
        &alone,
        tolerance,
        "padded",
    );
    assert_close(
        &sums(&model, &packed, Part::Answer),
        &alone,
        tolerance,
        "packed",
    );
}

#[test]
fn the_whole_sequence_is_prompt_and_answer() {
    let model = base();
    let examples = [example(5, 3, 1), example(2, 6, 2)];
    for packing in [None, Some(32)] {
        let with = batch(&examples, true, packing);
        assert_eq!(with.range(0, Part::Whole).len(), 7);
        assert_eq!(with.range(0, Part::Answer).len(), 3);
        let answers = sums(&model, &with, Part::Answer);
        let whole = sums(&model, &with, Part::Whole);
        assert!(
            whole
                .iter()
                .zip(&answers)
                .all(|(whole, answer)| whole < answer)
        );
        let without = batch(&examples, false, packing);
        let tolerance = tol::f32().of_magnitude(50.0);
        assert_close(
            &sums(&model, &without, Part::Answer),
            &answers,
            tolerance,
            "answers",
        );
    }
}

proptest! {
    /// Whatever the lengths: every answer has its tokens, each place once, each label its own id.
    #[test]
    fn places_and_labels_belong_together(
        shapes in prop::collection::vec((1_usize..6, 1_usize..6), 1..7),
        packed in any::<bool>(),
    ) {
        let examples: Vec<EncodedExample> = shapes
            .iter()
            .zip(0..)
            .map(|(&(prompt, answer), seed)| example(prompt, answer, seed))
            .collect();
        let batch = batch(&examples, false, packed.then_some(24));
        let mut seen = std::collections::BTreeSet::new();
        for (index, (example, &(prompt, answer))) in examples.iter().zip(&shapes).enumerate() {
            let range = batch.range(index, Part::Answer);
            prop_assert_eq!(range.len(), answer);
            for (place, id) in range.zip(&example.input_ids[prompt..]) {
                prop_assert_eq!(batch.labels()[place], i64::from(*id));
                prop_assert!(seen.insert(place));
            }
        }
        let supervised = batch.labels().iter().filter(|label| **label != IGNORE_INDEX).count();
        prop_assert_eq!(supervised, seen.len());
    }
}
