//! What the CubeCL forms share: when they apply, and how they see and make a tensor.

mod sum;
#[cfg(test)]
mod tests;

pub(crate) use sum::sum_lanes;

use burn::backend::DispatchDevice;
use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::{DType, Device, Shape, Tensor};
pub(crate) use burn_cubecl::CubeDevice;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::ir::features::{Plane, TypeUsage};
use cubecl::prelude::{BufferArg, CubeCount};

/// Cubes along one axis of a launch; WebGPU promises no more.
pub(crate) const MAX_CUBES: usize = 65_535;

/// The cube device under `device`, with or without autodiff.
pub(crate) fn device(device: &Device) -> Option<CubeDevice> {
    on_cube(device.as_dispatch())
}

#[allow(
    unreachable_patterns,
    reason = "how many backends there are is up to Burn's features"
)]
fn on_cube(device: &DispatchDevice) -> Option<CubeDevice> {
    match device {
        DispatchDevice::Cube(device) => Some(device.clone()),
        DispatchDevice::Autodiff(device) => on_cube(device),
        _ => None,
    }
}

/// Whether kernels on the device can read, compute with and write numbers of a float type.
pub(crate) fn computes(client: &Client, dtype: DType) -> bool {
    let floats = matches!(dtype, DType::F32 | DType::F16 | DType::BF16);
    let needs = TypeUsage::Buffer | TypeUsage::Conversion;
    let features = &client.properties().features;
    floats
        && features
            .type_usage(dtype_to_storage_type(dtype))
            .is_superset(needs)
}

/// How many units always run in lockstep and can add up their numbers, if that is one number.
pub(crate) fn plane_size(client: &Client) -> Option<u32> {
    let properties = client.properties();
    let hardware = &properties.hardware;
    let fixed = hardware.plane_size_min == hardware.plane_size_max;
    let adds = properties.features.plane.contains(Plane::Ops);
    (fixed && adds && hardware.plane_size_min >= 8).then_some(hardware.plane_size_min)
}

/// Whether kernels can take `tensor`: on a cube device that computes with its dtype, not empty,
/// and with indices of 32 bits.
pub(crate) fn takes<const D: usize>(tensor: &Tensor<D>) -> bool {
    let numel = tensor.shape().num_elements();
    (1..u32::MAX as usize).contains(&numel)
        && device(&tensor.device()).is_some_and(|device| computes(&device.client(), tensor.dtype()))
}

/// A row-major tensor for a kernel to fill.
pub(crate) fn empty(like: &CubeTensor, shape: Shape, dtype: DType) -> CubeTensor {
    let bytes = shape.num_elements() * dtype.size();
    let (client, device) = (like.client.clone(), like.device.clone());
    let buffer = client.empty(bytes);
    CubeTensor::new_contiguous(client, device, shape, buffer, dtype)
}

/// The numbers of a tensor, row-major, as a kernel's argument.
pub(crate) fn rows(tensor: CubeTensor) -> BufferArg {
    into_contiguous(tensor).into_buffer_arg()
}

/// `cubes` cubes, or a few more, over two axes.
pub(crate) fn spread(cubes: usize) -> CubeCount {
    let x = cubes.clamp(1, MAX_CUBES);
    CubeCount::new_2d(narrow(x), narrow(cubes.div_ceil(x)))
}

/// A size that the callers have bounded.
pub(crate) fn narrow(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}
