//! Duplicates, contamination, quality and rewording against brute force.

use std::collections::HashSet;

use proptest::prelude::*;

use super::minhash::shingles;
use super::*;
use crate::dataset::SourceOptions;
use crate::example::Example;
use crate::message::Message;
use crate::random::{below, draw};

fn text(text: impl Into<String>) -> Example {
    Example::Text(text.into())
}

/// Jaccard similarity of the shingles, counted.
fn jaccard(a: &str, b: &str, size: usize) -> f64 {
    let set = |text: &str| shingles(text, size, 0).into_iter().collect::<HashSet<_>>();
    let (a, b) = (set(a), set(b));
    a.intersection(&b).count() as f64 / a.union(&b).count() as f64
}

/// Two texts of one-word shingles whose sets share `shared` of `shared + 2·own` words.
fn pair(trial: usize, shared: usize, own: usize) -> (String, String) {
    let words = |kind: &str, count: usize| -> String {
        (0..count).map(|n| format!("{kind}{trial}x{n} ")).collect()
    };
    (
        words("s", shared) + &words("a", own),
        words("s", shared) + &words("b", own),
    )
}

#[test]
fn pairs_are_compared_as_often_as_the_formula_says() {
    let trials = 600;
    for (bands, rows) in [(20, 5), (8, 4), (32, 2), (1, 3)] {
        for (shared, own) in [(20, 40), (50, 25), (60, 20), (80, 10), (95, 2)] {
            let s = shared as f64 / (shared + 2 * own) as f64;
            let (mut compared, mut equal) = (0, 0.0);
            for trial in 0..trials {
                let (a, b) = pair(trial, shared, own);
                assert!((jaccard(&a, &b, 1) - s).abs() < 1e-12);
                let mut near = NearDuplicates::new(NearDuplicateOptions {
                    // Every pair that is compared counts.
                    threshold: f64::MIN_POSITIVE,
                    shingle_words: 1,
                    permutations: bands * rows,
                    bands: Some((bands, rows)),
                    seed: trial as u64,
                })
                .unwrap();
                assert_eq!(near.insert(&text(a)), None);
                if let Some(found) = near.insert(&text(b)) {
                    compared += 1;
                    equal += found.similarity;
                }
            }
            let p = candidate_probability(s, bands, rows);
            let share = f64::from(compared) / trials as f64;
            // Four standard deviations of the share, and one pair for probabilities near 0 and 1.
            let bound = 4.0 * (p * (1.0 - p) / trials as f64).sqrt() + 1.0 / trials as f64;
            assert!(
                (share - p).abs() <= bound,
                "b {bands} r {rows} s {s}: {share} against {p}"
            );
            if p > 0.999 {
                // Where all pairs are compared, the mean of the estimates is the similarity:
                // four standard errors.
                let error = 4.0 * (s * (1.0 - s) / (bands * rows * trials) as f64).sqrt();
                assert!(
                    (equal / f64::from(compared) - s).abs() < error,
                    "b {bands} r {rows} s {s}"
                );
            }
        }
    }
}

#[test]
fn near_duplicates_are_those_of_brute_force_but_for_the_border() {
    let word = |seed: u64, index: u64| format!("w{}", below(draw(seed, "word", 0, index), 500));
    let mut texts: Vec<String> = Vec::new();
    for n in 0..120_u64 {
        let mut words: Vec<String> = (0..80).map(|index| word(n % 40, index)).collect();
        // Copies of the first forty texts with more and more words changed.
        for change in 0..(n / 40) * (n % 8) {
            let place = below(draw(n, "place", 0, change), 80);
            words[place] = word(n + 1000, change);
        }
        texts.push(words.join(" "));
    }
    let options = NearDuplicateOptions {
        threshold: 0.6,
        shingle_words: 3,
        permutations: 512,
        ..NearDuplicateOptions::default()
    };
    let mut near = NearDuplicates::new(options).unwrap();
    let mut kept: Vec<usize> = Vec::new();
    let (mut found, mut missed) = (0, 0);
    for (n, candidate) in texts.iter().enumerate() {
        let best = kept
            .iter()
            .map(|&other| (jaccard(&texts[other], candidate, 3), other))
            .fold(
                (0.0, 0),
                |best, next| if next.0 > best.0 { next } else { best },
            );
        match near.insert(&text(candidate.clone())) {
            Some(matched) => {
                found += 1;
                let real = jaccard(&texts[matched.number], candidate, 3);
                // Four standard deviations of an estimate from about 500 entries: 4·sqrt(0.25/500) = 0.09.
                assert!(
                    (real - matched.similarity).abs() < 0.09,
                    "{real} {matched:?}"
                );
            }
            None => {
                kept.push(n);
                missed += usize::from(best.0 > 0.7);
            }
        }
    }
    assert!(found > 30, "{found}");
    assert_eq!(missed, 0);
}

#[test]
fn bands_for_a_threshold_put_the_curve_there() {
    for threshold in [0.3, 0.5, 0.8, 0.9] {
        let (bands, rows) = bands_for(threshold, 128);
        assert!(bands * rows <= 128);
        assert!(
            candidate_probability(threshold - 0.25, bands, rows) < 0.5,
            "{bands} {rows}"
        );
        assert!(
            candidate_probability((threshold + 0.15_f64).min(1.0), bands, rows) > 0.85,
            "{bands} {rows}"
        );
    }
}

#[test]
fn options_of_near_duplicates_are_checked() {
    let check = |change: fn(&mut NearDuplicateOptions), expected: &str| {
        let mut options = NearDuplicateOptions::default();
        change(&mut options);
        assert_eq!(
            NearDuplicates::new(options).unwrap_err().to_string(),
            expected
        );
    };
    check(
        |o| o.threshold = 0.0,
        "threshold must be above 0 and at most 1, got 0",
    );
    check(
        |o| o.permutations = 0,
        "permutations must be between 1 and 4096, got 0",
    );
    check(
        |o| o.bands = Some((usize::MAX, 2)),
        "bands must be numbers whose product is between 1 and `permutations`, got 18446744073709551615 × 2",
    );
}

#[test]
fn overlap_is_found_where_brute_force_finds_it() {
    let item = "One two, three four five six seven eight nine ten eleven twelve thirteen fourteen.";
    let mut evaluation = Contamination::new(ContaminationOptions {
        ngram: 5,
        shortest: 3,
    })
    .unwrap();
    evaluation.add("short item");
    evaluation.add(item);
    evaluation.add("a whole item");
    assert_eq!(evaluation.too_short(), 1);
    let find = |words: &str| evaluation.find(&text(words));
    let overlap = find("so THREE, four five... six seven!").unwrap();
    assert_eq!(
        (overlap.item, overlap.ngram.as_str()),
        (1, "three four five six seven")
    );
    assert_eq!(find("three four five six and seven"), None);
    assert_eq!(find("this is a whole item indeed").unwrap().item, 2);
    assert_eq!(find("short item"), None);
    // Answers count as well as questions.
    let chat = Example::Chat {
        messages: vec![
            Message::user("Count."),
            Message::assistant("One two three four five"),
        ],
        tools: None,
    };
    assert_eq!(evaluation.find(&chat).unwrap().item, 1);
    assert!(
        Contamination::new(ContaminationOptions {
            ngram: 5,
            shortest: 6
        })
        .is_err()
    );
}

#[test]
fn each_limit_of_quality_is_kept() {
    let options = QualityOptions {
        min_chars: 5,
        max_chars: 2000,
        min_words: 2,
        min_words_for_repetition: 20,
        min_alphanumeric: 0.5,
        ..QualityOptions::default()
    };
    let check = |sample: &str, expected: Option<(&str, f64)>| {
        let issue = options.issue(&text(sample));
        assert_eq!(
            issue.as_ref().map(|issue| (issue.option, issue.value)),
            expected,
            "{sample:?}"
        );
    };
    check("two words", None);
    check(" abc ", Some(("min_chars", 3.0)));
    check("oneword", Some(("min_words", 1.0)));
    check(&"x y ".repeat(600), Some(("max_chars", 2400.0)));
    // Twenty-four words, of which the run of four comes six times: the first four are new.
    check(
        &"one two three four ".repeat(6),
        Some(("max_repeated_share", 20.0 / 24.0)),
    );
    let lines = format!(
        "{}{}",
        "alpha beta\ngamma\n".repeat(5),
        (0..12).map(|n| format!("w{n} ")).collect::<String>()
    );
    check(&lines, Some(("max_duplicate_lines", 8.0 / 11.0)));
    check("!!! ??? ab c", Some(("min_alphanumeric", 3.0 / 9.0)));
    check(
        "ab \u{fffd}\u{fffd} cdefgh",
        Some(("max_broken", 2.0 / 12.0)),
    );
    let issue = options.issue(&text("abc")).unwrap();
    assert_eq!(issue.to_string(), "3.000 is below min_chars = 5");
    let stuck = QualityOptions {
        max_broken: 2.0,
        ..options
    };
    assert_eq!(
        stuck.validate().unwrap_err().to_string(),
        "max_broken must be between 0 and 1, got 2"
    );
}

#[test]
fn rewordings_fit_or_leave_alone() {
    let check = |rewording: Rewording, text: &str, expected: Option<&str>| {
        assert_eq!(
            rewording.of(text).as_deref(),
            expected,
            "{rewording:?} {text}"
        );
    };
    check(Rewording::LowerFirst, "Name it.", Some("name it."));
    check(Rewording::LowerFirst, "DNA is?", None);
    check(Rewording::LowerFirst, "I am", None);
    check(Rewording::NoFullStop, "Name it.", Some("Name it"));
    check(Rewording::NoFullStop, "Go on...", None);
    check(Rewording::Please, "Name it.", Some("Please name it."));
    check(Rewording::Please, "Who is it?", None);
    check(Rewording::Please, "Éteins-la.", None);
    check(Rewording::TaskLabel, "x", Some("Task: x"));
    check(Rewording::Heading, "x", Some("Instruction:\nx"));
    check(
        Rewording::Quoted,
        "x",
        Some("Follow this instruction: \"x\""),
    );
    check(Rewording::Quoted, "say \"x\"", None);
}

#[test]
fn curation_finds_each_kind_and_the_dataset_leaves_it_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    let long: Vec<String> = (0..60).map(|n| format!("word{n}")).collect();
    let long = long.join(" ");
    let rows = [
        "the first text".to_owned(),
        long.clone(),
        "The  FIRST text".to_owned(),
        format!("{long} more"),
        "again and again ".repeat(40),
        "they asked how many legs eight spiders have in all together".to_owned(),
        "the last text".to_owned(),
    ];
    let lines: String = rows
        .iter()
        .map(|row| serde_json::json!({ "text": row }).to_string() + "\n")
        .collect();
    std::fs::write(&path, lines).unwrap();
    let options = DatasetOptions::new(vec![SourceOptions::new(path.to_str().unwrap())]);
    let curation = CurationOptions {
        near_duplicates: Some(NearDuplicateOptions::default()),
        quality: Some(QualityOptions::default()),
        ..CurationOptions::default()
    };
    let mut evaluation = Contamination::default();
    evaluation.add("How many legs eight spiders have in all?");
    let found = curate(&options, &curation, Some(&evaluation)).unwrap();
    assert_eq!(
        (
            found.examples,
            found.exact_duplicates,
            found.near_duplicates,
            found.contaminated,
            found.low_quality
        ),
        (7, 1, 1, 1, 1)
    );
    let findings: Vec<String> = found
        .findings
        .iter()
        .map(|finding| {
            finding
                .to_string()
                .rsplit_once("a.jsonl")
                .unwrap()
                .1
                .to_owned()
        })
        .collect();
    assert_eq!(findings[0], ":3: repeats example 0");
    assert!(
        findings[1].starts_with(":4: nearly repeats example 1 (similarity 0.9"),
        "{findings:?}"
    );
    assert!(
        findings[2].contains("is above max_repeated_share = 0.5"),
        "{findings:?}"
    );
    assert_eq!(
        findings[3],
        ":6: shares with evaluation item 0: \"how many legs eight spiders have in all\""
    );
    let exclusions = serde_json::to_string(&found.exclusions).unwrap();
    let clean = Dataset::open_without(options, serde_json::from_str(&exclusions).unwrap()).unwrap();
    let kept: Vec<Example> = clean.map(|example| example.unwrap()).collect();
    assert_eq!(kept, [text(&*rows[0]), text(&*rows[1]), text(&*rows[6])]);
}

proptest! {
    /// Whatever the draw, answers are left as they are.
    #[test]
    fn rewording_never_touches_answers(seed in any::<u64>(), index in any::<u64>(), question in ".{0,20}", answer in ".{0,20}") {
        let all = vec![
            Rewording::LowerFirst, Rewording::NoFullStop, Rewording::Please,
            Rewording::TaskLabel, Rewording::Heading, Rewording::Quoted,
        ];
        let augmentation = Augmentation::new(seed, 0.7, all).unwrap();
        let messages = vec![Message::system(&*answer), Message::user(&*question), Message::assistant(&*answer), Message::user(&*answer)];
        let original = Example::Chat { messages, tools: None };
        let mut example = original.clone();
        let first = augmentation.apply(&mut example, 0, index);
        let mut again = original.clone();
        prop_assert_eq!(augmentation.apply(&mut again, 0, index), first);
        prop_assert_eq!(&again, &example);
        let (Example::Chat { messages: before, .. }, Example::Chat { messages: after, .. }) = (&original, &example) else {
            unreachable!()
        };
        for place in [0, 2, 3] {
            prop_assert_eq!(&before[place], &after[place]);
        }
        prop_assert_eq!(first.is_some(), before[1] != after[1]);
        let mut pair = Example::Preference {
            prompt: vec![Message::user("Q.")], chosen: vec![Message::assistant("a")],
            rejected: vec![Message::assistant("b")], margin: None,
        };
        prop_assert_eq!(augmentation.apply(&mut pair, 0, index), None);
    }
}
