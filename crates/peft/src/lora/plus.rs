//! LoRA+: `B` learns faster than `A`.

/// The learning rates of LoRA+.
///
/// # Source
/// - Hayou et al. 2024, LoRA+, arXiv:2402.12354, §4: a ratio `η_B/η_A` above one
/// - reference: peft `optimizers/loraplus.py`
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoraPlusConfig {
    /// The learning rate of `A`.
    pub lr: f64,
    /// How many times faster `B` learns.
    pub loraplus_lr_ratio: f64,
    /// The learning rate of LoRA on embeddings.
    pub loraplus_lr_embedding: f64,
    /// The weight decay of all but biases and vectors.
    pub loraplus_weight_decay: f64,
}

impl Default for LoraPlusConfig {
    fn default() -> Self {
        Self {
            lr: 1e-4,
            loraplus_lr_ratio: 16.0,
            loraplus_lr_embedding: 1e-6,
            loraplus_weight_decay: 0.0,
        }
    }
}

/// One group of parameters for an optimizer.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraPlusGroup {
    /// The learning rate.
    pub lr: f64,
    /// The weight decay.
    pub weight_decay: f64,
    /// The keys of its parameters in the adapter's file.
    pub params: Vec<String>,
}

/// Sorts the parameters of an adapter, by their keys and numbers of dimensions, into the four
/// groups `A`, embeddings, `B`, and `B` without weight decay, in this order.
///
/// # Examples
/// ```
/// use flametune_peft::{LoraPlusConfig, lora_plus_groups};
///
/// let keys = [("q_proj.lora_A.weight", 2), ("q_proj.lora_B.weight", 2)];
/// let groups = lora_plus_groups(keys, &LoraPlusConfig::default());
/// assert_eq!(groups[2].params, ["q_proj.lora_B.weight"]);
/// assert!((groups[2].lr / groups[0].lr - 16.0).abs() < 1e-12);
/// ```
pub fn lora_plus_groups<'a>(
    params: impl IntoIterator<Item = (&'a str, usize)>,
    config: &LoraPlusConfig,
) -> [LoraPlusGroup; 4] {
    let group = |lr, weight_decay| LoraPlusGroup {
        lr,
        weight_decay,
        params: Vec::new(),
    };
    let (lr, decay) = (config.lr, config.loraplus_weight_decay);
    let fast = lr * config.loraplus_lr_ratio;
    let mut groups = [
        group(lr, decay),
        group(config.loraplus_lr_embedding, decay),
        group(fast, decay),
        group(fast, 0.0),
    ];
    for (key, dims) in params {
        let index = if key.contains("lora_embedding_") {
            1
        } else if !key.contains("lora_B") && dims != 1 {
            0
        } else if key.contains("bias") {
            3
        } else {
            2
        };
        groups[index].params.push(key.to_owned());
    }
    groups
}
