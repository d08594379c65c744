//! Bad data, options and rewards end in errors that say what is wrong.

use flametune_align::Error;
use flametune_align::losses::{CpoKind, CpoOptions, DpoKind, DpoOptions, GroupKind, GroupOptions};
use flametune_align::online::{
    Method, OnlineFeed, OnlineOptions, PpoOptions, Prompts, RlooOptions,
};
use flametune_align::preference::AnswerRows;
use flametune_align::rewards::{FunctionReward, Reward, RewardSum, Rule, RuleReward, Sample};
use flametune_lm::{AdapterPass, CausalLm};

use crate::tiny::{CONTEXT, collator, dataset, encoder, model};

fn line(chosen: &str, rejected: &str) -> String {
    format!("{{\"prompt\": \"Why?\", \"chosen\": {chosen:?}, \"rejected\": {rejected:?}}}")
}

fn pairs(lines: &[String]) -> Result<AnswerRows, Error> {
    let folder = tempfile::tempdir().unwrap();
    AnswerRows::pairs(&mut dataset(folder.path(), lines), &encoder(100), "DPO")
}

fn judged(lines: &[String]) -> Result<AnswerRows, Error> {
    let folder = tempfile::tempdir().unwrap();
    AnswerRows::judged(&mut dataset(folder.path(), lines), &encoder(100), "KTO")
}

fn judgement(answer: &str, label: bool) -> String {
    format!("{{\"prompt\": \"Why?\", \"completion\": {answer:?}, \"label\": {label}}}")
}

#[test]
fn an_empty_answer_is_named() {
    // Texts are refused while they are read, turns here.
    let error = pairs(&[line("so", "no"), line("so", " \n")]).unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("data.jsonl:2: expected text in \"rejected\""),
        "{said}"
    );
    let turn = |text: &str| format!("[{{\"role\": \"assistant\", \"content\": {text:?}}}]");
    let (so, blank) = (turn("so"), turn(" "));
    let turns = format!("{{\"prompt\": \"Why?\", \"chosen\": {so}, \"rejected\": {blank}}}");
    let error = pairs(&[turns]).unwrap_err().to_string();
    assert!(error.contains("data.jsonl:1"), "{error}");
    assert!(error.contains("rejected"), "{error}");
    let error = judged(&[judgement("", true)]).unwrap_err().to_string();
    assert!(error.contains("data.jsonl:1"), "{error}");
}

#[test]
fn an_identical_pair_is_refused() {
    let error = pairs(&[line("so", "so")]).unwrap_err().to_string();
    assert!(error.contains("answers that differ"), "{error}");
}

#[test]
fn a_missing_class_is_refused() {
    let lines = [judgement("so", true), judgement("no", true)];
    let error = judged(&lines).unwrap_err();
    assert_eq!(
        error.to_string(),
        "all 2 answers have the label true: KTO needs answers of both labels"
    );
}

#[test]
fn data_of_another_kind_is_refused() {
    let error = pairs(&[judgement("so", true)]).unwrap_err().to_string();
    assert!(
        error.contains("DPO learns from pairs of answers")
            && error.ends_with("this is a single answer with a label"),
        "{error}"
    );
}

#[test]
fn pairs_are_judged_answers_too() {
    let rows = judged(&[line("so", "no"), line("yes", "never")]).unwrap();
    assert_eq!((rows.answers.len(), rows.records.len()), (4, 4));
}

#[test]
fn long_pairs_are_cut_so_that_both_sides_compare() {
    let prompt = "one two three four five six seven ".repeat(6);
    let line = format!(
        "{{\"prompt\": {prompt:?}, \"chosen\": \"yes\", \"rejected\": \"no no no no no no\"}}"
    );
    let folder = tempfile::tempdir().unwrap();
    let rows = AnswerRows::pairs(&mut dataset(folder.path(), &[line]), &encoder(60), "DPO");
    let rows = rows.unwrap();
    let flametune_align::preference::Answers::Pairs(pairs) = &rows.answers else {
        panic!("pairs");
    };
    let (chosen, rejected, at) = (&pairs[0].chosen, &pairs[0].rejected, pairs[0].prompt_tokens);
    assert_eq!(rows.truncated, 1);
    assert_eq!(chosen.input_ids[..at], rejected.input_ids[..at]);
    assert!(chosen.len() <= 60 && rejected.len() <= 60);
}

fn refused(check: Result<(), Error>) -> String {
    check.unwrap_err().to_string()
}

#[test]
fn options_are_checked_by_name() {
    assert_eq!(
        refused(DpoOptions::of(DpoKind::Sigmoid, 0.0).validate()),
        "beta must be finite and above 0, got 0"
    );
    assert_eq!(
        refused(DpoOptions::of(DpoKind::ExoPair, 0.1).validate()),
        "label_smoothing must be above 0 for exo_pair, whose target it is, got 0"
    );
    let robust = DpoOptions {
        label_smoothing: 0.5,
        ..DpoOptions::of(DpoKind::Robust, 0.1)
    };
    assert_eq!(
        refused(robust.validate()),
        "label_smoothing must be at least 0 and below 0.5, got 0.5"
    );
    let empty = DpoOptions {
        losses: Vec::new(),
        ..DpoOptions::default()
    };
    assert_eq!(
        refused(empty.validate()),
        "losses must name at least one loss, got none"
    );
    let cpo = CpoOptions {
        kind: CpoKind::Simpo,
        simpo_gamma: f64::NAN,
        ..CpoOptions::default()
    };
    assert_eq!(
        refused(cpo.validate()),
        "simpo_gamma must be finite and not negative, got NaN"
    );
    let cispo = GroupOptions {
        kind: GroupKind::Cispo,
        ..GroupOptions::default()
    };
    assert_eq!(
        refused(cispo.validate()),
        "epsilon_high must be above 0 for cispo, whose largest ratio it is, got 0"
    );
    let mut rloo = OnlineOptions::new(Method::Rloo(RlooOptions::default()));
    rloo.rollout.num_generations = 1;
    assert_eq!(
        refused(rloo.validate()),
        "num_generations must be at least 2 where completions are compared, got 1"
    );
    let mut ppo = OnlineOptions::new(Method::Ppo(PpoOptions {
        lam: 1.5,
        ..PpoOptions::default()
    }));
    assert_eq!(
        refused(ppo.validate()),
        "lam must be between 0 and 1, got 1.5"
    );
    ppo.num_mini_batches = 1000;
    assert_eq!(
        refused(ppo.validate()),
        "num_mini_batches must be at most the 32 completions of an iteration, got 1000"
    );
}

#[test]
fn unknown_losses_are_named() {
    let error = serde_json::from_str::<DpoKind>("\"sigmoyd\"").unwrap_err();
    assert!(error.to_string().contains("unknown variant `sigmoyd`"));
}

fn sample<'a>(completion: &'a [u32]) -> Sample<'a> {
    Sample {
        prompt: &[4],
        completion,
        finished: true,
        index: 0,
        prompt_text: None,
        text: None,
    }
}

struct Silent;

impl Reward for Silent {
    fn name(&self) -> &str {
        "silent"
    }

    fn score(&self, _lm: &CausalLm, _samples: &[Sample<'_>]) -> flametune_align::Result<Vec<f32>> {
        Ok(Vec::new())
    }
}

#[test]
fn rewards_are_checked() {
    let (lm, _) = model(2, "policy");
    let samples = [sample(&[5, 6]), sample(&[7])];
    let nan = FunctionReward::new("mine", |sample: &Sample<'_>| {
        Ok(if sample.completion.len() == 1 {
            f32::NAN
        } else {
            1.0
        })
    });
    let said = |rewards: RewardSum<'_>| rewards.score(&lm, &samples).unwrap_err().to_string();
    assert_eq!(
        said(RewardSum::of(nan)),
        "the reward mine of sample 1 is NaN"
    );
    assert_eq!(
        said(RewardSum::of(Silent)),
        "the reward silent returned 0 numbers for 2 samples"
    );
    let words = RuleReward::new(Rule::Words { words: 5 });
    assert_eq!(
        said(RewardSum::of(words)),
        "the reward words reads text, and completions come without a tokenizer"
    );
}

#[test]
fn rules_have_their_values() {
    let (lm, _) = model(2, "policy");
    let of = |rule: Rule, text: &str| {
        let sample = Sample {
            text: Some(text),
            ..sample(&[5, 6, 5, 9])
        };
        RuleReward::new(rule).score(&lm, &[sample]).unwrap()[0]
    };
    assert_eq!(of(Rule::TokenShare { ids: vec![5] }, ""), 0.5);
    assert_eq!(of(Rule::Finished, ""), 1.0);
    assert_eq!(of(Rule::Words { words: 4 }, "a b c"), -0.25);
    assert_eq!(of(Rule::Contains { text: "B".into() }, "a b c"), 1.0);
    assert_eq!(of(Rule::Distinct, "a b a A"), 0.5);
    assert_eq!(of(Rule::Distinct, ""), 0.0);
}

#[test]
fn prompts_must_leave_room() {
    let options = OnlineOptions::new(Method::Ppo(PpoOptions::default()));
    let feed = |ids: &[Vec<u32>]| {
        let prompts = Prompts {
            ids,
            stop_token_ids: &[],
            tokenizer: None,
        };
        let shape = (collator(), CONTEXT, 0);
        let rewards = RewardSum::default();
        let pass = AdapterPass::one("policy");
        OnlineFeed::new(prompts, rewards, options.clone(), pass, shape)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(feed(&[]), "there is no prompt to continue");
    assert_eq!(
        feed(&[vec![1], vec![]]),
        "prompt 1 has 0 tokens, and must have between 1 and 64"
    );
    assert_eq!(
        feed(&[vec![1; 65]]),
        "prompt 0 has 65 tokens, and must have between 1 and 64"
    );
}
