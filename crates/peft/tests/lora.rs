//! LoRA, rsLoRA and DoRA.

use burn::tensor::{DType, Device};
use flametune_peft::{
    AdapterPass, BiasMode, EvaInit, InitLoraWeights, LoftqConfig, LoraConfig, PeftConfig,
    TargetModules, inject,
};
use flametune_testkit::{fixture_json, max_difference};

use crate::tiny::{INNER, Tiny, VOCAB, WIDTH};

const BLOCKS: usize = 2;

/// LoRA with a scaling of 3 on every linear layer of the blocks.
fn plain() -> LoraConfig {
    LoraConfig {
        r: 2,
        lora_alpha: 6.0,
        target_modules: Some(TargetModules::AllLinear),
        ..LoraConfig::default()
    }
}

/// Each block has two layers into the MLP and one out of it.
fn factors(r: usize) -> usize {
    BLOCKS * 3 * r * (WIDTH + INNER)
}

adapter_suite!(lora, plain, factors(2));

fn rslora() -> LoraConfig {
    LoraConfig {
        use_rslora: true,
        lora_dropout: 0.3,
        ..plain()
    }
}
adapter_suite!(rslora_with_dropout, rslora, factors(2));

fn dora() -> LoraConfig {
    LoraConfig {
        use_dora: true,
        lora_dropout: 0.2,
        ..plain()
    }
}
adapter_suite!(
    dora_with_dropout,
    dora,
    factors(2) + BLOCKS * (2 * INNER + WIDTH)
);

fn everywhere() -> LoraConfig {
    LoraConfig {
        target_modules: Some(TargetModules::list(["up_proj", "embed_tokens", "lm_head"])),
        ..plain()
    }
}
adapter_suite!(
    lora_on_embedding_and_head,
    everywhere,
    BLOCKS * 2 * (WIDTH + INNER) + 2 * 2 * (VOCAB + WIDTH)
);

fn dora_everywhere() -> LoraConfig {
    LoraConfig {
        use_dora: true,
        ..everywhere()
    }
}
adapter_suite!(
    dora_on_embedding_and_head,
    dora_everywhere,
    BLOCKS * (2 * (WIDTH + INNER) + INNER) + 2 * 2 * (VOCAB + WIDTH) + WIDTH + VOCAB
);

fn biases_and_copies() -> LoraConfig {
    LoraConfig {
        target_modules: Some(TargetModules::list(["up_proj"])),
        bias: BiasMode::All,
        modules_to_save: Some(vec!["lm_head".to_owned(), "norm".to_owned()]),
        ..plain()
    }
}
adapter_suite!(
    lora_with_trained_biases_and_copies,
    biases_and_copies,
    BLOCKS * (2 * (WIDTH + INNER) + INNER + WIDTH + WIDTH) + WIDTH * VOCAB + 2 * WIDTH
);

fn bias_of_b() -> LoraConfig {
    LoraConfig {
        target_modules: Some(TargetModules::list(["up_proj", "down_proj"])),
        lora_bias: true,
        bias: BiasMode::LoraOnly,
        ..plain()
    }
}
adapter_suite!(
    lora_with_bias_of_b,
    bias_of_b,
    BLOCKS * (2 * 2 + 2) * (WIDTH + INNER)
);

fn pissa() -> LoraConfig {
    LoraConfig {
        init_lora_weights: InitLoraWeights::Pissa,
        ..plain()
    }
}
adapter_suite!(lora_from_singular_vectors, pissa, factors(2));

fn olora() -> LoraConfig {
    LoraConfig {
        init_lora_weights: InitLoraWeights::Olora,
        use_dora: true,
        ..plain()
    }
}
adapter_suite!(
    dora_from_qr,
    olora,
    factors(2) + BLOCKS * (2 * INNER + WIDTH)
);

fn pissa_niter() -> LoraConfig {
    LoraConfig {
        init_lora_weights: InitLoraWeights::PissaNiter(4),
        ..plain()
    }
}
adapter_suite!(lora_from_subspace_iterations, pissa_niter, factors(2));

#[test]
fn every_init_but_random_starts_at_the_base_and_depends_on_the_seed() {
    for init in [
        InitLoraWeights::Kaiming,
        InitLoraWeights::Gaussian,
        InitLoraWeights::Orthogonal,
        InitLoraWeights::Random,
    ] {
        let config = LoraConfig {
            init_lora_weights: init.clone(),
            ..plain()
        };
        let mut model = Tiny::new(&Device::flex(), DType::F32);
        let expected = model.values(&AdapterPass::default());
        inject(&mut model, "a", &config.clone().into(), 1).unwrap();
        let difference = max_difference(&model.values(&AdapterPass::one("a")), &expected);
        assert_eq!(
            difference > 1e-3,
            init == InitLoraWeights::Random,
            "{init:?}: {difference}"
        );
        let tensors = |seed| {
            let mut model = Tiny::new(&Device::flex(), DType::F32);
            inject(&mut model, "a", &config.clone().into(), seed).unwrap();
            flametune_peft::adapter_tensors(&model, "a").unwrap()
        };
        assert_eq!(tensors(5), tensors(5));
        assert_ne!(tensors(5), tensors(6));
    }
}

#[test]
fn defaults_and_fields_are_those_of_peft() {
    let golden = fixture_json("peft/lora/adapter_config.json");
    let default = PeftConfig::from(LoraConfig::default()).to_json();
    let (golden, default) = (golden.as_object().unwrap(), default.as_object().unwrap());
    let keys = |map: &serde_json::Map<String, serde_json::Value>| -> Vec<String> {
        map.keys().cloned().collect()
    };
    assert_eq!(keys(default), keys(golden));
    let set = [
        "inference_mode",
        "peft_version",
        "r",
        "target_modules",
        "task_type",
    ];
    for (key, value) in golden
        .iter()
        .filter(|(key, _)| !set.contains(&key.as_str()))
    {
        assert_eq!(&default[key], value, "{key}");
    }
}

#[test]
fn loftq_saves_and_loads_over_the_dense_base_and_goes_with_dora() {
    for (bits, use_dora) in [(4, false), (4, true), (8, false)] {
        let config = LoraConfig {
            init_lora_weights: InitLoraWeights::Loftq,
            loftq_config: Some(LoftqConfig {
                loftq_bits: bits,
                loftq_iter: 2,
            }),
            use_dora,
            lora_dropout: 0.0,
            ..plain()
        };
        let mut model = Tiny::new(&Device::flex(), DType::F32);
        let dense = model.values(&AdapterPass::default());
        inject(&mut model, "a", &config.clone().into(), 1).unwrap();
        let begun = model.values(&AdapterPass::one("a"));
        let distance = |values: &[f32]| -> f32 {
            values
                .iter()
                .zip(&dense)
                .map(|(a, b)| (a - b).powi(2))
                .sum()
        };
        // The factors take back some of what quantization lost.
        let (with, without) = (
            distance(&begun),
            distance(&model.values(&AdapterPass::default())),
        );
        assert!(with < without, "{bits} bits: {with} after {without}");
        let count = flametune_peft::report(&model).trainable;
        let magnitudes = if use_dora {
            BLOCKS * (2 * INNER + WIDTH)
        } else {
            0
        };
        assert_eq!(count, factors(2) + magnitudes);
        let folder = tempfile::tempdir().unwrap();
        flametune_peft::save_adapter(&model, "a", folder.path()).unwrap();
        let mut loaded = Tiny::new(&Device::flex(), DType::F32);
        flametune_peft::load_adapter(&mut loaded, "b", folder.path()).unwrap();
        assert_eq!(
            loaded.values(&AdapterPass::one("b")),
            begun,
            "{bits} bits, DoRA {use_dora}"
        );
        // The base that was quantized for it is taken as it is.
        let mut again = model.clone();
        flametune_peft::remove(&mut again, "a").unwrap();
        flametune_peft::load_adapter(&mut again, "b", folder.path()).unwrap();
        assert_eq!(again.values(&AdapterPass::one("b")), begun);
    }
}

#[test]
fn eva_needs_batches_and_its_parts_can_be_taken_out() {
    let config = LoraConfig {
        init_lora_weights: InitLoraWeights::Eva,
        lora_dropout: 0.0,
        ..plain()
    };
    let mut model = Tiny::new(&Device::flex(), DType::F32);
    let dense = model.values(&AdapterPass::default());
    let error = inject(&mut model, "a", &config.clone().into(), 1)
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("init_lora_weights = eva is not supported: EVA begins with batches"));
    let eva = EvaInit::begin(&mut model, "a", &config, 1).unwrap();
    assert_eq!(model.values(&eva.pass()), dense, "observers change nothing");
    flametune_peft::remove(&mut model, "a").unwrap();
    assert_eq!(flametune_peft::report(&model).modules, []);
    let mut eva = EvaInit::begin(&mut model, "a", &config, 1).unwrap();
    let error = EvaInit::begin(&mut model, "a", &config, 1)
        .unwrap_err()
        .to_string();
    assert!(error.contains("already is an adapter `a`"), "{error}");
    for seq in 4..7 {
        model.logits(&eva.pass(), 3, seq);
        eva.update(&vec![true; 3 * seq]).unwrap();
    }
    eva.finish(&mut model).unwrap();
    assert_eq!(model.values(&AdapterPass::one("a")), dense, "B is zero");
    let tensors = flametune_peft::adapter_tensors(&model, "a").unwrap();
    // As many directions as ranks, each of length one.
    let rows: Vec<f64> = tensors
        .iter()
        .filter(|(key, _)| key.ends_with("lora_A.weight"))
        .flat_map(|(_, data)| {
            let width = data.shape()[1];
            let numbers: Vec<f64> = data.iter::<f64>().collect();
            let lengths = numbers
                .chunks(width)
                .map(|row| row.iter().map(|x| x * x).sum());
            lengths.collect::<Vec<f64>>()
        })
        .collect();
    assert_eq!(rows.len(), BLOCKS * 3 * 2);
    assert!(
        rows.iter().all(|length| (length - 1.0).abs() < 1e-6),
        "{rows:?}"
    );
    let folder = tempfile::tempdir().unwrap();
    flametune_peft::save_adapter(&model, "a", folder.path()).unwrap();
    let mut loaded = Tiny::new(&Device::flex(), DType::F32);
    flametune_peft::load_adapter(&mut loaded, "b", folder.path()).unwrap();
    assert_eq!(
        flametune_peft::adapter_tensors(&loaded, "b").unwrap(),
        tensors
    );
}
