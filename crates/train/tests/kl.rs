//! The penalty on leaving the base, against the whole matrix of logits.

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{Int, Tensor, activation};
use flametune_data::Batch;
use flametune_lm::CausalLm;
use flametune_peft::AdapterPass;
use flametune_train::optim::GradientSum;
use flametune_train::{
    Backprop, BaseKl, Error, MicroStep, Sft, SftOptions, Trainer, next_token_labels, token_batch,
};
use serde_json::json;

use crate::run::{adapted, base, batch, config, even, step};
use crate::step::close;

const AT: MicroStep = MicroStep::new(0, 0, 0);

fn trainer(options: SftOptions, changes: &serde_json::Value) -> Trainer {
    let (model, pass) = adapted(false, changes);
    Trainer::new(model, Sft { pass, options }, config(), even()).unwrap()
}

/// A model whose adapter has left the base, as B no longer is zero.
fn moved(changes: &serde_json::Value) -> (CausalLm, AdapterPass) {
    let mut trainer = trainer(SftOptions::default(), changes);
    for index in 0..4 {
        trainer.train_step(&step(&[index])).unwrap();
    }
    let pass = trainer.objective().pass.clone();
    (trainer.into_model(), pass)
}

/// The trained parameters.
fn ids(model: &CausalLm) -> Vec<ParamId> {
    struct Ids(Vec<ParamId>);
    impl ModuleVisitor for Ids {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if param.is_require_grad() {
                self.0.push(param.id);
            }
        }
    }
    let mut ids = Ids(Vec::new());
    model.visit(&mut ids);
    ids.0
}

/// Which tokens count, as ones and zeros `[tokens, 1]`.
fn mask(batch: &Batch) -> Vec<f64> {
    let labels = next_token_labels(batch);
    let counts = labels.iter().map(|label| f64::from(u8::from(*label >= 0)));
    counts.collect()
}

/// Every logit of a batch, `[tokens, vocab]`.
fn logits(model: &CausalLm, batch: &Batch, pass: &AdapterPass) -> Tensor<2> {
    let tokens = token_batch(batch).unwrap();
    let hidden = model.forward(&tokens, None, pass).unwrap();
    model.logits(hidden, pass).flatten(0, 1)
}

/// The divergence of one token in f64.
fn token_kl(policy: &[f32], reference: &[f32]) -> f64 {
    let normalised = |logits: &[f32]| -> Vec<f64> {
        let logits = logits.iter().map(|x| f64::from(*x));
        let largest = logits.clone().fold(f64::MIN, f64::max);
        let sum: f64 = logits.clone().map(|x| (x - largest).exp()).sum();
        logits.map(|x| x - largest - sum.ln()).collect()
    };
    let (policy, reference) = (normalised(policy), normalised(reference));
    let terms = policy
        .iter()
        .zip(&reference)
        .map(|(p, q)| p.exp() * (p - q));
    terms.sum()
}

#[test]
fn the_value_is_that_of_the_whole_matrix() {
    let (model, pass) = moved(&json!({}));
    let plain = model.valid();
    for index in [0, 5] {
        let batch = batch(index);
        let rows = |pass: &AdapterPass| -> Vec<f32> {
            let all = logits(&plain, &batch, pass).into_data();
            all.try_to_vec().unwrap()
        };
        let (policy, reference) = (rows(&pass), rows(&AdapterPass::default()));
        let tokens = policy.chunks(300).zip(reference.chunks(300));
        let terms = tokens.zip(mask(&batch));
        let expected: f64 = terms.map(|((p, q), m)| m * token_kl(p, q)).sum();
        let tokens = token_batch(&batch).unwrap();
        let labels = next_token_labels(&batch);
        let kl = BaseKl::new(&model, &tokens, &labels, &pass).unwrap();
        let hidden = plain.forward(&tokens, None, &pass).unwrap();
        for chunk in [1, 3, 1000] {
            let got = kl.clone().with_chunk(chunk).sum(hidden.clone());
            // Each term is a difference of f32 numbers near 6, with an error near 1e-6.
            assert!(
                (got - expected).abs() < 1e-4 * expected,
                "{got} != {expected} in chunks of {chunk}"
            );
        }
        assert!(expected > 0.01, "{expected}");
    }
}

/// Gradients of all parameters, by the operation and through the whole matrix.
fn gradients(
    model: &CausalLm,
    pass: &AdapterPass,
    (recompute, chunk): (bool, usize),
) -> (GradientSum, GradientSum) {
    let batch = batch(2);
    let (tokens, labels) = (token_batch(&batch).unwrap(), next_token_labels(&batch));
    let kl = BaseKl::new(model, &tokens, &labels, pass).unwrap();
    let kl = kl.with_chunk(chunk);
    let (mut ours, mut heads) = (GradientSum::new(), GradientSum::new());
    let forward = Backprop {
        recompute,
        ..Backprop::new(model, &tokens, pass)
    };
    let term = |hidden| Ok(kl.pull(hidden, 0.5, &mut heads).1);
    forward.run(model, &AT, &mut ours, term).unwrap();
    ours.merge(heads);

    let mut theirs = GradientSum::new();
    let reference = logits(&model.valid(), &batch, &AdapterPass::default());
    let reference = Tensor::from_inner(activation::log_softmax(reference, 1));
    let policy = activation::log_softmax(logits(model, &batch, pass), 1);
    let each = (policy.clone().exp() * (policy - reference)).sum_dim(1);
    let counted: Vec<i64> = (0_i64..)
        .zip(mask(&batch))
        .filter(|(_, counts)| *counts > 0.0)
        .map(|(place, _)| place)
        .collect();
    let counted = Tensor::<1, Int>::from_ints(counted.as_slice(), &model.device());
    let loss = each.select(0, counted).sum() * 0.5;
    theirs.add(model, &mut loss.backward());
    (ours, theirs)
}

#[track_caller]
fn check_equal(model: &CausalLm, (ours, theirs): &(GradientSum, GradientSum)) {
    let largest = theirs.norm();
    assert!(largest > 1e-3, "{largest}");
    let mut compared = 0;
    for id in ids(model) {
        let Some(expected) = theirs.get(id) else {
            continue;
        };
        let got = ours.get(id).unwrap();
        for (got, expected) in got.iter().zip(expected) {
            // The same sums of f32 in another order.
            let error = f64::from((got - expected).abs());
            assert!(error < 1e-5 * largest, "{got} != {expected}");
        }
        compared += 1;
    }
    assert!(compared >= 28, "{compared} parameters");
}

#[test]
fn gradients_are_those_of_the_whole_matrix() {
    let (model, pass) = moved(&json!({}));
    for chunk in [1, 4, 1000] {
        check_equal(&model, &gradients(&model, &pass, (false, chunk)));
    }
}

#[test]
fn layers_computed_again_give_the_same_gradients() {
    let (model, pass) = moved(&json!({}));
    check_equal(&model, &gradients(&model, &pass, (true, 5)));
}

#[test]
fn a_run_is_held_near_its_base() {
    let free = SftOptions::default();
    let held = SftOptions {
        kl_coef: 20.0,
        ..free
    };
    let (mut free, mut held) = (trainer(free, &json!({})), trainer(held, &json!({})));
    let measured = SftOptions {
        kl_coef: 1e-9,
        ..SftOptions::default()
    };
    for index in 0..12 {
        free.train_step(&step(&[index])).unwrap();
        held.train_step(&step(&[index])).unwrap();
    }
    free.objective_mut().options = measured;
    let (free, held) = (
        free.evaluate(&step(&[12])).unwrap(),
        held.evaluate(&step(&[12])).unwrap(),
    );
    assert!(
        held.metrics["kl"] < 0.2 * free.metrics["kl"],
        "{held:?} {free:?}"
    );
    assert_eq!(held.loss, held.metrics["cross_entropy"]);
}

#[test]
fn the_loss_is_the_sum_of_its_parts_however_a_step_is_cut() {
    let options = SftOptions {
        kl_coef: 0.3,
        ..SftOptions::default()
    };
    let again = SftOptions {
        recompute: true,
        ..options
    };
    let (mut whole, mut recomputed) = (trainer(options, &json!({})), trainer(again, &json!({})));
    for index in 0..5 {
        let batches = step(&[2 * index, 2 * index + 1]);
        let report = whole.train_step(&batches).unwrap();
        close(&report, &recomputed.train_step(&batches).unwrap());
        let parts = report.metrics["cross_entropy"] + 0.3 * report.metrics["kl"];
        assert!((report.loss - parts).abs() < 1e-9, "{report:?}");
    }
}

#[test]
fn without_an_adapter_there_is_no_base_to_stay_near() {
    let objective = Sft {
        pass: AdapterPass::default(),
        options: SftOptions {
            kl_coef: 0.1,
            ..SftOptions::default()
        },
    };
    objective.options.validate().unwrap();
    let error = Trainer::new(base(false), objective, config(), even()).unwrap_err();
    assert!(matches!(error, Error::InvalidConfig { .. }), "{error}");
    assert!(error.to_string().starts_with("kl_coef needs an adapter"));
}
