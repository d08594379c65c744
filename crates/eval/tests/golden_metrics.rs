//! Metrics against the packages that the field reports with.

use flametune_eval::metrics::{
    BleuOptions, BleuSmoothing, BleuTokenizer, ChrfOptions, Confusion, Rouge, auroc, bleu,
    brier_score, calibration, chrf, rouge, sentence_bleu, sentence_chrf, squad_exact_match,
    squad_f1, squad_normalize,
};
use flametune_testkit::fixture_json;
use serde_json::Value;

/// Sums of a few dozen doubles in another order differ by less.
const TOLERANCE: f64 = 1e-12;

#[track_caller]
fn same(got: f64, expected: &Value, what: &str) {
    let expected = expected.as_f64().unwrap();
    let error = (got - expected).abs();
    assert!(
        error <= TOLERANCE * expected.abs().max(1.0),
        "{what}: {got} against {expected}"
    );
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap()
}

#[test]
fn pairs_score_as_rouge_score_sacrebleu_and_the_squad_script_score_them() {
    let golden = fixture_json("eval/metrics/text_metrics.json");
    let pairs = golden["pairs"].as_array().unwrap();
    assert_eq!(pairs.len(), 53);
    for (index, pair) in pairs.iter().enumerate() {
        let (prediction, reference) = (text(pair, "prediction"), text(pair, "reference"));
        for (key, stem) in [("rouge", false), ("rouge_stem", true)] {
            let kinds = [
                ("rouge1", Rouge::N(1)),
                ("rouge2", Rouge::N(2)),
                ("rougeL", Rouge::L),
                ("rougeLsum", Rouge::Lsum),
            ];
            for (name, which) in kinds {
                let score = rouge(prediction, reference, which, stem);
                let parts = [score.precision, score.recall, score.fmeasure];
                for (at, part) in parts.into_iter().enumerate() {
                    same(
                        part,
                        &pair[key][name][at],
                        &format!("pair {index} {key} {name} {at}"),
                    );
                }
            }
        }
        let ways = [
            ("exp", BleuSmoothing::Exp),
            ("floor", BleuSmoothing::Floor(0.1)),
            ("add-k", BleuSmoothing::AddK(1.0)),
            ("none", BleuSmoothing::None),
        ];
        for (name, smoothing) in ways {
            let options = BleuOptions {
                smoothing,
                ..BleuOptions::default()
            };
            let score = sentence_bleu(prediction, &[reference], &options).score;
            same(
                score,
                &pair["sentence_bleu"][name],
                &format!("pair {index} BLEU {name}"),
            );
        }
        let intl = BleuOptions {
            tokenizer: BleuTokenizer::International,
            lowercase: true,
            ..BleuOptions::default()
        };
        let letters = BleuOptions {
            tokenizer: BleuTokenizer::Char,
            ..BleuOptions::default()
        };
        let score = |options: &BleuOptions| sentence_bleu(prediction, &[reference], options).score;
        same(score(&intl), &pair["sentence_bleu_lc_intl"], "intl");
        same(score(&letters), &pair["sentence_bleu_char"], "char");
        let score = |options: &ChrfOptions| sentence_chrf(prediction, &[reference], options);
        same(score(&ChrfOptions::default()), &pair["chrf"], "chrF");
        same(score(&ChrfOptions::plus_plus()), &pair["chrf_pp"], "chrF++");
        let matched = f64::from(u8::from(squad_exact_match(prediction, reference)));
        same(matched, &pair["squad_em"], "exact match");
        same(squad_f1(prediction, reference), &pair["squad_f1"], "F1");
        assert_eq!(
            squad_normalize(prediction),
            pair["squad_normalized"][0].as_str().unwrap()
        );
        assert_eq!(
            squad_normalize(reference),
            pair["squad_normalized"][1].as_str().unwrap()
        );
    }
}

#[test]
fn corpora_score_as_sacrebleu_scores_them() {
    let golden = fixture_json("eval/metrics/text_metrics.json");
    let pairs = golden["pairs"].as_array().unwrap();
    let predictions: Vec<&str> = pairs.iter().map(|pair| text(pair, "prediction")).collect();
    let references: Vec<Vec<&str>> = pairs
        .iter()
        .map(|pair| vec![text(pair, "reference")])
        .collect();
    let corpus = &golden["corpus"];
    let check = |options: &BleuOptions, name: &str| {
        let score = bleu(&predictions, &references, options);
        let expected = &corpus[name];
        same(score.score, &expected["score"], name);
        same(score.bp, &expected["bp"], name);
        assert_eq!(score.sys_len as u64, expected["sys_len"].as_u64().unwrap());
        assert_eq!(score.ref_len as u64, expected["ref_len"].as_u64().unwrap());
        for order in 0..4 {
            same(score.counts[order], &expected["counts"][order], name);
            same(score.totals[order], &expected["totals"][order], name);
            same(
                score.precisions[order],
                &expected["precisions"][order],
                name,
            );
        }
    };
    check(&BleuOptions::default(), "bleu");
    check(
        &BleuOptions {
            lowercase: true,
            ..BleuOptions::default()
        },
        "bleu_lowercase",
    );
    let intl = BleuOptions {
        tokenizer: BleuTokenizer::International,
        ..BleuOptions::default()
    };
    check(&intl, "bleu_intl");
    same(
        chrf(&predictions, &references, &ChrfOptions::default()),
        &corpus["chrf"],
        "chrF",
    );
    same(
        chrf(&predictions, &references, &ChrfOptions::plus_plus()),
        &corpus["chrf_pp"],
        "chrF++",
    );
}

#[test]
fn classes_score_as_scikit_learn_scores_them() {
    let golden = fixture_json("eval/metrics/classification.json");
    let list = |key: &str| -> Vec<i64> {
        golden[key]
            .as_array()
            .unwrap()
            .iter()
            .map(|class| class.as_i64().unwrap())
            .collect()
    };
    let table = Confusion::new(&list("y_true"), &list("y_pred"));
    assert_eq!(serde_json::json!(table.counts()), golden["confusion"]);
    same(table.accuracy(), &golden["accuracy"], "accuracy");
    same(
        table.balanced_accuracy(),
        &golden["balanced_accuracy"],
        "balanced accuracy",
    );
    same(table.mcc(), &golden["mcc"], "mcc");
    same(table.f1_macro(), &golden["f1_macro"], "macro F1");
    same(table.f1_micro(), &golden["f1_micro"], "micro F1");
    same(table.f1_weighted(), &golden["f1_weighted"], "weighted F1");
    same(
        table.precision_macro(),
        &golden["precision_macro"],
        "macro precision",
    );
    same(
        table.recall_macro(),
        &golden["recall_macro"],
        "macro recall",
    );
    let positive: Vec<bool> = list("y_true").iter().map(|&class| class == 1).collect();
    let scores: Vec<f64> = golden["score_class1"]
        .as_array()
        .unwrap()
        .iter()
        .map(|score| score.as_f64().unwrap())
        .collect();
    same(
        auroc(&positive, &scores).unwrap(),
        &golden["auroc_class1"],
        "area",
    );
    // Of two classes Brier's score counts both errors, which are equal.
    let classes: Vec<usize> = positive.iter().map(|&yes| usize::from(yes)).collect();
    let pairs: Vec<Vec<f64>> = scores.iter().map(|&p| vec![1.0 - p, p]).collect();
    same(
        brier_score(&classes, &pairs).unwrap() / 2.0,
        &golden["brier_class1"],
        "Brier",
    );
}

#[test]
fn calibration_counts_every_example_once_and_weighs_by_size() {
    let confidence = [0.0, 0.05, 0.1, 0.95, 1.0, 0.5];
    let correct = [false, false, true, true, true, false];
    let result = calibration(&confidence, &correct, 10);
    assert_eq!(result.bins.iter().map(|bin| bin.count).sum::<usize>(), 6);
    // [0, 0.1]: one of three right at a mean of 0.05; (0.4, 0.5]: none at 0.5; (0.9, 1]: both at 0.975.
    let expected = (3.0 * (1.0 / 3.0 - 0.05) + 0.5 + 2.0 * 0.025) / 6.0;
    assert!((result.expected_error - expected).abs() < TOLERANCE);
    assert!((result.maximum_error - 0.5).abs() < TOLERANCE);
}
