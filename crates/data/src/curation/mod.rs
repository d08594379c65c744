//! Cleaning a dataset: duplicates, evaluation items, and texts that are broken.
//!
//! [`curate`] goes through a dataset once, without shuffling, and says which examples to leave out and why; the
//! dataset is then opened without them ([`Dataset::open_without`]).

mod augmentation;
mod contamination;
mod exact;
mod minhash;
mod quality;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use augmentation::{Augmentation, AugmentationOptions, Rewording};
pub use contamination::{Contamination, ContaminationOptions, Overlap};
pub use exact::ExactDuplicates;
pub use minhash::{
    NearDuplicateOptions, NearDuplicates, NearMatch, bands_for, candidate_probability,
};
pub use quality::{QualityIssue, QualityOptions};

use crate::dataset::{Dataset, DatasetOptions, Exclusions, Repeats, SampleId};
use crate::error::Result;
use crate::readers::Location;

/// What a dataset is cleaned of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CurationOptions {
    /// Whether examples that repeat an earlier one but for case and white space are left out.
    pub exact_duplicates: bool,
    /// Near duplicates to leave out.
    pub near_duplicates: Option<NearDuplicateOptions>,
    /// What a text must be like.
    pub quality: Option<QualityOptions>,
    /// Most findings that the report holds one by one; all are counted.
    pub listed: usize,
}

impl Default for CurationOptions {
    fn default() -> Self {
        Self {
            exact_duplicates: true,
            near_duplicates: None,
            quality: None,
            listed: 100,
        }
    }
}

/// What was found in a dataset.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Curation {
    /// Number of examples that were looked at.
    pub examples: u64,
    /// Number of exact duplicates.
    pub exact_duplicates: u64,
    /// Number of near duplicates.
    pub near_duplicates: u64,
    /// Number of examples that overlap with an evaluation item.
    pub contaminated: u64,
    /// Number of examples below the quality that was asked for.
    pub low_quality: u64,
    /// The first findings, in the order of the files.
    pub findings: Vec<Finding>,
    /// What to leave out.
    pub exclusions: Exclusions,
}

/// One example that is left out, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// Where its record stands.
    pub at: Location,
    /// Which example it is.
    pub id: SampleId,
    /// Why it is left out.
    pub reason: Reason,
}

/// Why an example is left out.
#[derive(Debug, Clone, PartialEq)]
pub enum Reason {
    /// It repeats an earlier example; the number counts the examples from zero.
    ExactDuplicate(usize),
    /// It nearly repeats an earlier example.
    NearDuplicate(NearMatch),
    /// It overlaps with an evaluation item.
    Contaminated(Overlap),
    /// It is not of the quality that was asked for.
    LowQuality(QualityIssue),
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: ", self.at)?;
        match &self.reason {
            Reason::ExactDuplicate(first) => write!(f, "repeats example {first}"),
            Reason::NearDuplicate(near) => write!(
                f,
                "nearly repeats example {} (similarity {:.2})",
                near.number, near.similarity
            ),
            Reason::Contaminated(overlap) => {
                write!(
                    f,
                    "shares with evaluation item {}: {:?}",
                    overlap.item, overlap.ngram
                )
            }
            Reason::LowQuality(issue) => write!(f, "{issue}"),
        }
    }
}

/// Goes through a dataset once and finds what to leave out.
///
/// Quality comes first, then evaluation items, exact and near duplicates: what is left out for one reason is not
/// compared further, and does not count as the first of its duplicates. Every example is seen once and as it stands,
/// whatever the options say of epochs, repeats, shuffling, limits and rewording; the split holds.
///
/// # Errors
/// Those of opening and reading, and of options that make no sense.
pub fn curate(
    options: &DatasetOptions,
    curation: &CurationOptions,
    evaluation: Option<&Contamination>,
) -> Result<Curation> {
    let mut once = options.clone();
    once.epochs = Some(1);
    once.shuffle_buffer = 0;
    once.augmentation = None;
    for source in &mut once.sources {
        source.repeats = Repeats::Times(1);
        source.skip = 0;
        source.take = None;
    }
    if let Some(quality) = &curation.quality {
        quality.validate()?;
    }
    let mut exact = ExactDuplicates::default();
    let mut near = curation
        .near_duplicates
        .clone()
        .map(NearDuplicates::new)
        .transpose()?;
    // Numbers that the two give count what they were shown; these lead back to the dataset.
    let (mut shown_exact, mut shown_near) = (Vec::new(), Vec::new());
    let mut found = Curation::default();
    let mut dataset = Dataset::open(once)?;
    while let Some(sample) = dataset.next_sample() {
        let sample = sample?;
        let number = usize::try_from(found.examples).unwrap_or(usize::MAX);
        found.examples += 1;
        let quality = curation.quality.as_ref();
        let reason = if let Some(issue) = quality.and_then(|limits| limits.issue(&sample.example)) {
            found.low_quality += 1;
            Some(Reason::LowQuality(issue))
        } else if let Some(overlap) = evaluation.and_then(|sets| sets.find(&sample.example)) {
            found.contaminated += 1;
            Some(Reason::Contaminated(overlap))
        } else {
            let first = curation.exact_duplicates.then(|| {
                shown_exact.push(number);
                exact.insert(&sample.example)
            });
            match (first.flatten(), near.as_mut()) {
                (Some(first), _) => {
                    found.exact_duplicates += 1;
                    Some(Reason::ExactDuplicate(shown_exact[first]))
                }
                (None, Some(near)) => {
                    shown_near.push(number);
                    near.insert(&sample.example).map(|mut near| {
                        found.near_duplicates += 1;
                        near.number = shown_near[near.number];
                        Reason::NearDuplicate(near)
                    })
                }
                (None, None) => None,
            }
        };
        if let Some(reason) = reason {
            found.exclusions.insert(sample.id);
            if found.findings.len() < curation.listed {
                found.findings.push(Finding {
                    at: sample.at,
                    id: sample.id,
                    reason,
                });
            }
        }
    }
    Ok(found)
}
