//! The training races: what is trained, beside whom, and how far losses may be apart.

use anyhow::{Result, ensure};

use crate::protocol::{Method, Number, Rows, Stepped};

/// Whom a case is raced with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rival {
    /// transformers and peft, with bitsandbytes where the base is quantized.
    Peft,
    /// TRL on the same.
    Trl,
    /// Burn's own modules in a process of ours.
    Burn,
    /// Our own step through the frozen model, where the first norm alone is trained.
    FrozenBase,
}

/// What is measured of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Tokens per second of an optimizer step.
    Speed,
    /// Pairs per second of an optimizer step.
    Pairs,
    /// Seconds of an optimizer step.
    Time,
    /// Peak resident memory of loading and some steps.
    Memory,
}

/// A training race.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainingCase {
    /// The name it is stored under.
    pub name: &'static str,
    /// In which products multiply.
    pub dtype: Number,
    /// What we do.
    pub method: Method,
    /// Beside whom.
    pub rival: Rival,
    /// What is measured.
    pub measure: Measure,
    /// Whether both compute activations again.
    pub recompute: bool,
    /// Rows and tokens of a row.
    pub shape: [usize; 2],
}

/// A case of speed beside peft, 4 × 256 tokens.
const STEP: TrainingCase = TrainingCase {
    name: "",
    dtype: Number::Bf16,
    method: Method::Lora,
    rival: Rival::Peft,
    measure: Measure::Speed,
    recompute: false,
    shape: [4, 256],
};

/// A case of DPO beside TRL, two pairs of 256 tokens, half of them the prompt.
const DPO: TrainingCase = TrainingCase {
    method: Method::Dpo,
    rival: Rival::Trl,
    ..STEP
};

/// The training races.
pub const TRAINING_CASES: &[TrainingCase] = &[
    TrainingCase {
        name: "lora_step_bf16",
        ..STEP
    },
    TrainingCase {
        name: "lora_step_f32",
        dtype: Number::F32,
        ..STEP
    },
    TrainingCase {
        name: "qlora_step",
        method: Method::Qlora,
        ..STEP
    },
    TrainingCase {
        name: "full_step",
        method: Method::Full,
        ..STEP
    },
    TrainingCase {
        name: "dora_step",
        method: Method::Dora,
        ..STEP
    },
    TrainingCase {
        name: "lora_step_1x2048",
        shape: [1, 2048],
        ..STEP
    },
    TrainingCase {
        name: "lora_cost",
        rival: Rival::FrozenBase,
        measure: Measure::Time,
        ..STEP
    },
    TrainingCase {
        name: "lora_cost",
        dtype: Number::F32,
        rival: Rival::FrozenBase,
        measure: Measure::Time,
        ..STEP
    },
    TrainingCase {
        name: "burn_qlora_step",
        method: Method::Qlora,
        rival: Rival::Burn,
        ..STEP
    },
    TrainingCase {
        name: "dpo_step",
        measure: Measure::Pairs,
        ..DPO
    },
    TrainingCase {
        name: "dpo_rss",
        measure: Measure::Memory,
        ..DPO
    },
    TrainingCase {
        name: "lora_rss",
        measure: Measure::Memory,
        ..STEP
    },
    TrainingCase {
        name: "qlora_rss",
        method: Method::Qlora,
        measure: Measure::Memory,
        ..STEP
    },
    TrainingCase {
        name: "lora_rss_recompute",
        measure: Measure::Memory,
        recompute: true,
        ..STEP
    },
    TrainingCase {
        name: "qlora_rss_recompute",
        method: Method::Qlora,
        measure: Measure::Memory,
        recompute: true,
        ..STEP
    },
    TrainingCase {
        name: "burn_qlora_rss",
        method: Method::Qlora,
        rival: Rival::Burn,
        measure: Measure::Memory,
        ..STEP
    },
];

impl TrainingCase {
    /// The rows: consecutive pieces of the text; both answers of a pair have one prompt.
    ///
    /// # Errors
    /// When the text is too short.
    pub fn rows(&self, text: &[u32]) -> Result<Rows> {
        let [batch, seq] = self.shape;
        let mut rows: Vec<Vec<u32>> = text
            .chunks_exact(seq)
            .take(batch)
            .map(<[u32]>::to_vec)
            .collect();
        ensure!(
            rows.len() == batch,
            "{}: the text has {} tokens, {} are needed",
            self.name,
            text.len(),
            batch * seq
        );
        if self.method == Method::Dpo {
            let (chosen, rejected) = rows.split_at_mut(batch / 2);
            for (chosen, rejected) in chosen.iter().zip(rejected) {
                rejected[..seq / 2].copy_from_slice(&chosen[..seq / 2]);
            }
        }
        Ok(Rows { rows })
    }

    /// The sizes, as a reader may like them.
    pub fn size(&self) -> String {
        let [batch, seq] = self.shape;
        match self.method {
            Method::Dpo => format!("{}x2x{seq}", batch / 2),
            _ => format!("{batch}x{seq}"),
        }
    }

    /// Tokens of a step.
    pub fn tokens(&self) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52 tokens")]
        let tokens = self.shape.iter().product::<usize>() as f64;
        tokens
    }

    /// Pairs of a step.
    pub fn pairs(&self) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52 pairs")]
        let pairs = (self.shape[0] / 2) as f64;
        pairs
    }

    /// Multiplications and additions that matrix products of a LoRA step take for each token of
    /// SmolLM2-135M, at least.
    ///
    /// Frozen layers and the head multiply forward and for the gradient of their input; factors of
    /// rank 16 for their own gradient as well; attention has two products forward and five
    /// backward, of which a causal one needs half.
    pub fn operations(&self) -> f64 {
        let (layers, width, kv, inner, vocab, rank) = (30.0, 576.0, 192.0, 1536.0, 49152.0, 16.0);
        let frozen = layers * (2.0 * width * (width + kv) + 3.0 * width * inner);
        let sides = 4.0 * width + 2.0 * (width + kv) + 3.0 * (width + inner);
        let factors = layers * rank * sides;
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52 tokens")]
        let keys = self.shape[1] as f64 / 2.0;
        let attention = layers * 7.0 * 2.0 * keys * width;
        4.0 * (frozen + vocab * width) + 6.0 * factors + attention
    }

    /// How far apart losses may be, as a share of the peer's.
    fn tolerance(&self) -> f64 {
        match (self.rival, self.dtype) {
            // Four bits in two formats: the same model, and not the same numbers.
            (Rival::Burn, _) => 0.1,
            // The very same model, before anything is trained.
            (Rival::FrozenBase, _) => 1e-6,
            // Sums of a few thousand terms in another order, through 30 layers and some steps.
            (Rival::Peft | Rival::Trl, Number::F32) => 1e-3,
            // Every activation of the peer's is rounded to bf16, and its adapters and their
            // averages as well.
            (Rival::Peft, Number::Bf16) => 0.02,
            // A loss of differences of sums over 128 tokens, each with such an error.
            (Rival::Trl, Number::Bf16) => 0.05,
        }
    }
}

/// Makes sure that both trained the same thing: step by step, from the same start, their losses
/// agree; beside the frozen base, at the start alone.
///
/// # Errors
/// When they do not.
pub fn check_losses<'a>(
    case: &TrainingCase,
    steps: impl IntoIterator<Item = (&'a Stepped, &'a Stepped)>,
) -> Result<()> {
    // Other parameters are trained on either side of this one.
    let compared = match case.rival {
        Rival::FrozenBase => 1,
        Rival::Peft | Rival::Trl | Rival::Burn => usize::MAX,
    };
    for (step, (ours, peer)) in steps.into_iter().enumerate().take(compared) {
        ensure!(
            (ours.loss - peer.loss).abs() <= case.tolerance() * peer.loss,
            "step {step}: the loss is {} here and {} there",
            ours.loss,
            peer.loss
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_consecutive_pieces_of_the_text() {
        let case = TrainingCase {
            shape: [2, 3],
            ..TRAINING_CASES[0]
        };
        let text: Vec<u32> = (0..10).collect();
        assert_eq!(case.rows(&text).unwrap().rows, [[0, 1, 2], [3, 4, 5]]);
        assert_eq!(case.size(), "2x3");
        let dpo = TrainingCase {
            shape: [2, 4],
            ..DPO
        };
        assert_eq!(dpo.rows(&text).unwrap().rows, [[0, 1, 2, 3], [0, 1, 6, 7]]);
        assert_eq!(dpo.size(), "1x2x4");
        let error = case.rows(&text[..5]).unwrap_err().to_string();
        assert!(
            error.ends_with("the text has 5 tokens, 6 are needed"),
            "{error}"
        );
    }

    #[test]
    fn another_loss_is_no_result() {
        let step = |loss| Stepped { seconds: 1.0, loss };
        let case = TrainingCase {
            dtype: Number::F32,
            ..TRAINING_CASES[0]
        };
        let said = |ours, peer| check_losses(&case, [(&step(ours), &step(peer))]);
        said(2.0, 2.001).unwrap();
        assert!(said(2.0, 2.01).is_err());
        assert!(said(f64::NAN, 2.0).is_err());
    }
}
