//! What the votes amount to.

use std::collections::BTreeMap;

use serde::Serialize;

use super::store::{AbItem, AbStore, Vote};
use crate::error::Result;
use crate::stats::{
    Distance, Game, Interval, Outcome, Rating, bradley_terry, cohen_kappa, elo, krippendorff_alpha,
    wilson_interval,
};

/// How far one vote moves an Elo rating.
const ELO_K: f64 = 16.0;
/// Resamples of the intervals of ratings.
const RESAMPLES: usize = 500;

/// Votes between two models.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PairRate {
    /// One model.
    pub first: String,
    /// The other.
    pub second: String,
    /// Votes for the first.
    pub first_wins: usize,
    /// Votes for the second.
    pub second_wins: usize,
    /// Votes for neither.
    pub ties: usize,
    /// Win rate of the second, ties as half.
    pub win_rate: f64,
    /// Its 95 % interval by Wilson's formula; votes on one item by several raters are not independent, so it is narrow.
    pub interval: Interval,
}

/// Agreement of two raters.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RaterAgreement {
    /// One rater.
    pub first: String,
    /// The other.
    pub second: String,
    /// Items that both voted on.
    pub items: usize,
    /// Share of them on which both say the same.
    pub agreement: f64,
    /// Cohen's κ; nothing where both always say one and the same.
    pub kappa: Option<f64>,
}

/// All results.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AbResults {
    /// Items.
    pub items: usize,
    /// Votes by rater.
    pub votes: BTreeMap<String, usize>,
    /// Rates, pair by pair of models.
    pub pairs: Vec<PairRate>,
    /// Bradley-Terry strengths.
    pub bradley_terry: Vec<Rating>,
    /// Elo ratings in the order of the votes.
    pub elo: Vec<Rating>,
    /// Agreement of raters, two at a time.
    pub raters: Vec<RaterAgreement>,
    /// Krippendorff's α of all raters.
    pub alpha: Option<f64>,
    /// Share of votes that are no tie and went to the answer on the left.
    pub left_rate: Option<f64>,
    /// Its 95 % interval.
    pub left_interval: Option<Interval>,
}

impl AbStore {
    /// Counts the votes.
    ///
    /// # Errors
    /// [`crate::Error::Database`].
    pub fn results(&self) -> Result<AbResults> {
        let items: BTreeMap<String, AbItem> = self
            .items()?
            .into_iter()
            .map(|item| (item.id.clone(), item))
            .collect();
        let votes = self.votes()?;
        let games: Vec<Game> = votes
            .iter()
            .filter_map(|vote| {
                let item = items.get(&vote.item)?;
                Some(Game {
                    first: item.first.model.clone(),
                    second: item.second.model.clone(),
                    outcome: vote.outcome,
                })
            })
            .collect();
        let mut by_rater: BTreeMap<String, usize> = BTreeMap::new();
        for vote in &votes {
            *by_rater.entry(vote.rater.clone()).or_default() += 1;
        }
        let decided: Vec<&Vote> = votes
            .iter()
            .filter(|vote| vote.outcome != Outcome::Tie)
            .collect();
        let left = decided
            .iter()
            .filter(|vote| vote.outcome == vote.left)
            .count();
        let ratings: Vec<Vec<f64>> = Self::by_item(&votes)
            .values()
            .map(|raters| {
                raters
                    .values()
                    .map(|outcome| code(*outcome) as f64)
                    .collect()
            })
            .collect();
        Ok(AbResults {
            items: items.len(),
            pairs: pair_rates(&games),
            bradley_terry: bradley_terry(&games, RESAMPLES, 0),
            elo: elo(&games, ELO_K, RESAMPLES, 0),
            raters: agreements(&votes, &by_rater.keys().collect::<Vec<_>>()),
            alpha: krippendorff_alpha(&ratings, Distance::Nominal),
            left_rate: (!decided.is_empty()).then(|| left as f64 / decided.len() as f64),
            left_interval: (!decided.is_empty())
                .then(|| wilson_interval(left, decided.len(), 0.95)),
            votes: by_rater,
        })
    }
}

fn code(outcome: Outcome) -> i64 {
    match outcome {
        Outcome::First => 0,
        Outcome::Second => 1,
        Outcome::Tie => 2,
    }
}

/// Rates of pairs of models, the names in alphabetical order.
fn pair_rates(games: &[Game]) -> Vec<PairRate> {
    let mut pairs: BTreeMap<(String, String), [usize; 3]> = BTreeMap::new();
    for game in games {
        let swap = game.first > game.second;
        let key = if swap {
            (game.second.clone(), game.first.clone())
        } else {
            (game.first.clone(), game.second.clone())
        };
        let place = match (game.outcome, swap) {
            (Outcome::Tie, _) => 2,
            (Outcome::First, false) | (Outcome::Second, true) => 0,
            (Outcome::First, true) | (Outcome::Second, false) => 1,
        };
        pairs.entry(key).or_default()[place] += 1;
    }
    pairs
        .into_iter()
        .map(|((first, second), [first_wins, second_wins, ties])| {
            let n = (first_wins + second_wins + ties) as f64;
            let wins = second_wins as f64 + ties as f64 / 2.0;
            PairRate {
                first,
                second,
                first_wins,
                second_wins,
                ties,
                win_rate: wins / n,
                interval: crate::stats::wilson_of_rate(wins, n, 0.95),
            }
        })
        .collect()
}

fn agreements(votes: &[Vote], raters: &[&String]) -> Vec<RaterAgreement> {
    let items = AbStore::by_item(votes);
    let mut agreements = Vec::new();
    for (at, first) in raters.iter().enumerate() {
        for second in &raters[at + 1..] {
            let (a, b): (Vec<i64>, Vec<i64>) = items
                .values()
                .filter_map(|votes| {
                    let (a, b) = (votes.get(first.as_str())?, votes.get(second.as_str())?);
                    Some((code(*a), code(*b)))
                })
                .unzip();
            if a.is_empty() {
                continue;
            }
            let same = a.iter().zip(&b).filter(|(a, b)| a == b).count();
            agreements.push(RaterAgreement {
                first: (*first).clone(),
                second: (*second).clone(),
                items: a.len(),
                agreement: same as f64 / a.len() as f64,
                kappa: cohen_kappa(&a, &b),
            });
        }
    }
    agreements
}
