//! Weights stored by bitsandbytes, read and written; and what a broken one is told.

use std::borrow::Cow;
use std::collections::BTreeMap;

use flametune_quant::bnb_layout::{BnbPart, read, write};
use flametune_quant::{QuantConfig, QuantKind, Scales, WeightDtype, quantize};
use proptest::prelude::*;
use safetensors::Dtype;

use super::golden::{Golden, assert_scale_codes};

const WEIGHT: &str = "sd.weight";

/// The stored parts of the golden layer by name.
type Parts = BTreeMap<String, BnbPart<'static>>;

fn parts(golden: &Golden) -> Parts {
    golden
        .tensors()
        .iter()
        .filter(|(name, ..)| name.starts_with(WEIGHT))
        .map(|(name, dtype, shape, bytes)| {
            let part = BnbPart {
                dtype: *dtype,
                shape: shape.clone(),
                bytes: Cow::Owned(bytes.clone()),
            };
            (name.clone(), part)
        })
        .collect()
}

fn plain() -> Golden {
    Golden::open("quant/linear4bit_state_dict.safetensors")
}

fn nested() -> Golden {
    Golden::open("quant/linear4bit_state_dict.nested.safetensors")
}

#[test]
fn published_layers_are_what_quantizing_gives() {
    for (golden, double_quant) in [(plain(), false), (nested(), true)] {
        let parts = parts(&golden);
        let packed = read(WEIGHT, |name| parts.get(name).cloned()).unwrap();
        let config = QuantConfig {
            kind: QuantKind::Nf4,
            block_size: 64,
            double_quant,
            dtype: WeightDtype::F32,
        };
        let original = golden.f32s("orig.weight");
        let ours = quantize(&original, golden.shape("orig.weight"), config).unwrap();
        assert_eq!(ours.shape(), packed.shape());
        assert_eq!((ours.kind(), ours.block_size()), (packed.kind(), 64));
        assert_eq!(ours.dtype(), packed.dtype());
        assert!(ours.codes() == packed.codes());
        match (ours.scales(), packed.scales()) {
            (Scales::Absmax(ours), Scales::Absmax(theirs)) => assert_eq!(ours, theirs),
            (Scales::Nested(ours), Scales::Nested(theirs)) => {
                assert_eq!(ours.offset(), theirs.offset());
                assert_eq!(ours.codes().absmax(), theirs.codes().absmax());
                assert_scale_codes(ours, &original, config, theirs.codes().codes());
            }
            (_, theirs) => panic!("{theirs:?}"),
        }
    }
}

#[test]
fn written_layers_are_the_same_bytes() {
    for golden in [plain(), nested()] {
        let expected = parts(&golden);
        let packed = read(WEIGHT, |name| expected.get(name).cloned()).unwrap();
        let written: Parts = write(WEIGHT, &packed)
            .unwrap()
            .into_iter()
            .map(|(name, part)| {
                let bytes = Cow::Owned(part.bytes.into_owned());
                (name, BnbPart { bytes, ..part })
            })
            .collect();
        assert_eq!(written, expected);
    }
}

#[test]
fn products_with_the_read_weight_are_those_of_bitsandbytes() {
    for golden in [plain(), nested()] {
        let parts = parts(&golden);
        let weight = read(WEIGHT, |name| parts.get(name).cloned()).unwrap();
        let (x, bias) = (golden.f32s("x"), golden.f32s("sd.bias"));
        let expected = golden.f32s("y_dequant_matmul");
        let (d_out, d_in) = (weight.shape()[0], weight.shape()[1]);
        let dense = weight.dequantize();
        for (row, x) in x.chunks(d_in).enumerate() {
            for (column, w) in dense.chunks(d_in).enumerate() {
                let y: f32 = x.iter().zip(w).map(|(x, w)| x * w).sum::<f32>() + bias[column];
                let expected = expected[row * d_out + column];
                assert!((y - expected).abs() < 1e-5, "{y} is not {expected}");
            }
        }
    }
}

#[test]
fn codes_may_be_stored_as_wider_elements() {
    let mut parts = parts(&nested());
    let expected = read(WEIGHT, |name| parts.get(name).cloned()).unwrap();
    for (dtype, width) in [(Dtype::BF16, 2), (Dtype::F16, 2), (Dtype::F32, 4)] {
        let weight = parts.get_mut(WEIGHT).unwrap();
        weight.dtype = dtype;
        weight.shape = vec![3072 / width, 1];
        assert_eq!(
            read(WEIGHT, |name| parts.get(name).cloned()).unwrap(),
            expected
        );
    }
}

#[test]
fn int8_of_blocks_has_no_place_in_the_layout() {
    let config = QuantConfig {
        kind: QuantKind::Int8,
        ..QuantConfig::default()
    };
    let packed = quantize(&[1.0; 4], &[4], config).unwrap();
    assert_eq!(
        write("w", &packed).unwrap_err().to_string(),
        "weight `w`: int8 weights have no place in bitsandbytes' layout, \
         which has nf4, fp4 and int8_vectorwise"
    );
}

/// Breaks the nested layer and asserts what is said of it, after the weight's name.
#[track_caller]
fn check(break_it: impl FnOnce(&mut Parts), expected: &str) {
    let mut parts = parts(&nested());
    break_it(&mut parts);
    let error = read(WEIGHT, |name| parts.get(name).cloned()).unwrap_err();
    assert_eq!(error.to_string(), format!("weight `{WEIGHT}`: {expected}"));
}

fn part<'p>(parts: &'p mut Parts, name: &str) -> &'p mut BnbPart<'static> {
    parts.get_mut(&format!("{WEIGHT}.{name}")).unwrap()
}

/// Replaces text in the quant state.
fn edit(parts: &mut Parts, from: &str, to: &str) {
    let state = part(parts, "quant_state.bitsandbytes__nf4");
    let text = String::from_utf8(state.bytes.to_vec()).unwrap();
    assert!(text.contains(from), "{text}");
    let text = text.replace(from, to).into_bytes();
    state.shape = vec![text.len()];
    state.bytes = Cow::Owned(text);
}

fn set_f32(parts: &mut Parts, name: &str, index: usize, value: f32) {
    let bytes = part(parts, name).bytes.to_mut();
    bytes[4 * index..4 * index + 4].copy_from_slice(&value.to_le_bytes());
}

#[test]
fn missing_and_superfluous_parts_are_named() {
    let remove = |name: &'static str| {
        move |parts: &mut Parts| {
            parts.remove(&format!("{WEIGHT}.{name}")).unwrap();
        }
    };
    for name in ["absmax", "quant_map", "nested_absmax", "nested_quant_map"] {
        check(remove(name), &format!("part `{name}` is missing"));
    }
    check(
        |parts| drop(parts.remove(WEIGHT)),
        "part `weight` is missing",
    );
    check(
        remove("quant_state.bitsandbytes__nf4"),
        "there is neither of the parts `quant_state.bitsandbytes__nf4` and `quant_state.bitsandbytes__fp4`",
    );
    check(
        |parts| {
            let state = part(parts, "quant_state.bitsandbytes__nf4").clone();
            parts.insert(format!("{WEIGHT}.quant_state.bitsandbytes__fp4"), state);
        },
        "there are both of the parts `quant_state.bitsandbytes__nf4` and `quant_state.bitsandbytes__fp4`",
    );
    check(
        |parts| {
            edit(
                parts,
                r#", "nested_blocksize": 256, "nested_dtype": "float32""#,
                "",
            );
        },
        "field `nested_blocksize` of the quant state is missing, though others of `nested_*` are there",
    );
    check(
        |parts| edit(parts, r#", "nested_dtype": "float32""#, ""),
        "field `nested_dtype` of the quant state is missing, though others of `nested_*` are there",
    );
    check(
        |parts| edit(parts, r#", "nested_offset": 0.1275763064622879"#, ""),
        "field `nested_offset` of the quant state is missing, though others of `nested_*` are there",
    );
    check(
        |parts| {
            edit(
                parts,
                r#", "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.1275763064622879"#,
                "",
            );
        },
        "part `nested_absmax` is there, but the quant state has no `nested_blocksize`",
    );
}

#[test]
fn parts_of_the_wrong_type_or_size_are_named() {
    check(
        |parts| part(parts, "absmax").dtype = Dtype::I8,
        "part `absmax` must have dtype U8, got I8",
    );
    check(
        |parts| part(parts, "nested_absmax").dtype = Dtype::F16,
        "part `nested_absmax` must have dtype F32, got F16",
    );
    check(
        |parts| parts.get_mut(WEIGHT).unwrap().dtype = Dtype::I32,
        "part `weight` must have dtype U8, F16, BF16 or F32, got I32",
    );
    check(
        |parts| part(parts, "quant_state.bitsandbytes__nf4").dtype = Dtype::F32,
        "part `quant_state` must have dtype U8, got F32",
    );
    check(
        |parts| parts.get_mut(WEIGHT).unwrap().shape = vec![48, 64],
        "part `weight` must have shape [3072, 1], got [48, 64]",
    );
    check(
        |parts| parts.get_mut(WEIGHT).unwrap().bytes.to_mut().truncate(3071),
        "part `weight` must have 3072 bytes, got 3071",
    );
    check(
        |parts| part(parts, "absmax").shape = vec![95],
        "part `absmax` must have shape [96], got [95]",
    );
    check(
        |parts| part(parts, "absmax").bytes.to_mut().truncate(95),
        "part `absmax` must have 96 bytes, got 95",
    );
    check(
        |parts| part(parts, "quant_map").shape = vec![256],
        "part `quant_map` must have shape [16], got [256]",
    );
    check(
        |parts| {
            part(parts, "nested_quant_map")
                .bytes
                .to_mut()
                .truncate(1023)
        },
        "part `nested_quant_map` must have 1024 bytes, got 1023",
    );
}

#[test]
fn tables_and_scales_are_checked() {
    check(
        |parts| set_f32(parts, "quant_map", 8, 0.0796),
        "part `quant_map` has 0.0796 at 8, the table of this kind has 0.0795803",
    );
    check(
        |parts| set_f32(parts, "nested_quant_map", 255, 0.99),
        "part `nested_quant_map` has 0.99 at 255, the table of this kind has 1",
    );
    check(
        |parts| set_f32(parts, "quant_map", 3, f32::NAN),
        "part `quant_map` must have finite elements, got NaN at 3",
    );
    check(
        |parts| set_f32(parts, "nested_absmax", 0, f32::INFINITY),
        "part `nested_absmax` must have finite elements, got inf at 0",
    );
    let mut parts = parts(&nested());
    set_f32(&mut parts, "quant_map", 1, -0.696_193);
    read(WEIGHT, |name| parts.get(name).cloned()).unwrap();
}

#[test]
fn unsupported_fields_are_named() {
    let sizes = "[32, 64, 128, 256, 512, 1024, 2048, 4096]";
    check(
        |parts| edit(parts, r#""quant_type": "nf4""#, r#""quant_type": "af4""#),
        r#"field `quant_type` of the quant state must be "nf4" as the name of the part says, got af4"#,
    );
    check(
        |parts| edit(parts, r#""blocksize": 64"#, r#""blocksize": 0"#),
        &format!("field `blocksize` of the quant state must be one of {sizes}, got 0"),
    );
    check(
        |parts| {
            edit(
                parts,
                r#""nested_blocksize": 256"#,
                r#""nested_blocksize": 3"#,
            )
        },
        &format!("field `nested_blocksize` of the quant state must be one of {sizes}, got 3"),
    );
    check(
        |parts| {
            edit(
                parts,
                r#""dtype": "float32", "shape""#,
                r#""dtype": "int8", "shape""#,
            )
        },
        "field `dtype` of the quant state must be float32, float16 or bfloat16, got int8",
    );
    check(
        |parts| {
            edit(
                parts,
                r#""nested_dtype": "float32""#,
                r#""nested_dtype": "float16""#,
            )
        },
        "field `nested_dtype` of the quant state must be float32, got float16",
    );
    check(
        |parts| edit(parts, "0.1275763064622879", "1e300"),
        "field `nested_offset` of the quant state must be a finite 32-bit number, got 1e300",
    );
    for shape in ["[0]", "[48, 0]", "[4294967296, 4294967296]"] {
        check(
            |parts| edit(parts, "[48, 128]", shape),
            &format!(
                "field `shape` of the quant state must have at least one element and not overflow, got {shape}"
            ),
        );
    }
    check(
        |parts| edit(parts, "[48, 128]", "[48, 129]"),
        "part `weight` must have 3096 bytes, got 3072",
    );
    check(
        |parts| edit(parts, r#""blocksize": 64,"#, r#""blocksize": 128,"#),
        "part `absmax` must have shape [48], got [96]",
    );
}

#[test]
fn hostile_json_is_refused() {
    for (from, to) in [
        ("{", "{{"),
        ("}", ""),
        ("[48, 128]", "null"),
        ("[48, 128]", "[48, -128]"),
        ("[48, 128]", "[48.5, 128]"),
        ("[48, 128]", "[99999999999999999999]"),
        ("64,", "\"64\","),
        ("0.1275763064622879", "NaN"),
        ("\"blocksize\"", "\"unknown\""),
        (
            "\"dtype\": \"float32\", \"shape\"",
            "\"blocksize\": 64, \"shape\"",
        ),
        ("\"nf4\"", "\"\u{0}nf4\""),
    ] {
        let mut parts = parts(&nested());
        edit(&mut parts, from, to);
        let error = read(WEIGHT, |name| parts.get(name).cloned()).unwrap_err();
        let message = error.to_string();
        let expected = format!("weight `{WEIGHT}`: the quant state is not valid: ");
        assert!(message.starts_with(&expected), "{to}: {message}");
    }
    let deep = "[".repeat(100_000);
    let mut parts = parts(&nested());
    edit(&mut parts, "[48, 128]", &deep);
    assert!(read(WEIGHT, |name| parts.get(name).cloned()).is_err());
}

proptest! {
    #[test]
    fn damaged_parts_never_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..8),
        is_nested in any::<bool>(),
    ) {
        let golden = if is_nested { nested() } else { plain() };
        let mut parts = parts(&golden);
        let names: Vec<String> = parts.keys().cloned().collect();
        for (name, place, value) in damage {
            let bytes = parts.get_mut(&names[name.index(names.len())]).unwrap().bytes.to_mut();
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if let Ok(packed) = read(WEIGHT, |name| parts.get(name).cloned()) {
            prop_assert_eq!(packed.dequantize().len(), packed.numel());
        }
    }
}
