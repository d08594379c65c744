//! llama.cpp's tensor names to those of Hugging Face.

use super::architecture::Architecture;

/// The factors of scaled rotations, which belong to the configuration.
pub(super) const ROPE_FREQS: &str = "rope_freqs.weight";
pub(super) const ROPE_FACTORS_LONG: &str = "rope_factors_long.weight";
pub(super) const ROPE_FACTORS_SHORT: &str = "rope_factors_short.weight";

/// Whether a tensor holds factors of rotations rather than weights.
pub(super) fn is_rope_factors(name: &str) -> bool {
    [ROPE_FREQS, ROPE_FACTORS_LONG, ROPE_FACTORS_SHORT].contains(&name)
}

/// The Hugging Face name of a tensor of a model with `layers` layers, if it has a place there.
pub(super) fn hugging_face_name(
    architecture: Architecture,
    name: &str,
    layers: usize,
) -> Option<String> {
    let (stem, parameter) = name.rsplit_once('.')?;
    if !matches!(parameter, "weight" | "bias") {
        return None;
    }
    let module = match stem.strip_prefix("blk.") {
        None => top_level(architecture, stem)?.to_owned(),
        Some(block) => {
            let (number, stem) = block.split_once('.')?;
            let layer: usize = number.parse().ok().filter(|&layer| layer < layers)?;
            // One spelling for each number, so that no two tensors get the same name.
            if layer.to_string() != number {
                return None;
            }
            let module = in_layer(architecture, stem)?;
            match architecture {
                Architecture::Gpt2 => format!("transformer.h.{layer}.{module}"),
                _ => format!("model.layers.{layer}.{module}"),
            }
        }
    };
    Some(format!("{module}.{parameter}"))
}

fn top_level(architecture: Architecture, stem: &str) -> Option<&'static str> {
    Some(match (architecture, stem) {
        (Architecture::Gpt2, "token_embd") => "transformer.wte",
        (Architecture::Gpt2, "position_embd") => "transformer.wpe",
        (Architecture::Gpt2, "output_norm") => "transformer.ln_f",
        (_, "token_embd") => "model.embed_tokens",
        (_, "output_norm") => "model.norm",
        (_, "output") => "lm_head",
        _ => return None,
    })
}

fn in_layer(architecture: Architecture, stem: &str) -> Option<&'static str> {
    match architecture {
        Architecture::Gpt2 => gpt2_layer(stem),
        Architecture::Phi3 => phi3_layer(stem),
        Architecture::Gemma2 | Architecture::Gemma3 => sandwich_layer(stem),
        Architecture::Llama | Architecture::Qwen2 | Architecture::Qwen3 | Architecture::Gemma => {
            llama_layer(stem)
        }
    }
}

fn llama_layer(stem: &str) -> Option<&'static str> {
    Some(match stem {
        "attn_norm" => "input_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        _ => return projection(stem),
    })
}

/// Norms before and after each half of the layer.
fn sandwich_layer(stem: &str) -> Option<&'static str> {
    Some(match stem {
        "attn_norm" => "input_layernorm",
        "post_attention_norm" => "post_attention_layernorm",
        "ffn_norm" => "pre_feedforward_layernorm",
        "post_ffw_norm" => "post_feedforward_layernorm",
        _ => return projection(stem),
    })
}

fn projection(stem: &str) -> Option<&'static str> {
    Some(match stem {
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        _ => return None,
    })
}

/// Query, key and value are one matrix, and so are gate and up.
fn phi3_layer(stem: &str) -> Option<&'static str> {
    Some(match stem {
        "attn_norm" => "input_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        "attn_qkv" => "self_attn.qkv_proj",
        "attn_output" => "self_attn.o_proj",
        "ffn_up" => "mlp.gate_up_proj",
        "ffn_down" => "mlp.down_proj",
        _ => return None,
    })
}

fn gpt2_layer(stem: &str) -> Option<&'static str> {
    Some(match stem {
        "attn_norm" => "ln_1",
        "attn_qkv" => "attn.c_attn",
        "attn_output" => "attn.c_proj",
        "ffn_norm" => "ln_2",
        "ffn_up" => "mlp.c_fc",
        "ffn_down" => "mlp.c_proj",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_stem_means_what_the_architecture_says() {
        let name = |architecture| hugging_face_name(architecture, "blk.1.ffn_norm.weight", 2);
        assert_eq!(
            name(Architecture::Llama).unwrap(),
            "model.layers.1.post_attention_layernorm.weight"
        );
        assert_eq!(
            name(Architecture::Gemma3).unwrap(),
            "model.layers.1.pre_feedforward_layernorm.weight"
        );
        assert_eq!(
            name(Architecture::Gpt2).unwrap(),
            "transformer.h.1.ln_2.weight"
        );
    }

    #[test]
    fn names_without_a_place_have_none() {
        for name in [
            "blk.2.attn_q.weight",
            "blk.01.attn_q.weight",
            "blk.+1.attn_q.weight",
            "blk.99999999999999999999.attn_q.weight",
            "blk.1.attn_q",
            "blk.1.attn_q.scales",
            "blk.1.attn_qkv.weight",
            "weight",
            "",
        ] {
            assert_eq!(
                hugging_face_name(Architecture::Llama, name, 2),
                None,
                "{name}"
            );
        }
    }
}
