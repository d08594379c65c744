//! Every method but LoRA.

use burn::tensor::{DType, Device};
use flametune_peft::{
    AdaLoraConfig, AdapterPass, BiasMode, HiraConfig, Ia3Config, InitHiraWeights, InitLokrWeights,
    InitMissWeights, LnTuningConfig, LoHaConfig, LoKrConfig, LoraConfig, LycorisConfig, MissConfig,
    PeftConfig, TargetModules, TokenIndices, TrainableTokensConfig, VeraConfig, adapter_tensors,
    inject,
};
use flametune_testkit::{fixture_json, max_difference};
use serde_json::Value;

use crate::tiny::{INNER, Tiny, VOCAB, WIDTH};

const BLOCKS: usize = 2;

/// The inputs and outputs of the linear layers of a block.
const BLOCK_WIDTHS: usize = 3 * (WIDTH + INNER);

#[allow(clippy::unnecessary_wraps, reason = "the field is an option")]
fn all_linear() -> Option<TargetModules> {
    Some(TargetModules::AllLinear)
}

fn ia3() -> Ia3Config {
    Ia3Config {
        target_modules: Some(TargetModules::list(["up_proj", "down_proj"])),
        feedforward_modules: Some(TargetModules::list(["down_proj"])),
        ..Ia3Config::default()
    }
}
adapter_suite!(ia3_inner_and_outer, ia3, BLOCKS * 2 * INNER);

fn vera() -> VeraConfig {
    VeraConfig {
        r: 5,
        projection_prng_key: 3,
        target_modules: all_linear(),
        vera_dropout: 0.2,
        d_initial: 0.7,
        ..VeraConfig::default()
    }
}
const VERA: usize = BLOCKS * (3 * 5 + 2 * INNER + WIDTH);
adapter_suite!(vera_with_dropout, vera, VERA);

fn vera_without_projections() -> VeraConfig {
    VeraConfig {
        save_projection: false,
        bias: BiasMode::LoraOnly,
        ..vera()
    }
}
adapter_suite!(
    vera_that_draws_its_projections_again,
    vera_without_projections,
    VERA + BLOCKS * (INNER + WIDTH)
);

fn adalora() -> AdaLoraConfig {
    AdaLoraConfig {
        lora: LoraConfig {
            lora_alpha: 6.0,
            lora_dropout: 0.2,
            target_modules: all_linear(),
            ..LoraConfig::default()
        },
        init_r: 3,
        target_r: 2,
        ..AdaLoraConfig::default()
    }
    .with_total_step(20)
}
adapter_suite!(
    adalora_with_dropout,
    adalora,
    BLOCKS * (3 * BLOCK_WIDTHS + 9)
);

fn lycoris(r: usize, alpha: f64) -> LycorisConfig {
    LycorisConfig {
        r,
        alpha,
        rank_dropout: 0.3,
        target_modules: all_linear(),
        ..LycorisConfig::default()
    }
}

fn loha() -> LoHaConfig {
    LoHaConfig {
        lycoris: lycoris(2, 6.0),
        ..LoHaConfig::default()
    }
}
adapter_suite!(loha_in_factors, loha, BLOCKS * 4 * BLOCK_WIDTHS);

fn loha_dense() -> LoHaConfig {
    LoHaConfig {
        lycoris: LycorisConfig {
            module_dropout: 0.3,
            ..lycoris(4, 6.0)
        },
        ..loha()
    }
}
adapter_suite!(loha_of_full_rank, loha_dense, BLOCKS * 8 * BLOCK_WIDTHS);

fn lokr() -> LoKrConfig {
    LoKrConfig {
        lycoris: lycoris(1, 3.0),
        ..LoKrConfig::default()
    }
}
// 8 = 2·4 and 10 = 2·5: W₁ is 2×2, W₂ 5×4 or 4×5 in two factors of rank 1.
adapter_suite!(lokr_with_low_rank, lokr, BLOCKS * 3 * (4 + 9));

fn lokr_of_both() -> LoKrConfig {
    LoKrConfig {
        decompose_both: true,
        decompose_factor: 5,
        rank_dropout_scale: true,
        lycoris: LycorisConfig {
            module_dropout: 0.2,
            ..lycoris(1, 3.0)
        },
        init_weights: InitLokrWeights::Lycoris,
    }
}
// 8 = 2·4 and 10 = 5·2: W₁ is 5×2 and W₂ 2×4, or the transposes.
adapter_suite!(lokr_with_two_low_ranks, lokr_of_both, BLOCKS * 3 * (7 + 6));

fn lokr_whole() -> LoKrConfig {
    LoKrConfig {
        lycoris: lycoris(4, 3.0),
        ..lokr()
    }
}
adapter_suite!(lokr_whole_matrices, lokr_whole, BLOCKS * 3 * (4 + 20));

fn miss() -> MissConfig {
    MissConfig {
        r: 4,
        miss_dropout: 0.2,
        bias: BiasMode::All,
        target_modules: Some(TargetModules::list(["up_proj", "down_proj"])),
        ..MissConfig::default()
    }
}
// The ten inputs of down_proj are folded to four with two left over.
adapter_suite!(
    miss_with_uneven_groups,
    miss,
    BLOCKS * (4 * (INNER + WIDTH) + INNER + WIDTH + WIDTH) + WIDTH
);

fn miss_bat() -> MissConfig {
    MissConfig {
        r: 2,
        init_weights: InitMissWeights::Bat,
        target_modules: all_linear(),
        ..MissConfig::default()
    }
}
adapter_suite!(
    miss_with_square_blocks,
    miss_bat,
    BLOCKS * 2 * (2 * INNER + WIDTH)
);

fn miss_mini() -> MissConfig {
    MissConfig {
        r: 3,
        mini_r: 2,
        init_weights: InitMissWeights::Mini,
        target_modules: all_linear(),
        ..MissConfig::default()
    }
}
adapter_suite!(miss_with_shared_columns, miss_mini, BLOCKS * 3 * 6);

fn hira() -> HiraConfig {
    HiraConfig {
        r: 2,
        hira_dropout: 0.2,
        target_modules: all_linear(),
        init_weights: InitHiraWeights::Gaussian,
        ..HiraConfig::default()
    }
}
adapter_suite!(hira_with_dropout, hira, BLOCKS * 2 * BLOCK_WIDTHS);

fn ln_tuning() -> LnTuningConfig {
    LnTuningConfig {
        target_modules: Some(TargetModules::list(["input_layernorm", "norm"])),
        ..LnTuningConfig::default()
    }
}
adapter_suite!(ln_tuning_of_all, ln_tuning, (BLOCKS + 1) * 2 * WIDTH);

fn tokens() -> TrainableTokensConfig {
    TrainableTokensConfig {
        token_indices: vec![3, 0, VOCAB - 1],
        ..TrainableTokensConfig::default()
    }
}
adapter_suite!(trainable_tokens, tokens, 3 * WIDTH);

fn lora_and_tokens() -> LoraConfig {
    LoraConfig {
        r: 2,
        target_modules: Some(TargetModules::list(["up_proj"])),
        trainable_token_indices: Some(TokenIndices::Named(
            [("embed_tokens".to_owned(), vec![5, 1])].into(),
        )),
        ..LoraConfig::default()
    }
}
adapter_suite!(
    lora_with_trainable_tokens,
    lora_and_tokens,
    BLOCKS * 2 * (WIDTH + INNER) + 2 * WIDTH
);

fn keys(value: &Value) -> Vec<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

#[test]
fn defaults_and_fields_are_those_of_peft() {
    let given: [(&str, PeftConfig, &[&str]); 9] = [
        ("ia3", Ia3Config::default().into(), &["feedforward_modules"]),
        (
            "vera",
            VeraConfig::default().into(),
            &["r", "projection_prng_key"],
        ),
        (
            "adalora",
            AdaLoraConfig::default().into(),
            &["init_r", "target_r", "tinit", "tfinal", "total_step"],
        ),
        ("loha", LoHaConfig::default().into(), &["r"]),
        ("lokr", LoKrConfig::default().into(), &["r"]),
        ("miss", MissConfig::default().into(), &["r"]),
        ("hira", HiraConfig::default().into(), &["r"]),
        ("ln_tuning", LnTuningConfig::default().into(), &[]),
        (
            "trainable_tokens",
            TrainableTokensConfig::default().into(),
            &["token_indices"],
        ),
    ];
    let always = [
        "inference_mode",
        "peft_version",
        "target_modules",
        "task_type",
    ];
    for (adapter, config, set) in given {
        let golden = fixture_json(format!("peft/{adapter}/adapter_config.json"));
        let default = config.to_json();
        assert_eq!(keys(&default), keys(&golden), "{adapter}");
        for key in keys(&golden) {
            if !always.contains(&key.as_str()) && !set.contains(&key.as_str()) {
                assert_eq!(default[&key], golden[&key], "{adapter}: {key}");
            }
        }
    }
}

#[test]
fn random_initialisations_show_and_depend_on_the_seed() {
    let configs: [PeftConfig; 8] = [
        Ia3Config {
            init_ia3_weights: false,
            ..ia3()
        }
        .into(),
        VeraConfig {
            init_weights: false,
            ..vera()
        }
        .into(),
        AdaLoraConfig {
            lora: LoraConfig {
                init_lora_weights: flametune_peft::InitLoraWeights::Random,
                ..adalora().lora
            },
            ..adalora()
        }
        .into(),
        LoHaConfig {
            init_weights: false,
            ..loha()
        }
        .into(),
        LoKrConfig {
            init_weights: InitLokrWeights::Random,
            ..lokr()
        }
        .into(),
        MissConfig {
            init_weights: InitMissWeights::Random,
            ..miss()
        }
        .into(),
        HiraConfig {
            init_weights: InitHiraWeights::Random,
            ..hira()
        }
        .into(),
        TrainableTokensConfig {
            init_weights: false,
            ..tokens()
        }
        .into(),
    ];
    for config in configs {
        let built = |seed| {
            let mut model = Tiny::new(&Device::flex(), DType::F32);
            inject(&mut model, "a", &config, seed).unwrap();
            model
        };
        let model = built(5);
        let change = max_difference(
            &model.values(&AdapterPass::one("a")),
            &model.values(&AdapterPass::default()),
        );
        assert!(change > 1e-3, "{}: {change}", config.peft_type());
        let tensors = |model: &Tiny| adapter_tensors(model, "a").unwrap();
        assert_eq!(tensors(&model), tensors(&built(5)));
        assert_ne!(tensors(&model), tensors(&built(6)));
    }
}

#[test]
fn modules_that_a_method_cannot_adapt_are_refused() {
    let refused = |config: PeftConfig| {
        let mut model = Tiny::new(&Device::flex(), DType::F32);
        inject(&mut model, "a", &config, 1).unwrap_err().to_string()
    };
    assert_eq!(
        refused(MissConfig { r: 4, ..miss_bat() }.into()),
        "r must divide the 8 inputs and 10 outputs of `model.layers.0.up_proj`, got 4"
    );
    assert_eq!(
        refused(
            MissConfig {
                r: 11,
                ..miss_mini()
            }
            .into()
        ),
        "r must not exceed the 8 inputs of `model.layers.0.up_proj`, got 11"
    );
    assert_eq!(
        refused(
            MissConfig {
                mini_r: 4,
                ..miss_mini()
            }
            .into()
        ),
        "mini_r must divide the 10 outputs of `model.layers.0.up_proj`, got 4"
    );
    assert_eq!(
        refused(
            LnTuningConfig {
                target_modules: all_linear(),
                ..ln_tuning()
            }
            .into()
        ),
        "LN tuning cannot adapt `model.layers.0.up_proj`, which is a linear layer"
    );
    assert_eq!(
        refused(
            TrainableTokensConfig {
                token_indices: vec![VOCAB],
                ..tokens()
            }
            .into()
        ),
        "token_indices must be below the vocabulary of 12, got 12"
    );
    assert_eq!(
        refused(
            HiraConfig {
                init_weights: InitHiraWeights::Other("svd".to_owned()),
                ..hira()
            }
            .into()
        ),
        "init_weights = svd is not supported: use true, false or gaussian"
    );
}
