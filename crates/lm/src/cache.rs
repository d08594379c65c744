//! The keys and values of tokens already seen.

use burn::tensor::{DType, Device, Tensor};
use flametune_peft::VirtualTokens;

use crate::batch::{PADDING, TokenBatch};
use crate::error::{Error, Result};
use crate::virtual_tokens::check_single;

/// Keys and values of every layer, for rows that grow together.
///
/// The virtual tokens of adapters enter with the first batch, and widen the cache by their number.
///
/// All rows are equally long, padding included: rows of different lengths are padded at their
/// left ends. The memory of one layer is `2 · batch · kv_heads · capacity · head_dim` numbers,
/// taken when the layer first runs.
#[derive(Debug, Clone)]
pub struct KvCache {
    layers: Vec<LayerCache>,
    capacity: usize,
    slots: Slots,
}

#[derive(Debug, Clone, Default)]
struct LayerCache {
    /// `[batch, kv_heads, capacity, head_dim]` each.
    entries: Option<(Tensor<4>, Tensor<4>)>,
}

/// What is known of each slot of each row: its segment, and the last position.
#[derive(Debug, Clone)]
pub(crate) struct Slots {
    pub(crate) segments: Vec<Vec<u32>>,
    last_positions: Vec<u32>,
    /// The number of virtual tokens of each row.
    virtual_tokens: Vec<u32>,
}

impl Slots {
    pub(crate) fn new(batch: usize) -> Self {
        Self {
            segments: vec![Vec::new(); batch],
            last_positions: vec![0; batch],
            virtual_tokens: vec![0; batch],
        }
    }

    /// The number of slots filled so far, the same for every row.
    pub(crate) fn len(&self) -> usize {
        self.segments.first().map_or(0, Vec::len)
    }

    /// Checks that virtual tokens, those that enter and those that are there, leave one sequence a
    /// row.
    pub(crate) fn check(&self, batch: &TokenBatch, tokens: &VirtualTokens) -> Result<()> {
        let entered = self.virtual_tokens.iter().any(|&count| count > 0);
        match entered || tokens.input_len() + tokens.prefix_len() > 0 {
            true => check_single(batch),
            false => Ok(()),
        }
    }

    /// Appends the slots of virtual tokens, then those of `batch`, and returns the position of each
    /// new token, vectors in front of the input included.
    ///
    /// A token continues the count of the last token before it when both belong to one segment, and
    /// starts from 0 otherwise; padding has position 0. Positions that the batch gives are counted
    /// from the row's virtual tokens.
    pub(crate) fn extend(&mut self, batch: &TokenBatch, tokens: &VirtualTokens) -> Vec<u32> {
        let seq = batch.seq();
        let mut positions = Vec::with_capacity(batch.batch() * (tokens.input_len() + seq));
        for row in 0..batch.batch() {
            let segments = &mut self.segments[row];
            let mut count = self.virtual_tokens[row];
            for (lengths, places) in [
                (&tokens.prefix, None),
                (&tokens.input, Some(&mut positions)),
            ] {
                let longest = lengths.iter().copied().max().unwrap_or(0);
                let own = lengths.get(row).copied().unwrap_or(0);
                let missing = longest - own;
                let mut slots = Vec::with_capacity(longest);
                for slot in 0..longest {
                    let is_token = slot >= missing;
                    segments.push(if is_token { 1 } else { PADDING });
                    slots.push(if is_token { count } else { 0 });
                    if is_token {
                        self.last_positions[row] = count;
                        count += 1;
                    }
                }
                if let Some(places) = places {
                    places.extend(slots);
                }
            }
            self.virtual_tokens[row] = count;
            for slot in row * seq..(row + 1) * seq {
                let segment = batch.segment_ids().map_or(1, |ids| ids[slot]);
                let last = segments.iter().rev().find(|&&last| last != PADDING);
                let continues = segment != PADDING && last == Some(&segment);
                let counted = if continues {
                    self.last_positions[row].saturating_add(1)
                } else {
                    0
                };
                let position = batch
                    .position_ids()
                    .map_or(counted, |ids| ids[slot].saturating_add(count));
                segments.push(segment);
                if segment != PADDING {
                    self.last_positions[row] = position;
                }
                positions.push(position);
            }
        }
        positions
    }
}

impl KvCache {
    pub(crate) fn new(layers: usize, batch: usize, capacity: usize) -> Self {
        Self {
            layers: vec![LayerCache::default(); layers],
            capacity,
            slots: Slots::new(batch),
        }
    }

    /// The number of slots in use, padding included.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether nothing has been seen yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of slots a row has room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The number of rows.
    pub fn batch(&self) -> usize {
        self.slots.segments.len()
    }

    /// Keeps only the given rows, in the given order; a row may appear more than once.
    ///
    /// # Panics
    /// When a row is out of range.
    pub fn select_rows(&mut self, rows: &[usize]) {
        self.slots = Slots {
            virtual_tokens: rows
                .iter()
                .map(|&row| self.slots.virtual_tokens[row])
                .collect(),
            segments: rows
                .iter()
                .map(|&row| self.slots.segments[row].clone())
                .collect(),
            last_positions: rows
                .iter()
                .map(|&row| self.slots.last_positions[row])
                .collect(),
        };
        let indices: Vec<i64> = rows
            .iter()
            .map(|&row| i64::try_from(row).unwrap_or(i64::MAX))
            .collect();
        for layer in &mut self.layers {
            if let Some((keys, values)) = layer.entries.take() {
                let indices = Tensor::from_data(indices.as_slice(), &keys.device());
                layer.entries = Some((
                    keys.select(0, Tensor::clone(&indices)),
                    values.select(0, indices),
                ));
            }
        }
    }

    /// Checks that `batch` fits, then takes its slots in and returns the tokens' positions.
    pub(crate) fn extend(
        &mut self,
        batch: &TokenBatch,
        tokens: &VirtualTokens,
    ) -> Result<Vec<u32>> {
        if batch.batch() != self.batch() {
            return Err(Error::CacheBatch {
                expected: self.batch(),
                got: batch.batch(),
            });
        }
        let requested = self.len().saturating_add(batch.seq());
        if requested > self.capacity {
            return Err(Error::ContextOverflow {
                requested,
                limit: self.capacity,
            });
        }
        self.slots.check(batch, tokens)?;
        self.capacity += tokens.input_len() + tokens.prefix_len();
        Ok(self.slots.extend(batch, tokens))
    }

    pub(crate) fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Writes the newest keys and values of `layer` and returns all of them so far.
    ///
    /// # Shapes
    /// - `keys`, `values`: `[batch, kv_heads, new, head_dim]`
    /// - returns two of `[batch, kv_heads, len, head_dim]`
    pub(crate) fn update(
        &mut self,
        layer: usize,
        keys: Tensor<4>,
        values: Tensor<4>,
    ) -> (Tensor<4>, Tensor<4>) {
        let [batch, kv_heads, new, head_dim] = keys.dims();
        let len = self.len();
        let (device, dtype) = (keys.device(), keys.dtype());
        let layer = &mut self.layers[layer].entries;
        let empty = || empty_slots([batch, kv_heads, self.capacity, head_dim], &device, dtype);
        // Taking the tensors out leaves them without a second owner: they are written in place.
        let (all_keys, all_values) = layer.take().unwrap_or_else(|| (empty(), empty()));
        let new_slots = [0..batch, 0..kv_heads, len - new..len, 0..head_dim];
        let all_keys = all_keys.slice_assign(new_slots.clone(), keys);
        let all_values = all_values.slice_assign(new_slots, values);
        let filled = [0..batch, 0..kv_heads, 0..len, 0..head_dim];
        *layer = Some((all_keys.clone(), all_values.clone()));
        (all_keys.slice(filled.clone()), all_values.slice(filled))
    }
}

fn empty_slots(shape: [usize; 4], device: &Device, dtype: DType) -> Tensor<4> {
    Tensor::zeros(shape, (device, dtype))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> VirtualTokens {
        VirtualTokens::default()
    }

    #[test]
    fn virtual_tokens_stand_in_front_and_are_counted_row_by_row() {
        let mut cache = KvCache::new(1, 2, 3);
        let tokens = VirtualTokens {
            input: vec![2, 0],
            prefix: vec![0, 3],
        };
        let batch = TokenBatch::left_padded(&[vec![7, 8], vec![7]], 0).unwrap();
        let positions = cache.extend(&batch, &tokens).unwrap();
        assert_eq!(positions, [0, 1, 2, 3, 0, 0, 0, 3]);
        assert_eq!(cache.slots().segments[0], [0, 0, 0, 1, 1, 1, 1]);
        assert_eq!(cache.slots().segments[1], [1, 1, 1, 0, 0, 0, 1]);
        assert_eq!((cache.len(), cache.capacity()), (7, 8));
        let next = TokenBatch::from_rows(&[vec![1], vec![1]]).unwrap();
        assert_eq!(cache.extend(&next, &none()).unwrap(), [4, 4]);
        let packed = next.with_segment_ids(vec![1, 2]).unwrap();
        let error = cache.slots().check(&packed, &none()).unwrap_err();
        assert!(matches!(error, Error::PackedPrompt { row: 1, segment: 2 }));
    }

    #[test]
    fn positions_continue_within_a_segment_and_restart_in_the_next() {
        let mut slots = Slots::new(2);
        let first = TokenBatch::left_padded(&[vec![7, 8, 9], vec![7]], 0).unwrap();
        assert_eq!(slots.extend(&first, &none()), [0, 1, 2, 0, 0, 0]);
        let next = TokenBatch::from_rows(&[vec![1], vec![1]]).unwrap();
        assert_eq!(slots.extend(&next, &none()), [3, 1]);
        let packed = TokenBatch::from_rows(&[vec![1, 2], vec![3, 4]])
            .unwrap()
            .with_segment_ids(vec![1, 2, 2, 2])
            .unwrap();
        assert_eq!(slots.extend(&packed, &none()), [4, 0, 0, 1]);
    }

    #[test]
    fn a_batch_that_does_not_fit_is_refused_and_changes_nothing() {
        let mut cache = KvCache::new(1, 1, 2);
        let batch = TokenBatch::from_rows(&[vec![1, 2, 3]]).unwrap();
        let error = cache.extend(&batch, &none()).unwrap_err();
        assert!(matches!(
            error,
            Error::ContextOverflow {
                requested: 3,
                limit: 2
            }
        ));
        let batch = TokenBatch::from_rows(&[vec![1], vec![2]]).unwrap();
        let error = cache.extend(&batch, &none()).unwrap_err();
        assert!(matches!(
            error,
            Error::CacheBatch {
                expected: 1,
                got: 2
            }
        ));
        assert!(cache.is_empty());
    }

    #[test]
    fn update_returns_everything_seen_so_far() {
        let device = Device::flex();
        let mut cache = KvCache::new(1, 1, 4);
        let entry = |value: f32| Tensor::<4>::full([1, 1, 1, 2], value, &device);
        for value in [1.0, 2.0] {
            cache
                .extend(&TokenBatch::from_rows(&[vec![0]]).unwrap(), &none())
                .unwrap();
            let (keys, values) = cache.update(0, entry(value), entry(-value));
            let last = keys.into_data().try_to_vec::<f32>().unwrap();
            assert_eq!(last.last(), Some(&value));
            assert_eq!(values.dims(), [1, 1, cache.len(), 2]);
        }
        cache.select_rows(&[0, 0]);
        cache
            .extend(
                &TokenBatch::from_rows(&[vec![0], vec![0]]).unwrap(),
                &none(),
            )
            .unwrap();
        let pair = Tensor::<4>::full([2, 1, 1, 2], 3.0, &device);
        let (keys, _) = cache.update(0, pair.clone(), pair);
        let keys = keys.into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(keys, [1., 1., 2., 2., 3., 3., 1., 1., 2., 2., 3., 3.]);
    }
}
