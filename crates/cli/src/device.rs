//! Which device computes, and in which number formats.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};
use burn::tensor::{DType, Device};
use clap::{Args, ValueEnum};
use flametune_kernels::Precision;
use flametune_lm::{Checkpoint, LoadOptions, stored_weights};
use serde::{Deserialize, Serialize};

/// Device and number format, as every command takes them.
#[derive(Debug, Args)]
pub(crate) struct DeviceArgs {
    /// Where to compute: cpu, wgpu (Vulkan, Metal, DirectX) or cuda; wgpu:1 is the second GPU
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub(crate) device: DeviceName,

    /// Number format of the weights; auto keeps 16-bit files as they are on the CPU, where bf16
    /// also rounds activations to bf16 as they are multiplied
    #[arg(long, value_enum, default_value_t = DtypeName::Auto, value_name = "DTYPE")]
    pub(crate) dtype: DtypeName,
}

/// A device by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) enum DeviceName {
    #[default]
    Cpu,
    Wgpu(Option<usize>),
    Cuda(Option<usize>),
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let (kind, index) = match name.split_once(':') {
            None => (name, None),
            Some((kind, index)) => {
                let index = index.parse().map_err(|_| {
                    format!("the number after `{kind}:` must count devices from 0, got `{index}`")
                })?;
                (kind, Some(index))
            }
        };
        match (kind, index) {
            ("cpu", None) => Ok(Self::Cpu),
            ("wgpu", index) => Ok(Self::Wgpu(index)),
            ("cuda", index) => Ok(Self::Cuda(index)),
            _ => Err("expected cpu, wgpu, wgpu:N, cuda or cuda:N".to_owned()),
        }
    }
}

impl TryFrom<String> for DeviceName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

impl From<DeviceName> for String {
    fn from(name: DeviceName) -> Self {
        name.to_string()
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => write!(f, "cpu"),
            Self::Wgpu(None) => write!(f, "wgpu"),
            Self::Wgpu(Some(index)) => write!(f, "wgpu:{index}"),
            Self::Cuda(None) => write!(f, "cuda"),
            Self::Cuda(Some(index)) => write!(f, "cuda:{index}"),
        }
    }
}

/// A number format by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DtypeName {
    #[default]
    Auto,
    F32,
    Bf16,
    F16,
}

impl DeviceArgs {
    /// Opens the device and settles the number formats for `checkpoint`.
    pub(crate) fn load_options(&self, checkpoint: &Checkpoint) -> Result<LoadOptions> {
        let device = self.device.open()?;
        let weight_dtype = match (self.dtype, self.device) {
            (DtypeName::F32, _) => DType::F32,
            (DtypeName::Bf16, _) => DType::BF16,
            (DtypeName::F16, _) => DType::F16,
            (DtypeName::Auto, DeviceName::Cpu) => stored_dtype(checkpoint)?,
            (DtypeName::Auto, DeviceName::Wgpu(_)) => DType::F32,
            (DtypeName::Auto, DeviceName::Cuda(_)) => DType::BF16,
        };
        // On the CPU activations are f32 in memory. 16-bit weights of a file are multiplied with
        // them exactly; bf16 that was asked for is a property of the product, for both operands.
        let on_cpu = self.device == DeviceName::Cpu;
        let compute_dtype = if on_cpu { DType::F32 } else { weight_dtype };
        let precision = if on_cpu && self.dtype == DtypeName::Bf16 {
            Precision::Bf16
        } else {
            Precision::Full
        };
        if !device.supports_dtype(compute_dtype) {
            bail!(
                "{} cannot compute in {}; try --dtype f32",
                self.device,
                compute_dtype.name()
            );
        }
        let options = LoadOptions::new(&device, weight_dtype, compute_dtype);
        Ok(options.with_precision(precision))
    }
}

/// The format of a checkpoint's largest weight that is not quantized, where it is a 16-bit one,
/// else f32.
pub(crate) fn stored_dtype(checkpoint: &Checkpoint) -> Result<DType> {
    let weights = stored_weights(checkpoint.tensors())?;
    let largest = weights
        .iter()
        .filter(|weight| weight.packed.is_none())
        .max_by_key(|weight| weight.bytes);
    Ok(match largest.map(|weight| weight.format.as_str()) {
        Some("BF16") => DType::BF16,
        Some("F16") => DType::F16,
        _ => DType::F32,
    })
}

impl DeviceName {
    fn open(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::flex()),
            Self::Wgpu(index) => wgpu(self, index.unwrap_or(0)),
            Self::Cuda(index) => cuda(self, index.unwrap_or(0)),
        }
    }
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn nth(name: DeviceName, kind: burn::tensor::DeviceType, index: usize) -> Result<Device> {
    let found = Device::enumerate(kind).into_vec();
    let count = found.len();
    match found.into_iter().nth(index) {
        Some(device) => Ok(device),
        None => bail!("there is no device {name}: {count} of the kind found"),
    }
}

#[cfg(feature = "wgpu")]
fn wgpu(name: DeviceName, index: usize) -> Result<Device> {
    nth(name, burn::tensor::DeviceType::Wgpu, index)
}

#[cfg(not(feature = "wgpu"))]
fn wgpu(name: DeviceName, _index: usize) -> Result<Device> {
    bail!("{name}: this build has no GPU support; build with `--features wgpu`")
}

#[cfg(feature = "cuda")]
fn cuda(name: DeviceName, index: usize) -> Result<Device> {
    nth(name, burn::tensor::DeviceType::Cuda, index)
}

#[cfg(not(feature = "cuda"))]
fn cuda(name: DeviceName, _index: usize) -> Result<Device> {
    bail!("{name}: this build has no CUDA support; build with `--features cuda`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_read_back_as_they_are_shown() {
        for name in ["cpu", "wgpu", "wgpu:1", "cuda", "cuda:0"] {
            assert_eq!(
                name.parse::<DeviceName>().map(|device| device.to_string()),
                Ok(name.into())
            );
        }
        for name in ["gpu", "cpu:0", "", "cuda:x", "wgpu:-1"] {
            assert!(name.parse::<DeviceName>().is_err(), "{name}");
        }
    }
}
