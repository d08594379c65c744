//! Averages in a file, of which one page is in memory.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::moments::BLOCK_SIZE_8BIT;
use super::rule::TASK;
use super::{Moments, Rule, StepSize};
use crate::error::{Error, Result};

/// Numbers of a parameter whose averages are in memory at a time; whole tasks, and so whole blocks.
const PAGE: usize = 16 * TASK;

/// Averages in a file, of which one page is in memory.
///
/// The file is read and written through the operating system's cache, not mapped: pages that were
/// written through a mapping count as memory of the process until they reach the disk, pages of the
/// cache never do, and the system keeps as many of them as it has room for.
/// Where the system allows it the file has no name, so a run that is killed leaves nothing behind.
#[derive(Debug)]
pub(super) struct MomentFile {
    file: File,
    path: PathBuf,
    named: bool,
    end: u64,
    places: BTreeMap<String, Vec<Place>>,
}

/// Where an average stands: its numbers, or its codes followed by their scales.
#[derive(Debug, Clone, Copy)]
struct Place {
    offset: u64,
    len: usize,
    eight_bit: bool,
}

impl Place {
    fn bytes(self) -> u64 {
        let len = self.len as u64;
        if self.eight_bit {
            len + 4 * len.div_ceil(BLOCK_SIZE_8BIT as u64)
        } else {
            4 * len
        }
    }

    /// The byte where number `first` stands, or its code.
    fn number(self, first: usize) -> u64 {
        let width = if self.eight_bit { 1 } else { 4 };
        self.offset + width * first as u64
    }

    /// The byte where the scale of number `first` stands.
    fn scale(self, first: usize) -> u64 {
        self.offset + self.len as u64 + 4 * (first / BLOCK_SIZE_8BIT) as u64
    }
}

impl MomentFile {
    /// A new file in `folder`, which is made if it is absent.
    pub(super) fn create(folder: &Path) -> Result<Self> {
        let at = |path: &Path, source| Error::Io {
            path: path.to_owned(),
            source,
        };
        fs::create_dir_all(folder).map_err(|error| at(folder, error))?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        for number in 0_u32.. {
            let path = folder.join(format!("optimizer_states.{number}.paged"));
            match options.open(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(at(&path, error)),
                Ok(file) => {
                    return Ok(Self {
                        named: fs::remove_file(&path).is_err(),
                        file,
                        path,
                        end: 0,
                        places: BTreeMap::new(),
                    });
                }
            }
        }
        Err(at(folder, io::ErrorKind::AlreadyExists.into()))
    }

    pub(super) fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    pub(super) fn parameters(&self) -> Vec<String> {
        self.places.keys().cloned().collect()
    }

    pub(super) fn bytes(&self) -> usize {
        let places = self.places.values().flatten();
        let bytes: u64 = places.map(|place| place.bytes()).sum();
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// A page of every average of the parameter that needs most.
    pub(super) fn resident_bytes(&self) -> usize {
        let page = |place: &Place| {
            let len = place.len.min(PAGE);
            Place { len, ..*place }.bytes()
        };
        let parameters = self.places.values();
        let most = parameters.map(|places| places.iter().map(page).sum::<u64>());
        usize::try_from(most.max().unwrap_or(0)).unwrap_or(usize::MAX)
    }

    pub(super) fn moment(&self, parameter: &str, index: usize) -> Result<Option<Moments>> {
        let place = self.places.get(parameter).and_then(|all| all.get(index));
        place
            .map(|place| self.told(self.read(*place, 0, place.len)))
            .transpose()
    }

    pub(super) fn insert(&mut self, parameter: &str, moments: &[Moments]) -> Result<()> {
        let places = self.reserve(parameter, moments, None);
        for (place, moments) in places.into_iter().zip(moments) {
            self.told(self.write(place, 0, moments))?;
        }
        Ok(())
    }

    /// Moves a parameter one step, page by page: what [`Rule::update`] does with all of it, as no
    /// block stands in two pages.
    pub(super) fn update(
        &mut self,
        rule: &Rule,
        parameter: &str,
        (param, grad): (&mut [f32], &[f32]),
        by: StepSize,
    ) -> Result<()> {
        let whole = param.len();
        let known = self.places.get(parameter).cloned();
        let places = match &known {
            Some(places) => places.clone(),
            None => self.reserve(parameter, &rule.init_part(whole, 0), Some(whole)),
        };
        let pages = param.chunks_mut(PAGE).zip(grad.chunks(PAGE));
        for (index, (param, grad)) in pages.enumerate() {
            let first = index * PAGE;
            let mut moments = match &known {
                None => rule.init_part(whole, param.len()),
                Some(places) => {
                    let page = |place: &Place| self.read(*place, first, param.len());
                    self.told(places.iter().map(page).collect::<io::Result<_>>())?
                }
            };
            rule.update(param, grad, &mut moments, by);
            for (place, moments) in places.iter().zip(&moments) {
                self.told(self.write(*place, first, moments))?;
            }
        }
        Ok(())
    }

    /// Room for averages like `moments`, of `len` numbers if that is given.
    fn reserve(&mut self, parameter: &str, moments: &[Moments], len: Option<usize>) -> Vec<Place> {
        let mut places = Vec::with_capacity(moments.len());
        for moment in moments {
            let place = Place {
                offset: self.end,
                len: len.unwrap_or_else(|| moment.len()),
                eight_bit: matches!(moment, Moments::Bits8 { .. }),
            };
            self.end += place.bytes();
            places.push(place);
        }
        self.places.insert(parameter.to_owned(), places.clone());
        places
    }

    fn read(&self, place: Place, first: usize, len: usize) -> io::Result<Moments> {
        if !place.eight_bit {
            return Ok(Moments::F32(self.read_f32(place.number(first), len)?));
        }
        let blocks = len.div_ceil(BLOCK_SIZE_8BIT);
        Ok(Moments::Bits8 {
            codes: self.read_bytes(place.number(first), len)?,
            absmax: self.read_f32(place.scale(first), blocks)?,
        })
    }

    fn write(&self, place: Place, first: usize, moments: &Moments) -> io::Result<()> {
        match moments {
            Moments::F32(values) => self.write_f32(place.number(first), values),
            Moments::Bits8 { codes, absmax } => {
                self.write_bytes(place.number(first), codes)?;
                self.write_f32(place.scale(first), absmax)
            }
        }
    }

    fn read_bytes(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let mut file = &self.file;
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn read_f32(&self, offset: u64, len: usize) -> io::Result<Vec<f32>> {
        let bytes = self.read_bytes(offset, 4 * len)?;
        let (words, _) = bytes.as_chunks::<4>();
        Ok(words.iter().map(|word| f32::from_le_bytes(*word)).collect())
    }

    fn write_bytes(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(offset))?;
        file.write_all(bytes)
    }

    fn write_f32(&self, offset: u64, values: &[f32]) -> io::Result<()> {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.write_bytes(offset, &bytes)
    }

    /// Says which file an error is of.
    fn told<T>(&self, result: io::Result<T>) -> Result<T> {
        result.map_err(|source| Error::Io {
            path: self.path.clone(),
            source,
        })
    }
}

impl Drop for MomentFile {
    fn drop(&mut self) {
        if self.named {
            // Nothing is lost when it stays: a new run takes another name.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes around the ends of blocks and pages, and the least that is kept in eight bits.
    const SIZES: [usize; 4] = [40, 5000, PAGE, PAGE + 2 * TASK + 300];

    fn rules() -> Vec<Rule> {
        let rules = [
            r#"{"type": "adamw"}"#,
            r#"{"type": "adamw", "eight_bit": true}"#,
            r#"{"type": "lion"}"#,
            r#"{"type": "lion", "eight_bit": true}"#,
        ];
        let parsed = rules.map(|rule| serde_json::from_str(rule).unwrap());
        parsed.to_vec()
    }

    #[test]
    fn pages_give_the_bits_of_averages_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        for rule in rules() {
            let mut file = MomentFile::create(folder.path()).unwrap();
            for len in SIZES {
                let name = len.to_string();
                let mut params = [vec![0.5_f32; len], vec![0.5_f32; len]];
                let mut moments = rule.init(len);
                for step in 1..=3 {
                    let grad: Vec<f32> = (0..len)
                        .map(|place| (place as f32 * 0.37 + step as f32).sin())
                        .collect();
                    let by = StepSize {
                        lr: 0.01,
                        weight_decay: 0.1,
                        step,
                    };
                    let [kept, paged] = &mut params;
                    rule.update(kept, &grad, &mut moments, by);
                    file.update(&rule, &name, (paged, &grad), by).unwrap();
                }
                let bits = |values: &[f32]| -> Vec<u32> {
                    values.iter().map(|value| value.to_bits()).collect()
                };
                assert!(bits(&params[0]) == bits(&params[1]), "{rule:?} {len}");
                for (index, moment) in moments.iter().enumerate() {
                    let paged = file.moment(&name, index).unwrap().unwrap();
                    assert!(paged == *moment, "{rule:?} {len} average {index}");
                }
                assert!(file.moment(&name, moments.len()).unwrap().is_none());
            }
        }
    }

    #[test]
    fn memory_does_not_grow_with_the_averages() {
        let folder = tempfile::tempdir().unwrap();
        let rule = Rule::default();
        let mut file = MomentFile::create(folder.path()).unwrap();
        for name in ["a", "b", "c"] {
            let moments = rule.init(3 * PAGE);
            file.insert(name, &moments).unwrap();
        }
        assert_eq!(file.bytes(), 3 * 3 * PAGE * 2 * 4);
        assert_eq!(file.resident_bytes(), PAGE * 2 * 4);
        assert_eq!(file.file.metadata().unwrap().len(), file.bytes() as u64);
    }

    #[test]
    fn files_of_one_folder_do_not_meet_and_leave_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let rule = Rule::default();
        let mut files = [1.0, 2.0].map(|value| {
            let mut file = MomentFile::create(folder.path()).unwrap();
            let moments = vec![Moments::F32(vec![value; 8]); rule.init(8).len()];
            file.insert("p", &moments).unwrap();
            file
        });
        for (file, value) in files.iter_mut().zip([1.0, 2.0]) {
            let moment = file.moment("p", 1).unwrap().unwrap();
            assert_eq!(moment, Moments::F32(vec![value; 8]));
        }
        drop(files);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_that_cannot_be_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = MomentFile::create(&file.join("below")).unwrap_err();
        assert!(error.to_string().contains("below"), "{error}");
    }
}
