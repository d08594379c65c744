//! The golden runs: model, adapter and batches as the reference had them.

use std::fs;
use std::path::Path;

use burn::tensor::{Device, TensorData};
use flametune_data::{Batch, IGNORE_INDEX};
use flametune_lm::{CausalLm, Checkpoint, LoadOptions, QuantizeOptions};
use flametune_peft::{AdapterPass, load_adapter, set_trainable};
use flametune_quant::QuantConfig;
use flametune_testkit::{fixture_json, fixture_path, fixture_safetensors};
use flametune_train::optim::{ParamGroup, Rule};
use flametune_train::{Grouping, Schedule, StepReport, TrainConfig, Trainer, Warmup};
use serde_json::{Value, json};

/// The configuration that all golden runs share.
pub(crate) fn config() -> TrainConfig {
    TrainConfig {
        learning_rate: 0.005,
        schedule: Schedule::Cosine { min_lr_rate: 0.0 },
        warmup: Warmup::Steps(3),
        max_steps: 20,
        rule: Rule::default(),
        weight_decay: 0.01,
        max_grad_norm: Some(1.0),
        ..TrainConfig::default()
    }
}

/// One learning rate for all, with the decay of the golden runs.
pub(crate) fn even() -> Grouping {
    Box::new(|_| ParamGroup {
        lr_ratio: 1.0,
        weight_decay: 0.01,
    })
}

/// The base, on a device with autodiff.
pub(crate) fn base(quantized: bool) -> CausalLm {
    let checkpoint = Checkpoint::open(fixture_path("training/base")).unwrap();
    let mut options = LoadOptions::f32(&Device::flex().autodiff());
    if quantized {
        options.quantize = Some(QuantizeOptions::new(QuantConfig::default()));
    }
    CausalLm::load(&checkpoint, &options, &mut |_| {}).unwrap()
}

/// The base with the adapter at its golden start, and with `changes` of its configuration.
pub(crate) fn adapted(quantized: bool, changes: &Value) -> (CausalLm, AdapterPass) {
    let mut config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "target_modules": [
            "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
        ],
    });
    let fields = config.as_object_mut().unwrap();
    fields.extend(changes.as_object().unwrap().clone());
    let dora = fields.get("use_dora") == Some(&json!(true));
    let targets = fields["target_modules"].clone();
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("adapter_config.json"),
        config.to_string(),
    )
    .unwrap();
    write_init(
        &folder.path().join("adapter_model.safetensors"),
        dora,
        &targets,
    );
    let mut model = base(quantized);
    load_adapter(&mut model, "default", folder.path()).unwrap();
    set_trainable(&mut model, &["default"]).unwrap();
    (model, AdapterPass::one("default"))
}

fn write_init(path: &Path, dora: bool, targets: &Value) {
    let tensors = fixture_safetensors("training/init.safetensors");
    let targets = targets.as_array().unwrap();
    let targeted = |name: &str| {
        let mut targets = targets.iter().map(|target| target.as_str().unwrap());
        targets.any(|target| name.contains(&format!(".{target}.")))
    };
    let wanted = |name: &String| targeted(name) && (dora || !name.contains("magnitude"));
    let mut bytes = Vec::new();
    for (name, data) in tensors.iter().filter(|(name, _)| wanted(name)) {
        let values = data.clone().try_to_vec::<f32>().unwrap();
        let values: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        // The file has the name of the parameter, PEFT's adapters the shorter one.
        let name = name.replace("lora_magnitude_vector.weight", "lora_magnitude_vector");
        bytes.push((name, data.shape().to_vec(), values));
    }
    let views = bytes.iter().map(|(name, shape, values)| {
        let dtype = safetensors::Dtype::F32;
        let view = safetensors::tensor::TensorView::new(dtype, shape.clone(), values).unwrap();
        (name, view)
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// Batch `index` of the golden runs.
pub(crate) fn batch(index: usize) -> Batch {
    thread_local! {
        static TENSORS: std::collections::HashMap<String, TensorData> =
            fixture_safetensors("training/batches.safetensors");
    }
    TENSORS.with(|tensors| {
        let numbers = |name: &str| {
            let data = tensors[&format!("{name}.{index}")].clone();
            (data.shape().to_vec(), data.try_to_vec::<i64>().unwrap())
        };
        let (shape, ids) = numbers("input_ids");
        let (_, mask) = numbers("attention_mask");
        let (_, labels) = numbers("labels");
        let (rows, seq) = (shape[0], shape[1]);
        let small = |x: &i64| u32::try_from(*x).unwrap();
        // The first label of a row is no one's target.
        let targets = labels.chunks(seq).flat_map(|row| &row[1..]);
        Batch {
            num_supervised_tokens: targets.filter(|label| **label != IGNORE_INDEX).count(),
            input_ids: ids.iter().map(small).collect(),
            position_ids: (0..rows)
                .flat_map(|_| 0..u32::try_from(seq).unwrap())
                .collect(),
            segment_ids: mask.contains(&0).then(|| mask.iter().map(small).collect()),
            lengths: mask
                .chunks(seq)
                .map(|row| row.iter().filter(|m| **m == 1).count())
                .collect(),
            labels,
            batch: rows,
            seq,
        }
    })
}

/// A step of these batches.
pub(crate) fn step(indices: &[usize]) -> Vec<Batch> {
    indices.iter().map(|&index| batch(index)).collect()
}

/// The 20 steps of a golden run with `accumulation` batches each.
pub(crate) fn run(trainer: &mut Trainer, accumulation: usize) -> Vec<StepReport> {
    (0..20)
        .map(|index| {
            let batches: Vec<usize> = (index * accumulation..(index + 1) * accumulation).collect();
            trainer.train_step(&step(&batches)).unwrap()
        })
        .collect()
}

/// Losses and gradient norms of a golden run.
pub(crate) fn curve(name: &str) -> Vec<(f64, f64)> {
    let file = fixture_json(format!("training/{name}.json"));
    let steps = file["steps"].as_array().unwrap();
    let number = |step: &Value, field: &str| step[field].as_f64().unwrap();
    steps
        .iter()
        .map(|step| (number(step, "loss"), number(step, "grad_norm")))
        .collect()
}
