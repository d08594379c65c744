//! Which layers stay in their original precision.

/// Names whose layers are not quantized: heads, embeddings, routers, and norms of other names.
///
/// Each is a component of a dotted path, or several in a row.
pub const SKIPPED_NAMES: [&str; 19] = [
    "lm_head",
    "embed_out",
    "score",
    "classifier",
    "qa_outputs",
    "v_head",
    "embed_tokens",
    "embed_positions",
    "embed_in",
    "word_embeddings",
    "position_embeddings",
    "token_type_embeddings",
    "wte",
    "wpe",
    "shared",
    "gate",
    "router",
    "ln_1",
    "ln_2",
];

/// Ends of names, in lower case, whose tensors are never quantized: norms and biases.
pub const SKIPPED_ENDINGS: [&str; 3] = ["norm", "ln_f", "bias"];

/// Whether the weight or module of this name is one that 4-bit models quantize.
///
/// The linear layers inside of the blocks are; heads, embeddings, norms, biases and the routers
/// of mixtures of experts are not: they are small, or errors in them cost the most.
///
/// # Source
/// - transformers `quantizers/base.py::get_keys_to_not_convert` leaves out the head and what is
///   tied to it, and replaces nothing but linear layers
/// - differs: routers stay as they are
///
/// # Examples
/// ```
/// use flametune_quant::should_quantize;
///
/// assert!(should_quantize("model.layers.0.self_attn.q_proj.weight"));
/// assert!(should_quantize("model.layers.0.mlp.gate_proj"));
/// assert!(!should_quantize("lm_head.weight"));
/// assert!(!should_quantize("model.layers.0.input_layernorm.weight"));
/// ```
pub fn should_quantize(name: &str) -> bool {
    should_quantize_except(name, &SKIPPED_NAMES)
}

/// Whether the weight or module of this name is quantized when the layers of `skipped` are not.
///
/// `skipped` takes the place of [`SKIPPED_NAMES`]; each entry is a component of a dotted path
/// (`lm_head`), or several in a row (`layers.0.mlp`). What has one of [`SKIPPED_ENDINGS`] is never
/// quantized.
pub fn should_quantize_except(name: &str, skipped: &[impl AsRef<str>]) -> bool {
    let path = name.strip_suffix(".weight").unwrap_or(name);
    let last = path.rsplit('.').next().unwrap_or(path).to_ascii_lowercase();
    let is_norm_or_bias = SKIPPED_ENDINGS.iter().any(|ending| last.ends_with(ending));
    !is_norm_or_bias
        && !skipped
            .iter()
            .any(|skip| has_components(path, skip.as_ref()))
}

/// Whether the components of `part` stand in a row in those of `path`.
fn has_components(path: &str, part: &str) -> bool {
    let path: Vec<&str> = path.split('.').collect();
    let part: Vec<&str> = part.split('.').collect();
    path.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_layers_of_every_architecture_are_quantized() {
        for name in [
            "model.layers.11.self_attn.o_proj.weight",
            "model.layers.0.mlp.down_proj",
            "transformer.h.0.attn.c_attn.weight",
            "gpt_neox.layers.0.attention.query_key_value.weight",
            "model.layers.0.block_sparse_moe.experts.3.w1.weight",
            "bert.encoder.layer.0.attention.self.query.weight",
            "encoder.block.0.layer.0.SelfAttention.q.weight",
            "model.layers.0.self_attn.qkv_proj.weight",
        ] {
            assert!(should_quantize(name), "{name}");
        }
    }

    #[test]
    fn heads_embeddings_norms_biases_and_routers_are_not() {
        for name in [
            "lm_head.weight",
            "lm_head",
            "model.embed_tokens.weight",
            "transformer.wte.weight",
            "transformer.wpe.weight",
            "transformer.h.0.ln_1.weight",
            "transformer.ln_f.weight",
            "model.norm.weight",
            "model.layers.0.post_attention_layernorm.weight",
            "model.layers.0.self_attn.q_norm.weight",
            "bert.embeddings.LayerNorm.weight",
            "bert.embeddings.word_embeddings.weight",
            "gpt_neox.embed_in.weight",
            "gpt_neox.final_layer_norm.weight",
            "embed_out.weight",
            "shared.weight",
            "score.weight",
            "model.layers.0.block_sparse_moe.gate.weight",
            "model.layers.0.self_attn.q_proj.bias",
        ] {
            assert!(!should_quantize(name), "{name}");
        }
    }

    #[test]
    fn own_lists_match_components_in_a_row() {
        let quantized = |name| should_quantize_except(name, &["layers.1", "down_proj"]);
        assert!(!quantized("model.layers.1.mlp.up_proj.weight"));
        assert!(quantized("model.layers.11.mlp.up_proj.weight"));
        assert!(!quantized("model.layers.2.mlp.down_proj"));
        assert!(quantized("lm_head"));
        assert!(!should_quantize_except("model.norm", &[""; 0]));
    }
}
