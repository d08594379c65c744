//! The term of the loss that keeps the factors of `AdaLoRA` near orthogonality.

use burn::tensor::Tensor;
use flametune_kernels::linear;

use crate::slots::{LinearMethod, SlotModule, Slots};

/// How far the factors of an adapter are from orthogonality: the mean over all `A` and `B` of
/// `‖A·Aᵀ − I‖` and `‖Bᵀ·B − I‖`; nothing when no module has an `AdaLoRA` part of this name.
///
/// Training adds `orth_reg_weight` times this to the loss.
///
/// # Source
/// - Zhang et al. 2023, `AdaLoRA`, arXiv:2303.10512, §3.1 eq. (4); there the squares are summed
/// - reference: peft `tuners/adalora/model.py::AdaLoraModel.forward`
pub fn orthogonal_penalty<M: Slots>(model: &mut M, name: &str) -> Option<Tensor<1>> {
    let mut sum: Option<Tensor<1>> = None;
    let mut count = 0;
    let mut add = |vectors: Tensor<2>| {
        count += 1;
        let term = distance(vectors);
        sum = Some(match sum.take() {
            Some(sum) => sum + term,
            None => term,
        });
    };
    model.visit_slots(&mut |slot| {
        let SlotModule::Linear(linear) = slot.module else {
            return;
        };
        for part in linear.adapters.iter().filter(|part| part.name == name) {
            match &part.method {
                LinearMethod::AdaLora(part) if part.r() > 0 => {
                    add(part.lora_a.val());
                    add(part.lora_b.val().transpose());
                }
                _ => {}
            }
        }
    });
    sum.map(|sum| sum / f64::from(count))
}

/// `‖V·Vᵀ − I‖` of the rows of a matrix.
fn distance(vectors: Tensor<2>) -> Tensor<1> {
    let [r, _] = vectors.dims();
    let place = (vectors.device(), vectors.dtype());
    let eye = Tensor::<2>::eye(r, &place.0).cast(place.1);
    let gram = linear(vectors.clone(), vectors, None);
    (gram - eye).powi_scalar(2).sum().sqrt()
}
