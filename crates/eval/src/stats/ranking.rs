//! Strengths of players from the games they played against each other.

use std::collections::BTreeMap;

use super::draws::{below, draw};
use super::interval::Interval;

/// How a game between two players ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The first player won.
    First,
    /// The second player won.
    Second,
    /// Neither did.
    Tie,
}

impl Outcome {
    /// What the first player gets: 1, 0 or ½.
    #[must_use]
    pub fn score(self) -> f64 {
        match self {
            Self::First => 1.0,
            Self::Second => 0.0,
            Self::Tie => 0.5,
        }
    }
}

/// One game.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Game {
    /// Name of one player.
    pub first: String,
    /// Name of the other.
    pub second: String,
    /// Who won.
    pub outcome: Outcome,
}

/// A player's strength on the Elo scale: 400 points are odds of ten to one.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Rating {
    /// The player.
    pub name: String,
    /// The strength; the mean of all players is 1000.
    pub rating: f64,
    /// 95 % bootstrap interval over games.
    pub interval: Interval,
    /// Games played.
    pub games: usize,
}

/// Games added as ties between all players, so that one who always wins stays finite.
const PRIOR_TIES: f64 = 0.1;
/// Rounds of the fixed-point iteration; it stops earlier when nothing moves.
const MAX_ROUNDS: usize = 10_000;

/// Maximum-likelihood strengths of the Bradley-Terry model, ties as half a win each, strongest first.
///
/// # Source
/// - Bradley and Terry 1952, Rank analysis of incomplete block designs, Biometrika 39
/// - Hunter 2004, MM algorithms for generalized Bradley-Terry models, Annals of Statistics 32(1), eq. (3)
///
/// # Examples
/// ```
/// use flametune_eval::stats::{Game, Outcome, bradley_terry};
///
/// let game = |outcome| Game { first: "base".into(), second: "tuned".into(), outcome };
/// let games: Vec<Game> = (0..40).map(|n| game(if n % 4 == 0 { Outcome::First } else { Outcome::Second })).collect();
/// let ratings = bradley_terry(&games, 200, 0);
/// assert_eq!(ratings[0].name, "tuned");
/// // Three to one is 400·log10(3) = 190.8 points; the ties assumed in advance take a little of it.
/// assert!((ratings[0].rating - ratings[1].rating - 190.8).abs() < 1.5);
/// ```
#[must_use]
pub fn bradley_terry(games: &[Game], resamples: usize, seed: u64) -> Vec<Rating> {
    ratings(games, resamples, seed, fit)
}

/// Elo ratings after the games in their order, strongest first: each moves `k` times surprise.
///
/// Unlike [`bradley_terry`] this depends on the order, so it is for players that change.
///
/// # Source
/// Elo 1978, The Rating of Chessplayers, §1.5
#[must_use]
pub fn elo(games: &[Game], k: f64, resamples: usize, seed: u64) -> Vec<Rating> {
    ratings(games, resamples, seed, |pairs, players| {
        let mut ratings = vec![1000.0; players];
        for &(a, b, score) in pairs {
            let (first, second): (f64, f64) = (ratings[a], ratings[b]);
            let expected = 1.0 / (1.0 + 10_f64.powf((second - first) / 400.0));
            ratings[a] += k * (score - expected);
            ratings[b] -= k * (score - expected);
        }
        ratings
    })
}

type Pair = (usize, usize, f64);

fn ratings(
    games: &[Game],
    resamples: usize,
    seed: u64,
    fit: impl Fn(&[Pair], usize) -> Vec<f64>,
) -> Vec<Rating> {
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for game in games {
        places.insert(&game.first, 0);
        places.insert(&game.second, 0);
    }
    for (place, at) in places.values_mut().enumerate() {
        *at = place;
    }
    let pairs: Vec<Pair> = games
        .iter()
        .map(|game| {
            let (a, b) = (places[game.first.as_str()], places[game.second.as_str()]);
            (a, b, game.outcome.score())
        })
        .collect();
    let point = fit(&pairs, places.len());
    let mut samples = vec![Vec::with_capacity(resamples); places.len()];
    for round in 0..resamples as u64 {
        let mut picked: Vec<usize> = (0..pairs.len() as u64)
            .map(|index| below(draw(seed, "games", round, index), pairs.len()))
            .collect();
        picked.sort_unstable();
        let again: Vec<Pair> = picked.into_iter().map(|at| pairs[at]).collect();
        for (samples, rating) in samples.iter_mut().zip(fit(&again, places.len())) {
            samples.push(rating);
        }
    }
    let mut ratings: Vec<Rating> = places
        .iter()
        .map(|(name, &place)| {
            let mut values = std::mem::take(&mut samples[place]);
            values.sort_by(f64::total_cmp);
            let end = |share: usize| {
                let at = (values.len().saturating_sub(1) * share) / 1000;
                values.get(at).copied().unwrap_or(point[place])
            };
            Rating {
                name: (*name).to_owned(),
                rating: point[place],
                interval: Interval {
                    low: end(25),
                    high: end(975),
                },
                games: pairs
                    .iter()
                    .filter(|(a, b, _)| *a == place || *b == place)
                    .count(),
            }
        })
        .collect();
    ratings.sort_by(|a, b| b.rating.total_cmp(&a.rating));
    ratings
}

fn fit(pairs: &[Pair], players: usize) -> Vec<f64> {
    let mut wins = vec![0.0; players];
    let mut met: BTreeMap<(usize, usize), f64> = BTreeMap::new();
    for &(a, b, score) in pairs.iter().filter(|(a, b, _)| a != b) {
        wins[a] += score;
        wins[b] += 1.0 - score;
        *met.entry((a.min(b), a.max(b))).or_default() += 1.0;
    }
    for a in 0..players {
        for b in a + 1..players {
            *met.entry((a, b)).or_default() += PRIOR_TIES;
            wins[a] += PRIOR_TIES / 2.0;
            wins[b] += PRIOR_TIES / 2.0;
        }
    }
    let mut strengths = vec![1.0_f64; players];
    for _ in 0..MAX_ROUNDS {
        let mut rates = vec![0.0; players];
        for (&(a, b), games) in &met {
            let rate = games / (strengths[a] + strengths[b]);
            rates[a] += rate;
            rates[b] += rate;
        }
        let mut moved = 0.0_f64;
        for player in 0..players {
            if rates[player] > 0.0 {
                let next = wins[player] / rates[player];
                moved = moved.max((next / strengths[player]).ln().abs());
                strengths[player] = next;
            }
        }
        let mean = strengths.iter().map(|s| s.ln()).sum::<f64>() / players as f64;
        for strength in &mut strengths {
            *strength /= mean.exp();
        }
        if moved < 1e-12 {
            break;
        }
    }
    strengths
        .iter()
        .map(|strength| 1000.0 + 400.0 * strength.log10())
        .collect()
}
