//! Near duplicates by MinHash signatures and locality-sensitive hashing.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

use crate::content::{Part, joined, words};
use crate::error::{Error, Result};
use crate::example::Example;
use crate::random::draw;

/// The Mersenne prime 2⁶¹ − 1, modulus of the hash family.
const PRIME: u64 = (1 << 61) - 1;

/// How near duplicates are found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NearDuplicateOptions {
    /// Jaccard similarity of the shingles from which two texts count as duplicates.
    pub threshold: f64,
    /// Words in a shingle.
    pub shingle_words: usize,
    /// Number of hash functions, at most.
    pub permutations: usize,
    /// Bands of the signature and rows in each; by default those that [`bands_for`] finds.
    pub bands: Option<(usize, usize)>,
    /// Seed of the hash functions.
    pub seed: u64,
}

impl Default for NearDuplicateOptions {
    fn default() -> Self {
        Self {
            threshold: 0.8,
            shingle_words: 5,
            permutations: 128,
            bands: None,
            seed: 0,
        }
    }
}

/// Remembers signatures of the examples that it was shown and finds those that are nearly the same.
///
/// A text is the set of its shingles, the runs of `shingle_words` words (the whole text when it is shorter). The
/// similarity of two sets is Jaccard's, `|A ∩ B| / |A ∪ B|`. For a random hash function, the least hash of both sets is
/// the same with just that probability, so the share of equal entries in two signatures estimates it, with standard
/// deviation `sqrt(s(1 − s) / permutations)`.
///
/// A signature of `b·r` entries is cut into `b` bands of `r` rows. Two texts are compared when one band is equal, which
/// has probability `1 − (1 − sʳ)ᵇ` ([`candidate_probability`]), and are duplicates when the estimate from their
/// signatures reaches the threshold.
///
/// # Units
/// An example that is kept takes `4·b·r` bytes for its signature and about `16·b` for its bands.
///
/// # Source
/// - Broder 1997, On the resemblance and containment of documents, §3 and §4
/// - Leskovec, Rajaraman and Ullman 2014, Mining of Massive Datasets, §3.3 and §3.4
#[derive(Debug, Clone)]
pub struct NearDuplicates {
    options: NearDuplicateOptions,
    bands: usize,
    rows: usize,
    /// Factors and summands of the hash functions.
    family: Vec<(u64, u64)>,
    /// Signatures of the examples that are kept, one after the other, and their numbers.
    signatures: Vec<u32>,
    numbers: Vec<usize>,
    buckets: HashMap<u64, Vec<u32>>,
    shown: usize,
}

/// An earlier example that a text is a near duplicate of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NearMatch {
    /// Number of the earlier example, from zero.
    pub number: usize,
    /// The estimated Jaccard similarity.
    pub similarity: f64,
}

impl NearDuplicates {
    /// # Errors
    /// [`Error::InvalidOption`] of a threshold outside of (0, 1], or of counts that are zero or too large.
    pub fn new(options: NearDuplicateOptions) -> Result<Self> {
        let invalid = |option: &str, expected, got: String| Error::InvalidOption {
            option: option.into(),
            expected,
            got,
        };
        if !(options.threshold > 0.0 && options.threshold <= 1.0) {
            let got = options.threshold.to_string();
            return Err(invalid("threshold", "above 0 and at most 1", got));
        }
        if options.shingle_words == 0 {
            return Err(invalid("shingle_words", "at least 1", "0".into()));
        }
        if !(1..=4096).contains(&options.permutations) {
            let got = options.permutations.to_string();
            return Err(invalid("permutations", "between 1 and 4096", got));
        }
        let (bands, rows) = match options.bands {
            Some((bands, rows)) => (bands, rows),
            None => bands_for(options.threshold, options.permutations),
        };
        let entries = bands.checked_mul(rows).filter(|entries| *entries > 0);
        let Some(entries) = entries.filter(|entries| *entries <= options.permutations) else {
            let got = format!("{bands} × {rows}");
            return Err(invalid(
                "bands",
                "numbers whose product is between 1 and `permutations`",
                got,
            ));
        };
        let family = (0..entries as u64)
            .map(|index| {
                let factor = 1 + draw(options.seed, "minhash factor", 0, index) % (PRIME - 1);
                let summand = draw(options.seed, "minhash summand", 0, index) % PRIME;
                (factor, summand)
            })
            .collect();
        Ok(Self {
            options,
            bands,
            rows,
            family,
            signatures: Vec::new(),
            numbers: Vec::new(),
            buckets: HashMap::new(),
            shown: 0,
        })
    }

    /// Shows an example: the earlier one that it nearly repeats, if there is one. Duplicates are not kept for later
    /// comparison.
    pub fn insert(&mut self, example: &Example) -> Option<NearMatch> {
        let number = self.shown;
        self.shown += 1;
        let signature = self.signature(&joined(example, Part::All))?;
        let keys = self.band_keys(&signature);
        let found = self.find(&signature, &keys);
        if found.is_none()
            && let Ok(kept) = u32::try_from(self.numbers.len())
        {
            self.numbers.push(number);
            self.signatures.extend_from_slice(&signature);
            for key in keys {
                self.buckets.entry(key).or_default().push(kept);
            }
        }
        found
    }

    /// The least value of each hash function over the shingles of a text; none for a text without words.
    ///
    /// `h(x) = (a·x + b) mod (2⁶¹ − 1)`, of which the low 32 bits are kept.
    fn signature(&self, text: &str) -> Option<Vec<u32>> {
        let shingles = shingles(text, self.options.shingle_words, self.options.seed);
        if shingles.is_empty() {
            return None;
        }
        let least = |(factor, summand): &(u64, u64)| {
            shingles
                .iter()
                .map(|shingle| hash(*factor, *summand, *shingle))
                .min()
                .unwrap_or_default()
        };
        #[allow(
            clippy::cast_possible_truncation,
            reason = "32 bits are enough to tell entries apart"
        )]
        Some(
            self.family
                .iter()
                .map(|entry| least(entry) as u32)
                .collect(),
        )
    }

    fn band_keys(&self, signature: &[u32]) -> Vec<u64> {
        signature
            .chunks_exact(self.rows)
            .take(self.bands)
            .enumerate()
            .map(|(band, entries)| {
                let mut state = Xxh3::with_seed(band as u64);
                for entry in entries {
                    state.update(&entry.to_le_bytes());
                }
                state.digest()
            })
            .collect()
    }

    /// The most similar of the kept examples that share a band.
    fn find(&self, signature: &[u32], keys: &[u64]) -> Option<NearMatch> {
        let mut candidates: Vec<u32> = keys
            .iter()
            .filter_map(|key| self.buckets.get(key))
            .flatten()
            .copied()
            .collect();
        candidates.sort_unstable();
        candidates.dedup();
        let mut best: Option<NearMatch> = None;
        for kept in candidates {
            let kept = kept as usize;
            let other = &self.signatures[kept * signature.len()..][..signature.len()];
            let equal = signature.iter().zip(other).filter(|(a, b)| a == b).count();
            let similarity = equal as f64 / signature.len() as f64;
            if similarity >= self.options.threshold
                && best.is_none_or(|best| similarity > best.similarity)
            {
                best = Some(NearMatch {
                    number: self.numbers[kept],
                    similarity,
                });
            }
        }
        best
    }
}

/// The probability that two texts of Jaccard similarity `s` are compared: `1 − (1 − sʳ)ᵇ` for `bands` b of `rows` r.
///
/// # Examples
/// ```
/// use flametune_data::candidate_probability;
///
/// // The S-curve of 20 bands of 5 rows (Mining of Massive Datasets, figure 3.9).
/// assert!((candidate_probability(0.2, 20, 5) - 0.006).abs() < 5e-4);
/// assert!((candidate_probability(0.5, 20, 5) - 0.470).abs() < 5e-4);
/// assert!((candidate_probability(0.8, 20, 5) - 0.9996).abs() < 5e-5);
/// ```
pub fn candidate_probability(s: f64, bands: usize, rows: usize) -> f64 {
    1.0 - (1.0 - s.powf(rows as f64)).powf(bands as f64)
}

/// Bands and rows for a threshold, of at most `permutations` entries together: those for which
/// `∫₀ᵗ P(s) ds + ∫ₜ¹ (1 − P(s)) ds`, pairs compared in vain and pairs missed, is least.
pub fn bands_for(threshold: f64, permutations: usize) -> (usize, usize) {
    /// Points of the midpoint rule.
    const POINTS: usize = 200;
    let cost = |bands: usize, rows: usize| -> f64 {
        (0..POINTS)
            .map(|point| {
                let s = (point as f64 + 0.5) / POINTS as f64;
                let compared = candidate_probability(s, bands, rows);
                if s < threshold {
                    compared
                } else {
                    1.0 - compared
                }
            })
            .sum()
    };
    let mut best = (f64::INFINITY, (1, 1));
    for rows in 1..=permutations {
        // Fewer bands than there is room for can be better, but not by much: try the most and its halves.
        let mut bands = permutations / rows;
        while bands > 0 {
            let cost = cost(bands, rows);
            if cost < best.0 {
                best = (cost, (bands, rows));
            }
            bands = if rows <= 32 { bands - 1 } else { bands / 2 };
        }
    }
    best.1
}

/// Hashes of the distinct shingles of a text.
pub(super) fn shingles(text: &str, size: usize, seed: u64) -> Vec<u64> {
    let words = words(text);
    if words.is_empty() {
        return Vec::new();
    }
    let mut shingles: Vec<u64> = words
        .windows(size.min(words.len()))
        .map(|shingle| xxh3_64_with_seed(shingle.join(" ").as_bytes(), seed) % PRIME)
        .collect();
    shingles.sort_unstable();
    shingles.dedup();
    shingles
}

fn hash(factor: u64, summand: u64, value: u64) -> u64 {
    let product = u128::from(factor) * u128::from(value) + u128::from(summand);
    #[allow(
        clippy::cast_possible_truncation,
        reason = "the remainder is below 2^61"
    )]
    let remainder = (product % u128::from(PRIME)) as u64;
    remainder
}
