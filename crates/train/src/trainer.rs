//! One optimizer step after another.

use std::time::Instant;

use burn::module::Module;
use flametune_data::{Batch, Step};
use flametune_lm::CausalLm;
use flametune_peft::{AdapterPass, DropoutKey};
use serde::{Deserialize, Serialize};

use crate::config::TrainConfig;
use crate::error::{Error, Result};
use crate::guard::SpikeGuard;
use crate::loss::{LossOptions, Noise, accumulate, evaluate_batch};
use crate::optim::{GradientSum, Optimizer, ParamGroup, trained};
use crate::random::mixed;

/// What one optimizer step did.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// The step, from 1.
    pub step: usize,
    /// The mean loss of its supervised tokens, before the update.
    pub loss: f64,
    /// The global norm of the gradient, before clipping.
    pub grad_norm: f64,
    /// The learning rate.
    pub learning_rate: f64,
    /// Tokens that went through the model, padding included.
    pub tokens: usize,
    /// Tokens that the loss is the mean of.
    pub supervised_tokens: usize,
    /// Wall time.
    pub seconds: f64,
    /// The level that the loss jumped over, when it did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub spike_above: Option<f64>,
}

/// A measurement without training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EvalReport {
    /// Optimizer steps taken before.
    pub step: usize,
    /// The mean loss of the supervised tokens.
    pub loss: f64,
    /// Tokens that the loss is the mean of.
    pub supervised_tokens: usize,
    /// Wall time.
    pub seconds: f64,
}

impl EvalReport {
    /// `e^loss`.
    pub fn perplexity(&self) -> f64 {
        self.loss.exp()
    }
}

/// Gives a parameter, by its path in the module tree, its share of learning rate and decay.
pub type Grouping = Box<dyn Fn(&str) -> ParamGroup + Send>;

/// A model in training.
///
/// The gradient of a step is the sum over its supervised tokens, divided by their number, however
/// the step is cut into micro-batches.
pub struct Trainer {
    model: Option<CausalLm>,
    pass: AdapterPass,
    config: TrainConfig,
    optimizer: Optimizer,
    grouping: Grouping,
    guard: SpikeGuard,
    step: usize,
}

impl Trainer {
    /// Trains the parameters of `model` that require gradients, with the adapters of `pass`.
    ///
    /// # Errors
    /// What [`TrainConfig::validate`] refuses; [`Error::NothingToTrain`].
    pub fn new(
        model: CausalLm,
        pass: AdapterPass,
        config: TrainConfig,
        grouping: Grouping,
    ) -> Result<Self> {
        config.validate()?;
        if !model.device().is_autodiff() || trained(&model).is_empty() {
            return Err(Error::NothingToTrain);
        }
        Ok(Self {
            model: Some(model),
            pass,
            config,
            optimizer: Optimizer::new(config.rule),
            grouping,
            guard: SpikeGuard::default(),
            step: 0,
        })
    }

    /// Puts the trainer where an earlier one stood.
    pub(crate) fn restore(&mut self, step: usize, optimizer: Optimizer, guard: SpikeGuard) {
        (self.step, self.optimizer, self.guard) = (step, optimizer, guard);
    }

    /// The model.
    pub fn model(&self) -> &CausalLm {
        match &self.model {
            Some(model) => model,
            None => unreachable!("it is away only inside of `train_step`"),
        }
    }

    /// Gives the model back.
    pub fn into_model(mut self) -> CausalLm {
        match self.model.take() {
            Some(model) => model,
            None => unreachable!("it is away only inside of `train_step`"),
        }
    }

    /// The adapters that are trained.
    pub fn pass(&self) -> &AdapterPass {
        &self.pass
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

    /// Optimizer steps taken.
    pub fn steps(&self) -> usize {
        self.step
    }

    /// Whether the run has taken all its steps.
    pub fn is_finished(&self) -> bool {
        self.step >= self.config.max_steps
    }

    /// Takes one optimizer step.
    ///
    /// # Errors
    /// Those of the forward pass; [`Error::NotFinite`] when loss or gradient is no number, with
    /// the parameters as they were.
    pub fn train_step(&mut self, step: &Step) -> Result<StepReport> {
        let begin = Instant::now();
        let (gradients, loss) = self.gradients(step)?;
        let learning_rate = self.config.learning_rate_at(self.step);
        let report = self.update(gradients, loss, learning_rate)?;
        Ok(StepReport {
            tokens: step.batches.iter().map(|batch| batch.input_ids.len()).sum(),
            supervised_tokens: step.num_supervised_tokens,
            seconds: begin.elapsed().as_secs_f64(),
            ..report
        })
    }

    /// The mean loss of a step's supervised tokens, and its gradient.
    fn gradients(&self, step: &Step) -> Result<(GradientSum, f64)> {
        let mut gradients = GradientSum::new();
        let mut sum = 0.0;
        for (index, batch) in step.batches.iter().enumerate() {
            let key = [self.step as u64, index as u64]
                .into_iter()
                .fold(self.config.seed, mixed);
            let pass = self.pass.clone().with_dropout(DropoutKey {
                seed: self.config.seed,
                step: key,
            });
            let options = LossOptions {
                label_smoothing: self.config.label_smoothing,
                noise: Some(Noise {
                    alpha: self.config.neftune_noise_alpha,
                    key,
                }),
                recompute: self.config.recompute,
            };
            sum += accumulate(self.model(), batch, &pass, &options, &mut gradients)?;
        }
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52 tokens")]
        let tokens = step.num_supervised_tokens.max(1) as f64;
        #[expect(clippy::cast_possible_truncation, reason = "rounded to f32")]
        gradients.scale((1.0 / tokens) as f32);
        Ok((gradients, sum / tokens))
    }

    fn update(
        &mut self,
        mut gradients: GradientSum,
        loss: f64,
        learning_rate: f64,
    ) -> Result<StepReport> {
        let grad_norm = match self.config.max_grad_norm {
            Some(max_norm) => gradients.clip(max_norm),
            None => gradients.norm(),
        };
        for (what, value) in [("loss", loss), ("gradient norm", grad_norm)] {
            if !value.is_finite() {
                let step = self.step + 1;
                return Err(Error::NotFinite { what, step, value });
            }
        }
        let model = self.model.take().map(|model| {
            self.optimizer
                .step(model, &gradients, learning_rate, &*self.grouping)
        });
        self.model = model;
        self.step += 1;
        Ok(StepReport {
            step: self.step,
            loss,
            grad_norm,
            learning_rate,
            tokens: 0,
            supervised_tokens: 0,
            seconds: 0.0,
            spike_above: self.guard.observe(loss),
        })
    }

    /// The mean loss of all supervised tokens of `batches`, without gradients.
    ///
    /// # Errors
    /// Those of the forward pass; [`Error::NothingToTrain`] without a supervised token.
    pub fn evaluate<'a>(&self, batches: impl IntoIterator<Item = &'a Batch>) -> Result<EvalReport> {
        let begin = Instant::now();
        let model = self.model().valid();
        let (mut sum, mut tokens) = (0.0, 0);
        for batch in batches {
            sum += evaluate_batch(&model, batch, &self.pass)?;
            tokens += batch.num_supervised_tokens;
        }
        if tokens == 0 {
            return Err(Error::NothingToTrain);
        }
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52 tokens")]
        let loss = sum / tokens as f64;
        Ok(EvalReport {
            step: self.step,
            loss,
            supervised_tokens: tokens,
            seconds: begin.elapsed().as_secs_f64(),
        })
    }
}

impl std::fmt::Debug for Trainer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trainer")
            .field("pass", &self.pass)
            .field("config", &self.config)
            .field("step", &self.step)
            .finish_non_exhaustive()
    }
}
