use std::sync::Arc;

use burn::tensor::{Bool, Device, Tensor, TensorData};

/// Which keys each query may see, as a rule instead of a matrix.
///
/// Keys are numbered by slot, `0..k_len`; query `i` sits in slot `query_start + i`. A query sees a
/// key when all of these hold:
///
/// - both slots carry the same segment id, and it is not 0 (0 is padding);
/// - causal masks: the key's slot is not after the query's;
/// - with a window `n`: `query slot − key slot < n` (the sliding window of Hugging Face, which
///   counts the query itself).
///
/// # Examples
/// ```
/// use flametune_kernels::AttentionMask;
///
/// // Two sequences packed in one row: tokens never see the other sequence.
/// let mask = AttentionMask::causal(0).with_segments(vec![vec![1, 1, 2, 2, 0]]);
/// assert!(mask.allows(0, 1, 0));
/// assert!(!mask.allows(0, 2, 1));
/// assert!(!mask.allows(0, 4, 4));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttentionMask {
    causal: bool,
    window: Option<usize>,
    query_start: usize,
    segments: Option<Arc<[Vec<u32>]>>,
}

impl AttentionMask {
    /// Each query sees its own slot and those before it; the first query sits in slot
    /// `query_start` (the number of keys already in the cache).
    pub fn causal(query_start: usize) -> Self {
        Self {
            causal: true,
            window: None,
            query_start,
            segments: None,
        }
    }

    /// Every query sees every key; the first query sits in slot 0.
    pub fn bidirectional() -> Self {
        Self {
            causal: false,
            window: None,
            query_start: 0,
            segments: None,
        }
    }

    /// Limits the view to the last `window` slots, the query's own included.
    #[must_use]
    pub fn with_window(mut self, window: usize) -> Self {
        self.window = Some(window);
        self
    }

    /// Sets the segment id of every key slot, one list per batch row; 0 marks padding.
    ///
    /// Slots past the end of a list are padding.
    #[must_use]
    pub fn with_segments(mut self, segments: impl Into<Arc<[Vec<u32>]>>) -> Self {
        self.segments = Some(segments.into());
        self
    }

    /// Whether keys after the query are hidden.
    pub fn is_causal(&self) -> bool {
        self.causal
    }

    /// The sliding window, if any.
    pub fn window(&self) -> Option<usize> {
        self.window
    }

    /// The slot of the first query among the keys.
    pub fn query_start(&self) -> usize {
        self.query_start
    }

    /// The segment ids of the key slots per batch row, if there are any.
    pub fn segments(&self) -> Option<&[Vec<u32>]> {
        self.segments.as_deref()
    }

    /// Whether query number `query` of row `batch` sees key slot `key`.
    pub fn allows(&self, batch: usize, query: usize, key: usize) -> bool {
        let slot = self.query_start + query;
        if self.causal && key > slot {
            return false;
        }
        if self
            .window
            .is_some_and(|window| slot >= key.saturating_add(window))
        {
            return false;
        }
        match self.segments.as_deref() {
            None => true,
            Some(rows) => {
                let segment = |slot: usize| rows.get(batch).and_then(|row| row.get(slot)).copied();
                matches!((segment(slot), segment(key)), (Some(q), Some(k)) if q == k && q != 0)
            }
        }
    }

    /// The rule written out: `true` where a query sees a key.
    ///
    /// # Shapes
    /// Returns `[batch, 1, q_len, k_len]`, ready to broadcast over heads.
    pub fn to_tensor(
        &self,
        batch: usize,
        q_len: usize,
        k_len: usize,
        device: &Device,
    ) -> Tensor<4, Bool> {
        let mut allowed = Vec::with_capacity(batch * q_len * k_len);
        for row in 0..batch {
            for query in 0..q_len {
                allowed.extend((0..k_len).map(|key| self.allows(row, query, key)));
            }
        }
        Tensor::from_data(TensorData::new(allowed, [batch, 1, q_len, k_len]), device)
    }
}
