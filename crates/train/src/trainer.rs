//! One optimizer step after another.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::TensorData;
use flametune_kernels::in_pool;
use flametune_peft::Slots;
use serde::{Deserialize, Serialize};

use crate::config::TrainConfig;
use crate::error::{Error, Result};
use crate::guard::SpikeGuard;
use crate::loss_scaling::LossScale;
use crate::objective::{BatchLoss, Extent, MicroStep, Objective, Sft};
use crate::optim::{GradientSum, Optimizer, ParamGroup, trained};
use crate::ranks::{AdaLoraRanks, RankTraining};

/// What one optimizer step did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// The step, from 1.
    pub step: usize,
    /// The mean loss of what it learned from, before the update.
    pub loss: f64,
    /// The global norm of the gradient, before clipping.
    pub grad_norm: f64,
    /// The learning rate.
    pub learning_rate: f64,
    /// Tokens that went through the model, padding included.
    pub tokens: usize,
    /// Tokens that were learned from.
    pub supervised_tokens: usize,
    /// Wall time.
    pub seconds: f64,
    /// The level that the loss jumped over, when it did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub spike_above: Option<f64>,
    /// What the objective logs beside the loss.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub metrics: BTreeMap<String, f64>,
}

/// A measurement without training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalReport {
    /// Optimizer steps taken before.
    pub step: usize,
    /// The mean loss.
    pub loss: f64,
    /// Tokens that would be learned from.
    pub supervised_tokens: usize,
    /// Wall time.
    pub seconds: f64,
    /// What the objective logs beside the loss.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub metrics: BTreeMap<String, f64>,
}

impl EvalReport {
    /// `e^loss`.
    pub fn perplexity(&self) -> f64 {
        self.loss.exp()
    }
}

/// Gives a parameter, by its path in the module tree, its share of learning rate and decay.
pub type Grouping = Box<dyn Fn(&str) -> ParamGroup + Send>;

/// What an update came to.
struct Updated {
    /// The norm of the gradient before clipping; nothing when the scaled gradient overflowed and the
    /// step was left out.
    grad_norm: Option<f64>,
    /// The ranks there are, where they are handed out.
    ranks: Option<usize>,
}

/// A model in training.
///
/// The gradient of a step is the sum over its micro-batches, divided by the sum of their
/// [weights](Extent::weight), however the step is cut.
pub struct Trainer<O: Objective = Sft> {
    model: Option<O::Model>,
    objective: O,
    config: TrainConfig,
    optimizer: Optimizer,
    grouping: Grouping,
    guard: SpikeGuard,
    scale: LossScale,
    step: usize,
    ranks: Option<Box<dyn RankTraining<O::Model>>>,
}

impl<O: Objective> Trainer<O>
where
    O::Model: Slots,
{
    /// Hands out the ranks of an `AdaLoRA` adapter while it is trained; does nothing for adapters
    /// of other methods.
    ///
    /// The loss of a step is then that of the objective and `orth_reg_weight` times the
    /// [orthogonality penalty](flametune_peft::orthogonal_penalty), and after the optimizer's step
    /// ranks go to the modules that need them, as
    /// [`AdaLoraAllocator`](flametune_peft::AdaLoraAllocator) says.
    /// Steps log the penalty as `orthogonality` and the budget as `ranks`.
    ///
    /// Checkpoints keep all ranks and their scores in a file of their own, so a run that is
    /// resumed calls this before [`checkpoint::resume`](crate::checkpoint::resume).
    ///
    /// # Errors
    /// When there is no such adapter; [`Error::InvalidConfig`] when its `total_step` is not the
    /// `max_steps` of the run.
    pub fn allocate_ranks(&mut self, name: &str) -> Result<()> {
        let max_steps = self.config.max_steps;
        if let Some(model) = &mut self.model {
            let ranks = AdaLoraRanks::new(model, name, max_steps)?;
            self.ranks = ranks.map(|ranks| Box::new(ranks) as Box<dyn RankTraining<O::Model>>);
        }
        Ok(())
    }
}

impl<O: Objective> Trainer<O> {
    /// Trains the parameters of `model` that require gradients.
    ///
    /// # Errors
    /// What [`TrainConfig::validate`] and [`Objective::validate`] refuse;
    /// [`Error::NothingToTrain`].
    pub fn new(
        model: O::Model,
        objective: O,
        config: TrainConfig,
        grouping: Grouping,
    ) -> Result<Self> {
        config.validate()?;
        objective.validate()?;
        if trained(&model).is_empty() {
            return Err(Error::NothingToTrain);
        }
        Ok(Self {
            model: Some(model),
            objective,
            config,
            optimizer: Optimizer::new(config.rule).with_seed(config.seed),
            grouping,
            guard: SpikeGuard::default(),
            scale: LossScale::start(config.loss_scaling.as_ref()),
            step: 0,
            ranks: None,
        })
    }

    /// Keeps the optimizer's averages in a file in `folder` instead of in memory, now and when the
    /// run is resumed into this trainer; see [`Optimizer::page_to`].
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be made.
    pub fn page_states(&mut self, folder: &Path) -> Result<()> {
        self.optimizer.page_to(folder)
    }

    /// Puts the trainer where an earlier one stood.
    pub(crate) fn restore(
        &mut self,
        step: usize,
        optimizer: Optimizer,
        (guard, scale): (SpikeGuard, LossScale),
    ) {
        (self.step, self.optimizer) = (step, optimizer);
        (self.guard, self.scale) = (guard, scale);
    }

    /// What a checkpoint holds of ranks that are handed out.
    pub(crate) fn rank_state(&self) -> Option<BTreeMap<String, TensorData>> {
        let ranks = self.ranks.as_ref()?;
        Some(ranks.state(self.model()))
    }

    /// Takes up ranks from what `read` finds in a checkpoint's `file`.
    pub(crate) fn restore_ranks(
        &mut self,
        file: &Path,
        read: impl FnOnce(&Path) -> Result<BTreeMap<String, TensorData>>,
    ) -> Result<()> {
        match (&mut self.ranks, &mut self.model) {
            (Some(ranks), Some(model)) => ranks.restore(model, read(file)?, file),
            _ => Ok(()),
        }
    }

    /// The model.
    pub fn model(&self) -> &O::Model {
        match &self.model {
            Some(model) => model,
            None => unreachable!("it is away only inside of `train_step`"),
        }
    }

    /// Gives the model back.
    pub fn into_model(mut self) -> O::Model {
        match self.model.take() {
            Some(model) => model,
            None => unreachable!("it is away only inside of `train_step`"),
        }
    }

    /// What is minimised.
    pub fn objective(&self) -> &O {
        &self.objective
    }

    /// What is minimised, to change it between steps; what changes belongs into
    /// [`Objective::state`].
    pub fn objective_mut(&mut self) -> &mut O {
        &mut self.objective
    }

    /// The configuration.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// The optimizer.
    pub fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    /// The losses that a jump is measured against.
    pub(crate) fn guard(&self) -> &SpikeGuard {
        &self.guard
    }

    /// The loss scale; 1 without loss scaling.
    pub fn loss_scale(&self) -> LossScale {
        self.scale
    }

    /// Optimizer steps taken.
    pub fn steps(&self) -> usize {
        self.step
    }

    /// Whether the run has taken all its steps.
    pub fn is_finished(&self) -> bool {
        self.step >= self.config.max_steps
    }

    /// Takes one optimizer step from its micro-batches.
    ///
    /// Under loss scaling a step whose gradient overflows counts but changes nothing; it is
    /// reported with a gradient norm of 0 and the metric `skipped`.
    ///
    /// # Errors
    /// Those of the objective; [`Error::NothingToTrain`] when the batches weigh nothing;
    /// [`Error::NotFinite`] when loss or gradient is no number, with the parameters as they were;
    /// [`Error::Io`] when averages that live in a file cannot be read or written.
    pub fn train_step(&mut self, batches: &[O::Batch]) -> Result<StepReport> {
        let begin = Instant::now();
        let extent = self.extent(batches)?;
        let scale = self.scale.scale;
        let learning_rate = self.config.learning_rate_at(self.step);
        // One hand-over to the thread pool for the whole step instead of one an operation.
        let (loss, updated) = in_pool(|| {
            let (mut gradients, mut loss) = self.gradients(batches, extent.weight)?;
            self.penalize(&mut gradients, &mut loss);
            let updated = self.update(gradients, loss.sum, learning_rate)?;
            Ok::<_, Error>((loss, updated))
        })?;
        let Updated { grad_norm, ranks } = updated;
        let mut metrics = loss.means();
        #[expect(clippy::cast_precision_loss, reason = "a number of ranks")]
        metrics.extend(ranks.map(|ranks| ("ranks".to_owned(), ranks as f64)));
        if self.config.loss_scaling.is_some() {
            metrics.insert("loss_scale".to_owned(), scale);
            let skipped = f64::from(u8::from(grad_norm.is_none()));
            metrics.insert("skipped".to_owned(), skipped);
        }
        Ok(StepReport {
            step: self.step,
            loss: loss.sum,
            grad_norm: grad_norm.unwrap_or(0.0),
            learning_rate,
            tokens: extent.tokens,
            supervised_tokens: extent.supervised_tokens,
            seconds: begin.elapsed().as_secs_f64(),
            spike_above: self.guard.observe(loss.sum),
            metrics,
        })
    }

    /// How much is in several batches.
    fn extent<'a>(&self, batches: impl IntoIterator<Item = &'a O::Batch>) -> Result<Extent>
    where
        O::Batch: 'a,
    {
        let mut whole = Extent::default();
        for batch in batches {
            let extent = self.objective.extent(batch);
            whole.tokens += extent.tokens;
            whole.supervised_tokens += extent.supervised_tokens;
            whole.weight += extent.weight;
        }
        if whole.weight > 0.0 {
            Ok(whole)
        } else {
            Err(Error::NothingToTrain)
        }
    }

    /// The mean loss of a step, its parts, and its gradient.
    fn gradients(&self, batches: &[O::Batch], weight: f64) -> Result<(GradientSum, BatchLoss)> {
        let mut gradients = GradientSum::new();
        let mut loss = BatchLoss::default();
        for (index, batch) in batches.iter().enumerate() {
            let at = MicroStep {
                loss_scale: self.scale.scale,
                ..MicroStep::new(self.config.seed, self.step, index)
            };
            let found = self
                .objective
                .accumulate(self.model(), batch, &at, &mut gradients)?;
            loss.add(&found);
        }
        #[expect(clippy::cast_possible_truncation, reason = "rounded to f32")]
        gradients.scale((1.0 / (weight * self.scale.scale)) as f32);
        loss.sum /= weight;
        Ok((gradients, loss))
    }

    /// Adds the term of the loss that depends on the parameters alone.
    fn penalize(&mut self, gradients: &mut GradientSum, loss: &mut BatchLoss) {
        if let (Some(ranks), Some(model)) = (&self.ranks, &mut self.model) {
            let (term, penalty) = ranks.penalty(model, gradients);
            *loss = std::mem::take(loss).with("orthogonality", penalty, 1.0);
            loss.sum += term;
        }
    }

    /// Clips, checks and steps.
    fn update(
        &mut self,
        mut gradients: GradientSum,
        loss: f64,
        learning_rate: f64,
    ) -> Result<Updated> {
        let grad_norm = match self.config.max_grad_norm {
            Some(max_norm) => gradients.clip(max_norm),
            None => gradients.norm(),
        };
        let overflowed = loss.is_finite() && !grad_norm.is_finite();
        if let Some(scaling) = &self.config.loss_scaling
            && self.scale.observe(scaling, overflowed)
            && overflowed
        {
            return Ok(Updated {
                grad_norm: None,
                ranks: self.stepped(None),
            });
        }
        for (what, value) in [("loss", loss), ("gradient norm", grad_norm)] {
            if !value.is_finite() {
                let step = self.step + 1;
                return Err(Error::NotFinite { what, step, value });
            }
        }
        if let Some(model) = self.model.take() {
            let (model, result) =
                self.optimizer
                    .step_keeping(model, &gradients, learning_rate, &*self.grouping);
            self.model = Some(model);
            result?;
        }
        Ok(Updated {
            grad_norm: Some(grad_norm),
            ranks: self.stepped(Some(&gradients)),
        })
    }

    /// Counts a step, and hands the ranks out anew; returns how many there are.
    fn stepped(&mut self, gradients: Option<&GradientSum>) -> Option<usize> {
        let step = self.step;
        self.step += 1;
        match (&mut self.ranks, &mut self.model) {
            (Some(ranks), Some(model)) => Some(ranks.allocate(model, gradients, step)),
            _ => None,
        }
    }

    /// The mean loss of `batches`, without gradients.
    ///
    /// # Errors
    /// Those of the objective; [`Error::NothingToTrain`] when the batches weigh nothing.
    pub fn evaluate<'a>(
        &self,
        batches: impl IntoIterator<Item = &'a O::Batch>,
    ) -> Result<EvalReport>
    where
        O::Batch: 'a,
    {
        let begin = Instant::now();
        let batches: Vec<&O::Batch> = batches.into_iter().collect();
        let extent = self.extent(batches.iter().copied())?;
        let model = self.model().valid();
        let mut loss = BatchLoss::default();
        for batch in batches {
            loss.add(&self.objective.evaluate(&model, batch)?);
        }
        Ok(EvalReport {
            step: self.step,
            loss: loss.sum / extent.weight,
            supervised_tokens: extent.supervised_tokens,
            seconds: begin.elapsed().as_secs_f64(),
            metrics: loss.means(),
        })
    }
}

impl<O: Objective + std::fmt::Debug> std::fmt::Debug for Trainer<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trainer")
            .field("objective", &self.objective)
            .field("config", &self.config)
            .field("step", &self.step)
            .finish_non_exhaustive()
    }
}
