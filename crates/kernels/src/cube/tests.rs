//! Fusion calls what the bare backend calls.

use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, Tensor, TensorData};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use flametune_testkit::{assert_close, tol::Tolerance, wgpu};

use super::device;
use crate::gated::{Activation, GatedCubeGradients, GatedCubeOps};
use crate::norm::{Norm, NormCubeGradients, NormCubeOps};
use crate::precision::Precision;
use crate::sample::numbers;
use crate::{geglu_tanh, rms_norm};

fn read(tensor: CubeTensor) -> TensorData {
    burn::tensor::read_sync(CubeBackend::float_into_data(tensor)).unwrap()
}

#[test]
fn gates_and_norms_are_the_same_with_and_without_fusion() {
    let Some(wgpu) = wgpu() else { return };
    let Some(cube) = device(&wgpu) else { return };
    let data = [numbers([5, 33], 1), numbers([5, 33], 2), numbers([33], 3)];
    let bare = |i: usize| CubeBackend::float_from_data(data[i].clone(), &cube);
    let autodiff = wgpu.autodiff();
    let leaf = |i: usize| Tensor::<2>::from_data(data[i].clone(), &autodiff).require_grad();
    let exact = |fused: Tensor<2>, bare, what| {
        assert_close(&fused.into_data(), &read(bare), Tolerance::exact(), what);
    };

    let (gate, up) = (leaf(0), leaf(1));
    let y = geglu_tanh(gate.clone(), up.clone());
    let grads = y.clone().sum().backward();
    let ones = || CubeBackend::float_from_data(TensorData::ones::<f32, _>([5, 33]), &cube);
    let gelu = Activation::GeluTanh;
    exact(
        y.inner(),
        CubeBackend::gated_cube(bare(0), bare(1), gelu),
        "y",
    );
    let (d_gate, d_up) = CubeBackend::gated_cube_gradients(bare(0), bare(1), ones(), gelu);
    exact(gate.grad(&grads).unwrap(), d_gate, "dgate");
    exact(up.grad(&grads).unwrap(), d_up, "dup");

    let (x, weight) = (leaf(0), Tensor::<1>::from_data(data[2].clone(), &autodiff));
    let weight = weight.require_grad();
    let y = rms_norm(x.clone(), weight.clone(), 1e-5);
    assert_eq!(y.dtype(), DType::F32);
    let grads = y.clone().sum().backward();
    let norm = Norm {
        eps: 1e-5,
        centred: false,
        precision: Precision::Full,
    };
    exact(
        y.inner(),
        CubeBackend::norm_cube(bare(0), bare(2), norm),
        "y",
    );
    let dx = CubeBackend::norm_cube_x_gradient(bare(0), bare(2), ones(), norm);
    exact(x.grad(&grads).unwrap(), dx, "dx");
    let dw = CubeBackend::norm_cube_weight_gradient(bare(0), ones(), norm);
    let got = weight.grad(&grads).unwrap().into_data();
    assert_close(&got, &read(dw), Tolerance::exact(), "dweight");
}
