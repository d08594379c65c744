//! The quant state: a JSON object in a tensor of bytes.

use serde::Deserialize;

use super::error::BnbLayoutError;
use super::plan::Header;
use crate::config::{BLOCK_SIZES, QuantKind, WeightDtype};

/// The fields as bitsandbytes writes them; it knows no others.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    quant_type: String,
    blocksize: usize,
    dtype: String,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    nested_dtype: Option<String>,
    nested_offset: Option<f64>,
}

/// A quant state whose fields are known to be supported.
#[derive(Debug)]
pub(super) struct State {
    pub(super) block_size: usize,
    pub(super) dtype: WeightDtype,
    pub(super) shape: Vec<usize>,
    pub(super) numel: usize,
    pub(super) nested: Option<NestedState>,
}

/// What double quantization adds to it.
#[derive(Debug)]
pub(super) struct NestedState {
    pub(super) block_size: usize,
    pub(super) offset: f32,
}

impl State {
    /// Reads the state from a part whose name says that the kind is `kind`.
    pub(super) fn parse(json: &[u8], kind: QuantKind) -> Result<Self, BnbLayoutError> {
        let fields: Fields = serde_json::from_slice(json)
            .map_err(|source| BnbLayoutError::InvalidState { source })?;
        if fields.quant_type != kind.as_str() {
            let expected = format!("\"{kind}\" as the name of the part says");
            return Err(invalid("quant_type", &expected, fields.quant_type));
        }
        let Some(dtype) = WeightDtype::from_torch_name(&fields.dtype) else {
            let expected = "float32, float16 or bfloat16";
            return Err(invalid("dtype", expected, fields.dtype));
        };
        let numel = crate::tensor::numel(&fields.shape);
        Ok(Self {
            block_size: block_size("blocksize", fields.blocksize)?,
            dtype,
            nested: NestedState::from_fields(&fields)?,
            numel: numel.map_err(|_| BnbLayoutError::StoredShape {
                shape: fields.shape.clone(),
            })?,
            shape: fields.shape,
        })
    }
}

impl NestedState {
    fn from_fields(fields: &Fields) -> Result<Option<Self>, BnbLayoutError> {
        let (size, dtype, offset) = match (
            fields.nested_blocksize,
            &fields.nested_dtype,
            fields.nested_offset,
        ) {
            (None, None, None) => return Ok(None),
            (Some(size), Some(dtype), Some(offset)) => (size, dtype, offset),
            (size, dtype, _) => {
                let field = match (size, dtype) {
                    (None, _) => "nested_blocksize",
                    (_, None) => "nested_dtype",
                    _ => "nested_offset",
                };
                return Err(BnbLayoutError::MissingField { field });
            }
        };
        if dtype != WeightDtype::F32.torch_name() {
            return Err(invalid("nested_dtype", "float32", dtype.clone()));
        }
        #[allow(
            clippy::cast_possible_truncation,
            reason = "an f32 number, which JSON holds as f64"
        )]
        let rounded = offset as f32;
        if !rounded.is_finite() {
            return Err(invalid(
                "nested_offset",
                "a finite 32-bit number",
                format!("{offset:?}"),
            ));
        }
        Ok(Some(Self {
            block_size: block_size("nested_blocksize", size)?,
            offset: rounded,
        }))
    }
}

/// The JSON of a weight's quant state, spelled as Python's `json.dumps` spells it.
pub(super) fn to_json(header: &Header<'_>) -> String {
    let shape: Vec<String> = header.shape.iter().map(usize::to_string).collect();
    let plain = format!(
        r#""quant_type": "{}", "blocksize": {}, "dtype": "{}", "shape": [{}]"#,
        header.kind,
        header.block_size,
        header.dtype.torch_name(),
        shape.join(", ")
    );
    match header.nested {
        None => format!("{{{plain}}}"),
        // Python holds the offset in 64 bits, where it takes more digits.
        Some((block_size, offset)) => format!(
            r#"{{{plain}, "nested_blocksize": {block_size}, "nested_dtype": "float32", "nested_offset": {:?}}}"#,
            f64::from(offset)
        ),
    }
}

fn block_size(field: &'static str, got: usize) -> Result<usize, BnbLayoutError> {
    if BLOCK_SIZES.contains(&got) {
        Ok(got)
    } else {
        let expected = format!("one of {BLOCK_SIZES:?}");
        Err(invalid(field, &expected, got.to_string()))
    }
}

fn invalid(field: &'static str, expected: &str, got: String) -> BnbLayoutError {
    BnbLayoutError::InvalidField {
        field,
        expected: expected.to_owned(),
        got,
    }
}
