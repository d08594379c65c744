//! The averages of an optimizer as a safetensors file.
//!
//! Average `INDEX` of parameter `PATH` is the tensor `PATH#INDEX`, or in eight bits the two tensors
//! `PATH#INDEX.codes` and `PATH#INDEX.absmax`.
//! One average at a time is in memory, on the way out and on the way in.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use flametune_kernels::MappedFile;
use safetensors::tensor::{Dtype, SafeTensors, View};

use crate::error::{Error, Result};
use crate::optim::{BLOCK_SIZE_8BIT, Moments, Optimizer};

/// One tensor of the file.
#[derive(Debug)]
struct Average<'a> {
    optimizer: &'a Optimizer,
    parameter: String,
    index: usize,
    part: Part,
    len: usize,
    /// What went wrong in reading it.
    failed: &'a RefCell<Option<Error>>,
}

#[derive(Debug, Clone, Copy)]
enum Part {
    Values,
    Codes,
    Absmax,
}

impl Average<'_> {
    fn bytes(&self) -> Result<Vec<u8>> {
        let moments = self.optimizer.moment(&self.parameter, self.index)?;
        let numbers = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect();
        Ok(match (self.part, moments.as_deref()) {
            (Part::Values, Some(Moments::F32(values))) => numbers(values),
            (Part::Codes, Some(Moments::Bits8 { codes, .. })) => codes.clone(),
            (Part::Absmax, Some(Moments::Bits8 { absmax, .. })) => numbers(absmax),
            _ => unreachable!("averages keep their form"),
        })
    }
}

impl View for Average<'_> {
    fn dtype(&self) -> Dtype {
        match self.part {
            Part::Codes => Dtype::U8,
            Part::Values | Part::Absmax => Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        std::slice::from_ref(&self.len)
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.bytes().map_or_else(
            |error| {
                self.failed.borrow_mut().get_or_insert(error);
                vec![0; self.data_len()].into()
            },
            Cow::Owned,
        )
    }

    fn data_len(&self) -> usize {
        match self.part {
            Part::Codes => self.len,
            Part::Values | Part::Absmax => 4 * self.len,
        }
    }
}

/// Writes all averages.
pub(super) fn write(path: &Path, optimizer: &Optimizer) -> Result<()> {
    let failed = RefCell::new(None);
    let mut tensors = Vec::new();
    for parameter in optimizer.parameters() {
        for index in 0.. {
            let Some(moment) = optimizer.moment(&parameter, index)? else {
                break;
            };
            let parts: &[(Part, &str, usize)] = match moment.as_ref() {
                Moments::F32(values) => &[(Part::Values, "", values.len())],
                Moments::Bits8 { codes, absmax } => &[
                    (Part::Codes, ".codes", codes.len()),
                    (Part::Absmax, ".absmax", absmax.len()),
                ],
            };
            for &(part, suffix, len) in parts {
                let average = Average {
                    optimizer,
                    parameter: parameter.clone(),
                    index,
                    part,
                    len,
                    failed: &failed,
                };
                tensors.push((format!("{parameter}#{index}{suffix}"), average));
            }
        }
    }
    let written = safetensors::serialize_to_file(tensors, None, path);
    if let Some(error) = failed.take() {
        return Err(error);
    }
    written.map_err(|error| Error::Io {
        path: path.to_owned(),
        source: io::Error::other(error),
    })
}

/// Reads averages into `optimizer`, if they are those of parameters of these lengths.
pub(super) fn read(
    path: &Path,
    lengths: &BTreeMap<String, usize>,
    optimizer: &mut Optimizer,
) -> Result<()> {
    let bytes = MappedFile::open(path).map_err(|source| Error::Io {
        path: path.to_owned(),
        source,
    })?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| Error::Checkpoint {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    let file = AverageFile { path, tensors };
    for (parameter, indices) in file.parameters()? {
        let mut moments = Vec::with_capacity(indices.len());
        for (place, (index, eight_bit)) in indices.into_iter().enumerate() {
            if place != index {
                return Err(file.wrong(format!("averages of {parameter} are missing")));
            }
            moments.push(file.moments(&format!("{parameter}#{index}"), eight_bit)?);
        }
        let expected = match lengths.get(&parameter) {
            Some(&len) => described(&optimizer.rule().init(len)),
            None => "none, as it is not trained".to_owned(),
        };
        let got = described(&moments);
        if got != expected {
            return Err(Error::OptimizerState {
                path: path.to_owned(),
                parameter,
                expected,
                got,
            });
        }
        optimizer.insert(&parameter, moments)?;
        bytes.release(0..bytes.len());
    }
    Ok(())
}

fn described(moments: &[Moments]) -> String {
    let each = |moments: &Moments| match moments {
        Moments::F32(values) => format!("{} in f32", values.len()),
        Moments::Bits8 { codes, .. } => format!("{} in 8 bits", codes.len()),
    };
    moments.iter().map(each).collect::<Vec<_>>().join(" and ")
}

struct AverageFile<'a> {
    path: &'a Path,
    tensors: SafeTensors<'a>,
}

impl AverageFile<'_> {
    fn wrong(&self, reason: String) -> Error {
        Error::Checkpoint {
            path: self.path.to_owned(),
            reason,
        }
    }

    /// For each parameter the indices of its averages, and whether they are in eight bits.
    fn parameters(&self) -> Result<BTreeMap<String, Vec<(usize, bool)>>> {
        let mut found: BTreeMap<String, Vec<(usize, bool)>> = BTreeMap::new();
        for name in self.tensors.names() {
            if name.ends_with(".absmax") {
                continue;
            }
            let plain = name.strip_suffix(".codes").unwrap_or(name);
            let (parameter, index) = plain
                .rsplit_once('#')
                .and_then(|(parameter, index)| Some((parameter, index.parse::<usize>().ok()?)))
                .ok_or_else(|| self.wrong(format!("{name} must end in # and a number")))?;
            let indices = found.entry(parameter.to_owned()).or_default();
            indices.push((index, plain != name));
        }
        for indices in found.values_mut() {
            indices.sort_unstable();
        }
        Ok(found)
    }

    fn moments(&self, name: &str, eight_bit: bool) -> Result<Moments> {
        if !eight_bit {
            return Ok(Moments::F32(self.numbers(name)?));
        }
        let codes = self.bytes(&format!("{name}.codes"), Dtype::U8)?.to_vec();
        let absmax = self.numbers(&format!("{name}.absmax"))?;
        if absmax.len() != codes.len().div_ceil(BLOCK_SIZE_8BIT) {
            let reason = format!("{name} has {} codes, {} scales", codes.len(), absmax.len());
            return Err(self.wrong(reason));
        }
        Ok(Moments::Bits8 { codes, absmax })
    }

    fn numbers(&self, name: &str) -> Result<Vec<f32>> {
        let (words, _) = self.bytes(name, Dtype::F32)?.as_chunks::<4>();
        Ok(words.iter().map(|word| f32::from_le_bytes(*word)).collect())
    }

    fn bytes(&self, name: &str, dtype: Dtype) -> Result<&[u8]> {
        let tensor = self.tensors.tensor(name);
        let tensor = tensor.map_err(|error| self.wrong(error.to_string()))?;
        if tensor.dtype() == dtype {
            Ok(tensor.data())
        } else {
            let got = tensor.dtype();
            Err(self.wrong(format!("{name} must be {dtype:?}, got {got:?}")))
        }
    }
}
