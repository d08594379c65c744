//! Our LoRA against Burn's own, which builds the dense weight `W + scale·a·b`.

use burn::module::{Lora, Module, ModuleMapper, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{DType, Device, Tensor, TensorData};
use flametune_peft::{
    AdapterLinear, AdapterPass, AdapterTable, LinearMethod, LoraConfig, Slot, SlotModule, Slots,
    TargetModules, inject,
};
use flametune_quant::{BaseLinear, DenseLinear};
use flametune_testkit::{assert_close, tol};

use crate::tiny::numbers;

const D_IN: usize = 40;
const D_OUT: usize = 27;
const R: usize = 4;

fn tensor(shape: [usize; 2], salt: usize, device: &Device) -> Tensor<2> {
    let data = TensorData::new(numbers(shape[0] * shape[1], salt), shape);
    Tensor::from_data(data, (device, DType::F32))
}

/// Gives Burn's `b`, which starts at zero, numbers.
struct Fill;

impl ModuleMapper for Fill {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if param.dims().as_slice() != [R, D_OUT] {
            return param;
        }
        param.map(|b| {
            let data = TensorData::new(numbers(R * D_OUT, 3), b.dims());
            Tensor::from_data(data, (&b.device(), b.dtype())).require_grad()
        })
    }
}

/// One layer with slots.
#[derive(Clone)]
struct One {
    proj: AdapterLinear,
    adapters: AdapterTable,
}

impl Slots for One {
    fn adapters(&self) -> &AdapterTable {
        &self.adapters
    }

    fn adapters_mut(&mut self) -> &mut AdapterTable {
        &mut self.adapters
    }

    fn visit_slots(&mut self, visit: &mut dyn FnMut(Slot<'_>)) {
        visit(Slot::linear("proj", &mut self.proj));
    }
}

#[test]
fn lora_equals_burns_apply_lora_in_value_and_gradients() {
    let device = Device::flex().autodiff();
    let theirs: Linear = LinearConfig::new(D_IN, D_OUT)
        .init(&device)
        .apply_lora(Lora::new(R, 6.0))
        .map(&mut Fill);
    let adapter = theirs.weight.adapter().expect("an adapter");

    let base = BaseLinear::Dense(DenseLinear::new(
        Param::from_tensor(theirs.weight.base().transpose().detach()),
        theirs
            .bias
            .as_ref()
            .map(|bias| Param::from_tensor(bias.val().detach())),
    ));
    let mut ours = One {
        proj: AdapterLinear::new(base).no_grad(),
        adapters: AdapterTable::default(),
    };
    let config = LoraConfig {
        r: R,
        lora_alpha: 6.0,
        target_modules: Some(TargetModules::list(["proj"])),
        ..LoraConfig::default()
    };
    inject(&mut ours, "a", &config.into(), 1).unwrap();
    ours.visit_slots(&mut |slot| {
        let SlotModule::Linear(linear) = slot.module else {
            return;
        };
        for part in linear.adapters.iter_mut() {
            let LinearMethod::Lora(lora) = &mut part.method else {
                panic!("another method");
            };
            let copy = |factor: &Param<Tensor<2>>| {
                Param::from_tensor(factor.val().transpose().detach().require_grad())
            };
            (lora.lora_a, lora.lora_b) = (copy(&adapter.a), copy(&adapter.b));
        }
    });
    let LinearMethod::Lora(lora) = &ours.proj.adapters[0].method else {
        panic!("another method");
    };

    for rows in [3, 130] {
        let x = || tensor([rows, D_IN], 1, &device).require_grad();
        let weights = tensor([rows, D_OUT], 2, &device);
        let (x_theirs, x_ours) = (x(), x());
        let y_theirs = theirs.forward(x_theirs.clone());
        let y_ours = ours.proj.forward(x_ours.clone(), &AdapterPass::one("a"));
        // Sums of 40 products, of which one factor is a sum of four itself.
        let tolerance = tol::f32_sum(160);
        assert_close(&y_ours.to_data(), &y_theirs.to_data(), tolerance, "y");
        let found = (y_ours * weights.clone()).sum().backward();
        let expected = (y_theirs * weights).sum().backward();
        let pairs = [
            (x_ours.grad(&found), x_theirs.grad(&expected)),
            (
                lora.lora_a.val().grad(&found),
                adapter.a.val().grad(&expected).map(Tensor::transpose),
            ),
            (
                lora.lora_b.val().grad(&found),
                adapter.b.val().grad(&expected).map(Tensor::transpose),
            ),
        ];
        // Gradients of factors are sums over rows of such sums.
        let tolerance = tol::f32_sum(160).of_magnitude(40.0);
        for ((found, expected), name) in pairs.into_iter().zip(["dx", "dA", "dB"]) {
            let (found, expected) = (found.unwrap(), expected.unwrap());
            assert_close(&found.into_data(), &expected.into_data(), tolerance, name);
        }
        let base = ours.proj.base_layer.dense_weight();
        assert!(base.grad(&found).is_none(), "the base has a gradient");
    }
}
