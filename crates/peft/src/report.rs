//! How many parameters there are, and how many of them are trained.

use std::fmt;

use flametune_quant::BaseLinear;

use crate::base;
use crate::slots::{BaseRef, NamedAdapter, PartRole, SlotMethod, SlotModule, Slots};
use crate::tensors::{self, AdapterTensor};

/// The parameters of a model with its adapters.
///
/// # Units
/// - counts are parameters, whatever number of bits stores them; bytes are those in memory
#[derive(Debug, Clone, PartialEq)]
pub struct TrainableReport {
    /// Parameters that are trained.
    pub trainable: usize,
    /// Parameters in all, base and adapters; a trained copy of a bias counts once with the bias.
    pub total: usize,
    /// Bytes of the trained parameters.
    pub trainable_bytes: usize,
    /// Bytes of the base.
    pub base_bytes: usize,
    /// One row a part of an adapter, in the order of the model.
    pub modules: Vec<ModuleRow>,
}

/// One part of an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleRow {
    /// The module it sits on.
    pub path: String,
    /// The adapter it belongs to.
    pub adapter: String,
    /// What it is, such as `lora` or `modules_to_save`.
    pub method: &'static str,
    /// The rank, of methods that have one.
    pub r: Option<usize>,
    /// Its parameters.
    pub params: usize,
    /// Whether they are trained.
    pub trainable: bool,
    /// Their bytes.
    pub bytes: usize,
}

impl TrainableReport {
    /// Trained parameters in percent of all.
    #[expect(clippy::cast_precision_loss, reason = "a percentage")]
    pub fn percent(&self) -> f64 {
        100.0 * self.trainable as f64 / self.total.max(1) as f64
    }
}

impl fmt::Display for TrainableReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.modules.iter().map(|row| row.path.len()).max();
        let width = width.unwrap_or(0);
        for row in &self.modules {
            let r = row.r.map_or_else(|| "-".to_owned(), |r| r.to_string());
            writeln!(
                f,
                "{:width$}  {}  {:15}  r {r:>4}  {:>12} parameters  {}",
                row.path,
                row.adapter,
                row.method,
                row.params,
                if row.trainable { "trained" } else { "frozen" },
            )?;
        }
        write!(
            f,
            "trainable {} of {} parameters ({:.4} %), {} bytes",
            self.trainable,
            self.total,
            self.percent(),
            self.trainable_bytes
        )
    }
}

/// Counts the parameters of a model.
pub fn report<M: Slots>(model: &M) -> TrainableReport {
    let mut counted = TrainableReport {
        trainable: 0,
        total: 0,
        trainable_bytes: 0,
        base_bytes: 0,
        modules: Vec::new(),
    };
    model.clone().visit_slots(&mut |slot| match slot.module {
        SlotModule::Linear(linear) => {
            if let BaseRef::Own(base) = &linear.base {
                counted.base(linear_params(base), base::bytes(base));
            }
            counted.parts(slot.path, linear.adapters);
        }
        SlotModule::Embedding(table) => {
            let params = table.weight.dims().iter().product();
            counted.base(params, params * table.weight.dtype().size());
            counted.parts(slot.path, &table.adapters);
        }
        SlotModule::Norm(norm) => {
            let width = norm.weight.dims()[0];
            let params = width * (1 + usize::from(norm.bias.is_some()));
            counted.base(params, params * norm.weight.dtype().size());
            counted.parts(slot.path, &norm.adapters);
        }
        SlotModule::Prompt(prompt) => counted.parts(slot.path, prompt.adapters),
        SlotModule::Sublayer(sublayer) => counted.parts(slot.path, sublayer.adapters),
        SlotModule::Vector(vector) => {
            let params = vector.dims()[0];
            counted.base(params, params * vector.dtype().size());
        }
    });
    counted
}

fn linear_params(base: &BaseLinear) -> usize {
    let bias = base::bias(base).map_or(0, |bias| bias.dims()[0]);
    base.d_in() * base.d_out() + bias
}

impl TrainableReport {
    fn base(&mut self, params: usize, bytes: usize) {
        self.total += params;
        self.base_bytes += bytes;
    }

    fn parts<M: SlotMethod>(&mut self, path: &str, parts: &[NamedAdapter<M>]) {
        for part in parts {
            let info = part.method.info();
            let tensors = tensors::list(&part.method, part.method.tensor_names());
            let row = ModuleRow {
                path: path.to_owned(),
                adapter: part.name.clone(),
                method: info.method,
                r: info.r,
                params: tensors.iter().map(AdapterTensor::len).sum(),
                trainable: part.trainable,
                bytes: tensors.iter().map(|t| t.len() * t.dtype.size()).sum(),
            };
            // PEFT trains biases in place, so a copy of one is no parameter more.
            if info.role != PartRole::Bias {
                self.total += row.params;
            }
            if row.trainable {
                self.trainable += row.params;
                self.trainable_bytes += row.bytes;
            }
            self.modules.push(row);
        }
    }
}
