//! Which adapters take part in a forward pass: data, not state of the model.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Int, Tensor, TensorData};
use flametune_kernels::LoraDropout;

use crate::error::{Error, Result};
use crate::random::Stream;
use crate::table::AdapterTable;

/// The adapters of one forward pass.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AdapterSelection {
    /// The base alone.
    #[default]
    None,
    /// One adapter for every row.
    One(String),
    /// Several at once for every row: what they add to the base's output is summed.
    All(Vec<String>),
    /// Each row of the batch its own adapter, or none.
    PerRow(Vec<Option<String>>),
}

/// Chooses the random numbers of a training step.
///
/// Each number is a function of `(seed, step, module, element)`, so that a resumed run draws what
/// the unbroken one would have drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DropoutKey {
    /// The seed of the run.
    pub seed: u64,
    /// The number of the forward pass in the run.
    pub step: u64,
}

/// What travels with a forward pass: the adapters, and the key of dropout while training.
///
/// # Examples
/// ```
/// use flametune_peft::{AdapterPass, AdapterSelection, DropoutKey};
///
/// let base = AdapterPass::default();
/// assert!(base.is_base());
/// let one = AdapterPass::one("summary");
/// let rows = AdapterPass::new(AdapterSelection::PerRow(vec![Some("summary".to_owned()), None]));
/// let training = one.with_dropout(DropoutKey { seed: 7, step: 0 });
/// # let _ = (rows, training);
/// ```
#[derive(Debug, Clone, Default)]
pub struct AdapterPass {
    chosen: Chosen,
    dropout: Option<DropoutKey>,
}

#[derive(Debug, Clone, Default)]
enum Chosen {
    #[default]
    None,
    All(Arc<[String]>),
    PerRow {
        names: Arc<[String]>,
        /// For each row an index into `names`.
        rows: Arc<[Option<usize>]>,
    },
}

impl AdapterPass {
    /// A pass without dropout, as in evaluation.
    pub fn new(selection: AdapterSelection) -> Self {
        let chosen = match selection {
            AdapterSelection::None => Chosen::None,
            AdapterSelection::One(name) => Chosen::All(Arc::from([name])),
            AdapterSelection::All(names) if names.is_empty() => Chosen::None,
            AdapterSelection::All(names) => Chosen::All(names.into()),
            AdapterSelection::PerRow(rows) => {
                let mut names: Vec<String> = Vec::new();
                let rows = rows
                    .into_iter()
                    .map(|name| {
                        let name = name?;
                        let known = names.iter().position(|known| *known == name);
                        Some(known.unwrap_or_else(|| {
                            names.push(name);
                            names.len() - 1
                        }))
                    })
                    .collect();
                Chosen::PerRow {
                    names: names.into(),
                    rows,
                }
            }
        };
        Self {
            chosen,
            dropout: None,
        }
    }

    /// A pass with one adapter and without dropout.
    pub fn one(name: impl Into<String>) -> Self {
        Self::new(AdapterSelection::One(name.into()))
    }

    /// The same pass with dropout, as in training.
    #[must_use]
    pub fn with_dropout(mut self, key: DropoutKey) -> Self {
        self.dropout = Some(key);
        self
    }

    /// Whether no adapter takes part.
    pub fn is_base(&self) -> bool {
        matches!(self.chosen, Chosen::None)
    }

    /// The key of dropout, in training.
    pub fn dropout(&self) -> Option<DropoutKey> {
        self.dropout
    }

    /// The names of all adapters that take part, each once.
    pub fn names(&self) -> &[String] {
        match &self.chosen {
            Chosen::None => &[],
            Chosen::All(names) | Chosen::PerRow { names, .. } => names,
        }
    }

    /// Checks the names against a model's adapters, and the number of rows against the batch's.
    ///
    /// # Errors
    /// [`Error::UnknownAdapter`], [`Error::Merged`], [`Error::RowCount`],
    /// [`Error::SeveralPrompts`].
    pub fn check(&self, table: &AdapterTable, batch: usize) -> Result<()> {
        for name in self.names() {
            table.config(name)?;
            if table.merged().contains(name) {
                return Err(Error::Merged { name: name.clone() });
            }
        }
        if let Chosen::All(names) = &self.chosen {
            let mut prompts = names.iter().filter(|name| {
                table
                    .config(name)
                    .is_ok_and(|config| config.has_virtual_tokens())
            });
            if let (Some(first), Some(second)) = (prompts.next(), prompts.next()) {
                return Err(Error::SeveralPrompts {
                    first: first.clone(),
                    second: second.clone(),
                });
            }
        }
        match &self.chosen {
            Chosen::PerRow { rows, .. } if rows.len() != batch => Err(Error::RowCount {
                expected: batch,
                got: rows.len(),
            }),
            _ => Ok(()),
        }
    }

    /// For each of `batch` rows the first of its adapters for which `find` has something.
    pub(crate) fn find_rows<T: Copy>(
        &self,
        batch: usize,
        find: impl Fn(&str) -> Option<T>,
    ) -> Vec<Option<T>> {
        match &self.chosen {
            Chosen::None => vec![None; batch],
            Chosen::All(names) => vec![names.iter().find_map(|name| find(name)); batch],
            Chosen::PerRow { names, rows } => {
                let found: Vec<Option<T>> = names.iter().map(|name| find(name)).collect();
                rows.iter()
                    .map(|row| row.and_then(|at| found[at]))
                    .collect()
            }
        }
    }

    /// The pass for a tensor whose first dimension counts `each` tokens of every row.
    #[must_use]
    pub fn repeat_rows(&self, each: usize) -> Self {
        self.with_rows(|rows| {
            rows.iter()
                .flat_map(|&row| std::iter::repeat_n(row, each))
                .collect()
        })
    }

    /// The pass for a tensor that holds only these rows, in this order.
    ///
    /// # Panics
    /// When a row is outside the selection.
    #[must_use]
    pub fn select_rows(&self, picks: &[usize]) -> Self {
        self.with_rows(|rows| picks.iter().map(|&pick| rows[pick]).collect())
    }

    fn with_rows(&self, map: impl FnOnce(&[Option<usize>]) -> Arc<[Option<usize>]>) -> Self {
        let chosen = match &self.chosen {
            Chosen::PerRow { names, rows } => Chosen::PerRow {
                names: Arc::clone(names),
                rows: map(rows),
            },
            other => other.clone(),
        };
        Self {
            chosen,
            dropout: self.dropout,
        }
    }

    /// The names of the adapters that each row uses of those that reach a module, if they differ:
    /// groups of neighbouring or scattered rows, each with at most one name.
    fn groups(&self, has: impl Fn(&str) -> bool) -> Option<Vec<(Option<&str>, Vec<usize>)>> {
        let Chosen::PerRow { names, rows } = &self.chosen else {
            return None;
        };
        // An adapter that does not reach this module leaves its rows to the base.
        let mut groups: Vec<(Option<&str>, Vec<usize>)> = Vec::new();
        for (index, row) in rows.iter().enumerate() {
            let name = row
                .map(|name| names[name].as_str())
                .filter(|name| has(name));
            match groups.iter_mut().find(|group| group.0 == name) {
                Some(group) => group.1.push(index),
                None => groups.push((name, vec![index])),
            }
        }
        Some(groups)
    }

    /// The adapters of those that reach a module, each with the ranges of matrix rows that use
    /// it; `rows` matrix rows in all. Nothing when one row uses several.
    #[expect(clippy::type_complexity, reason = "a list of names and ranges")]
    pub(crate) fn segments(
        &self,
        has: impl Fn(&str) -> bool,
        rows: usize,
        each: usize,
    ) -> Option<Vec<(&str, Vec<Range<usize>>)>> {
        if let Some(groups) = self.groups(&has) {
            let ranges = |rows: Vec<usize>| {
                let mut ranges: Vec<Range<usize>> = Vec::new();
                for row in rows {
                    let (first, end) = (row * each, (row + 1) * each);
                    match ranges.last_mut() {
                        Some(last) if last.end == first => last.end = end,
                        _ => ranges.push(first..end),
                    }
                }
                ranges
            };
            let adapted = groups.into_iter();
            return Some(
                adapted
                    .filter_map(|(name, rows)| Some((name?, ranges(rows))))
                    .collect(),
            );
        }
        let here: Vec<&str> = self
            .names()
            .iter()
            .map(String::as_str)
            .filter(|name| has(name))
            .collect();
        match here.as_slice() {
            [] => Some(Vec::new()),
            [name] => Some(vec![(name, std::iter::once(0..rows).collect())]),
            _ => None,
        }
    }

    /// Runs one module: `whole` when all rows use the same adapters, `part` for each group of
    /// rows that share one, and puts the groups' outputs back into the order of the rows.
    ///
    /// `each` is the number of matrix rows that belong to one row of the pass.
    pub(crate) fn run(
        &self,
        has: impl Fn(&str) -> bool,
        each: usize,
        whole: impl FnOnce(&[&str]) -> Tensor<2>,
        mut part: impl FnMut(Option<&str>, &RowSet) -> Tensor<2>,
    ) -> Tensor<2> {
        let Some(groups) = self.groups(&has) else {
            let names = self.names().iter().map(String::as_str);
            return whole(&names.filter(|name| has(name)).collect::<Vec<_>>());
        };
        if let [(name, _)] = groups.as_slice() {
            return whole(name.as_slice());
        }
        let mut order = Vec::new();
        let mut outputs = Vec::with_capacity(groups.len());
        for (name, rows) in groups {
            let rows = RowSet::new(&rows, each);
            outputs.push(part(name, &rows));
            order.extend(rows.0);
        }
        let joined = Tensor::cat(outputs, 0);
        if order.is_sorted() {
            return joined;
        }
        let mut place = vec![0; order.len()];
        for (position, &row) in order.iter().enumerate() {
            place[row] = position;
        }
        let device = joined.device();
        joined.select(0, RowSet(place).indices(&device))
    }
}

/// Some rows of a matrix.
#[derive(Debug, Clone)]
pub(crate) struct RowSet(pub(crate) Vec<usize>);

impl RowSet {
    fn new(rows: &[usize], each: usize) -> Self {
        Self(
            rows.iter()
                .flat_map(|&row| row * each..(row + 1) * each)
                .collect(),
        )
    }

    /// The rows as indices on a device.
    pub(crate) fn indices(&self, device: &burn::tensor::Device) -> Tensor<1, Int> {
        #[expect(clippy::cast_possible_wrap, reason = "rows of a tensor fit into i64")]
        let rows: Vec<i64> = self.0.iter().map(|&row| row as i64).collect();
        Tensor::from_data(TensorData::new(rows, [self.0.len()]), device)
    }

    /// These rows of a matrix.
    pub(crate) fn of(&self, x: &Tensor<2>) -> Tensor<2> {
        match (self.0.first(), self.0.last()) {
            (Some(&first), Some(&last)) if last + 1 - first == self.0.len() => {
                x.clone().narrow(0, first, self.0.len())
            }
            _ => x.clone().select(0, self.indices(&x.device())),
        }
    }
}

/// The dropout of one module in one pass.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Dropout<'a> {
    pub(crate) key: Option<DropoutKey>,
    /// The rows of the whole batch that the module sees now; all of them when absent.
    pub(crate) rows: Option<&'a RowSet>,
}

impl Dropout<'_> {
    /// Whether `apply` changes its input.
    pub(crate) fn is_active(&self, p: f64) -> bool {
        self.key.is_some() && p > 0.0
    }

    /// A number in `[0, 1)` of a module in this pass, the same for all rows; nothing outside of
    /// training.
    pub(crate) fn draw(&self, module: u64, index: u64) -> Option<f64> {
        let key = self.key?;
        Some(Stream::new(&[key.seed, key.step, module]).uniform(index))
    }

    /// The dropout as the kernels know it, if there is any; `module` chooses the random numbers
    /// of the module.
    pub(crate) fn kernel(&self, p: f64, module: u64) -> Option<LoraDropout> {
        let DropoutKey { seed, step } = self.key.filter(|_| p > 0.0)?;
        let key = Stream::new(&[seed, step, module]).key();
        Some(LoraDropout { p, key })
    }

    /// Zeroes each number with probability `p` and divides the others by `1 - p`.
    pub(crate) fn apply(&self, x: Tensor<2>, p: f64, module: u64) -> Tensor<2> {
        match self.kernel(p, module) {
            Some(dropout) => dropout.apply(x, self.rows.map(|set| set.0.as_slice())),
            None => x,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn rows(names: &[Option<&str>]) -> AdapterPass {
        let names = names.iter().map(|name| name.map(str::to_owned)).collect();
        AdapterPass::new(AdapterSelection::PerRow(names))
    }

    #[test]
    fn groups_come_back_in_the_order_of_the_rows() {
        let device = Device::flex();
        let x = Tensor::<1, Int>::arange(0..10, &device)
            .float()
            .reshape([10, 1]);
        let pass = rows(&[Some("b"), None, Some("a"), Some("b"), Some("gone")]);
        let mut seen = Vec::new();
        let y = pass.run(
            |name| name != "gone",
            2,
            |_| panic!("the rows differ"),
            |name, set| {
                seen.push((name.map(str::to_owned), set.0.clone()));
                set.of(&x)
            },
        );
        assert_eq!(
            y.into_data().try_to_vec::<f32>().unwrap(),
            [0., 1., 2., 3., 4., 5., 6., 7., 8., 9.]
        );
        let expected = [
            (Some("b".to_owned()), vec![0, 1, 6, 7]),
            (None, vec![2, 3, 8, 9]),
            (Some("a".to_owned()), vec![4, 5]),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn dropout_depends_on_the_row_of_the_batch_and_keeps_the_mean() {
        let device = Device::flex();
        let key = Some(DropoutKey { seed: 3, step: 5 });
        let x = Tensor::<2>::ones([64, 256], &device);
        let all = Dropout { key, rows: None }.apply(x.clone(), 0.25, 9);
        let set = RowSet(vec![7, 40]);
        let some = Dropout {
            key,
            rows: Some(&set),
        }
        .apply(set.of(&x), 0.25, 9);
        let values = |t: Tensor<2>| t.into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(values(some), values(set.of(&all)));
        let numbers = values(all);
        assert!(
            numbers
                .iter()
                .all(|&v| v == 0.0 || (v - 4.0 / 3.0).abs() < 1e-6)
        );
        let mean = numbers.iter().sum::<f32>() / 16384.0;
        // The standard error is sqrt(p / (1 - p) / n) = 0.0045; five of them.
        assert!((mean - 1.0).abs() < 0.0225, "{mean}");
        let evaluation = Dropout {
            key: None,
            rows: None,
        };
        assert_eq!(values(evaluation.apply(x.clone(), 0.25, 9)), values(x));
    }

    #[test]
    fn tokens_and_picks_keep_the_adapters_of_their_rows() {
        let pass = rows(&[Some("a"), None]).repeat_rows(2).select_rows(&[3, 1]);
        let Chosen::PerRow { rows, .. } = &pass.chosen else {
            panic!("rows")
        };
        assert_eq!(rows.as_ref(), [None, Some(0)]);
    }
}
