//! Gradients by the names of the parameters.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor};
use flametune_lm::CausalLm;
use flametune_peft::{SlotModule, Slots};

use crate::models::values;

struct Norms<'a> {
    gradients: &'a Gradients,
    path: String,
    field: Vec<String>,
    found: BTreeMap<String, f64>,
}

impl ModuleVisitor for Norms<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.field.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.field.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(gradient) = param.val().grad(self.gradients) else {
            return;
        };
        let is_part_of = |method: &str| self.field.iter().any(|name| name == method);
        let key = match self.field.last().map_or("", String::as_str) {
            "lora_a" if is_part_of("AdaLora") => "lora_A",
            "lora_b" if is_part_of("AdaLora") => "lora_B",
            "lora_e" => "lora_E",
            "hira_a" => "hira_A",
            "hira_b" => "hira_B",
            "Columns" | "Squares" => "miss_block",
            "weight" if is_part_of("LnTuning") => "ln_tuning_layers.weight",
            "lora_a" => "lora_A.weight",
            "lora_b" => "lora_B.weight",
            "lora_bias" => "lora_B.bias",
            "lora_embedding_a" => "lora_embedding_A",
            "lora_embedding_b" => "lora_embedding_B",
            other => other,
        };
        let norm = values(gradient)
            .iter()
            .map(|&x| f64::from(x).powi(2))
            .sum::<f64>();
        self.found
            .insert(format!("base_model.model.{}.{key}", self.path), norm.sqrt());
    }
}

/// The norm of the gradient of every parameter of an adapter, by its key in the file; parameters of
/// the base must have none.
pub(crate) fn adapter_norms(
    model: &mut CausalLm,
    name: &str,
    gradients: &Gradients,
) -> BTreeMap<String, f64> {
    let mut norms = Norms {
        gradients,
        path: String::new(),
        field: Vec::new(),
        found: BTreeMap::new(),
    };
    model.visit_slots(&mut |slot| {
        slot.path.clone_into(&mut norms.path);
        let before = norms.found.len();
        match &slot.module {
            SlotModule::Linear(linear) => linear.base.get().visit(&mut norms),
            SlotModule::Embedding(table) => table.weight.visit(&mut norms),
            SlotModule::Norm(norm) => norm.weight.visit(&mut norms),
            SlotModule::Vector(vector) => vector.visit(&mut norms),
            SlotModule::Prompt(_) | SlotModule::Sublayer(_) => {}
        }
        assert_eq!(
            norms.found.len(),
            before,
            "the base of {} is trained",
            slot.path
        );
        match slot.module {
            SlotModule::Linear(linear) => {
                for part in linear.adapters.iter().filter(|part| part.name == name) {
                    part.visit(&mut norms);
                }
            }
            SlotModule::Embedding(table) => {
                for part in table.adapters.iter().filter(|part| part.name == name) {
                    part.visit(&mut norms);
                }
            }
            SlotModule::Norm(norm) => {
                for part in norm.adapters.iter().filter(|part| part.name == name) {
                    part.visit(&mut norms);
                }
            }
            SlotModule::Prompt(prompt) => {
                for part in prompt.adapters.iter().filter(|part| part.name == name) {
                    part.visit(&mut norms);
                }
            }
            SlotModule::Sublayer(sublayer) => {
                for part in sublayer.adapters.iter().filter(|part| part.name == name) {
                    part.visit(&mut norms);
                }
            }
            SlotModule::Vector(_) => {}
        }
    });
    norms.found
}
