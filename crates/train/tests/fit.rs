//! The loop of a run: its order, its guard, and checkpoints that do not belong to it.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use flametune_data::{
    BatchSampler, BatchSize, ChatTemplate, Collator, Dataset, DatasetOptions, EncodeOptions,
    Encoder, SamplerCursor, SamplerOptions, SourceOptions, Tokenizer,
};
use flametune_lm::CausalLm;
use flametune_peft::save_adapter;
use flametune_testkit::fixture_path;
use flametune_train::fit::{
    Answer, Checkpoints, DataDigest, Ended, FitData, FitEnd, FitHooks, FitObserver, FitOptions,
    FitReport, FitStart, Packing, TrainingRows, fit,
};
use flametune_train::{
    Best, EarlyStopping, Error, EvalReport, Result, Schedule, Sft, StepReport, TrainConfig,
    Trainer, checkpoint,
};
use serde_json::json;
use tempfile::TempDir;

use crate::run::{adapted, config, even};

fn rows(folder: &Path, packing: Packing) -> TrainingRows {
    let data = folder.join("data.jsonl");
    let lines: String = (0..12)
        .map(|n| format!("{{\"instruction\": \"Count {n}\", \"output\": \"one two\"}}\n"))
        .collect();
    fs::write(&data, lines).unwrap();
    let tokenizer = Tokenizer::from_folder(&fixture_path("chat/tokenizer")).unwrap();
    let template = ChatTemplate::builtin("chatml").unwrap();
    let encoder = Encoder::new(tokenizer, Some(template), EncodeOptions::default()).unwrap();
    let source = SourceOptions::new(data.to_str().unwrap());
    let mut dataset = Dataset::open(DatasetOptions::new(vec![source])).unwrap();
    TrainingRows::encode(&mut dataset, &encoder, packing).unwrap()
}

/// Writes down what it is told.
#[derive(Default)]
struct Notes(Vec<String>);

impl FitObserver for Notes {
    fn on_start(&mut self, start: &FitStart) -> Result<()> {
        self.0
            .push(format!("start {} of {}", start.step, start.max_steps));
        Ok(())
    }

    fn on_step(&mut self, report: &StepReport) -> Result<()> {
        self.0.push(format!("step {}", report.step));
        Ok(())
    }

    fn on_eval(&mut self, report: &EvalReport) -> Result<()> {
        self.0.push(format!("eval {}", report.step));
        Ok(())
    }

    fn on_sample(&mut self, step: usize, answer: &Answer) -> Result<()> {
        self.0.push(format!("sample {step} {}", answer.text));
        Ok(())
    }

    fn on_checkpoint(&mut self, step: usize, _path: &Path) -> Result<()> {
        self.0.push(format!("checkpoint {step}"));
        Ok(())
    }

    fn on_warning(&mut self, step: usize, text: &str) -> Result<()> {
        self.0.push(format!("warning {step} {text}"));
        Ok(())
    }

    fn on_finish(&mut self, end: &FitEnd) -> Result<()> {
        self.0.push(format!("finish {} {:?}", end.step, end.ended));
        Ok(())
    }
}

struct Runner {
    folder: TempDir,
    rows: TrainingRows,
    options: FitOptions,
    stop: AtomicBool,
    notes: Notes,
}

impl Runner {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = FitOptions {
            checkpoints: Some(Checkpoints {
                folder: folder.path().join("checkpoints"),
                save_steps: None,
                keep: 1,
            }),
            ..FitOptions::default()
        };
        Self {
            rows: rows(folder.path(), Packing::Off),
            folder,
            options,
            stop: AtomicBool::new(false),
            notes: Notes::default(),
        }
    }

    fn run(&mut self, trainer: &mut Trainer, sample: bool) -> Result<FitReport> {
        let options = SamplerOptions {
            batch_size: BatchSize::Examples(3),
            ..SamplerOptions::default()
        };
        let collator = Collator::new(3, 1).unwrap();
        let evaluation = self.rows.batches(&collator, 6).unwrap();
        let save_model = |model: &CausalLm, to: &Path| Ok(save_adapter(model, "default", to)?);
        let names = trainer.objective().pass.names().join(" ");
        let ask = |_: &CausalLm| {
            let answer = Answer {
                prompt: "who".to_owned(),
                text: names.clone(),
            };
            Ok(vec![answer])
        };
        let data = FitData {
            rows: &self.rows,
            sampler: BatchSampler::new(&self.rows.lengths(), options).unwrap(),
            collator,
            evaluation: &evaluation,
        };
        let mut hooks = FitHooks {
            save_model: &save_model,
            sample: sample.then_some(&ask),
            stop: &self.stop,
            observer: &mut self.notes,
        };
        fit(trainer, data, &self.options, Best::default(), &mut hooks)
    }
}

fn trainer(changes: TrainConfig) -> Trainer {
    let (model, pass) = adapted(false, &json!({}));
    Trainer::new(model, Sft::from(pass), changes, even()).unwrap()
}

fn steps(max_steps: usize) -> TrainConfig {
    TrainConfig {
        max_steps,
        ..config()
    }
}

#[test]
fn things_happen_in_order() {
    let mut runner = Runner::new();
    runner.options.eval_steps = Some(2);
    let report = runner.run(&mut trainer(steps(3)), true).unwrap();
    assert_eq!(
        runner.notes.0,
        [
            "start 0 of 3",
            "eval 0",
            "sample 0 default",
            "step 1",
            "step 2",
            "eval 2",
            "checkpoint 2",
            "step 3",
            "eval 3",
            "checkpoint 3",
            "sample 3 default",
            "finish 3 Finished",
        ]
    );
    assert_eq!((report.ended, report.steps), (Ended::Finished, 3));
    assert!(report.last_eval < report.first_eval);
    assert_eq!(report.best.loss, report.last_eval);
}

#[test]
fn a_run_ends_when_it_is_stopped() {
    let mut runner = Runner::new();
    runner.stop.store(true, Ordering::Relaxed);
    let report = runner.run(&mut trainer(steps(3)), false).unwrap();
    assert_eq!((report.ended, report.steps), (Ended::Interrupted, 0));
    assert_eq!(runner.notes.0.last().unwrap(), "finish 0 Interrupted");
}

#[test]
fn a_run_ends_when_it_no_longer_improves() {
    let mut runner = Runner::new();
    runner.options.eval_steps = Some(1);
    runner.options.early_stopping = Some(EarlyStopping {
        patience: 2,
        threshold: 0.0,
    });
    let still = TrainConfig {
        learning_rate: 0.0,
        ..steps(20)
    };
    let report = runner.run(&mut trainer(still), false).unwrap();
    // The first is the best; two do not improve on it.
    assert_eq!((report.ended, report.steps), (Ended::StoppedEarly, 3));
    assert_eq!(report.best.step, 1);
    let kept = checkpoint::list(&runner.folder.path().join("checkpoints")).unwrap();
    let kept: Vec<usize> = kept.into_iter().map(|(step, _)| step).collect();
    assert_eq!(kept, [1, 3], "the best and the newest");
}

#[test]
fn a_loss_that_is_no_number_names_the_records() {
    let mut runner = Runner::new();
    let diverging = TrainConfig {
        learning_rate: 1e30,
        schedule: Schedule::Constant,
        max_grad_norm: None,
        ..steps(20)
    };
    let mut trainer = trainer(diverging);
    let error = runner.run(&mut trainer, false).unwrap_err();
    let Error::NotFiniteBatch { step, records, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(records.matches("data.jsonl:").count(), 3, "{records}");
    assert_eq!(trainer.steps(), step - 1);
    let kept = checkpoint::list(&runner.folder.path().join("checkpoints")).unwrap();
    assert_eq!(kept.last().unwrap().0, step - 1);
}

#[test]
fn packed_rows_know_their_records() {
    let folder = tempfile::tempdir().unwrap();
    let (single, packed) = (
        rows(folder.path(), Packing::Off),
        rows(folder.path(), Packing::To(128)),
    );
    assert_eq!((single.rows.len(), single.examples()), (12, 12));
    assert!(packed.rows.len() < 12);
    assert_eq!(packed.examples(), 12);
    for (row, records) in packed.rows.iter().zip(&packed.records) {
        assert_eq!(row.segments() as usize, records.len());
    }
    let named = single.name_records(&[vec![0, 1], vec![2]], 2);
    assert!(
        named.contains("data.jsonl:1, ") && named.ends_with("data.jsonl:2 and 1 more"),
        "{named}"
    );
    let digest = |rows: &TrainingRows| DataDigest::new().rows(rows).finish();
    assert_eq!(digest(&single), digest(&rows(folder.path(), Packing::Off)));
    assert_ne!(digest(&single), digest(&packed));
}

#[test]
fn averages_of_another_adapter_are_refused() {
    let mut runner = Runner::new();
    let mut first = trainer(steps(1));
    let report = runner.run(&mut first, false).unwrap();
    let (model, pass) = adapted(false, &json!({"target_modules": ["q_proj"]}));
    let mut other = Trainer::new(model, Sft::from(pass), steps(1), even()).unwrap();
    let error = checkpoint::resume::<_, SamplerCursor>(&mut other, &report.checkpoint.unwrap())
        .unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::OptimizerState { .. }), "{text}");
    assert!(
        text.contains("lora_a: expected none, as it is not trained"),
        "{text}"
    );
}

#[test]
fn averages_of_another_length_are_refused() {
    let mut runner = Runner::new();
    let mut first = trainer(steps(1));
    let report = runner.run(&mut first, false).unwrap();
    let path = report.checkpoint.unwrap();
    let file = path.join("optimizer.safetensors");
    let bytes = fs::read(&file).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    // One number less in every average.
    let shorter: Vec<_> = tensors
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let data = &view.data()[4..];
            let shape = vec![data.len() / 4];
            let view = safetensors::tensor::TensorView::new(view.dtype(), shape, data).unwrap();
            (name, view)
        })
        .collect();
    let damaged = safetensors::serialize(shorter, None).unwrap();
    fs::write(&file, damaged).unwrap();
    let error = checkpoint::resume::<_, SamplerCursor>(&mut trainer(steps(1)), &path).unwrap_err();
    assert!(matches!(error, Error::OptimizerState { .. }), "{error}");
    let said = error.to_string();
    assert!(said.contains("in f32, got "), "{said}");
}
