//! The devices that a test can run on here.

use std::sync::OnceLock;

use burn::tensor::{Device, DeviceType};

use crate::assets::skipped;

/// The CPU, on which every test runs.
pub fn cpu() -> Device {
    Device::flex()
}

/// A device reached through wgpu, or `None`, said aloud, when there is none.
///
/// Mesa's lavapipe counts: it is Vulkan in software, slow but complete.
/// Adapters are listed, not opened, so that a machine without any is no error.
pub fn wgpu() -> Option<Device> {
    static FOUND: OnceLock<Option<Device>> = OnceLock::new();
    let found = FOUND.get_or_init(|| Device::enumerate(DeviceType::Wgpu).into_iter().next());
    if found.is_none() {
        skipped("no Vulkan device (lavapipe is one: Debian's mesa-vulkan-drivers)");
    }
    found.clone()
}

/// The CPU, and a wgpu device where there is one.
pub fn devices() -> Vec<Device> {
    std::iter::once(cpu()).chain(wgpu()).collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Tensor;

    use super::*;

    #[test]
    fn every_device_multiplies_matrices() {
        for device in devices() {
            let x = Tensor::<2>::from_data([[1.0, 2.0], [3.0, 4.0]], &device);
            let y = x.clone().matmul(x).into_data().try_to_vec::<f32>().unwrap();
            assert_eq!(y, [7.0, 10.0, 15.0, 22.0], "{device:?}");
        }
    }
}
