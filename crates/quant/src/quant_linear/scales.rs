//! Scales on a device, plain or double-quantized.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};
use flametune_kernels::PackedScales;

use super::{frozen, frozen_ints, words};
use crate::blockwise8::Blockwise8;
use crate::double_quant::NestedScales;
use crate::map8::Map8;
use crate::scales::Scales;

/// [`Scales`] on a device.
#[expect(
    clippy::large_enum_variant,
    reason = "one a layer, and nothing beside its codes"
)]
#[derive(Module, Debug)]
pub(super) enum DeviceScales {
    /// One f32 a block.
    Absmax(Param<Tensor<1>>),
    /// Eight bits a block.
    Nested(DeviceNested),
}

/// [`NestedScales`] on a device.
#[derive(Module, Debug)]
pub(super) struct DeviceNested {
    pub(super) codes: Param<Tensor<1, Int>>,
    /// The numbers of the codes.
    map: Tensor<1>,
    pub(super) absmax: Param<Tensor<1>>,
    #[module(skip)]
    pub(super) offset: f32,
    #[module(skip)]
    pub(super) block_size: usize,
}

impl DeviceScales {
    pub(super) fn upload(scales: &Scales, device: &Device) -> Self {
        let floats = |numbers: &[f32]| {
            let data = TensorData::new(numbers.to_vec(), [numbers.len()]);
            words::floats(data, device)
        };
        match scales {
            Scales::Absmax(absmax) => Self::Absmax(frozen(floats(absmax))),
            Scales::Nested(nested) => Self::Nested(DeviceNested {
                codes: frozen_ints(words::upload(nested.codes().codes(), device)),
                map: floats(Map8::dynamic_signed().values()),
                absmax: frozen(floats(nested.codes().absmax())),
                offset: nested.offset(),
                block_size: nested.codes().block_size(),
            }),
        }
    }

    pub(super) fn download(&self, n_blocks: usize) -> Scales {
        let floats = |tensor: &Param<Tensor<1>>| tensor.val().into_data().iter::<f32>().collect();
        match self {
            Self::Absmax(absmax) => Scales::Absmax(floats(absmax)),
            Self::Nested(nested) => Scales::Nested(NestedScales {
                codes: Blockwise8 {
                    codes: words::download(&nested.codes.val(), n_blocks),
                    absmax: floats(&nested.absmax),
                    block_size: nested.block_size,
                },
                offset: nested.offset,
            }),
        }
    }

    pub(super) fn packed(&self) -> PackedScales {
        match self {
            Self::Absmax(absmax) => PackedScales::Absmax(absmax.val()),
            Self::Nested(nested) => PackedScales::Nested {
                codes: nested.codes.val(),
                map: nested.map.clone(),
                absmax: nested.absmax.val(),
                offset: nested.offset,
                block_size: nested.block_size,
            },
        }
    }

    /// As [`Scales::bytes`] counts them.
    pub(super) fn bytes(&self, n_blocks: usize) -> usize {
        const F32: usize = size_of::<f32>();
        match self {
            Self::Absmax(_) => n_blocks * F32,
            Self::Nested(nested) => n_blocks + n_blocks.div_ceil(nested.block_size) * F32 + F32,
        }
    }
}
