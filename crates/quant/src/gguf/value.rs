//! The values of GGUF metadata.

use std::fmt;

use super::cursor::Cursor;
use crate::error::{Error, Result};

/// Arrays nested deeper than this are refused; no file in use nests deeper than two.
const MAX_NESTING: usize = 8;

macro_rules! value_types {
    ($($name:ident $rust:ty = $code:literal, $text:literal, $min_bytes:literal;)+) => {
        /// A value of GGUF metadata.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Value {
            $(#[doc = concat!("A value of type ", $text, ".")] $name($rust),)+
        }

        /// An array of GGUF metadata: elements of one type.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Array {
            $(#[doc = concat!("Elements of type ", $text, ".")] $name(Vec<$rust>),)+
        }

        /// The type of a metadata value.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum ValueType {
            $(#[doc = concat!("Named ", $text, ".")] $name,)+
        }

        impl ValueType {
            /// The type with this number, if there is one.
            pub fn from_code(code: u32) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)+
                    _ => None,
                }
            }

            /// The type's number in a file.
            pub fn code(self) -> u32 {
                match self {
                    $(Self::$name => $code,)+
                }
            }

            /// The type's name, such as `u32` or `string`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }

            /// The fewest bytes that a value takes.
            fn min_bytes(self) -> usize {
                match self {
                    $(Self::$name => $min_bytes,)+
                }
            }
        }

        impl Value {
            /// The type of this value.
            pub fn value_type(&self) -> ValueType {
                match self {
                    $(Self::$name(_) => ValueType::$name,)+
                }
            }

            fn read(cursor: &mut Cursor<'_>, kind: ValueType, pair: &Pair<'_>) -> Result<Self> {
                Ok(match kind {
                    $(ValueType::$name => Self::$name(<$rust>::read(cursor, pair)?),)+
                })
            }
        }

        impl Array {
            /// The type of the elements.
            pub fn value_type(&self) -> ValueType {
                match self {
                    $(Self::$name(_) => ValueType::$name,)+
                }
            }

            /// The number of elements.
            pub fn len(&self) -> usize {
                match self {
                    $(Self::$name(items) => items.len(),)+
                }
            }

            fn read_items(
                cursor: &mut Cursor<'_>,
                kind: ValueType,
                count: usize,
                pair: &Pair<'_>,
            ) -> Result<Self> {
                Ok(match kind {
                    $(ValueType::$name => {
                        let mut items = Vec::with_capacity(count);
                        for _ in 0..count {
                            items.push(<$rust>::read(cursor, pair)?);
                        }
                        Self::$name(items)
                    })+
                })
            }
        }
    };
}

value_types! {
    U8 u8 = 0, "u8", 1;
    I8 i8 = 1, "i8", 1;
    U16 u16 = 2, "u16", 2;
    I16 i16 = 3, "i16", 2;
    U32 u32 = 4, "u32", 4;
    I32 i32 = 5, "i32", 4;
    F32 f32 = 6, "f32", 4;
    Bool bool = 7, "bool", 1;
    String String = 8, "string", 8;
    Array Array = 9, "array", 12;
    U64 u64 = 10, "u64", 8;
    I64 i64 = 11, "i64", 8;
    F64 f64 = 12, "f64", 8;
}

/// The key that a value belongs to and how deep in its arrays the reader is.
struct Pair<'a> {
    key: &'a str,
    depth: usize,
}

impl Pair<'_> {
    fn value_type(&self, cursor: &mut Cursor<'_>) -> Result<ValueType> {
        let code = cursor.u32()?;
        ValueType::from_code(code).ok_or_else(|| Error::UnknownValueType {
            file: cursor.file().to_owned(),
            key: self.key.to_owned(),
            code,
        })
    }
}

/// Reads the type and the value that follow `key`.
pub(super) fn read_value(cursor: &mut Cursor<'_>, key: &str) -> Result<Value> {
    let pair = Pair { key, depth: 0 };
    let kind = pair.value_type(cursor)?;
    Value::read(cursor, kind, &pair)
}

/// A type that a metadata value or an array element can have.
trait Item: Sized {
    fn read(cursor: &mut Cursor<'_>, pair: &Pair<'_>) -> Result<Self>;
}

macro_rules! number_items {
    ($($number:ty)+) => {
        $(impl Item for $number {
            fn read(cursor: &mut Cursor<'_>, _pair: &Pair<'_>) -> Result<Self> {
                cursor.array().map(<$number>::from_le_bytes)
            }
        })+
    };
}
number_items!(u8 i8 u16 i16 u32 i32 u64 i64 f32 f64);

impl Item for bool {
    fn read(cursor: &mut Cursor<'_>, pair: &Pair<'_>) -> Result<Self> {
        match cursor.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(Error::InvalidValue {
                file: cursor.file().to_owned(),
                key: pair.key.to_owned(),
                expected: "a bool of value 0 or 1".to_owned(),
                got: other.to_string(),
            }),
        }
    }
}

impl Item for String {
    fn read(cursor: &mut Cursor<'_>, _pair: &Pair<'_>) -> Result<Self> {
        cursor.string().map(str::to_owned)
    }
}

impl Item for Array {
    fn read(cursor: &mut Cursor<'_>, pair: &Pair<'_>) -> Result<Self> {
        let inner = Pair {
            key: pair.key,
            depth: pair.depth + 1,
        };
        if inner.depth > MAX_NESTING {
            return Err(Error::NestedTooDeep {
                file: cursor.file().to_owned(),
                key: pair.key.to_owned(),
                limit: MAX_NESTING,
            });
        }
        let kind = inner.value_type(cursor)?;
        let count = cursor.count(kind.min_bytes())?;
        Self::read_items(cursor, kind, count, &inner)
    }
}

impl Array {
    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One value in short: `u32 7`, `string "llama"`, `array of 49152 string`.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 60;
        let kind = self.value_type().name();
        match self {
            Self::U8(value) => write!(f, "{kind} {value}"),
            Self::I8(value) => write!(f, "{kind} {value}"),
            Self::U16(value) => write!(f, "{kind} {value}"),
            Self::I16(value) => write!(f, "{kind} {value}"),
            Self::U32(value) => write!(f, "{kind} {value}"),
            Self::I32(value) => write!(f, "{kind} {value}"),
            Self::F32(value) => write!(f, "{kind} {value}"),
            Self::Bool(value) => write!(f, "{kind} {value}"),
            Self::U64(value) => write!(f, "{kind} {value}"),
            Self::I64(value) => write!(f, "{kind} {value}"),
            Self::F64(value) => write!(f, "{kind} {value}"),
            Self::Array(items) => {
                write!(f, "{kind} of {} {}", items.len(), items.value_type().name())
            }
            Self::String(text) => match text.char_indices().nth(SHOWN) {
                Some((end, _)) => write!(f, "{kind} {:?}…", &text[..end]),
                None => write!(f, "{kind} {text:?}"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn read(bytes: &[u8]) -> Result<Value> {
        read_value(&mut Cursor::new(Path::new("m.gguf"), bytes), "k")
    }

    fn array_header(element: u32, count: u64) -> Vec<u8> {
        let mut bytes = element.to_le_bytes().to_vec();
        bytes.extend(count.to_le_bytes());
        bytes
    }

    #[test]
    fn nested_arrays_keep_their_structure() {
        let mut bytes = 9u32.to_le_bytes().to_vec();
        bytes.extend(array_header(9, 2));
        bytes.extend(array_header(0, 2));
        bytes.extend([7, 8]);
        bytes.extend(array_header(7, 1));
        bytes.push(1);
        let expected = Array::Array(vec![Array::U8(vec![7, 8]), Array::Bool(vec![true])]);
        assert_eq!(read(&bytes).unwrap(), Value::Array(expected));
    }

    #[test]
    fn nesting_has_a_limit() {
        let mut bytes = 9u32.to_le_bytes().to_vec();
        for _ in 0..100_000 {
            bytes.extend(array_header(9, 1));
        }
        let error = read(&bytes).unwrap_err();
        assert_eq!(
            error.to_string(),
            "m.gguf: key `k` nests arrays deeper than 8"
        );
    }

    #[test]
    fn an_array_longer_than_the_file_is_refused_before_it_is_allocated() {
        let mut bytes = 9u32.to_le_bytes().to_vec();
        bytes.extend(array_header(8, 1 << 60));
        bytes.extend([0; 16]);
        let error = read(&bytes).unwrap_err();
        assert!(
            matches!(error, Error::CountTooLarge { limit: 2, .. }),
            "{error}"
        );
    }

    #[test]
    fn a_bool_is_zero_or_one() {
        let mut bytes = 7u32.to_le_bytes().to_vec();
        bytes.push(2);
        assert_eq!(
            read(&bytes).unwrap_err().to_string(),
            "m.gguf: key `k` must be a bool of value 0 or 1, got 2"
        );
    }

    #[test]
    fn display_is_short() {
        assert_eq!(Value::U32(7).to_string(), "u32 7");
        assert_eq!(
            Value::String("llama".into()).to_string(),
            r#"string "llama""#
        );
        assert_eq!(
            Value::Array(Array::F32(vec![0.0; 3])).to_string(),
            "array of 3 f32"
        );
        assert_eq!(
            Value::String("é".repeat(90)).to_string().chars().count(),
            70
        );
    }
}
