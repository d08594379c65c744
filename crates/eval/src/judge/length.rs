//! What remains of a win rate when length is no advantage.

use serde::Serialize;

/// Steps of Newton's method.
const STEPS: usize = 50;
/// Keeps the weight of length finite when it separates wins from losses.
const RIDGE: f64 = 1e-3;

/// A win rate with the effect of length taken out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LengthControl {
    /// The win rate that the model predicts for answers of the same length.
    pub win_rate: f64,
    /// Weight of the length difference: above 0 the judge prefers longer answers.
    pub length_weight: f64,
}

/// Fits `P(win) = σ(θ + φ·tanh(Δ / sd Δ))` to wins (1, 0, or ½ for ties) and length differences, and gives `σ(θ)`.
///
/// `None` for lists that are empty or of different lengths.
///
/// # Source
/// Dubois et al. 2024, Length-Controlled AlpacaEval, arXiv:2404.04475, eq. (2), without its term for the item
///
/// # Examples
/// ```
/// use flametune_eval::judge::length_controlled_win_rate;
///
/// // The longer answer always wins, and it is the second's in three of four pairs.
/// let wins: Vec<f64> = (0..40).map(|n| f64::from(u8::from(n % 4 != 0))).collect();
/// let longer: Vec<f64> = wins.iter().map(|win| if *win == 1.0 { 100.0 } else { -100.0 }).collect();
/// let control = length_controlled_win_rate(&wins, &longer).unwrap();
/// assert!(control.win_rate < 0.7 && control.length_weight > 1.0);
/// ```
#[must_use]
pub fn length_controlled_win_rate(wins: &[f64], differences: &[f64]) -> Option<LengthControl> {
    if wins.is_empty() || wins.len() != differences.len() {
        return None;
    }
    let n = wins.len() as f64;
    let spread = (differences.iter().map(|d| d * d).sum::<f64>() / n).sqrt();
    let features: Vec<f64> = differences
        .iter()
        .map(|d| {
            if spread > 0.0 {
                (d / spread).tanh()
            } else {
                0.0
            }
        })
        .collect();
    let (mut theta, mut phi) = (0.0_f64, 0.0_f64);
    for _ in 0..STEPS {
        let (mut g0, mut g1) = (-RIDGE * theta, -RIDGE * phi);
        let (mut h00, mut h01, mut h11) = (RIDGE, 0.0, RIDGE);
        for (win, x) in wins.iter().zip(&features) {
            let p = sigmoid(theta + phi * x);
            let weight = p * (1.0 - p);
            g0 += win - p;
            g1 += (win - p) * x;
            h00 += weight;
            h01 += weight * x;
            h11 += weight * x * x;
        }
        let determinant = h00 * h11 - h01 * h01;
        let step0 = (h11 * g0 - h01 * g1) / determinant;
        let step1 = (h00 * g1 - h01 * g0) / determinant;
        theta += step0.clamp(-2.0, 2.0);
        phi += step1.clamp(-2.0, 2.0);
        if step0.abs() + step1.abs() < 1e-12 {
            break;
        }
    }
    Some(LengthControl {
        win_rate: sigmoid(theta),
        length_weight: phi,
    })
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Pearson's correlation; `None` where one side does not vary.
pub(super) fn correlation(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.len() != b.len() || a.len() < 2 {
        return None;
    }
    let n = a.len() as f64;
    let (mean_a, mean_b) = (a.iter().sum::<f64>() / n, b.iter().sum::<f64>() / n);
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(b) {
        ab += (x - mean_a) * (y - mean_b);
        aa += (x - mean_a).powi(2);
        bb += (y - mean_b).powi(2);
    }
    (aa > 0.0 && bb > 0.0).then(|| ab / (aa * bb).sqrt())
}
