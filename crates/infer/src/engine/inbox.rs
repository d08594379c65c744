//! Where callers leave their requests for the engine's thread.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::adapters::Lease;
use super::request::{EngineEvent, GenerateRequest, Score, ScoreRequest};
use super::stats::EngineStats;
use super::ticket::Sender;
use crate::error::Result;

/// A request on its way to the engine.
#[derive(Debug)]
pub(super) enum Submission {
    Generate {
        request: Box<GenerateRequest>,
        lease: Option<Lease>,
        events: Arc<Sender<Result<EngineEvent>>>,
        at: Instant,
    },
    Score {
        request: ScoreRequest,
        lease: Option<Lease>,
        answer: Sender<Result<Score>>,
        at: Instant,
    },
}

impl Submission {
    /// The sequences that it stands for.
    pub(super) fn sequences(&self) -> usize {
        match self {
            Self::Generate { request, .. } => request.n,
            Self::Score { .. } => 1,
        }
    }
}

/// What the callers' threads and the engine's have in common.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    rung: Condvar,
    stats: Mutex<EngineStats>,
}

#[derive(Debug, Default)]
struct State {
    submissions: Vec<Submission>,
    /// Whether something happened that the engine should look at.
    ringing: bool,
    /// Whether no more requests are taken.
    closed: bool,
    /// Whether the engine's thread is gone.
    ended: bool,
}

/// What the engine found in its inbox.
#[derive(Debug)]
pub(super) struct Mail {
    pub(super) submissions: Vec<Submission>,
    /// Whether this was the last of it.
    pub(super) closed: bool,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements, so a panic elsewhere leaves it usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a request; gives it back when no more are taken.
    pub(super) fn submit(&self, submission: Submission) -> Result<(), Box<Submission>> {
        let mut state = self.lock();
        if state.closed || state.ended {
            return Err(Box::new(submission));
        }
        state.submissions.push(submission);
        state.ringing = true;
        drop(state);
        self.rung.notify_one();
        Ok(())
    }

    /// The sequences that nobody has looked at yet.
    pub(super) fn unread(&self) -> usize {
        let state = self.lock();
        state.submissions.iter().map(Submission::sequences).sum()
    }

    /// Makes the engine look around.
    pub(super) fn ring(&self) {
        self.lock().ringing = true;
        self.rung.notify_one();
    }

    /// Takes no more requests.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.ringing = true;
        drop(state);
        self.rung.notify_one();
    }

    /// Says that the engine's thread is gone, and drops what it has not read.
    pub(super) fn end(&self) {
        let unread = {
            let mut state = self.lock();
            state.ended = true;
            std::mem::take(&mut state.submissions)
        };
        drop(unread);
    }

    /// Takes what has arrived; when `idle`, waits for something, at most for `patience`.
    pub(super) fn take(&self, idle: bool, patience: Option<Duration>) -> Mail {
        let mut state = self.lock();
        if idle {
            let until = patience.and_then(|patience| Instant::now().checked_add(patience));
            // With nothing left to wait for, a closed inbox is the end.
            while !(state.ringing || state.closed && patience.is_none()) {
                let left = until.map(|until| until.saturating_duration_since(Instant::now()));
                state = match left {
                    Some(Duration::ZERO) => break,
                    Some(left) => {
                        let waited = self.rung.wait_timeout(state, left);
                        waited.unwrap_or_else(PoisonError::into_inner).0
                    }
                    None => self
                        .rung
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner),
                };
            }
        }
        state.ringing = false;
        Mail {
            submissions: std::mem::take(&mut state.submissions),
            closed: state.closed,
        }
    }

    pub(super) fn stats(&self) -> EngineStats {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_stats(&self, stats: EngineStats) {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }
}

/// Wakes the engine.
#[derive(Debug, Clone)]
pub(super) struct Bell(pub(super) Arc<Inbox>);

impl Bell {
    pub(super) fn ring(&self) {
        self.0.ring();
    }
}
