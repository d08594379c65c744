//! Virtual tokens against the numbers of PEFT, and what must be true of them in any batch.

use std::fs;
use std::path::Path;

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData, activation};
use flametune_lm::{AdapterPass, AdapterSelection, CausalLm, Error, TokenBatch};
use flametune_peft::{
    LoraConfig, MergeOptions, PeftConfig, PrefixInit, PrefixTuningConfig, PromptEncoder,
    PromptTuningConfig, PromptTuningInit, SlotModule, Slots, TargetModules, VirtualTokenConfig,
    adapter_tensors, inject, load_adapter, merge, read_config, remove, rename, report,
    save_adapter, set_trainable,
};
use flametune_testkit::{Tolerance, assert_close, fixture_path, fixture_safetensors};

use crate::adapters::{adapted, index, last3, model, tolerance};
use crate::models::{base, floats, values};

const ADAPTERS: &[&str] = &[
    "prompt_tuning",
    "prefix_tuning",
    "prefix_tuning_projection",
    "p_tuning_mlp",
    "p_tuning_lstm",
];

#[test]
fn logits_match_peft() {
    let inputs = fixture_safetensors("peft/inputs.safetensors");
    for adapter in ADAPTERS {
        let golden = fixture_safetensors(format!("peft/{adapter}/golden.safetensors"));
        let model = adapted(adapter, &Device::flex());
        let got = last3(&model, &AdapterPass::one("golden"));
        assert_close(&got, &floats(&golden["logits_last3"]), tolerance(), adapter);
        let expected = floats(&inputs["logits_base_llama"]);
        assert_close(&last3(&model, &base()), &expected, tolerance(), "disabled");
    }
}

/// The configuration of a golden adapter as it was before training.
fn training_config(adapter: &str) -> PeftConfig {
    let mut config = read_config(fixture_path(format!("peft/{adapter}"))).unwrap();
    config.common_mut().inference_mode = false;
    config
}

#[test]
fn parameter_counts_match_peft() {
    for adapter in ADAPTERS {
        let mut model = model("base_llama", &Device::flex());
        inject(&mut model, "new", &training_config(adapter), 1).unwrap();
        let (counted, expected) = (report(&model), index(adapter));
        let count = |field: &str| expected[field].as_u64();
        assert_eq!(
            Some(counted.trainable as u64),
            count("trainable"),
            "{adapter}"
        );
        assert_eq!(Some(counted.total as u64), count("total"), "{adapter}");
        set_trainable(&mut model, &[]).unwrap();
        assert_eq!(report(&model).trainable, 0);
    }
}

#[test]
fn saving_again_gives_the_same_bytes() {
    for adapter in ADAPTERS {
        let folder = tempfile::tempdir().unwrap();
        let model = adapted(adapter, &Device::flex());
        save_adapter(&model, "golden", folder.path()).unwrap();
        let golden = fixture_path(format!("peft/{adapter}"));
        for file in ["adapter_model.safetensors", "adapter_config.json"] {
            let read = |root: &Path| fs::read(root.join(file)).unwrap();
            assert!(read(folder.path()) == read(&golden), "{adapter}: {file}");
        }
    }
}

#[test]
fn what_an_encoder_computes_is_what_is_stored_and_loaded() {
    for adapter in ADAPTERS {
        let mut first = model("base_llama", &Device::flex());
        inject(&mut first, "new", &training_config(adapter), 7).unwrap();
        let folder = tempfile::tempdir().unwrap();
        save_adapter(&first, "new", folder.path()).unwrap();
        let mut second = model("base_llama", &Device::flex());
        load_adapter(&mut second, "again", folder.path()).unwrap();
        assert_eq!(report(&second).trainable, 0, "loaded adapters are frozen");
        assert_eq!(
            last3(&first, &AdapterPass::one("new")),
            last3(&second, &AdapterPass::one("again")),
            "{adapter}"
        );
    }
}

fn tokens(count: usize) -> VirtualTokenConfig {
    VirtualTokenConfig {
        num_virtual_tokens: Some(count),
        ..VirtualTokenConfig::default()
    }
}

fn prompt(count: usize) -> PeftConfig {
    PromptTuningConfig {
        tokens: tokens(count),
        ..PromptTuningConfig::default()
    }
    .into()
}

fn prefix(count: usize) -> PeftConfig {
    PrefixTuningConfig {
        tokens: tokens(count),
        ..PrefixTuningConfig::default()
    }
    .into()
}

fn lora() -> PeftConfig {
    LoraConfig {
        r: 2,
        target_modules: Some(TargetModules::AllLinear),
        init_lora_weights: flametune_peft::InitLoraWeights::Random,
        ..LoraConfig::default()
    }
    .into()
}

/// A model with adapters of every kind and of several lengths.
fn several(base: &str, device: &Device) -> CausalLm {
    let mut model = model(base, device);
    for (name, config) in [
        ("prompt3", prompt(3)),
        ("prompt1", prompt(1)),
        ("prefix4", prefix(4)),
        ("prefix2", prefix(2)),
        ("lora", lora()),
    ] {
        inject(&mut model, name, &config, name.len() as u64).unwrap();
    }
    model
}

const ROWS: [&str; 6] = ["prompt3", "", "prefix4", "prompt1", "lora", "prefix2"];

fn mixed(rows: &[&str]) -> AdapterPass {
    let named = |name: &&str| (!name.is_empty()).then(|| (*name).to_owned());
    AdapterPass::new(AdapterSelection::PerRow(rows.iter().map(named).collect()))
}

/// Rows of different lengths.
fn sequences() -> Vec<Vec<u32>> {
    let row = |index: u32| {
        (0..4 + index % 3)
            .map(|at| 3 + 11 * at + 7 * index)
            .collect()
    };
    (0..6).map(row).collect()
}

fn alone(model: &CausalLm, name: &str, tokens: &[u32]) -> Tensor<3> {
    let pass = match name {
        "" => base(),
        name => AdapterPass::one(name),
    };
    let batch = TokenBatch::from_rows(&[tokens.to_vec()]).unwrap();
    let hidden = model.forward(&batch, None, &pass).unwrap();
    assert_eq!(hidden.dims()[1], tokens.len(), "tokens alone");
    model.logits(hidden, &pass)
}

/// f32 sums in another order, as products of more rows have it.
fn close() -> Tolerance {
    Tolerance::rel_abs(2e-5, 2e-5)
}

#[test]
fn a_row_computes_the_same_in_any_company_and_padding() {
    for name in ["base_llama", "base_gpt2"] {
        let model = several(name, &Device::flex());
        let (rows, pass) = (sequences(), mixed(&ROWS));
        for left in [true, false] {
            let batch = match left {
                true => TokenBatch::left_padded(&rows, 0),
                false => TokenBatch::right_padded(&rows, 0),
            };
            let batch = batch.unwrap();
            let logits = model.logits(model.forward(&batch, None, &pass).unwrap(), &pass);
            for (index, (row, adapter)) in rows.iter().zip(ROWS).enumerate() {
                let begin = if left { batch.seq() - row.len() } else { 0 };
                let own = logits
                    .clone()
                    .narrow(0, index, 1)
                    .narrow(1, begin, row.len());
                let expected = values(alone(&model, adapter, row));
                let what = format!("{name}: row {index} ({adapter}), left {left}");
                assert_close(&values(own), &expected, close(), &what);
            }
        }
    }
}

#[test]
fn cached_decoding_equals_the_full_forward() {
    for name in ["base_llama", "base_gpt2"] {
        let model = several(name, &Device::flex());
        let (rows, pass) = (sequences(), mixed(&ROWS));
        let batch = TokenBatch::left_padded(&rows, 0).unwrap();
        let seq = batch.seq();
        let full = values(
            model
                .forward(&batch, None, &pass)
                .unwrap()
                .narrow(1, seq - 1, 1),
        );
        let columns = |range: std::ops::Range<usize>| {
            let pick = |all: &[u32]| -> Vec<Vec<u32>> {
                all.chunks(seq)
                    .map(|row| row[range.clone()].to_vec())
                    .collect()
            };
            let part = TokenBatch::from_rows(&pick(batch.input_ids())).unwrap();
            part.with_segment_ids(pick(batch.segment_ids().unwrap()).concat())
                .unwrap()
        };
        // The room that the caller asks for is that of the tokens.
        let mut cache = model.new_cache(rows.len(), seq);
        model
            .forward(&columns(0..1), Some(&mut cache), &pass)
            .unwrap();
        model
            .forward(&columns(1..3), Some(&mut cache), &pass)
            .unwrap();
        // Rows may leave and change places in between.
        let order = [5, 0, 2, 3, 1, 4];
        cache.select_rows(&order);
        let pass = pass.select_rows(&order);
        let reorder = |batch: TokenBatch| {
            let width = batch.seq();
            let take = |ids: &[u32]| -> Vec<Vec<u32>> {
                let row = |&row: &usize| ids[row * width..(row + 1) * width].to_vec();
                order.iter().map(row).collect()
            };
            let segments = take(batch.segment_ids().unwrap()).concat();
            let part = TokenBatch::from_rows(&take(batch.input_ids())).unwrap();
            part.with_segment_ids(segments).unwrap()
        };
        let mut last = Vec::new();
        for at in 3..seq {
            let step = reorder(columns(at..at + 1));
            last = values(model.forward(&step, Some(&mut cache), &pass).unwrap());
        }
        let width = full.len() / rows.len();
        for (place, &row) in order.iter().enumerate() {
            let range = |at: usize| at * width..(at + 1) * width;
            assert_close(&last[range(place)], &full[range(row)], close(), name);
        }
    }
}

#[test]
fn a_prompt_of_embeddings_is_the_text_itself() {
    for name in ["base_llama", "base_gpt2"] {
        let mut model = model(name, &Device::flex());
        let config = PromptTuningConfig {
            tokens: tokens(3),
            prompt_tuning_init: PromptTuningInit::Text,
            prompt_tuning_init_text: Some("three tokens".to_owned()),
            init_token_ids: Some(vec![17, 40]),
            ..PromptTuningConfig::default()
        };
        inject(&mut model, "text", &config.into(), 0).unwrap();
        let text = alone(&model, "", &[17, 40, 17, 5, 6, 7]).narrow(1, 3, 3);
        let got = alone(&model, "text", &[5, 6, 7]);
        assert_close(&values(got), &values(text), close(), name);
    }
}

#[test]
fn a_prefix_of_the_texts_keys_and_values_is_the_text() {
    // GPT-2's keys carry no rotation, so those of a text can be computed by its own weights.
    let mut model = model("base_gpt2", &Device::flex());
    inject(&mut model, "a", &prefix(2), 0).unwrap();
    let CausalLm::Gpt2(lm) = &model else {
        panic!("GPT-2")
    };
    let batch = TokenBatch::from_rows(&[vec![17, 40]]).unwrap();
    let mut tables = Vec::new();
    let mut inputs = Vec::new();
    let model_states = lm
        .transformer
        .forward(&batch, None, &base(), &mut |_, state| {
            inputs.push(state.clone());
            state
        });
    model_states.unwrap();
    for (block, state) in lm.transformer.h.iter().zip(inputs) {
        let normed = block.ln_1.forward(state, &base());
        let qkv = block.attn.c_attn.forward(normed, &base());
        let width = qkv.dims()[2] / 3;
        tables.push(qkv.narrow(2, width, 2 * width));
    }
    let table = Tensor::cat(tables, 2);
    let [_, rows, width] = table.dims();
    set_table(&mut model, "a", table.reshape([rows, width]));
    let got = alone(&model, "a", &[5, 6, 7]);
    let text = alone(&model, "", &[17, 40, 5, 6, 7]).narrow(1, 2, 3);
    assert_close(&values(got), &values(text), close(), "prefix of a text");
}

fn with_prompt(model: &mut CausalLm, change: impl FnOnce(&mut PromptEncoder), name: &str) {
    let mut change = Some(change);
    model.visit_slots(&mut |slot| {
        if let SlotModule::Prompt(prompt) = slot.module {
            for part in prompt.adapters.iter_mut().filter(|part| part.name == name) {
                if let Some(change) = change.take() {
                    change(&mut part.method.encoder);
                }
            }
        }
    });
}

fn set_table(model: &mut CausalLm, name: &str, table: Tensor<2>) {
    let change = |encoder: &mut PromptEncoder| match encoder {
        PromptEncoder::Table(old) => old.embedding = Param::from_tensor(table),
        other => panic!("a table, got {other:?}"),
    };
    with_prompt(model, change, name);
}

#[test]
fn gradients_reach_the_virtual_tokens_and_nothing_else() {
    for (name, config) in [("base_llama", prompt(2)), ("base_gpt2", prefix(2))] {
        let device = Device::flex().autodiff();
        let mut model = model(name, &device);
        inject(&mut model, "a", &config, 1).unwrap();
        let data = adapter_tensors(&model, "a").unwrap()["prompt_embeddings"].clone();
        let [rows, width]: [usize; 2] = data.shape().to_vec().try_into().unwrap();
        let numbers = floats(&data);
        let loss = |model: &CausalLm| {
            let logits = alone(model, "a", &[5, 6, 7]);
            activation::log_softmax(logits, 2).narrow(2, 5, 1).sum()
        };
        let tensor = |numbers: &[f32]| {
            let data = TensorData::new(numbers.to_vec(), [rows, width]);
            Tensor::<2>::from_data(data, &device)
        };
        let table = tensor(&numbers).require_grad();
        set_table(&mut model, "a", table.clone());
        let gradients = loss(&model).backward();
        let norms = crate::gradients::adapter_norms(&mut model, "a", &gradients);
        assert_eq!(norms.len(), 1, "{name}: {norms:?}");
        let gradient = values(table.grad(&gradients).unwrap());
        for at in [0, 1, width / 2, width, rows * width - 1] {
            let mut moved = |by: f32| {
                let mut numbers = numbers.clone();
                numbers[at] += by;
                set_table(&mut model, "a", tensor(&numbers));
                f64::from(loss(&model).into_scalar::<f32>())
            };
            let difference = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            // Errors of f32 losses of order ten over the step: 1e-6 · 10 / 2e-2.
            let error = (difference - f64::from(gradient[at])).abs();
            assert!(
                error < 1e-3,
                "{name}: element {at}: {difference} and {}",
                gradient[at]
            );
        }
    }
}

#[test]
fn gradients_of_a_prefix_match_peft() {
    let device = Device::flex().autodiff();
    let mut model = adapted("prefix_tuning", &device);
    set_trainable(&mut model, &["golden"]).unwrap();
    let pass = AdapterPass::one("golden");
    let logits = crate::adapters::logits(&model, &pass);
    let loss = activation::log_softmax(logits, 2).narrow(2, 5, 1).mean();
    let norms = crate::gradients::adapter_norms(&mut model, "golden", &loss.backward());
    let expected =
        index("prefix_tuning")["adapter_grad_norms"]["prompt_encoder.default.embedding.weight"]
            .as_f64()
            .unwrap();
    let got = norms["base_model.model.prompt_encoder.embedding"];
    assert!(
        (got - expected).abs() < 1e-4 * expected,
        "{got} and {expected}"
    );
}

#[test]
fn initialisations_and_names() {
    let mut model = model("base_llama", &Device::flex());
    let vocabulary = PromptTuningConfig {
        tokens: tokens(4),
        prompt_tuning_init: PromptTuningInit::SampleVocab,
        ..PromptTuningConfig::default()
    };
    inject(&mut model, "v", &vocabulary.into(), 3).unwrap();
    let CausalLm::Decoder(lm) = &model else {
        panic!("a decoder")
    };
    let embedding = values(lm.model.embed_tokens.weight.val());
    let table = floats(&adapter_tensors(&model, "v").unwrap()["prompt_embeddings"]);
    for row in table.chunks(64) {
        assert!(embedding.chunks(64).any(|token| token == row));
    }
    let zero = PrefixTuningConfig {
        tokens: tokens(2),
        init_weights: Some(PrefixInit::Zero),
        prefix_projection: true,
        ..PrefixTuningConfig::default()
    };
    inject(&mut model, "z", &zero.into(), 3).unwrap();
    let table = floats(&adapter_tensors(&model, "z").unwrap()["prompt_embeddings"]);
    assert!(table.iter().all(|&x| x == 0.0));
    // Resolved as PEFT resolves it: keys of grouped-query models are narrower.
    let PeftConfig::PrefixTuning(config) = model.adapters().config("z").unwrap().as_ref() else {
        panic!("prefix tuning")
    };
    assert_eq!(config.tokens.token_dim, Some(32));
    assert_eq!(config.tokens.num_attention_heads, Some(2));
    assert_eq!(config.tokens.num_layers, Some(2));
    assert_eq!(config.encoder_hidden_size, Some(32));
    let before = last3(&model, &AdapterPass::one("z"));
    rename(&mut model, "z", "y").unwrap();
    assert_eq!(last3(&model, &AdapterPass::one("y")), before);
    remove(&mut model, "y").unwrap();
    assert_eq!(model.virtual_tokens(&AdapterPass::one("v")), 4);
    assert_eq!(model.virtual_tokens(&base()), 0);
}

#[test]
fn what_cannot_be_is_refused() {
    let mut model = several("base_llama", &Device::flex());
    let batch = TokenBatch::from_rows(&[vec![1, 2, 3]]).unwrap();
    let both = ["prompt3", "prefix4"].map(str::to_owned).to_vec();
    let both = AdapterPass::new(AdapterSelection::All(both));
    let error = model.forward(&batch, None, &both).unwrap_err().to_string();
    assert_eq!(
        error,
        "adapters `prompt3` and `prefix4` both have virtual tokens, and a row takes one of them"
    );
    let with_lora = ["prompt3", "lora"].map(str::to_owned).to_vec();
    let with_lora = AdapterPass::new(AdapterSelection::All(with_lora));
    model.forward(&batch, None, &with_lora).unwrap();
    let packed = batch.clone().with_segment_ids(vec![1, 1, 2]).unwrap();
    let pass = AdapterPass::one("prompt3");
    let error = model.forward(&packed, None, &pass).unwrap_err();
    assert!(
        matches!(error, Error::PackedPrompt { row: 0, segment: 2 }),
        "{error}"
    );
    model.forward(&packed, None, &base()).unwrap();
    for name in ["prompt3", "prefix4"] {
        let error = merge(&mut model, &[name], &MergeOptions::default()).unwrap_err();
        assert!(error.to_string().contains("cannot be merged"), "{error}");
    }
    let refused = |config: PeftConfig| {
        let mut model = crate::adapters::model("base_llama", &Device::flex());
        inject(&mut model, "a", &config, 0).unwrap_err().to_string()
    };
    assert_eq!(
        refused(prompt(0)),
        "num_virtual_tokens must be at least 1, got 0"
    );
    let mut config = PrefixTuningConfig {
        tokens: tokens(2),
        ..PrefixTuningConfig::default()
    };
    assert_eq!(
        refused(PromptTuningConfig::default().into()),
        "num_virtual_tokens must be given"
    );
    config.tokens.token_dim = Some(64);
    assert_eq!(
        refused(config.clone().into()),
        "token_dim must be the model's 32, got 64"
    );
    config.tokens.modules_to_save = Some(vec!["lm_head".to_owned()]);
    assert!(
        refused(config.clone().into()).starts_with("modules_to_save = lm_head is not supported")
    );
    config.tokens.modules_to_save = None;
    config.tokens.num_transformer_submodules = Some(2);
    assert!(refused(config.into()).starts_with("num_transformer_submodules = 2"));
    let text = PromptTuningConfig {
        tokens: tokens(2),
        prompt_tuning_init: PromptTuningInit::Text,
        prompt_tuning_init_text: Some("x".to_owned()),
        init_token_ids: Some(vec![100_000]),
        ..PromptTuningConfig::default()
    };
    assert_eq!(
        refused(text.into()),
        "init_token_ids must be ids below 272, got 100000"
    );
}

#[test]
fn files_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let golden = fixture_path("peft/prompt_tuning");
    let weights = "adapter_model.safetensors";
    fs::copy(golden.join(weights), folder.path().join(weights)).unwrap();
    let config = fs::read_to_string(golden.join("adapter_config.json")).unwrap();
    let config = config.replace(
        "\"num_virtual_tokens\": 5",
        "\"num_virtual_tokens\": 900000000000",
    );
    fs::write(folder.path().join("adapter_config.json"), config).unwrap();
    let mut llama = model("base_llama", &Device::flex());
    let error = load_adapter(&mut llama, "a", folder.path()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("tensor `prompt_embeddings` must have shape [900000000000, 64], got [5, 64]"),
        "{error}"
    );
    assert_eq!(llama.adapters().names().count(), 0);
}
