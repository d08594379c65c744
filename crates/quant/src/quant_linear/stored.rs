//! The tensors that a layer is stored as, read from the device one at a time.

use burn::tensor::{Int, Tensor};
use safetensors::Dtype;

use super::QuantLinear;
use super::scales::DeviceScales;
use super::words;
use crate::bnb_layout::{Header, PartBytes, plan};
use crate::error::Result;

/// A stored tensor of a [`QuantLinear`] whose bytes are still on the device.
#[derive(Debug, Clone)]
pub struct StoredPart {
    /// The name, which begins with that of the weight or of its layer.
    pub name: String,
    /// The element type.
    pub dtype: Dtype,
    /// The shape, outermost dimension first.
    pub shape: Vec<usize>,
    values: Values,
}

#[derive(Debug, Clone)]
enum Values {
    Words { words: Tensor<1, Int>, bytes: usize },
    Floats(Tensor<1>),
    Host(Vec<u8>),
}

impl StoredPart {
    /// Reads the elements, row-major and little-endian.
    pub fn bytes(&self) -> Vec<u8> {
        match &self.values {
            Values::Words { words, bytes } => words::download(words, *bytes),
            Values::Floats(numbers) => {
                let numbers = numbers.clone().into_data();
                numbers.iter::<f32>().flat_map(f32::to_le_bytes).collect()
            }
            Values::Host(bytes) => bytes.clone(),
        }
    }
}

impl QuantLinear {
    /// The tensors that store the layer's weight, named `weight`, as bitsandbytes does.
    ///
    /// The same that [`bnb_layout::write`](crate::bnb_layout::write) makes of
    /// [`to_quant_tensor`](Self::to_quant_tensor), without bringing all of it to the host at once.
    ///
    /// # Errors
    /// [`Error::BnbLayout`](crate::Error::BnbLayout) for a kind that the layout has no place for.
    pub fn stored_parts(&self, weight: &str) -> Result<Vec<StoredPart>> {
        let nested = match &self.scales {
            DeviceScales::Absmax(_) => None,
            DeviceScales::Nested(nested) => Some((nested.block_size, nested.offset)),
        };
        let header = Header {
            kind: self.kind(),
            block_size: self.block_size(),
            dtype: self.config.dtype,
            shape: &self.shape,
            nested,
        };
        let parts = plan(weight, &header)?;
        let stored = parts.into_iter().map(|part| StoredPart {
            name: part.name,
            dtype: part.dtype,
            shape: part.shape,
            values: self.values(part.bytes),
        });
        Ok(stored.collect())
    }

    fn values(&self, bytes: PartBytes) -> Values {
        match (bytes, &self.scales) {
            (PartBytes::Given(bytes), _) => Values::Host(bytes),
            (PartBytes::Codes, _) => Values::Words {
                words: self.codes.val(),
                bytes: self.config.kind.code_bytes(self.numel()),
            },
            (PartBytes::Scales, DeviceScales::Absmax(absmax)) => Values::Floats(absmax.val()),
            (PartBytes::Scales, DeviceScales::Nested(nested)) => Values::Words {
                words: nested.codes.val(),
                bytes: self.n_blocks(),
            },
            (PartBytes::OuterScales, DeviceScales::Nested(nested)) => {
                Values::Floats(nested.absmax.val())
            }
            // Plain scales have no second level, and the plan asks for none.
            (PartBytes::OuterScales, DeviceScales::Absmax(_)) => Values::Host(Vec::new()),
        }
    }
}
