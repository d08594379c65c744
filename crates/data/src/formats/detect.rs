//! Finding the format of records by their keys.

use std::collections::BTreeMap;

use super::{
    Format, alpaca, classification, dolly, judged, oasst_rows, oasst_tree, openai, pairs,
    preference, scored, sharegpt, stepwise, text, ultrachat,
};
use crate::error::{Error, Result};
use crate::readers::Record;

type Recognise = fn(&serde_json::Map<String, serde_json::Value>) -> Option<&'static str>;

/// What each format is recognised by. Formats of an earlier group say more about a record than those of a later one:
/// a pair of answers may stand beside turns, and rendered text beside an instruction.
const GROUPS: &[&[(Format, Recognise)]] = &[
    &[
        (Format::Preference, preference::recognise),
        (Format::Scored, scored::recognise),
        (Format::Judged, judged::recognise),
        (Format::Stepwise, stepwise::recognise),
    ],
    &[
        (Format::OasstTree, oasst_tree::recognise),
        (Format::OasstRows, oasst_rows::recognise),
    ],
    &[
        (Format::OpenAi, openai::recognise),
        (Format::ShareGpt, sharegpt::recognise),
        (Format::UltraChat, ultrachat::recognise),
        (Format::Alpaca, alpaca::recognise),
        (Format::Dolly, dolly::recognise),
        (Format::Flan, pairs::recognise_flan),
        (Format::Orca, pairs::recognise_orca),
    ],
    &[(Format::Completion, pairs::recognise_completion)],
    &[(Format::Classification, classification::recognise)],
    &[(Format::Text, text::recognise)],
];

/// The format of some records, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detected {
    /// The format.
    pub format: Format,
    /// What the records were recognised by.
    pub reason: String,
}

/// Finds the format that most of the records have.
///
/// # Errors
/// [`Error::UnknownFormat`] when no record has the keys of a format; [`Error::AmbiguousFormat`] when two formats fit
/// equally well. There must be at least one record.
///
/// # Examples
/// ```
/// use flametune_data::{Format, ReadOptions, detect_format, open_records};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("dolly.jsonl");
/// std::fs::write(&path, r#"{"instruction": "Add 2 and 2", "context": "", "response": "4"}"#)?;
/// let records: Vec<_> = open_records(&path, &ReadOptions::default(), 0)?.collect::<Result<_, _>>()?;
/// let detected = detect_format(&records)?;
/// assert_eq!(detected.format, Format::Dolly);
/// assert_eq!(detected.reason, "1 of 1 records have instruction and response");
/// # Ok(())
/// # }
/// ```
pub fn detect_format(records: &[Record]) -> Result<Detected> {
    let mut votes: BTreeMap<Format, (usize, &'static str)> = BTreeMap::new();
    for record in records {
        let fitting = GROUPS
            .iter()
            .map(|group| {
                let fits = |(format, recognise): &(Format, Recognise)| {
                    Some((*format, recognise(&record.row)?))
                };
                group.iter().filter_map(fits).collect::<Vec<_>>()
            })
            .find(|fitting| !fitting.is_empty());
        for (format, reason) in fitting.into_iter().flatten() {
            votes.entry(format).or_insert((0, reason)).0 += 1;
        }
    }
    let most = votes.values().map(|(votes, _)| *votes).max().unwrap_or(0);
    let winners: Vec<_> = votes
        .iter()
        .filter(|(_, (votes, _))| *votes == most)
        .collect();
    match (winners.as_slice(), records.first()) {
        ([(format, (votes, reason))], Some(_)) => Ok(Detected {
            format: **format,
            reason: format!("{votes} of {} records have {reason}", records.len()),
        }),
        ([], Some(first)) => Err(Error::UnknownFormat {
            at: first.at.clone(),
            keys: first.keys(),
            known: Format::ALL
                .iter()
                .map(|format| format!("{} ({})", format.name(), format.keys()))
                .collect(),
        }),
        (winners, Some(first)) => Err(Error::AmbiguousFormat {
            at: first.at.clone(),
            keys: first.keys(),
            candidates: winners.iter().map(|(format, _)| format.name()).collect(),
        }),
        (_, None) => Err(Error::EmptyDataset {
            sources: "the list of records".into(),
            records: 0,
            invalid: 0,
            set_aside: 0,
            first_invalid: None,
        }),
    }
}
