//! Order, division, mixture and resuming of datasets.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::formats::{Format, TreePaths};

/// Writes shards of numbered texts, and gives the path of the folder.
fn shards(folder: &TempDir, name: &str, sizes: &[usize]) -> String {
    let path = folder.path().join(name);
    std::fs::create_dir_all(&path).unwrap();
    let mut number = 0;
    for (shard, size) in sizes.iter().enumerate() {
        let lines: String = (0..*size)
            .map(|_| {
                number += 1;
                format!("{{\"text\": \"{name} {}\"}}\n", number - 1)
            })
            .collect();
        std::fs::write(path.join(format!("{shard}.jsonl")), lines).unwrap();
    }
    path.to_str().unwrap().to_owned()
}

fn texts(dataset: Dataset) -> Vec<String> {
    dataset
        .map(|example| match example.unwrap() {
            Example::Text(text) => text,
            other => panic!("{other:?}"),
        })
        .collect()
}

fn one(path: &str, seed: u64, buffer: usize, epochs: u64) -> DatasetOptions {
    DatasetOptions {
        seed,
        shuffle_buffer: buffer,
        epochs: Some(epochs),
        ..DatasetOptions::new(vec![SourceOptions::new(path)])
    }
}

#[test]
fn without_a_buffer_the_order_is_that_of_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = shards(&folder, "n", &[3, 0, 4]);
    let expected: Vec<_> = (0..7).map(|n| format!("n {n}")).collect();
    let dataset = Dataset::open(one(&path, 1, 0, 2)).unwrap();
    assert_eq!(texts(dataset), [expected.clone(), expected].concat());
}

#[test]
fn epochs_have_different_orders_and_seeds_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = shards(&folder, "n", &[40, 40, 40]);
    let two = texts(Dataset::open(one(&path, 1, 50, 2)).unwrap());
    let other = texts(Dataset::open(one(&path, 2, 50, 1)).unwrap());
    assert_ne!(two[..120], two[120..]);
    assert_ne!(two[..120], other[..]);
    assert_eq!(
        two[..120],
        texts(Dataset::open(one(&path, 1, 50, 1)).unwrap())[..]
    );
}

#[test]
fn a_window_over_everything_gives_every_place_to_every_example() {
    let folder = tempfile::tempdir().unwrap();
    let path = shards(&folder, "n", &[4]);
    let all = texts(Dataset::open(one(&path, 9, 10, 2000)).unwrap());
    let mut counts = BTreeMap::new();
    for epoch in all.chunks(4) {
        for (place, text) in epoch.iter().enumerate() {
            *counts.entry((place, text.clone())).or_insert(0_u32) += 1;
        }
    }
    assert_eq!(counts.len(), 16);
    // Standard deviation of a count: sqrt(2000 · 1/4 · 3/4) = 19.4; five of them.
    assert!(
        counts.values().all(|count| count.abs_diff(500) < 97),
        "{counts:?}"
    );
}

#[test]
fn skip_and_take_count_examples_in_the_order_of_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = shards(&folder, "n", &[5, 5]);
    let mut options = one(&path, 3, 100, 2);
    options.sources[0].skip = 3;
    options.sources[0].take = Some(4);
    let mut all = texts(Dataset::open(options.clone()).unwrap());
    assert_eq!(all.len(), 8);
    for epoch in all.chunks_mut(4) {
        epoch.sort();
        assert_eq!(epoch, ["n 3", "n 4", "n 5", "n 6"]);
    }
    options.sources[0].skip = 10;
    let error = Dataset::open(options).unwrap().next().unwrap().unwrap_err();
    assert!(
        matches!(
            error,
            Error::EmptyDataset {
                records: 10,
                set_aside: 10,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_split_is_stable_complete_and_of_the_size_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = shards(&folder, "n", &[3000, 1000]);
    let part = |side, validation, buffer| {
        let mut options = one(&path, 3, buffer, 1);
        options.split = Some(Split {
            validation,
            seed: 0,
            by: SplitBy::Record,
        });
        options.side = Some(side);
        let mut part = texts(Dataset::open(options).unwrap());
        part.sort();
        part
    };
    let validation = part(Side::Validation, 0.1, 0);
    // Standard deviation of the count: sqrt(4000 · 0.1 · 0.9) = 19; five of them.
    assert!(validation.len().abs_diff(400) < 95, "{}", validation.len());
    assert_eq!(validation, part(Side::Validation, 0.1, 64));
    let mut all = [part(Side::Train, 0.1, 100), validation.clone()].concat();
    all.sort();
    let mut expected: Vec<_> = (0..4000).map(|n| format!("n {n}")).collect();
    expected.sort();
    assert_eq!(all, expected);
    let larger = part(Side::Validation, 0.2, 0);
    assert!(validation.iter().all(|text| larger.contains(text)));
}

#[test]
fn the_side_of_a_text_never_changes() {
    let split = Split {
        validation: 0.3,
        seed: 5,
        by: SplitBy::Record,
    };
    let sides: String = (0..24)
        .map(
            |n| match split.side(&[Example::Text(format!("text {n}"))]) {
                Side::Train => '.',
                Side::Validation => 'v',
            },
        )
        .collect();
    // Computed once; another result would move records of existing runs between the parts.
    assert_eq!(sides, SIDES);
    let split = Split {
        by: SplitBy::Prompt,
        ..split
    };
    for n in 0..50 {
        let chat = |answer: &str| {
            [Example::Chat {
                messages: vec![
                    crate::Message::user(format!("q{n}")),
                    crate::Message::assistant(answer),
                ],
                tools: None,
            }]
        };
        assert_eq!(split.side(&chat("a")), split.side(&chat("b")));
    }
}

const SIDES: &str = "vv...vv.v.v.....v...v.v.";

#[test]
fn conversations_of_a_tree_stay_on_one_side_and_in_one_window() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trees.jsonl");
    let lines: String = (0..40)
        .map(|n| {
            let reply =
                |r: usize| format!(r#"{{"text": "a{n} {r}", "role": "assistant", "replies": []}}"#);
            format!(
                r#"{{"prompt": {{"text": "q{n}", "role": "prompter", "replies": [{}, {}, {}]}}}}"#,
                reply(0),
                reply(1),
                reply(2)
            ) + "\n"
        })
        .collect();
    std::fs::write(&path, lines).unwrap();
    let mut options = one(path.to_str().unwrap(), 0, 8, 1);
    options.sources[0].convert.tree = TreePaths::All;
    options.split = Some(Split {
        validation: 0.5,
        seed: 1,
        by: SplitBy::Record,
    });
    let mut records = BTreeMap::new();
    for side in [Side::Train, Side::Validation] {
        options.side = Some(side);
        let mut dataset = Dataset::open(options.clone()).unwrap();
        assert_eq!(dataset.formats()[0].format, Format::OasstTree);
        while let Some(sample) = dataset.next_sample() {
            let id = sample.unwrap().id;
            records.entry(id.record).or_insert_with(Vec::new).push(side);
        }
    }
    assert_eq!(records.len(), 40);
    assert!(
        records
            .values()
            .all(|sides| sides.len() == 3 && sides.iter().all(|side| *side == sides[0]))
    );
}

#[test]
fn general_data_keeps_its_share_to_the_end_of_the_domain() {
    let folder = tempfile::tempdir().unwrap();
    let domain = shards(&folder, "domain", &[850]);
    let general = shards(&folder, "general", &[60]);
    let mut options = one(&domain, 4, 32, 2);
    options.sources[0].weight = 0.85;
    options.sources.push(SourceOptions {
        weight: 0.15,
        repeats: Repeats::Endless,
        ..SourceOptions::new(general)
    });
    let mut dataset = Dataset::open(options).unwrap();
    let mut counts = BTreeMap::new();
    while let Some(sample) = dataset.next_sample() {
        let source = sample.unwrap().id.source;
        *counts.entry((dataset.epoch(), source)).or_insert(0_u32) += 1;
    }
    assert_eq!(counts[&(0, 0)], 850);
    assert_eq!(counts[&(1, 0)], 850);
    for epoch in 0..2 {
        // 850 · 15/85 = 150; the mixture is off by a few at most.
        assert!(counts[&(epoch, 1)].abs_diff(150) <= 8, "{counts:?}");
    }
}

#[test]
fn finite_repeats_are_kept_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (shards(&folder, "a", &[10]), shards(&folder, "b", &[4]));
    let mut options = one(&a, 4, 3, 1);
    options.sources.push(SourceOptions {
        repeats: Repeats::Times(3),
        ..SourceOptions::new(b)
    });
    let mut counts = BTreeMap::new();
    for text in texts(Dataset::open(options).unwrap()) {
        *counts.entry(text).or_insert(0) += 1;
    }
    assert_eq!(counts.len(), 14);
    assert!(
        counts
            .iter()
            .all(|(text, count)| *count == if text.starts_with('a') { 1 } else { 3 })
    );
}

#[test]
fn invalid_records_end_reading_or_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.jsonl");
    std::fs::write(
        &path,
        "{\"text\": \"x\"}\n{\"txt\": 1}\nbroken\n{\"text\": \"y\"}\n",
    )
    .unwrap();
    let mut options = one(path.to_str().unwrap(), 0, 0, 1);
    options.sources[0].format = Some(Format::Text);
    let mut dataset = Dataset::open(options.clone()).unwrap();
    assert!(dataset.next().unwrap().is_ok());
    let error = dataset.next().unwrap().unwrap_err().to_string();
    assert!(
        error.ends_with("a.jsonl:2: expected the key \"text\", got the keys txt"),
        "{error}"
    );
    assert!(dataset.next().is_none());
    options.on_invalid = OnInvalid::Skip;
    options.sources[0].format = None;
    let mut dataset = Dataset::open(options.clone()).unwrap();
    assert_eq!(dataset.by_ref().filter(Result::is_ok).count(), 2);
    let stats = dataset.stats()[0];
    assert_eq!((stats.records, stats.invalid, stats.examples), (4, 2, 2));
    assert_eq!(stats.messages.len(), 2);
    std::fs::write(&path, "broken\n").unwrap();
    let error = Dataset::open(options).unwrap_err();
    assert!(
        matches!(
            error,
            Error::EmptyDataset {
                records: 1,
                invalid: 1,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let check = |change: fn(&mut DatasetOptions), expected: &str| {
        let mut options = DatasetOptions::new(vec![SourceOptions::new("x")]);
        change(&mut options);
        assert_eq!(options.validate().unwrap_err().to_string(), expected);
    };
    check(
        |o| o.sources.clear(),
        "sources must be a list of at least one source, got none",
    );
    check(
        |o| o.sources[0].weight = f64::NAN,
        "sources[0].weight must be finite and above 0, got NaN",
    );
    check(
        |o| o.sources[0].repeats = Repeats::Endless,
        "repeats must be a number for at least one source, since the endless ones follow the others, got \"endless\" for all",
    );
    check(
        |o| {
            o.split = Some(Split {
                validation: 1.0,
                seed: 0,
                by: SplitBy::Record,
            })
        },
        "split.validation must be between 0 and 1, both excluded, got 1",
    );
    check(
        |o| o.side = Some(Side::Validation),
        "side must be \"train\" where there is no split, got \"validation\"",
    );
    check(
        |o| o.sources[0].take = Some(0),
        "sources[0].take must be at least 1, got 0",
    );
    let error = serde_json::from_str::<DatasetOptions>(r#"{"sources": [], "sed": 1}"#).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("unknown field `sed`, expected one of")
    );
    let error = Dataset::open(DatasetOptions::new(vec![SourceOptions::new(
        "no/where.jsonl",
    )]))
    .unwrap_err();
    assert_eq!(error.to_string(), "no/where.jsonl: no such file or folder");
}

#[test]
fn positions_of_other_datasets_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = shards(&folder, "n", &[5]);
    let mut dataset = Dataset::open(one(&path, 1, 4, 1)).unwrap();
    dataset.next();
    let cursor = dataset.cursor();
    let mut other = Dataset::open(one(&path, 2, 4, 1)).unwrap();
    assert!(matches!(
        other.restore(&cursor),
        Err(Error::CursorMismatch {
            field: "hash of options and files",
            ..
        })
    ));
    std::fs::write(folder.path().join("n/0.jsonl"), "{\"text\": \"n 0\"}\n").unwrap();
    let mut shorter = Dataset::open(one(&path, 1, 4, 1)).unwrap();
    assert!(matches!(
        shorter.restore(&cursor),
        Err(Error::CursorMismatch { .. })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Each epoch has every example once.
    #[test]
    fn shuffling_is_a_permutation(
        sizes in proptest::collection::vec(0_usize..12, 1..5),
        seed in any::<u64>(),
        buffer in 0_usize..20,
    ) {
        let total: usize = sizes.iter().sum();
        prop_assume!(total > 0);
        let folder = tempfile::tempdir().unwrap();
        let path = shards(&folder, "n", &sizes);
        let all = texts(Dataset::open(one(&path, seed, buffer, 3)).unwrap());
        prop_assert_eq!(all.len(), 3 * total);
        let mut expected: Vec<_> = (0..total).map(|n| format!("n {n}")).collect();
        expected.sort();
        for epoch in all.chunks(total) {
            let mut epoch = epoch.to_vec();
            epoch.sort();
            prop_assert_eq!(&epoch, &expected);
        }
    }

    /// Whatever the place at which reading stopped, a restored dataset gives the same tail.
    #[test]
    fn resuming_anywhere_gives_the_same_tail(
        sizes in proptest::collection::vec(1_usize..8, 1..4),
        seed in any::<u64>(),
        buffer in 0_usize..12,
        general in 1_usize..6,
        endless in any::<bool>(),
        take in prop::option::of(1_u64..6),
        split in any::<bool>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let domain = shards(&folder, "d", &sizes);
        let general = shards(&folder, "g", &[general]);
        let mut options = one(&domain, seed, buffer, 2);
        options.on_invalid = OnInvalid::Skip;
        options.sources.push(SourceOptions {
            weight: 0.4,
            repeats: if endless { Repeats::Endless } else { Repeats::Times(2) },
            take,
            ..SourceOptions::new(general)
        });
        if split {
            options.split = Some(Split { validation: 0.2, seed: 0, by: SplitBy::Record });
        }
        let mut dataset = Dataset::open(options.clone()).unwrap();
        let mut cursors = vec![dataset.cursor()];
        let mut samples = Vec::new();
        while let Some(sample) = dataset.next_sample() {
            match sample {
                Ok(sample) => samples.push(sample),
                // The split may leave nothing of a small source.
                Err(error) => {
                    prop_assert!(matches!(error, Error::EmptyDataset { .. }), "{}", error);
                    return Ok(());
                }
            }
            cursors.push(dataset.cursor());
        }
        for (index, cursor) in cursors.iter().enumerate() {
            let saved = serde_json::to_string(cursor).unwrap();
            prop_assert!(saved.len() < 600);
            let mut resumed = Dataset::open(options.clone()).unwrap();
            resumed.restore(&serde_json::from_str(&saved).unwrap()).unwrap();
            let mut tail = Vec::new();
            while let Some(sample) = resumed.next_sample() {
                tail.push(sample.unwrap());
            }
            prop_assert_eq!(&tail[..], &samples[index..]);
        }
    }
}

#[test]
fn data_sets_of_the_hub_are_read_from_where_they_were_fetched() {
    let folder = tempfile::tempdir().unwrap();
    let fetched = folder.path().join("datasets--o--numbers");
    std::fs::create_dir_all(fetched.join("data")).unwrap();
    std::fs::write(fetched.join("README.md"), "numbers").unwrap();
    for (name, line) in [("train", "one"), ("test", "two")] {
        let line = format!("{{\"text\": \"{line}\"}}\n");
        std::fs::write(fetched.join(format!("data/{name}.jsonl")), line).unwrap();
    }
    let read = |path: &str| {
        let options = DatasetOptions {
            hub: vec![folder.path().to_owned()],
            ..one(path, 1, 0, 1)
        };
        Dataset::open(options).map(texts)
    };
    assert_eq!(read("hub:o/numbers").unwrap(), ["two", "one"]);
    assert_eq!(read("hub:o/numbers/data/tr*.jsonl").unwrap(), ["one"]);
    let error = read("hub:o/letters").unwrap_err();
    assert!(matches!(error, Error::NotFetched { .. }), "{error}");
}
