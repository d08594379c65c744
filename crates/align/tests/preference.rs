//! Training on preferences: every method learns, and the step is what it should be.

use std::path::Path;

use burn::module::Module;
use flametune_align::losses::{CpoOptions, DpoKind, DpoOptions, DpoTerm, KtoOptions};
use flametune_align::preference::{
    AnswerRows, BatchOptions, Preference, PreferenceFeed, PreferenceLoss,
};
use flametune_data::{BatchSampler, BatchSize, SamplerOptions};
use flametune_lm::AdapterPass;
use flametune_train::fit::{Feed, FitOptions};
use flametune_train::optim::groups;
use flametune_train::{Objective, StepReport, Trainer};

use crate::tiny::{Steps, collator, config, dataset, encoder, mean, model, run};

/// Pairs of which the first answer says yes; which of them is longer says nothing.
pub(crate) fn pairs(count: usize) -> Vec<String> {
    (0..count)
        .map(|n| {
            let (yes, no) = match n % 2 {
                0 => ("yes yes and so on and on", "no no"),
                _ => ("yes yes", "no no and so on and on"),
            };
            format!("{{\"prompt\": \"Is {n} so?\", \"chosen\": \"{yes}\", \"rejected\": \"{no}\"}}")
        })
        .collect()
}

fn rows(folder: &Path, loss: &PreferenceLoss) -> AnswerRows {
    let mut dataset = dataset(folder, &pairs(24));
    let encoder = encoder(100);
    match loss.is_judged() {
        true => AnswerRows::judged(&mut dataset, &encoder, loss.name()).unwrap(),
        false => AnswerRows::pairs(&mut dataset, &encoder, loss.name()).unwrap(),
    }
}

fn options(batch: usize, accumulation: usize) -> SamplerOptions {
    SamplerOptions {
        batch_size: BatchSize::Examples(batch),
        accumulation,
        ..SamplerOptions::default()
    }
}

fn batch_options(pass: &AdapterPass, packing: Option<usize>) -> BatchOptions {
    BatchOptions {
        collator: collator(),
        packing,
        reference: AdapterPass::default(),
        policy: pass.clone(),
    }
}

fn trained(
    loss: &PreferenceLoss,
    sampler: SamplerOptions,
    packing: Option<usize>,
    steps: usize,
) -> Vec<StepReport> {
    let folder = tempfile::tempdir().unwrap();
    let rows = rows(folder.path(), loss);
    let (lm, pass) = model(4, "policy");
    let sampler = BatchSampler::new(&rows.lengths(), sampler).unwrap();
    let batches = batch_options(&pass, packing);
    let feed = PreferenceFeed::new(&rows, sampler, loss.clone(), batches);
    let objective = Preference {
        pass,
        loss: loss.clone(),
        recompute: false,
    };
    let mut trainer = Trainer::new(lm, objective, config(steps, 5e-3), groups(0.0, 1.0)).unwrap();
    let mut observer = Steps::default();
    run(
        &mut trainer,
        feed,
        &FitOptions::default(),
        &mut observer,
        &|_, _| Ok(()),
    )
    .unwrap();
    observer.0
}

#[test]
fn every_method_learns_to_prefer() {
    let dpo = |kind, beta| PreferenceLoss::Dpo(DpoOptions::of(kind, beta));
    for loss in [
        dpo(DpoKind::Sigmoid, 0.1),
        dpo(DpoKind::Ipo, 0.1),
        PreferenceLoss::Kto(KtoOptions::default()),
        PreferenceLoss::Orpo { beta: 0.5 },
        PreferenceLoss::Cpo(CpoOptions::simpo(2.0, 0.5)),
        PreferenceLoss::Cpo(CpoOptions::default()),
    ] {
        let steps = trained(&loss, options(6, 1), None, 25);
        let (first, last) = (&steps[..3], &steps[22..]);
        let margin =
            |steps: &[StepReport]| mean(steps, "rewards/chosen") - mean(steps, "rewards/rejected");
        let gain = margin(last) - margin(first);
        assert!(gain > 0.0, "{}: margins rose by {gain}", loss.name());
        let fall = first[0].loss - steps[24].loss;
        assert!(fall > 0.0, "{}: the loss fell by {fall}", loss.name());
        // Sums of log-probabilities without a reference are first of all lengths.
        let sums = matches!(&loss, PreferenceLoss::Cpo(options) if !options.kind.averages());
        if !loss.is_judged() && !sums {
            let accuracy = mean(last, "rewards/accuracies");
            assert!(accuracy > 0.95, "{}: {accuracy}", loss.name());
        }
    }
}

#[test]
fn dpo_begins_at_ln_2() {
    let loss = PreferenceLoss::Dpo(DpoOptions::default());
    let steps = trained(&loss, options(6, 1), None, 1);
    // The adapter begins at zero, so policy and reference are the same numbers.
    assert!(
        (steps[0].loss - 2_f64.ln()).abs() < 1e-6,
        "{}",
        steps[0].loss
    );
}

#[test]
fn a_step_is_the_same_however_it_is_cut_or_packed() {
    let rpo = DpoOptions {
        losses: vec![
            DpoTerm {
                kind: DpoKind::Sigmoid,
                weight: 1.0,
            },
            DpoTerm {
                kind: DpoKind::Sft,
                weight: 0.5,
            },
        ],
        ..DpoOptions::default()
    };
    for loss in [
        PreferenceLoss::Dpo(rpo),
        PreferenceLoss::Orpo { beta: 0.1 },
        PreferenceLoss::Kto(KtoOptions::default()),
    ] {
        let whole = trained(&loss, options(8, 1), None, 3);
        let cut = trained(&loss, options(2, 4), None, 3);
        let packed = trained(&loss, options(8, 1), Some(100), 3);
        for other in [cut, packed] {
            for (a, b) in whole.iter().zip(&other) {
                // Sums of f32 in another order, carried on by AdamW over three steps.
                let close = |a: f64, b: f64| (a - b).abs() <= 1e-4 * a.abs().max(1e-3);
                assert!(close(a.loss, b.loss), "{}: {a:?} {b:?}", loss.name());
                assert!((a.grad_norm - b.grad_norm).abs() <= 2e-3 * a.grad_norm);
            }
        }
    }
}

#[test]
fn reference_log_probabilities_are_computed_once() {
    let folder = tempfile::tempdir().unwrap();
    let loss = PreferenceLoss::Dpo(DpoOptions::default());
    let rows = rows(folder.path(), &loss);
    let (lm, pass) = model(4, "policy");
    let file = folder.path().join("reference.safetensors");
    let feed = || {
        let sampler = BatchSampler::new(&rows.lengths(), options(6, 1)).unwrap();
        PreferenceFeed::new(&rows, sampler, loss.clone(), batch_options(&pass, None))
    };
    let mut computed = 0;
    let mut cached = feed()
        .precompute(&lm, 5, Some((&file, "base")), &mut |done| computed = done)
        .unwrap();
    assert_eq!(computed, 48);
    let mut live = feed();
    let (a, b) = (cached.next_step(&lm).unwrap(), live.next_step(&lm).unwrap());
    for (a, b) in a.batches[0].reference.iter().zip(&b.batches[0].reference) {
        // Batches of other shapes sum in another order.
        assert!((a - b).abs() < 1e-3, "{a} {b}");
    }
    // Read again, and not computed; of another base, computed again.
    for (base, expected) in [("base", 0), ("another", 48)] {
        let mut computed = 0;
        feed()
            .precompute(&lm, 5, Some((&file, base)), &mut |done| computed = done)
            .unwrap();
        assert_eq!(computed, expected);
    }
}

#[test]
fn evaluation_is_the_loss_without_training() {
    let folder = tempfile::tempdir().unwrap();
    let loss = PreferenceLoss::Dpo(DpoOptions::default());
    let rows = rows(folder.path(), &loss);
    let (lm, pass) = model(4, "policy");
    let sampler = BatchSampler::new(&rows.lengths(), options(6, 1)).unwrap();
    let feed = PreferenceFeed::new(&rows, sampler, loss.clone(), batch_options(&pass, None));
    let feed = feed.evaluate_with(&rows, 10, &lm).unwrap();
    assert_eq!(feed.evaluation().len(), 3);
    let objective = Preference {
        pass,
        loss,
        recompute: false,
    };
    let found = objective
        .evaluate(&lm.valid(), &feed.evaluation()[0])
        .unwrap();
    assert!((found.sum - 10.0 * 2_f64.ln()).abs() < 1e-5);
}

#[test]
fn recomputed_layers_change_nothing() {
    let loss = PreferenceLoss::Dpo(DpoOptions::default());
    let folder = tempfile::tempdir().unwrap();
    let rows = rows(folder.path(), &loss);
    let norms = [false, true].map(|recompute| {
        let (lm, pass) = model(4, "policy");
        let sampler = BatchSampler::new(&rows.lengths(), options(6, 1)).unwrap();
        let feed = PreferenceFeed::new(&rows, sampler, loss.clone(), batch_options(&pass, None));
        let objective = Preference {
            pass,
            loss: loss.clone(),
            recompute,
        };
        let mut trainer = Trainer::new(lm, objective, config(2, 5e-3), groups(0.0, 1.0)).unwrap();
        let mut observer = Steps::default();
        run(
            &mut trainer,
            feed,
            &FitOptions::default(),
            &mut observer,
            &|_, _| Ok(()),
        )
        .unwrap();
        observer.0[1].grad_norm
    });
    assert!((norms[0] - norms[1]).abs() <= 1e-4 * norms[0], "{norms:?}");
}

#[test]
fn a_last_step_of_one_answer_has_a_baseline() {
    let folder = tempfile::tempdir().unwrap();
    let loss = PreferenceLoss::Kto(KtoOptions::default());
    let rows = rows(folder.path(), &loss);
    let (lm, pass) = model(4, "policy");
    // 48 answers in steps of 47: the second has one.
    let sampler = BatchSampler::new(&rows.lengths(), options(47, 1)).unwrap();
    let mut feed = PreferenceFeed::new(&rows, sampler, loss, batch_options(&pass, None));
    feed.next_step(&lm).unwrap();
    let last = feed.next_step(&lm).unwrap();
    assert_eq!(last.batches[0].labels.len(), 1);
    assert_eq!(last.batches[0].kl, 0.0, "policy and reference are the same");
}
