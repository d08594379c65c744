//! Predicts the memory of fine-tuning a model with LoRA, takes two steps, and shows both.
//!
//! ```text
//! cargo run --release --example memory_plan -- MODEL_FOLDER [batch] [seq] [recompute]
//! ```

use burn::tensor::Device;
use flametune_data::Batch;
use flametune_lm::{AdapterPass, CausalLm, Checkpoint, DecoderConfig, LoadOptions};
use flametune_peft::{LoraConfig, PeftConfig, TargetModules, inject, report};
use flametune_train::optim::ParamGroup;
use flametune_train::plan::{LowRank, Measured, ModelShape, Plan, Settings, Storage, Trained};
use flametune_train::record::Memory;
use flametune_train::{Sft, SftOptions, TrainConfig, Trainer};

#[expect(clippy::print_stdout, reason = "an example shows its result")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, sizes @ ..] = arguments.as_slice() else {
        return Err("usage: memory_plan MODEL_FOLDER [batch] [seq] [recompute]".into());
    };
    let number = |index: usize, default: usize| match sizes.get(index) {
        Some(text) => text.parse(),
        None => Ok(default),
    };
    let (batch, seq) = (number(0, 4)?, number(1, 256)?);
    let recompute = sizes.get(2).is_some();
    let before = Memory::now().map_or(0, |memory| memory.rss_bytes);

    let checkpoint = Checkpoint::open(folder)?;
    let shape = ModelShape::of(&DecoderConfig::read(checkpoint.config())?)?;
    let options = LoadOptions::f32(&Device::flex().autodiff());
    let mut model = CausalLm::load(&checkpoint, &options, &mut |_| {})?;
    let lora = LoraConfig {
        r: 16,
        target_modules: Some(TargetModules::AllLinear),
        ..LoraConfig::default()
    };
    inject(&mut model, "default", &PeftConfig::Lora(lora), 0)?;
    let report = report(&model);
    let loaded = Memory::now().map_or(0, |memory| memory.rss_bytes);

    let config = TrainConfig::default();
    let plan = Plan::of(
        &shape,
        &Settings {
            storage: Storage::Dense { bytes: 4 },
            trained: Trained::LowRank(LowRank::of_report(&report, &shape)),
            rule: config.rule,
            batch,
            seq,
            accumulation: 1,
            supervised: 1.0,
            recompute,
            paged_states: false,
            program_bytes: before,
        },
    );
    println!("{plan}\n");

    let group = |_: &str| ParamGroup {
        lr_ratio: 1.0,
        weight_decay: 0.0,
    };
    let objective = Sft {
        pass: AdapterPass::one("default"),
        options: SftOptions {
            recompute,
            ..SftOptions::default()
        },
    };
    let mut trainer = Trainer::new(model, objective, config, Box::new(group))?;
    let (tokens, row) = (u32::try_from(batch * seq)?, u32::try_from(seq)?);
    for index in 0..2 {
        let ids: Vec<u32> = (0..tokens).map(|id| (id * 7 + index) % 1000).collect();
        let filled = Batch {
            labels: ids.iter().map(|id| i64::from(*id)).collect(),
            position_ids: (0..batch).flat_map(|_| 0..row).collect(),
            segment_ids: None,
            lengths: vec![seq; batch],
            num_supervised_tokens: batch * (seq - 1),
            input_ids: ids,
            batch,
            seq,
        };
        let report = trainer.train_step(&[filled])?;
        println!("step {}: {:.1} s", report.step, report.seconds);
    }
    let peak = Memory::now().map_or(0, |memory| memory.peak_bytes);
    let measured = Measured::peak(&plan, peak);
    println!(
        "{}",
        measured.with(&plan, "base weights", loaded.saturating_sub(before))
    );
    Ok(())
}
