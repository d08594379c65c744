//! Our side of the training races.

use std::time::Instant;

use anyhow::{Result, ensure};
use burn::tensor::{DType, Device};
use flametune_data::{Batch, IGNORE_INDEX};
use flametune_kernels::Precision;
use flametune_lm::{AdapterPass, CausalLm, Checkpoint, LoadOptions};
use flametune_peft::{load_adapter, set_trainable};
use flametune_train::optim::ParamGroup;
use flametune_train::{Schedule, Sft, SftOptions, TrainConfig, Trainer, Warmup};

use crate::burn_model::BurnTraining;
use crate::dpo::DpoTraining;
use crate::protocol::{self, Method, Number, Quantization, Rows, Stepped};
use crate::worker::quantized;

/// What the adapter is called in the model.
const NAME: &str = "default";

/// The learning rate of adapters: low, for the peer's are in bf16, and lag behind at higher ones.
const ADAPTER_RATE: f64 = 5e-6;

/// That of DPO: errors of bf16 add up where a loss falls fast.
const DPO_RATE: f64 = 1e-6;

/// That of whole models: so low that parameters in bf16, as the peer has them, hardly lag behind.
const FULL_RATE: f64 = 1e-6;

/// A model in training.
pub(crate) enum Training {
    Ours(Box<Trainer>),
    Dpo(Box<DpoTraining>),
    Burn(Box<BurnTraining>),
}

impl Training {
    /// Loads the model, and the adapter where there is one.
    pub(crate) fn new(wanted: &protocol::Training) -> Result<Self> {
        let rate = match wanted.method {
            Method::Full => FULL_RATE,
            Method::Dpo => DPO_RATE,
            _ => ADAPTER_RATE,
        };
        if wanted.method == Method::BurnQlora {
            let training = BurnTraining::new(&wanted.model, rate)?;
            return Ok(Self::Burn(Box::new(training)));
        }
        let (model, pass) = load(wanted)?;
        let config = TrainConfig {
            learning_rate: rate,
            schedule: Schedule::Constant,
            warmup: Warmup::Steps(0),
            ..TrainConfig::default()
        };
        let even = |_: &str| ParamGroup {
            lr_ratio: 1.0,
            weight_decay: 0.0,
        };
        if wanted.method == Method::Dpo {
            let groups = Box::new(even);
            let training = DpoTraining::new(model, pass, wanted.recompute, config, groups)?;
            return Ok(Self::Dpo(Box::new(training)));
        }
        let options = SftOptions {
            recompute: wanted.recompute,
            ..SftOptions::default()
        };
        let trainer = Trainer::new(model, Sft { pass, options }, config, Box::new(even))?;
        Ok(Self::Ours(Box::new(trainer)))
    }

    /// Takes one optimizer step.
    pub(crate) fn step(&mut self, rows: &Rows) -> Result<Stepped> {
        let begin = Instant::now();
        let loss = match self {
            Self::Ours(trainer) => trainer.train_step(&[batch(rows)])?.loss,
            Self::Dpo(training) => training.step(rows)?,
            Self::Burn(training) => training.step(rows)?,
        };
        let seconds = begin.elapsed().as_secs_f64();
        Ok(Stepped { seconds, loss })
    }
}

fn load(wanted: &protocol::Training) -> Result<(CausalLm, AdapterPass)> {
    let checkpoint = Checkpoint::open(&wanted.model)?;
    let (mut weights, precision) = match wanted.dtype {
        Number::F32 => (DType::F32, Precision::Full),
        Number::Bf16 => (DType::BF16, Precision::Bf16),
    };
    if wanted.method == Method::Full {
        // Updates are far smaller than the steps between 16-bit numbers.
        weights = DType::F32;
    }
    let device = Device::flex().autodiff();
    let mut options = LoadOptions::new(&device, weights, DType::F32).with_precision(precision);
    if wanted.method == Method::Qlora {
        options = options.with_quantize(quantized(Quantization::Nf4));
    }
    let mut model = CausalLm::load(&checkpoint, &options, &mut |_| {})?;
    let pass = match &wanted.adapter {
        None => AdapterPass::default(),
        Some(folder) => {
            load_adapter(&mut model, NAME, folder)?;
            set_trainable(&mut model, &[NAME])?;
            AdapterPass::one(NAME)
        }
    };
    if let Some(layers) = wanted.layers {
        let CausalLm::Decoder(lm) = &mut model else {
            anyhow::bail!("not of the Llama family");
        };
        let all = lm.model.layers.len();
        ensure!(layers <= all, "{layers} layers of {all}");
        lm.model.layers.truncate(layers);
    }
    Ok((model, pass))
}

/// Rows of whole sequences, as one batch.
fn batch(Rows { rows }: &Rows) -> Batch {
    let seq = rows.first().map_or(0, Vec::len);
    let labels = rows.iter().flat_map(|row| {
        let targets = row.iter().skip(1).map(|&id| i64::from(id));
        std::iter::once(IGNORE_INDEX).chain(targets)
    });
    let positions = 0..u32::try_from(seq).unwrap_or(u32::MAX);
    let num_supervised_tokens = rows.len() * seq.saturating_sub(1);
    Batch {
        input_ids: rows.concat(),
        labels: labels.collect(),
        position_ids: rows.iter().flat_map(|_| positions.clone()).collect(),
        segment_ids: None,
        lengths: vec![seq; rows.len()],
        batch: rows.len(),
        seq,
        num_supervised_tokens,
    }
}
