//! Which parameters learn faster, and which decay.

use super::ParamGroup;
use crate::trainer::Grouping;

/// The usual groups: matrices decay, biases and normalisations do not, and the B of LoRA learns
/// `loraplus_lr_ratio` times faster.
///
/// # Source
/// - Hayou et al. 2024, LoRA+, arXiv:2402.12354, §4
/// - reference: transformers `trainer.py::get_decay_parameter_names`; golden
///   `fixtures/training/loraplus_sft.json`
pub fn groups(weight_decay: f64, loraplus_lr_ratio: f64) -> Grouping {
    Box::new(move |path| ParamGroup {
        lr_ratio: if path.ends_with("lora_b") {
            loraplus_lr_ratio
        } else {
            1.0
        },
        weight_decay: if decays(path) { weight_decay } else { 0.0 },
    })
}

fn decays(path: &str) -> bool {
    let is_norm = |part: &str| part.contains("norm") || part.starts_with("ln_");
    !path.ends_with("bias") && !path.split('.').any(is_norm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_decay_and_b_learns_faster() {
        let group = groups(0.1, 16.0);
        let q_proj = "Decoder.model.layers.0.self_attn.q_proj";
        for (path, lr_ratio, weight_decay) in [
            (format!("{q_proj}.adapters.0.method.Lora.lora_a"), 1.0, 0.1),
            (format!("{q_proj}.adapters.0.method.Lora.lora_b"), 16.0, 0.1),
            (format!("{q_proj}.base_layer.Dense.weight"), 1.0, 0.1),
            (format!("{q_proj}.base_layer.Dense.bias"), 1.0, 0.0),
            (
                "Decoder.model.layers.0.input_layernorm.weight".to_owned(),
                1.0,
                0.0,
            ),
            ("Decoder.model.norm.weight".to_owned(), 1.0, 0.0),
            ("Gpt2.transformer.h.0.ln_1.weight".to_owned(), 1.0, 0.0),
            ("Decoder.model.embed_tokens.weight".to_owned(), 1.0, 0.1),
        ] {
            let expected = ParamGroup {
                lr_ratio,
                weight_decay,
            };
            assert_eq!(group(&path), expected, "{path}");
        }
    }
}
