//! How many ranks there are at each step.

use super::AdaLoraConfig;

/// The number of ranks of all modules together, as a function of the step.
///
/// All of them up to `tinit`, the target after `total_step − tfinal`, and between them
/// `target + (initial − target)·(1 − (t − tinit)/(total_step − tfinal − tinit))³`, rounded down.
///
/// # Units
/// - steps are optimizer steps, counted from zero; a budget is a number of singular values
///
/// # Source
/// - Zhang et al. 2023, `AdaLoRA`, arXiv:2303.10512, §3.3 eq. (12)
/// - reference: peft `tuners/adalora/layer.py::RankAllocator.budget_schedule`; golden
///   `fixtures/peft/adalora_schedule.json`
///
/// # Examples
/// ```
/// use flametune_peft::{AdaLoraConfig, BudgetSchedule};
///
/// let config = AdaLoraConfig { init_r: 6, target_r: 3, tinit: 3, ..AdaLoraConfig::default() };
/// let schedule = BudgetSchedule::new(&config.with_total_step(30), 4);
/// assert_eq!(schedule.budget(0), 24);
/// assert_eq!(schedule.budget(31), 12);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetSchedule {
    initial: usize,
    target: usize,
    tinit: usize,
    /// The last step with a change of the budget.
    end: usize,
    delta_t: usize,
}

impl BudgetSchedule {
    /// The schedule of an adapter on this number of modules.
    pub fn new(config: &AdaLoraConfig, modules: usize) -> Self {
        let total = config.total_step.unwrap_or(0);
        Self {
            initial: config.init_r * modules,
            target: config.target_r * modules,
            tinit: config.tinit,
            end: total.saturating_sub(config.tfinal),
            delta_t: config.delta_t.max(1),
        }
    }

    /// The ranks at the start.
    pub fn initial(&self) -> usize {
        self.initial
    }

    /// The step at which ranks are given for the last time.
    pub fn end(&self) -> usize {
        self.end
    }

    /// The ranks at a step.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between the target and the initial number of ranks"
    )]
    pub fn budget(&self, step: usize) -> usize {
        if step <= self.tinit {
            return self.initial;
        }
        if step > self.end {
            return self.target;
        }
        let done = (step - self.tinit) as f64 / (self.end - self.tinit) as f64;
        let spare = self.initial.saturating_sub(self.target) as f64;
        (spare * (1.0 - done).powi(3) + self.target as f64) as usize
    }

    /// Whether ranks are given anew at a step.
    pub fn allocates(&self, step: usize) -> bool {
        step > self.end || step > self.tinit && step.is_multiple_of(self.delta_t)
    }
}
