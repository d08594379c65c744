//! What merging may cost, and what it did cost.

use std::fmt;

/// How merging stores weights, and what it may cost.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct MergeOptions {
    /// The largest relative error that storing a merged weight may leave; any when absent.
    pub max_error: Option<f64>,
    /// The largest divergence of the logits, for [`merge_and_unload_measured`]; any when absent.
    ///
    /// [`merge_and_unload_measured`]: crate::merge_and_unload_measured
    pub max_kl: Option<f64>,
    /// Whether merged weights of a quantized base are quantized again as they were; otherwise they
    /// become dense, in the dtype that they had before they were quantized.
    pub requantize: bool,
}

/// What merging changed.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MergeReport {
    /// One row a module.
    pub modules: Vec<MergedModule>,
    /// The mean over all positions of `Σ p·(ln p − ln q)`, in nats, between the answers before and
    /// after; where they were measured.
    pub logits_kl: Option<f64>,
}

/// What merging changed in one module.
#[derive(Debug, Clone, PartialEq)]
pub struct MergedModule {
    /// The module.
    pub path: String,
    /// `‖ΔW‖ / ‖W‖`: how much the adapters change the weight.
    pub change: f64,
    /// `‖stored − exact‖ / ‖exact‖`: what the number format loses of the merged weight, rounding or
    /// quantization.
    pub error: f64,
}

impl MergeReport {
    /// The largest error of all modules.
    pub fn max_error(&self) -> f64 {
        self.modules.iter().map(|m| m.error).fold(0.0, f64::max)
    }
}

impl fmt::Display for MergeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.modules.iter().map(|m| m.path.len()).max().unwrap_or(0);
        for module in &self.modules {
            let MergedModule {
                path,
                change,
                error,
            } = module;
            writeln!(f, "{path:width$}  change {change:.3e}  error {error:.3e}")?;
        }
        write!(f, "largest error {:.3e}", self.max_error())?;
        match self.logits_kl {
            Some(kl) => write!(f, "\nmean KL of the logits {kl:.3e}"),
            None => Ok(()),
        }
    }
}
