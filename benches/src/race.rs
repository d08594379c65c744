//! Two contenders taking turns at one job.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::contender::Contender;
use crate::machine::CpuTimes;
use crate::protocol::{Finished, Number};

/// A round in which other processes took less of the machine than this counts as undisturbed.
const CALM: f64 = 0.05;

/// Rounds that may be run for each that is wanted, in the hope for undisturbed ones.
const PATIENCE: usize = 3;

/// How long to wait for a calm moment after a disturbed round.
const WAIT: Duration = Duration::from_secs(10);

/// How long a moment is.
const MOMENT: Duration = Duration::from_millis(500);

/// How far the first logits may be apart in f32: sums of a few thousand terms in another order,
/// through tens of layers, move logits of around 20 by less than this.
const LOGIT_TOLERANCE: f32 = 5e-3;

/// One contender's turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Lap<T> {
    /// What it answered.
    pub finished: T,
    /// The share of the machine that other processes took meanwhile.
    pub others: f64,
}

/// The rounds that count, the least disturbed of all that were run.
#[derive(Debug, Clone, PartialEq)]
pub struct Race<T> {
    /// Our laps.
    pub ours: Vec<Lap<T>>,
    /// The peer's, as many or none.
    pub peer: Vec<Lap<T>>,
}

/// A contender's side in a race.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Ours.
    Ours,
    /// The other.
    Peer,
}

impl<T> Race<T> {
    /// Has `job` done in turns, after one lap each that does not count, until there are `runs`
    /// undisturbed rounds or patience ends.
    ///
    /// # Errors
    /// When a contender fails.
    pub fn run(
        ours: &mut Contender,
        mut peer: Option<&mut Contender>,
        runs: usize,
        job: &mut dyn FnMut(&mut Contender, Side) -> Result<T>,
    ) -> Result<Self> {
        job(ours, Side::Ours)?;
        if let Some(peer) = peer.as_deref_mut() {
            job(peer, Side::Peer)?;
        }
        let mut rounds: Vec<(Lap<T>, Option<Lap<T>>)> = Vec::new();
        // Whoever was not left alone for so long will not be soon.
        let mut hopeful = true;
        while calm(&rounds) < runs && rounds.len() < PATIENCE * runs {
            if hopeful && rounds.last().is_some_and(|last| disturbance(last) >= CALM) {
                hopeful = wait_for_calm();
            }
            let peer_first = rounds.len() % 2 == 1;
            let mut theirs = None;
            if let (true, Some(peer)) = (peer_first, peer.as_deref_mut()) {
                theirs = Some(lap(peer, Side::Peer, job)?);
            }
            let own = lap(ours, Side::Ours, job)?;
            if let (false, Some(peer)) = (peer_first, peer.as_deref_mut()) {
                theirs = Some(lap(peer, Side::Peer, job)?);
            }
            rounds.push((own, theirs));
        }
        rounds.sort_by(|a, b| disturbance(a).total_cmp(&disturbance(b)));
        rounds.truncate(runs);
        let (ours, peer): (Vec<_>, Vec<_>) = rounds.into_iter().unzip();
        Ok(Self {
            ours,
            peer: peer.into_iter().flatten().collect(),
        })
    }

    /// The greatest share of the machine that others took in a round that counts.
    pub fn others(&self) -> f64 {
        let laps = self.ours.iter().chain(&self.peer);
        laps.map(|lap| lap.others).fold(0.0, f64::max)
    }
}

/// Waits until others leave the machine alone for a moment, but not for ever; whether they did.
fn wait_for_calm() -> bool {
    let own = std::process::id();
    let begin = Instant::now();
    while begin.elapsed() < WAIT {
        let before = CpuTimes::now(own);
        thread::sleep(MOMENT);
        match (before, CpuTimes::now(own)) {
            (Some(before), Some(after)) if after.taken_by_others(&before) >= CALM => {}
            _ => return true,
        }
    }
    false
}

fn calm<T>(rounds: &[(Lap<T>, Option<Lap<T>>)]) -> usize {
    rounds
        .iter()
        .filter(|round| disturbance(round) < CALM)
        .count()
}

fn disturbance<T>((ours, peer): &(Lap<T>, Option<Lap<T>>)) -> f64 {
    peer.as_ref()
        .map_or(ours.others, |peer| peer.others.max(ours.others))
}

fn lap<T>(
    contender: &mut Contender,
    side: Side,
    job: &mut dyn FnMut(&mut Contender, Side) -> Result<T>,
) -> Result<Lap<T>> {
    let before = CpuTimes::now(contender.pid());
    let finished = job(contender, side)?;
    let after = CpuTimes::now(contender.pid());
    let others = match (before, after) {
        (Some(before), Some(after)) => after.taken_by_others(&before),
        _ => 0.0,
    };
    Ok(Lap { finished, others })
}

/// The share of greedy tokens that are the same, place by place.
pub fn agreement(ours: &Finished, peer: &Finished) -> f64 {
    let pairs = || {
        ours.tokens
            .iter()
            .flatten()
            .zip(peer.tokens.iter().flatten())
    };
    let same = pairs().filter(|(ours, peer)| ours == peer).count();
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52 tokens")]
    let share = same as f64 / pairs().count().max(1) as f64;
    share
}

/// Makes sure that both computed the same thing.
///
/// In f32 that is the same tokens and, to rounding, the same logits. In bf16 only the weights are
/// the same: the peer rounds every activation too, and ties break either way.
///
/// # Errors
/// When they did not.
pub fn check(dtype: Number, ours: &Finished, peer: &Finished) -> Result<()> {
    let shape = |finished: &Finished| finished.tokens.iter().map(Vec::len).collect::<Vec<_>>();
    ensure!(
        shape(ours) == shape(peer),
        "not the same number of tokens: {:?} and {:?}",
        shape(ours),
        shape(peer)
    );
    if dtype != Number::F32 {
        return Ok(());
    }
    for (row, (ours, peer)) in ours.tokens.iter().zip(&peer.tokens).enumerate() {
        let differs = ours.iter().zip(peer).position(|(ours, peer)| ours != peer);
        if let Some(place) = differs {
            anyhow::bail!(
                "row {row}: token {place} is {} here and {} there",
                ours[place],
                peer[place]
            );
        }
    }
    for (row, (ours, peer)) in ours.first_logits.iter().zip(&peer.first_logits).enumerate() {
        ensure!(
            (ours - peer).abs() < LOGIT_TOLERANCE,
            "row {row}: the first logit is {ours} here and {peer} there"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(tokens: &[&[u32]], first_logits: &[f32]) -> Finished {
        Finished {
            prefill_s: 1.0,
            decode_s: 1.0,
            tokens: tokens.iter().map(|row| row.to_vec()).collect(),
            first_logits: first_logits.to_vec(),
        }
    }

    #[test]
    fn other_tokens_or_logits_are_no_result_in_f32() {
        let ours = finished(&[&[1, 2], &[3, 4]], &[10.0, 11.0]);
        let said = |peer: &Finished| check(Number::F32, &ours, peer).unwrap_err().to_string();
        check(Number::F32, &ours, &ours).unwrap();

        let other = finished(&[&[1, 2], &[3, 5]], &[10.0, 11.0]);
        assert_eq!(said(&other), "row 1: token 1 is 4 here and 5 there");
        check(Number::Bf16, &ours, &other).unwrap();
        assert_eq!(agreement(&ours, &other), 0.75);

        let other = finished(&[&[1, 2], &[3, 4]], &[10.0, 11.1]);
        assert_eq!(
            said(&other),
            "row 1: the first logit is 11 here and 11.1 there"
        );
        let shorter = finished(&[&[1, 2], &[3]], &[10.0, 11.0]);
        assert_eq!(
            said(&shorter),
            "not the same number of tokens: [2, 2] and [2, 1]"
        );
        assert!(check(Number::Bf16, &ours, &shorter).is_err());
    }

    #[test]
    fn a_round_is_as_disturbed_as_its_worse_lap() {
        let lap = |others| Lap {
            finished: finished(&[&[1]], &[1.0]),
            others,
        };
        let rounds = [
            (lap(0.0), Some(lap(0.5))),
            (lap(0.01), Some(lap(0.02))),
            (lap(0.0), None),
        ];
        assert_eq!(disturbance(&rounds[0]), 0.5);
        assert_eq!(calm(&rounds), 2);
    }
}
