//! Reward models: trained, measured, saved, and used as a reward.

use burn::module::Module;
use flametune_align::losses::RewardLossOptions;
use flametune_align::preference::AnswerRows;
use flametune_align::reward_model::{
    RewardFeed, RewardModel, RewardReport, RewardTraining, commonest_label_accuracy,
    longer_answer_accuracy,
};
use flametune_align::rewards::{JudgeReward, ModelReward, RewardSum, Sample};
use flametune_align::{Error, HEAD_FILE, ScalarHead, vocabulary_digest};
use flametune_data::{BatchSampler, BatchSize, SamplerOptions};
use flametune_testkit::cpu;
use flametune_train::Trainer;
use flametune_train::fit::FitOptions;
use flametune_train::optim::groups;

use crate::preference::pairs;
use crate::tiny::{D_MODEL, Steps, collator, config, dataset, encoder, model, run, tokenizer};

#[test]
fn separable_pairs_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let lines = pairs(200);
    let encoder = encoder(100);
    let train = AnswerRows::pairs(&mut dataset(folder.path(), &lines[..80]), &encoder, "a");
    let train = train.unwrap();
    let held_out = AnswerRows::pairs(&mut dataset(folder.path(), &lines[80..]), &encoder, "a");
    let held_out = held_out.unwrap();
    let (lm, pass) = model(4, "reward");
    let score = ScalarHead::zeros(D_MODEL, &lm.device());
    let sampler = SamplerOptions {
        batch_size: BatchSize::Examples(8),
        ..SamplerOptions::default()
    };
    let sampler = BatchSampler::new(&train.lengths(), sampler).unwrap();
    let feed = RewardFeed::new(&train, sampler, collator()).unwrap();
    let feed = feed.evaluate_with(&held_out, 20).unwrap();
    let objective = RewardTraining {
        pass: pass.clone(),
        options: RewardLossOptions {
            center_rewards_coefficient: 0.01,
        },
        recompute: false,
    };
    let model = RewardModel { lm, score };
    let mut trainer = Trainer::new(model, objective, config(30, 5e-3), groups(0.0, 1.0)).unwrap();
    let mut observer = Steps::default();
    let report = run(
        &mut trainer,
        feed,
        &FitOptions::default(),
        &mut observer,
        &|_, _| Ok(()),
    );
    let report = report.unwrap();
    assert!((report.first_eval.unwrap() - 2_f64.ln()).abs() < 1e-6);
    let model = trainer.into_model().valid();
    let report = RewardReport::measure(&model, &held_out, &pass, 20, &collator()).unwrap();
    assert_eq!(report.items, 120);
    assert!(report.accuracy > 0.9, "{report:?}");
    assert!(report.accuracy > longer_answer_accuracy(&held_out).unwrap());

    // As a reward of the shared model, it prefers what it was taught to.
    let reward = ModelReward {
        pass,
        head: model.score.clone(),
        collator: collator(),
        batch_size: 3,
    };
    let tokenizer = tokenizer();
    let prompt = "<|im_start|>user\nIs 7 so?<|im_end|>\n<|im_start|>assistant\n";
    let prompt = tokenizer.encode(prompt, false).unwrap();
    let answers = ["yes yes 7<|im_end|>\n", "no no 7<|im_end|>\n"]
        .map(|text| tokenizer.encode(text, false).unwrap());
    let samples = answers.each_ref().map(|completion| Sample {
        prompt: &prompt,
        completion,
        finished: true,
        index: 0,
        prompt_text: None,
        text: None,
    });
    let (scores, parts) = RewardSum::of(reward).score(&model.lm, &samples).unwrap();
    assert!(scores[0] > scores[1], "{scores:?}");
    let mean = f64::from(scores[0] + scores[1]) / 2.0;
    assert!((parts.mean("rewards/model/mean").unwrap() - mean).abs() < 1e-5);
}

#[test]
fn wrong_steps_are_told_from_right_ones() {
    let folder = tempfile::tempdir().unwrap();
    // A step is right where it says what the question asks for.
    let line = |n: usize| {
        let step = |right: bool, k: usize| match right {
            true => format!("yes yes {k}"),
            false => format!("no no {k}"),
        };
        let labels: Vec<bool> = (0..3)
            .map(|place| (n + place).is_multiple_of(2 + place))
            .collect();
        let steps = labels.iter().enumerate();
        let steps: Vec<String> = steps
            .map(|(place, right)| step(*right, n + place))
            .collect();
        serde_json::json!({ "prompt": format!("Is {n} so?"), "completions": steps, "labels": labels })
            .to_string()
    };
    let lines: Vec<String> = (0..120).map(line).collect();
    let encoder = encoder(100);
    let read = |lines: &[String]| {
        AnswerRows::steps(
            &mut dataset(folder.path(), lines),
            &encoder,
            "a process reward model",
        )
        .unwrap()
    };
    let (train, held_out) = (read(&lines[..80]), read(&lines[80..]));
    let (lm, pass) = model(4, "reward");
    let score = ScalarHead::zeros(D_MODEL, &lm.device());
    let sampler = SamplerOptions {
        batch_size: BatchSize::Examples(8),
        ..SamplerOptions::default()
    };
    let sampler = BatchSampler::new(&train.lengths(), sampler).unwrap();
    let feed = RewardFeed::new(&train, sampler, collator()).unwrap();
    let feed = feed.evaluate_with(&held_out, 20).unwrap();
    let objective = RewardTraining {
        pass: pass.clone(),
        options: RewardLossOptions::default(),
        recompute: false,
    };
    let model = RewardModel { lm, score };
    let mut trainer = Trainer::new(model, objective, config(30, 5e-3), groups(0.0, 1.0)).unwrap();
    let mut observer = Steps::default();
    let options = FitOptions::default();
    let report = run(&mut trainer, feed, &options, &mut observer, &|_, _| Ok(()));
    // Scores of zero say nothing of any step, however many an answer has.
    assert!((report.unwrap().first_eval.unwrap() - 2_f64.ln()).abs() < 1e-6);
    let model = trainer.into_model().valid();
    let report = RewardReport::measure(&model, &held_out, &pass, 20, &collator()).unwrap();
    assert_eq!(report.items, 120);
    let commonest = commonest_label_accuracy(&held_out).unwrap();
    assert!((0.5..0.7).contains(&commonest), "{commonest}");
    assert!(report.accuracy > 0.95, "{report:?}");

    let same = r#"{"prompt": "q", "completions": ["a", "b"], "labels": [true, true]}"#.to_owned();
    let error = AnswerRows::steps(&mut dataset(folder.path(), &[same]), &encoder, "it");
    assert_eq!(
        error.unwrap_err().to_string(),
        "all 2 steps have the label true: it needs steps of both labels"
    );
}

#[test]
fn a_head_is_read_back_bit_for_bit_and_knows_its_tokenizer() {
    let folder = tempfile::tempdir().unwrap();
    let mut head = ScalarHead::zeros(4, &cpu());
    head.weight = burn::module::Param::from_tensor(burn::tensor::Tensor::from_data(
        [[0.1_f32, -2.5, 3e-9, 7.0]],
        &cpu(),
    ));
    let digest = vocabulary_digest(&tokenizer());
    head.save(folder.path(), Some(&digest)).unwrap();
    let read =
        |width: usize, digest: &str| ScalarHead::load(folder.path(), width, Some(digest), &cpu());
    let again = read(4, &digest).unwrap();
    assert_eq!(
        again.weight.val().into_data(),
        head.weight.val().into_data()
    );
    let error = read(4, "another").unwrap_err();
    assert!(matches!(error, Error::TokenizerMismatch { .. }), "{error}");
    let error = read(5, &digest).unwrap_err().to_string();
    assert!(error.contains("must be 5 numbers in F32, got 4"), "{error}");
    std::fs::write(folder.path().join(HEAD_FILE), b"no safetensors").unwrap();
    let error = read(4, &digest).unwrap_err();
    assert!(matches!(error, Error::File { .. }), "{error}");
}

#[test]
fn a_judge_answers_with_the_probability_of_yes() {
    let (lm, _) = model(2, "policy");
    let lm = lm.valid();
    let base = flametune_lm::AdapterPass::default();
    let ids = vec![5, 6, 7];
    let batch = flametune_lm::TokenBatch::from_rows(std::slice::from_ref(&ids)).unwrap();
    let hidden = lm.forward(&batch, None, &base).unwrap();
    let logits: Vec<f32> = lm
        .logits(hidden.narrow(1, 2, 1), &base)
        .into_data()
        .try_to_vec()
        .unwrap();
    let expected = 1.0 / (1.0 + (logits[20] - logits[10]).exp());
    let judge = JudgeReward {
        pass: base,
        question: |_: &Sample<'_>| Ok(vec![5, 6, 7]),
        answers: (10, 20),
    };
    let sample = Sample {
        prompt: &[4],
        completion: &[5],
        finished: true,
        index: 0,
        prompt_text: None,
        text: None,
    };
    let (scores, _) = RewardSum::of(judge).score(&lm, &[sample]).unwrap();
    assert!((scores[0] - expected).abs() < 1e-6);
}
