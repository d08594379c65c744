//! Where averages live: in memory, or page by page in a file.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use super::moment_file::MomentFile;
use super::{Moments, Rule, StepSize};
use crate::error::Result;

/// The averages of every parameter, by its path.
#[derive(Debug)]
pub(super) enum Store {
    Memory(BTreeMap<String, Vec<Moments>>),
    File(MomentFile),
}

impl Store {
    /// A store of the same kind that holds nothing.
    pub(super) fn emptied(&self) -> Result<Self> {
        match self {
            Self::Memory(_) => Ok(Self::Memory(BTreeMap::new())),
            Self::File(file) => Ok(Self::File(MomentFile::create(file.folder())?)),
        }
    }

    /// The same averages in a file of `folder`.
    pub(super) fn paged(self, folder: &Path) -> Result<Self> {
        let mut file = MomentFile::create(folder)?;
        for parameter in self.parameters() {
            let mut index = 0;
            let mut moments = Vec::new();
            while let Some(moment) = self.moment(&parameter, index)? {
                moments.push(moment.into_owned());
                index += 1;
            }
            file.insert(&parameter, &moments)?;
        }
        Ok(Self::File(file))
    }

    /// The parameters that have averages, in their order.
    pub(super) fn parameters(&self) -> Vec<String> {
        match self {
            Self::Memory(all) => all.keys().cloned().collect(),
            Self::File(file) => file.parameters(),
        }
    }

    /// Average `index` of a parameter.
    pub(super) fn moment(&self, parameter: &str, index: usize) -> Result<Option<Cow<'_, Moments>>> {
        match self {
            Self::Memory(all) => {
                let moment = all.get(parameter).and_then(|moments| moments.get(index));
                Ok(moment.map(Cow::Borrowed))
            }
            Self::File(file) => Ok(file.moment(parameter, index)?.map(Cow::Owned)),
        }
    }

    /// Takes in the averages of a parameter.
    pub(super) fn insert(&mut self, parameter: &str, moments: Vec<Moments>) -> Result<()> {
        match self {
            Self::Memory(all) => {
                all.insert(parameter.to_owned(), moments);
                Ok(())
            }
            Self::File(file) => file.insert(parameter, &moments),
        }
    }

    /// Moves a parameter one step.
    pub(super) fn update(
        &mut self,
        rule: &Rule,
        parameter: &str,
        (param, grad): (&mut [f32], &[f32]),
        by: StepSize,
    ) -> Result<()> {
        match self {
            Self::Memory(all) => {
                if !all.contains_key(parameter) {
                    all.insert(parameter.to_owned(), rule.init(param.len()));
                }
                if let Some(moments) = all.get_mut(parameter) {
                    rule.update(param, grad, moments, by);
                }
                Ok(())
            }
            Self::File(file) => file.update(rule, parameter, (param, grad), by),
        }
    }

    /// The bytes of all averages.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Memory(all) => all.values().flatten().map(Moments::bytes).sum(),
            Self::File(file) => file.bytes(),
        }
    }

    /// The bytes that are in memory, at most.
    pub(super) fn resident_bytes(&self) -> usize {
        match self {
            Self::Memory(_) => self.bytes(),
            Self::File(file) => file.resident_bytes(),
        }
    }
}
