//! Classifiers: the loss by value, and a head that learns.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use flametune_data::{Batch, ClassifiedBatch, Collator, EncodedText};
use flametune_lm::{AdapterPass, BertModel, Checkpoint, LoadOptions};
use flametune_peft::{LoraConfig, PeftConfig, TargetModules, inject};
use flametune_testkit::{assert_close, fixture_path, tol};
use flametune_train::classify::{
    Classification, add_head, class_cross_entropy, class_scores, score,
};
use flametune_train::optim::groups;
use flametune_train::{Error, Schedule, TrainConfig, Trainer, Warmup};

const NAME: &str = "default";

/// A tiny encoder without its head, with LoRA and a new one for two classes.
fn model() -> BertModel {
    let checkpoint = Checkpoint::open(fixture_path("models/bert_cls")).unwrap();
    let options = LoadOptions::f32(&Device::flex().autodiff());
    let mut model = BertModel::from_checkpoint(&checkpoint, &options, &mut |_| {}).unwrap();
    model.classifier = None;
    add_head(&mut model, 2, 3).unwrap();
    let lora = LoraConfig {
        r: 4,
        lora_dropout: 0.0,
        target_modules: Some(TargetModules::list(["query", "value", "dense"])),
        modules_to_save: Some(vec!["classifier".to_owned()]),
        ..LoraConfig::default()
    };
    inject(&mut model, NAME, &PeftConfig::Lora(lora), 0).unwrap();
    model
}

/// Texts of class 1 hold the token 7, those of class 0 the token 8.
fn texts(count: usize) -> Vec<EncodedText> {
    (0..count)
        .map(|n| {
            let label = n % 2;
            let mark = if label == 1 { 7 } else { 8 };
            let filler = |k: usize| 20 + u32::try_from((n * 5 + k * 3) % 50).unwrap();
            let length = 3 + n % 4;
            let mut input_ids: Vec<u32> = (0..length).map(filler).collect();
            input_ids[n % length] = mark;
            EncodedText { input_ids, label }
        })
        .collect()
}

fn batch(texts: &[EncodedText], multiple: usize) -> ClassifiedBatch {
    let collator = Collator::new(3, multiple).unwrap();
    collator.collate_classified(texts).unwrap()
}

fn objective() -> Classification {
    Classification {
        pass: AdapterPass::one(NAME),
        label_smoothing: 0.0,
    }
}

fn trainer(max_steps: usize) -> Trainer<Classification> {
    let config = TrainConfig {
        learning_rate: 0.01,
        schedule: Schedule::Constant,
        warmup: Warmup::Steps(0),
        max_steps,
        ..TrainConfig::default()
    };
    Trainer::new(model(), objective(), config, groups(0.0, 1.0)).unwrap()
}

#[test]
fn the_loss_is_that_of_torch() {
    // torch.nn.functional.cross_entropy(scores, classes, reduction="sum", label_smoothing=s)
    let scores = Tensor::<2>::from_floats([[2.0, -1.0, 0.5], [0.0, 0.25, -0.5]], &Device::flex());
    for (smoothing, expected) in [(0.0, 1.802_760_2_f32), (0.1, 1.911_093_5)] {
        let loss = class_cross_entropy(scores.clone(), &[0, 2], smoothing);
        assert_close(&loss.into_data(), &[expected], tol::f32(), "loss");
    }
}

#[test]
fn padding_changes_no_score() {
    let model = model();
    let texts = texts(6);
    let scores = |multiple| {
        let scores = class_scores(&model, &batch(&texts, multiple), &AdapterPass::one(NAME));
        scores.unwrap().inner().into_data()
    };
    let expected: Vec<f32> = scores(1).iter::<f32>().collect();
    assert_close(&scores(16), &expected, tol::f32(), "scores");
}

#[test]
fn micro_batches_make_the_same_step() {
    let texts = texts(8);
    let mut whole = trainer(1);
    let one = whole.train_step(&[batch(&texts, 8)]).unwrap();
    let mut cut = trainer(1);
    let parts: Vec<ClassifiedBatch> = texts.chunks(2).map(|part| batch(part, 8)).collect();
    let four = cut.train_step(&parts).unwrap();
    // Sums of eight losses and gradients in another order.
    assert!((one.loss - four.loss).abs() < 1e-5, "{one:?} {four:?}");
    assert!((one.grad_norm - four.grad_norm).abs() < 1e-4 * one.grad_norm);
    assert_eq!((one.supervised_tokens, four.supervised_tokens), (8, 8));
}

#[test]
fn a_classifier_learns_what_tells_classes_apart() {
    let (seen, unseen) = (texts(64), batch(&texts(90)[64..], 8));
    let mut trainer = trainer(40);
    let before = trainer.evaluate([&unseen]).unwrap();
    assert!((before.loss - 2.0_f64.ln()).abs() < 0.1, "{}", before.loss);
    while !trainer.is_finished() {
        let at = trainer.steps() * 16 % 64;
        trainer.train_step(&[batch(&seen[at..at + 16], 8)]).unwrap();
    }
    let after = trainer.evaluate([&unseen]).unwrap();
    let scores = score(&trainer.model().valid(), &AdapterPass::one(NAME), [&unseen]).unwrap();
    assert!((scores.majority() - 0.5).abs() < 1e-12);
    assert!(scores.accuracy() > 0.9, "{scores}");
    assert_eq!(after.metrics["accuracy"], scores.accuracy());
    assert!(
        after.loss < 0.5 * before.loss,
        "{} {}",
        before.loss,
        after.loss
    );
}

#[test]
fn heads_and_settings_that_cannot_be_are_refused() {
    let mut model = model();
    let message = |result: Result<(), Error>| result.unwrap_err().to_string();
    assert_eq!(
        message(add_head(&mut model, 3, 0)),
        "classes must be 2, as many as the head of the model has, got 3"
    );
    assert_eq!(
        message(add_head(&mut model, 1, 0)),
        "classes must be at least 2, got 1"
    );
    model.bert.pooler = None;
    assert_eq!(
        message(add_head(&mut model, 2, 0)),
        "classes cannot be told apart: the model has no pooler"
    );
    let wrong = Classification {
        label_smoothing: 1.0,
        ..objective()
    };
    let refused = Trainer::new(model, wrong, TrainConfig::default(), groups(0.0, 1.0));
    assert_eq!(
        refused.unwrap_err().to_string(),
        "label_smoothing must be at least 0 and below 1, got 1"
    );
    let nothing: [&ClassifiedBatch; 0] = [];
    assert!(matches!(
        trainer(1).evaluate(nothing),
        Err(Error::NothingToTrain)
    ));
}

#[test]
fn padding_is_masked() {
    let batch: Batch = batch(&texts(2), 8).tokens;
    let tokens = flametune_train::classify::masked_tokens(&batch).unwrap();
    assert_eq!(
        tokens.segment_ids().unwrap(),
        [1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0]
    );
}
