//! Cells of Arrow columns as JSON values.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    DataType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde_json::{Map, Value};

/// Deepest nesting of lists and structures that is read.
const MAX_DEPTH: usize = 32;

/// Whether a column of this type is read: text, numbers, booleans, dates, and lists and structures of them.
///
/// Bytes are not: they are pictures more often than text.
pub(super) fn is_readable(kind: &DataType) -> bool {
    readable(kind, 0)
}

fn readable(kind: &DataType, depth: usize) -> bool {
    if depth > MAX_DEPTH {
        return false;
    }
    match kind {
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => readable(field.data_type(), depth + 1),
        DataType::Struct(fields) => fields
            .iter()
            .any(|field| readable(field.data_type(), depth + 1)),
        DataType::Dictionary(_, value) => readable(value, depth + 1),
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_)
        | DataType::ListView(_)
        | DataType::LargeListView(_)
        | DataType::Union(..)
        | DataType::RunEndEncoded(..)
        | DataType::Interval(_) => false,
        _ => true,
    }
}

/// The value of a cell. Numbers that JSON cannot hold become null.
pub(super) fn cell(array: &ArrayRef, index: usize) -> Result<Value, ArrowError> {
    if array.is_null(index) {
        return Ok(Value::Null);
    }
    Ok(match array.data_type() {
        DataType::Null => Value::Null,
        DataType::Boolean => array.as_boolean().value(index).into(),
        DataType::Utf8 => array.as_string::<i32>().value(index).into(),
        DataType::LargeUtf8 => array.as_string::<i64>().value(index).into(),
        DataType::Utf8View => array.as_string_view().value(index).into(),
        DataType::Int8 => array.as_primitive::<Int8Type>().value(index).into(),
        DataType::Int16 => array.as_primitive::<Int16Type>().value(index).into(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(index).into(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(index).into(),
        DataType::UInt8 => array.as_primitive::<UInt8Type>().value(index).into(),
        DataType::UInt16 => array.as_primitive::<UInt16Type>().value(index).into(),
        DataType::UInt32 => array.as_primitive::<UInt32Type>().value(index).into(),
        DataType::UInt64 => array.as_primitive::<UInt64Type>().value(index).into(),
        DataType::Float16 => array
            .as_primitive::<Float16Type>()
            .value(index)
            .to_f64()
            .into(),
        DataType::Float32 => array.as_primitive::<Float32Type>().value(index).into(),
        DataType::Float64 => array.as_primitive::<Float64Type>().value(index).into(),
        DataType::List(_) => list(&array.as_list::<i32>().value(index))?,
        DataType::LargeList(_) => list(&array.as_list::<i64>().value(index))?,
        DataType::FixedSizeList(..) => list(&array.as_fixed_size_list().value(index))?,
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            let mut object = Map::with_capacity(fields.len());
            for (field, column) in fields.iter().zip(columns) {
                if is_readable(field.data_type()) {
                    object.insert(field.name().clone(), cell(column, index)?);
                }
            }
            Value::Object(object)
        }
        DataType::Map(..) => map(array, index)?,
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let key = dictionary.normalized_keys()[index];
            cell(dictionary.values(), key)?
        }
        _ => ArrayFormatter::try_new(array, &FormatOptions::default())?
            .value(index)
            .try_to_string()?
            .into(),
    })
}

fn list(values: &ArrayRef) -> Result<Value, ArrowError> {
    (0..values.len())
        .map(|index| cell(values, index))
        .collect::<Result<Vec<_>, _>>()
        .map(Value::Array)
}

/// A map with text keys becomes an object.
fn map(array: &ArrayRef, index: usize) -> Result<Value, ArrowError> {
    let entries = array.as_map().value(index);
    let mut object = Map::with_capacity(entries.len());
    for entry in 0..entries.len() {
        let key = match cell(entries.column(0), entry)? {
            Value::String(key) => key,
            other => other.to_string(),
        };
        object.insert(key, cell(entries.column(1), entry)?);
    }
    Ok(Value::Object(object))
}
