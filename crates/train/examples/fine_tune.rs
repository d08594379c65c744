//! Fine-tunes a model with LoRA on instructions, and writes a PEFT adapter.
//!
//! ```text
//! cargo run --release --example fine_tune -- MODEL_FOLDER DATA OUTPUT [steps]
//! ```
//!
//! The model folder holds `config.json`, weights and a tokenizer with a chat template; the data is
//! any file that `flametune data check` understands.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use burn::tensor::Device;
use flametune_data::{
    BatchSampler, BatchSize, ChatTemplate, Collator, Dataset, DatasetOptions, EncodeOptions,
    Encoder, SamplerOptions, Side, SourceOptions, Split, SplitBy, Tokenizer,
};
use flametune_lm::{AdapterPass, CausalLm, Checkpoint, LoadOptions};
use flametune_peft::{LoraConfig, PeftConfig, TargetModules, inject, report, save_adapter};
use flametune_train::fit::{
    Checkpoints, FitData, FitHooks, FitObserver, FitOptions, Packing, TrainingRows, fit,
};
use flametune_train::optim::groups;
use flametune_train::{Best, EvalReport, Result, Sft, StepReport, TrainConfig, Trainer};

const ADAPTER: &str = "default";

/// Tells what happens on the terminal.
struct Terminal;

#[expect(clippy::print_stdout, reason = "an example shows what it does")]
impl FitObserver for Terminal {
    fn on_step(&mut self, step: &StepReport) -> Result<()> {
        println!("step {:4}  loss {:.4}", step.step, step.loss);
        Ok(())
    }

    fn on_eval(&mut self, eval: &EvalReport) -> Result<()> {
        let perplexity = eval.perplexity();
        println!(
            "validation loss {:.4}, perplexity {perplexity:.2}",
            eval.loss
        );
        Ok(())
    }
}

/// The records of one side of the data, as rows of ids.
fn rows(data: &str, side: Side, encoder: &Encoder) -> Result<TrainingRows> {
    let mut options = DatasetOptions::new(vec![SourceOptions::new(data)]);
    options.split = Some(Split {
        validation: 0.1,
        seed: 0,
        by: SplitBy::Record,
    });
    options.side = Some(side);
    TrainingRows::encode(&mut Dataset::open(options)?, encoder, Packing::Off)
}

#[expect(clippy::print_stdout, reason = "an example shows its result")]
fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, data, output, rest @ ..] = arguments.as_slice() else {
        return Err("usage: fine_tune MODEL_FOLDER DATA OUTPUT [steps]".into());
    };
    let max_steps = rest.first().map_or(Ok(20), |steps| steps.parse())?;

    // Text: records become ids, and labels for what the assistant says.
    let tokenizer = Tokenizer::from_folder(Path::new(folder))?;
    let template = match ChatTemplate::from_folder(Path::new(folder))? {
        Some(template) => template,
        None => ChatTemplate::builtin("chatml")?,
    };
    let collator = Collator::for_tokenizer(&tokenizer, 8)?;
    let encoder = Encoder::new(tokenizer, Some(template), EncodeOptions::default())?;
    let training = rows(data, Side::Train, &encoder)?;
    let evaluation = rows(data, Side::Validation, &encoder)?.batches(&collator, 4)?;

    // Model: the base is frozen, the adapter is trained.
    let options = LoadOptions::f32(&Device::flex().autodiff());
    let mut model = CausalLm::load(&Checkpoint::open(folder)?, &options, &mut |_| {})?;
    let lora = LoraConfig {
        r: 8,
        target_modules: Some(TargetModules::AllLinear),
        ..LoraConfig::default()
    };
    inject(&mut model, ADAPTER, &PeftConfig::Lora(lora), 0)?;
    println!("{}", report(&model));

    // Run: everything that can be chosen has a default.
    let config = TrainConfig {
        max_steps,
        ..TrainConfig::default()
    };
    let objective = Sft::from(AdapterPass::one(ADAPTER));
    let mut trainer = Trainer::new(model, objective, config, groups(0.0, 1.0))?;
    let sampling = SamplerOptions {
        batch_size: BatchSize::Examples(4),
        ..SamplerOptions::default()
    };
    let feed = FitData {
        rows: &training,
        sampler: BatchSampler::new(&training.lengths(), sampling)?,
        collator,
        evaluation: &evaluation,
    };
    let options = FitOptions {
        checkpoints: Some(Checkpoints {
            folder: Path::new(output).join("checkpoints"),
            save_steps: None,
            keep: 1,
        }),
        ..FitOptions::default()
    };
    let mut hooks = FitHooks {
        save_model: &|model: &CausalLm, to: &Path| Ok(save_adapter(model, ADAPTER, to)?),
        sample: None,
        stop: &AtomicBool::new(false),
        observer: &mut Terminal,
    };
    fit(&mut trainer, feed, &options, Best::default(), &mut hooks)?;
    save_adapter(trainer.model(), ADAPTER, output)?;
    println!("the adapter is in {output}");
    Ok(())
}
