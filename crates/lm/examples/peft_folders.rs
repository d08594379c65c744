//! Writes a new adapter of every method, and what it computes, for PEFT to load.
//!
//! `cargo run -p flametune-lm --example peft_folders -- FIXTURES OUT`
//!
//! FIXTURES is `fixtures/peft`: for every folder in it with an `adapter_config.json`, an adapter of that
//! configuration is put on its base anew, noise is added to each of its parameters so that all of them
//! show, and `OUT/FOLDER` receives the adapter as this crate saves it and `answers.safetensors` with
//! `logits`, after every token of the fixtures' text, and `logits_merged`, where it can be merged; of a
//! base that was quantized for the adapter also the weights.
//! `fixtures/gen/peft_load_check.py` compares them with what PEFT computes from the same folders.

#![allow(clippy::print_stdout, reason = "a program whose output is its purpose")]
#![allow(
    clippy::disallowed_methods,
    reason = "a program that reads its command line"
)]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor, TensorData};
use flametune_lm::{AdapterPass, CausalLm, Checkpoint, EvaBatch, LoadOptions, TokenBatch};
use flametune_peft::{
    BaseRef, InitLoraWeights, MergeOptions, PeftConfig, SlotModule, Slots, inject,
    merge_and_unload, read_config, save_adapter,
};
use flametune_quant::BaseLinear;

const NAME: &str = "new";

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [fixtures, out] = arguments.as_slice() else {
        return Err("two arguments expected: FIXTURES OUT".into());
    };
    let (fixtures, out) = (Path::new(fixtures), Path::new(out));
    let index: serde_json::Value = serde_json::from_slice(&fs::read(fixtures.join("index.json"))?)?;
    let ids = batch(fixtures)?;
    let mut folders: Vec<_> = fs::read_dir(fixtures)?
        .flatten()
        .map(|e| e.path())
        .collect();
    folders.sort();
    for folder in folders {
        if !folder.join("adapter_config.json").is_file() {
            continue;
        }
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let base = index[name.as_ref()]["base"]
            .as_str()
            .unwrap_or("base_llama");
        let checkpoint = Checkpoint::open(fixtures.join(base))?;
        let mut config = read_config(&folder)?;
        let common = config.common_mut();
        common.inference_mode = false;
        common.base_model_name_or_path = Some(base.to_owned());
        let device = Device::flex();
        let mut model = CausalLm::load(&checkpoint, &LoadOptions::f32(&device), &mut |_| {})?;
        if let Err(error) = begin(&mut model, config, &ids) {
            println!("{name}: not written, {error}");
            continue;
        }
        disturb(&mut model);
        let target = out.join(name.as_ref());
        save_adapter(&model, NAME, &target)?;
        let mut answers = quantized(&mut model);
        let active = logits(&model, &ids, &AdapterPass::one(NAME))?;
        answers.insert("logits".to_owned(), active);
        let merged = match merge_and_unload(&mut model, &[NAME], &MergeOptions::default()) {
            Ok(_) => {
                let merged = logits(&model, &ids, &AdapterPass::default())?;
                answers.insert("logits_merged".to_owned(), merged);
                "and merged".to_owned()
            }
            Err(error) => format!("not merged: {error}"),
        };
        write(&target, &answers)?;
        println!("{name}: written {merged}");
    }
    Ok(())
}

/// The text of the fixtures.
fn batch(fixtures: &Path) -> Result<TokenBatch> {
    let bytes = fs::read(fixtures.join("inputs.safetensors"))?;
    let file = safetensors::SafeTensors::deserialize(&bytes)?;
    let view = file.tensor("input_ids")?;
    let ids = view.data().chunks_exact(8).map(|bytes| {
        let mut id = [0; 8];
        id.copy_from_slice(bytes);
        Ok(u32::try_from(i64::from_le_bytes(id))?)
    });
    let ids = ids.collect::<Result<Vec<u32>>>()?;
    let width = ids.len() / view.shape()[0];
    let rows: Vec<Vec<u32>> = ids.chunks(width).map(<[u32]>::to_vec).collect();
    Ok(TokenBatch::from_rows(&rows)?)
}

fn begin(model: &mut CausalLm, config: PeftConfig, ids: &TokenBatch) -> Result<()> {
    match config {
        PeftConfig::Lora(config) if config.init_lora_weights == InitLoraWeights::Eva => {
            let counts = vec![true; ids.batch() * ids.seq()];
            let batch = ids.clone();
            model.inject_eva(NAME, &config, 11, &[EvaBatch { batch, counts }], 20)?;
        }
        config => inject(model, NAME, &config, 11)?,
    }
    Ok(())
}

/// The weights that `LoftQ` quantized, as the numbers that their codes stand for.
fn quantized(model: &mut CausalLm) -> BTreeMap<String, TensorData> {
    let mut found = BTreeMap::new();
    model.visit_slots(&mut |slot| {
        if let SlotModule::Linear(linear) = slot.module
            && let BaseRef::Own(BaseLinear::Quant(layer)) = linear.base
        {
            let name = format!("base.{}.weight", slot.path);
            found.insert(name, layer.dequantize().into_data());
        }
    });
    found
}

fn logits(model: &CausalLm, ids: &TokenBatch, pass: &AdapterPass) -> Result<TensorData> {
    Ok(model
        .logits(model.forward(ids, None, pass)?, pass)
        .into_data())
}

fn write(folder: &Path, answers: &BTreeMap<String, TensorData>) -> Result<()> {
    let views = answers.iter().map(|(name, data)| {
        let shape = data.shape().to_vec();
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, data.as_bytes())?;
        Ok((name.as_str(), view))
    });
    let views = views.collect::<Result<Vec<_>>>()?;
    fs::write(
        folder.join("answers.safetensors"),
        safetensors::serialize(views, None)?,
    )?;
    Ok(())
}

/// Adds noise to every parameter of the adapter.
fn disturb(model: &mut CausalLm) {
    let mut noise = Noise(0);
    model.visit_slots(&mut |slot| match slot.module {
        SlotModule::Linear(linear) => each(linear.adapters, &mut noise),
        SlotModule::Embedding(table) => each(&mut table.adapters, &mut noise),
        SlotModule::Norm(norm) => each(&mut norm.adapters, &mut noise),
        SlotModule::Prompt(prompt) => each(prompt.adapters, &mut noise),
        SlotModule::Sublayer(sublayer) => each(sublayer.adapters, &mut noise),
        SlotModule::Vector(_) => {}
    });
}

fn each<M: Module>(parts: &mut [M], noise: &mut Noise) {
    for part in parts {
        *part = part.clone().map(noise);
    }
}

/// Numbers in ±0.1 that look random and are the same every time.
struct Noise(u64);

impl ModuleMapper for Noise {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let shape = param.dims();
        let count: usize = shape.iter().product();
        let numbers: Vec<f32> = (0..count)
            .map(|_| {
                self.0 += 1;
                let mixed = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (self.0 << 7);
                let unit = f32::from(u16::try_from(mixed >> 48).unwrap_or(0)) / 65536.0;
                0.2 * unit - 0.1
            })
            .collect();
        param.map(|old| {
            let place = (&old.device(), old.dtype());
            let noise = Tensor::from_data(TensorData::new(numbers, shape), place);
            (old + noise).detach()
        })
    }
}
