//! The model as it runs: with the adapters in use now, over its pages.

use std::collections::BTreeMap;

use burn::tensor::{Int, Tensor, TensorData};
use flametune_kernels::{in_pool, rows_alone};
use flametune_lm::{AdapterPass, AdapterSelection, CausalLm, PagedKv, PagedRow};
use flametune_peft::{AdapterParts, remove};

use crate::error::Result;

/// Logits that are in memory at once, in rows.
const ROWS: usize = 64;

/// A model, its adapters in use, and a key/value cache.
#[derive(Debug)]
pub(super) struct Live {
    model: CausalLm,
    kv: PagedKv,
    /// Whether rows must not depend on each other to the bit.
    alone: bool,
    /// The generation of each adapter in the model.
    adapters: BTreeMap<String, u64>,
}

/// One sequence in a pass, with its adapter.
#[derive(Debug, Clone, Copy)]
pub(super) struct LiveRow<'a> {
    pub(super) row: PagedRow<'a>,
    pub(super) adapter: Option<&'a str>,
}

/// What came out of a pass: the states of all new slots.
#[derive(Debug)]
pub(super) struct States {
    hidden: Tensor<3>,
    pass: AdapterPass,
    /// The sequence of each slot.
    rows: Vec<usize>,
}

impl Live {
    pub(super) fn new(model: CausalLm, pages: usize, page_len: usize, alone: bool) -> Self {
        let kv = model.new_paged_kv(pages, page_len);
        Self {
            model,
            kv,
            alone,
            adapters: BTreeMap::new(),
        }
    }

    pub(super) fn model(&self) -> &CausalLm {
        &self.model
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.adapters.contains_key(key)
    }

    /// Takes an adapter in.
    pub(super) fn put(&mut self, parts: &AdapterParts, generation: u64) -> Result<()> {
        parts.put(&mut self.model)?;
        self.adapters.insert(parts.name().to_owned(), generation);
        Ok(())
    }

    /// Lets go of all adapters but those that `keep` wants, and returns their generations.
    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool) -> Vec<u64> {
        let mut gone = Vec::new();
        let model = &mut self.model;
        self.adapters.retain(|key, generation| {
            if keep(key) {
                return true;
            }
            if let Err(error) = remove(model, key) {
                log::error!("adapter {key} cannot be taken out: {error}");
            }
            gone.push(*generation);
            false
        });
        gone
    }

    /// Writes the keys and values that an adapter puts in front of a sequence.
    pub(super) fn write_prefix(&mut self, adapter: &str, pages: &[u32]) -> Result<usize> {
        let pass = AdapterPass::one(adapter);
        Ok(self.model.write_prefix(&mut self.kv, &pass, pages)?)
    }

    /// Reads the new slots of some sequences.
    pub(super) fn forward(&mut self, rows: &[LiveRow<'_>]) -> Result<States> {
        let pass = selection(rows);
        let plain: Vec<PagedRow<'_>> = rows.iter().map(|row| row.row).collect();
        let (model, kv, alone) = (&self.model, &mut self.kv, self.alone);
        let hidden = in_pool(|| {
            let mut run = || model.forward_paged(&plain, kv, &pass, alone);
            if alone { rows_alone(run) } else { run() }
        })?;
        let each = rows.iter().enumerate();
        let rows = each.flat_map(|(row, live)| std::iter::repeat_n(row, live.row.input.len()));
        Ok(States {
            hidden,
            pass,
            rows: rows.collect(),
        })
    }

    /// The logits behind some of the slots, a few slots at a time: `visit(the first of them, their
    /// logits one row after the other)`.
    pub(super) fn logits(
        &self,
        states: &States,
        slots: &[usize],
        mut visit: impl FnMut(usize, Vec<f32>) -> Result<()>,
    ) -> Result<()> {
        for (index, slots) in slots.chunks(ROWS).enumerate() {
            let logits = in_pool(|| {
                let run = || self.logits_of(states, slots);
                if self.alone { rows_alone(run) } else { run() }
            });
            visit(index * ROWS, logits)?;
        }
        Ok(())
    }

    fn logits_of(&self, states: &States, slots: &[usize]) -> Vec<f32> {
        let all = slots.len() == states.rows.len();
        let hidden = if all {
            states.hidden.clone()
        } else {
            let picks: Vec<i64> = slots
                .iter()
                .map(|&slot| i64::try_from(slot).unwrap_or(i64::MAX))
                .collect();
            let picks = TensorData::new(picks, [slots.len()]);
            let picks: Tensor<1, Int> = Tensor::from_data(picks, &states.hidden.device());
            states.hidden.clone().select(0, picks)
        };
        let rows: Vec<usize> = slots.iter().map(|&slot| states.rows[slot]).collect();
        let logits = self.model.logits(hidden, &states.pass.select_rows(&rows));
        let logits = logits.into_data().convert::<f32>();
        // After the conversion the data are f32; an empty list would be refused by its length.
        logits.try_into_vec::<f32>().unwrap_or_default()
    }
}

/// The adapters of the rows: one for all where they agree, which saves looking them up by row.
fn selection(rows: &[LiveRow<'_>]) -> AdapterPass {
    let first = rows.first().and_then(|row| row.adapter);
    if rows.iter().all(|row| row.adapter == first) {
        return first.map_or_else(AdapterPass::default, AdapterPass::one);
    }
    let names = rows.iter().map(|row| row.adapter.map(str::to_owned));
    AdapterPass::new(AdapterSelection::PerRow(names.collect()))
}
