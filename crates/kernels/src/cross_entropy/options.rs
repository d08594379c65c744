use crate::precision::Precision;

/// How an output head turns hidden states into logits, and which labels count.
///
/// `z = softcap(logit_scale · (h·Wᵀ + b))` with `softcap(u) = cap · tanh(u / cap)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogitOptions {
    /// Tokens with this label are left out: no logits are computed for them.
    pub ignore_index: i64,
    /// What `h·Wᵀ + b` is multiplied by; Granite's is `1 / logits_scaling`.
    pub logit_scale: f64,
    /// The cap of Gemma 2's `final_logit_softcapping`, applied after the scale.
    pub softcap: Option<f64>,
    /// How the products multiply, forward and backward.
    pub precision: Precision,
}

impl Default for LogitOptions {
    fn default() -> Self {
        Self {
            ignore_index: -100,
            logit_scale: 1.0,
            softcap: None,
            precision: Precision::Full,
        }
    }
}

impl LogitOptions {
    pub(super) fn check(&self) {
        assert!(
            self.logit_scale.is_finite(),
            "logit_scale must be finite, got {}",
            self.logit_scale
        );
        if let Some(cap) = self.softcap {
            assert!(
                cap.is_finite() && cap > 0.0,
                "softcap must be positive and finite, got {cap}"
            );
        }
    }
}

/// The terms of a cross-entropy loss.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CrossEntropy {
    /// How logits are made, and which labels count.
    pub logits: LogitOptions,
    /// `ε`: the share of the target distribution that is spread evenly over the vocabulary.
    pub label_smoothing: f64,
    /// `ζ`: the weight of the squared log-partition.
    pub z_loss: f64,
}

impl CrossEntropy {
    pub(super) fn check(&self) {
        self.logits.check();
        assert!(
            (0.0..=1.0).contains(&self.label_smoothing),
            "label_smoothing must lie in 0..=1, got {}",
            self.label_smoothing
        );
        assert!(
            self.z_loss.is_finite() && self.z_loss >= 0.0,
            "z_loss must be finite and not negative, got {}",
            self.z_loss
        );
    }
}
