//! A dataset that is cleaned and reworded as its options say.

use std::fs;
use std::path::Path;

use flametune_data::{
    AugmentationOptions, Contamination, ContaminationOptions, CurationOptions, Dataset,
    DatasetOptions, Example, Rewording, Side, SourceOptions, Split, SplitBy, curate,
};

fn write(folder: &Path, name: &str, records: &[(&str, &str)]) -> String {
    let path = folder.join(name);
    let line = |(instruction, output): &(&str, &str)| {
        format!("{{\"instruction\": \"{instruction}\", \"output\": \"{output}\"}}\n")
    };
    fs::write(&path, records.iter().map(line).collect::<String>()).unwrap();
    path.to_str().unwrap().to_owned()
}

fn options(path: &str) -> DatasetOptions {
    DatasetOptions::new(vec![SourceOptions::new(path)])
}

/// What the users of the examples say.
fn asked(dataset: Dataset) -> Vec<String> {
    let first = |example: Example| match example {
        Example::Chat { messages, .. } => messages[0].content.as_text().unwrap().to_owned(),
        other => panic!("{other:?}"),
    };
    dataset.map(|example| first(example.unwrap())).collect()
}

#[test]
fn evaluation_items_and_duplicates_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let question = "Which river flows through the old capital of the northern province today?";
    let train = write(
        folder.path(),
        "train.jsonl",
        &[
            ("Name a prime.", "7"),
            ("name  a prime.", "7"),
            (question, "The Elbe."),
            ("Name a colour.", "Blue."),
        ],
    );
    let test = write(folder.path(), "test.jsonl", &[(question, "I do not know.")]);
    let mut evaluation = Contamination::new(ContaminationOptions {
        ngram: 10,
        shortest: 8,
    })
    .unwrap();
    evaluation
        .add_all(Dataset::open(options(&test)).unwrap())
        .unwrap();
    let curation = CurationOptions::default();
    // Rewording comes after cleaning, and hides no duplicate.
    let mut reworded = options(&train);
    reworded.augmentation = Some(AugmentationOptions {
        rate: 0.5,
        rewordings: vec![Rewording::TaskLabel],
    });
    for seed in 0..8 {
        reworded.seed = seed;
        let found = curate(&reworded, &curation, Some(&evaluation)).unwrap();
        assert_eq!((found.contaminated, found.exact_duplicates), (1, 1));
    }
    let found = curate(&options(&train), &curation, Some(&evaluation)).unwrap();
    let cleaned = Dataset::open_without(options(&train), found.exclusions).unwrap();
    assert_eq!(asked(cleaned), ["Name a prime.", "Name a colour."]);
}

#[test]
fn instructions_are_reworded_in_training_alone_and_the_same_after_a_resumption() {
    let folder = tempfile::tempdir().unwrap();
    let texts: Vec<String> = (0..40).map(|n| format!("Count to {n}.")).collect();
    let records: Vec<(&str, &str)> = texts.iter().map(|text| (text.as_str(), "one")).collect();
    let path = write(folder.path(), "train.jsonl", &records);
    let mut wanted = options(&path);
    wanted.seed = 3;
    wanted.augmentation = Some(AugmentationOptions {
        rate: 0.5,
        rewordings: vec![Rewording::Please, Rewording::TaskLabel],
    });
    wanted.split = Some(Split {
        validation: 0.5,
        seed: 0,
        by: SplitBy::Record,
    });
    let side = |side: Side| DatasetOptions {
        side: Some(side),
        ..wanted.clone()
    };
    let train = asked(Dataset::open(side(Side::Train)).unwrap());
    let reworded = train.iter().filter(|text| !text.starts_with("Count"));
    let share = reworded.count() as f64 / train.len() as f64;
    assert!((0.2..0.8).contains(&share), "{train:?}");
    let validation = asked(Dataset::open(side(Side::Validation)).unwrap());
    assert!(validation.iter().all(|text| text.starts_with("Count")));

    let mut first = Dataset::open(side(Side::Train)).unwrap();
    for _ in 0..5 {
        first.next_sample().unwrap().unwrap();
    }
    let mut second = Dataset::open(side(Side::Train)).unwrap();
    second.restore(&first.cursor()).unwrap();
    assert_eq!(asked(second), train[5..]);

    let mut impossible = side(Side::Train);
    impossible.augmentation = Some(AugmentationOptions {
        rate: 1.5,
        rewordings: vec![Rewording::Please],
    });
    let error = Dataset::open(impossible).unwrap_err().to_string();
    assert!(error.contains("rate"), "{error}");
}
