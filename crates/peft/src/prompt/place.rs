//! The slot for virtual tokens in front of a model's input and of its keys and values.

use burn::module::Module;
use burn::tensor::{DType, Tensor};

use super::encoder::PromptEncoder;
use crate::base::cast;
use crate::selection::{AdapterPass, Dropout};
use crate::slots::{AdapterEmbedding, NamedAdapter, PartInfo, SlotMethod};
use crate::tensors::TensorName;

/// What the virtual tokens of a model must fit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PromptShape {
    /// The number of layers.
    pub num_layers: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// What the embedding multiplies its vectors with before they enter (Gemma), else 1.
    pub embed_scale: f64,
}

/// Where virtual tokens enter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptPlace {
    /// In front of the embeddings: prompt tuning and P-tuning.
    Input,
    /// In front of the keys and values of every layer: prefix tuning.
    KeysValues,
}

/// The virtual tokens of one adapter.
#[derive(Module, Debug)]
pub struct PromptMethod {
    /// What makes them.
    pub encoder: PromptEncoder,
    /// Where they enter.
    #[module(skip)]
    pub place: PromptPlace,
    /// What the method is called in reports.
    #[module(skip)]
    pub(super) label: &'static str,
}

impl PromptMethod {
    /// The table as it is stored, `[num_virtual_tokens, width]`.
    pub(crate) fn embeddings(&self) -> Tensor<2> {
        self.encoder.vectors(Dropout {
            key: None,
            rows: None,
        })
    }

    /// Puts a table in the place of whatever made it.
    pub(crate) fn set_embeddings(&mut self, table: Tensor<2>) {
        self.encoder = PromptEncoder::table(table);
    }
}

impl SlotMethod for PromptMethod {
    fn info(&self) -> PartInfo {
        PartInfo::adapter(self.label, None)
    }

    fn tensor_names(&self) -> &'static [TensorName] {
        PromptEncoder::TENSOR_NAMES
    }
}

/// The virtual tokens of a model's adapters.
///
/// A model asks for them once a pass: [`rows`](Self::rows) says how many each row has,
/// [`input`](Self::input) gives the vectors that go in front of the embeddings, and
/// [`keys_values`](Self::keys_values) what goes in front of each layer's keys and values.
/// Rows with fewer tokens than others are filled up at their left ends; the model masks that.
#[derive(Module, Debug)]
pub struct AdapterPrompt {
    /// The adapters, in the order in which they were added.
    pub adapters: Vec<NamedAdapter<PromptMethod>>,
    /// What they must fit.
    #[module(skip)]
    pub shape: PromptShape,
}

/// The place for virtual tokens, as a model shows it.
#[derive(Debug)]
pub struct PromptSlot<'a> {
    /// The adapters on it.
    pub adapters: &'a mut Vec<NamedAdapter<PromptMethod>>,
    /// What they must fit.
    pub shape: PromptShape,
    /// The word embeddings, `[vocab, d_model]`, which an initialisation may copy.
    pub(crate) embedding: Tensor<2>,
}

/// The number of virtual tokens of each row of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VirtualTokens {
    /// In front of the embeddings.
    pub input: Vec<usize>,
    /// In front of keys and values.
    pub prefix: Vec<usize>,
}

impl VirtualTokens {
    /// The slots that the widest row's vectors take in front of the embeddings.
    pub fn input_len(&self) -> usize {
        self.input.iter().copied().max().unwrap_or(0)
    }

    /// The slots that the widest row's keys and values take.
    pub fn prefix_len(&self) -> usize {
        self.prefix.iter().copied().max().unwrap_or(0)
    }
}

impl AdapterPrompt {
    /// A place for virtual tokens of this shape; no adapters yet.
    pub fn new(shape: PromptShape) -> Self {
        Self {
            adapters: Vec::new(),
            shape,
        }
    }

    pub(crate) fn slot(&mut self, embedding: &AdapterEmbedding) -> PromptSlot<'_> {
        PromptSlot {
            adapters: &mut self.adapters,
            shape: self.shape,
            embedding: embedding.weight.val(),
        }
    }

    /// The most virtual tokens that a row of this pass has, wherever they enter.
    pub fn longest(&self, pass: &AdapterPass) -> usize {
        let chosen = |part: &&NamedAdapter<PromptMethod>| pass.names().contains(&part.name);
        let lengths = self.adapters.iter().filter(chosen);
        lengths
            .map(|part| part.method.encoder.len())
            .max()
            .unwrap_or(0)
    }

    /// How many virtual tokens each of `batch` rows has; both lists are empty when there are none.
    pub fn rows(&self, pass: &AdapterPass, batch: usize) -> VirtualTokens {
        let lengths = |place| {
            let rows = self.chosen(pass, batch, place);
            let lengths: Vec<usize> = rows
                .iter()
                .map(|row| row.map_or(0, |part| part.method.encoder.len()))
                .collect();
            match lengths.iter().all(|&length| length == 0) {
                true => Vec::new(),
                false => lengths,
            }
        };
        VirtualTokens {
            input: lengths(PromptPlace::Input),
            prefix: lengths(PromptPlace::KeysValues),
        }
    }

    /// The vectors in front of the embeddings, if any row has some.
    ///
    /// # Shapes
    /// - returns `[batch, input_len, d_model]`, zeros where a row has fewer
    pub fn input(&self, pass: &AdapterPass, batch: usize, dtype: DType) -> Option<Tensor<3>> {
        self.table(pass, batch, PromptPlace::Input, dtype)
    }

    /// What goes in front of the keys and values of every layer, if any row has something.
    pub fn keys_values(
        &self,
        pass: &AdapterPass,
        batch: usize,
        dtype: DType,
    ) -> Option<PrefixKeysValues> {
        let table = self.table(pass, batch, PromptPlace::KeysValues, dtype)?;
        Some(PrefixKeysValues {
            table,
            heads: self.shape.num_key_value_heads,
            head_dim: self.shape.head_dim,
        })
    }

    /// The adapter of each row that enters at `place`.
    fn chosen(
        &self,
        pass: &AdapterPass,
        batch: usize,
        place: PromptPlace,
    ) -> Vec<Option<&NamedAdapter<PromptMethod>>> {
        if self.adapters.is_empty() || pass.is_base() {
            return Vec::new();
        }
        let find = |name: &str| {
            let here = |part: &&NamedAdapter<PromptMethod>| {
                part.name == name && part.method.place == place
            };
            self.adapters.iter().find(here)
        };
        pass.find_rows(batch, find)
    }

    /// `[batch, n, width]`, with each adapter's table computed once.
    fn table(
        &self,
        pass: &AdapterPass,
        batch: usize,
        place: PromptPlace,
        dtype: DType,
    ) -> Option<Tensor<3>> {
        let rows = self.chosen(pass, batch, place);
        let lengths = rows.iter().flatten().map(|part| part.method.encoder.len());
        let longest = lengths.max()?;
        let device = rows.iter().flatten().next()?.method.encoder.device();
        let width = match place {
            PromptPlace::Input => self.shape.hidden_size,
            PromptPlace::KeysValues => self.shape.prefix_width(),
        };
        let dropout = Dropout {
            key: pass.dropout(),
            rows: None,
        };
        let zeros = |len: usize| Tensor::<2>::zeros([len, width], (&device, dtype));
        let make = |row: Option<&NamedAdapter<PromptMethod>>| {
            let table = match row {
                None => zeros(longest),
                Some(part) => {
                    let table = cast(part.method.encoder.vectors(dropout), dtype);
                    match longest - part.method.encoder.len() {
                        0 => table,
                        missing => Tensor::cat(vec![zeros(missing), table], 0),
                    }
                }
            };
            table.unsqueeze::<3>()
        };
        let mut made: Vec<(Option<&str>, Tensor<3>)> = Vec::new();
        let mut tables = Vec::with_capacity(batch);
        for row in rows {
            let name = row.map(|part| part.name.as_str());
            let known = made.iter().find(|(known, _)| *known == name);
            let table = match known {
                Some((_, table)) => table.clone(),
                None => make(row),
            };
            if known.is_none() {
                made.push((name, table.clone()));
            }
            tables.push(table);
        }
        Some(match made.as_slice() {
            [(_, table)] => table.clone().expand([batch, longest, width]),
            _ => Tensor::cat(tables, 0),
        })
    }
}

impl PromptShape {
    /// The width of one row of keys, and of one row of values.
    pub(super) fn kv_width(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// The keys and values of one virtual token in all layers.
    pub(super) fn prefix_width(&self) -> usize {
        2 * self.num_layers * self.kv_width()
    }
}

/// Keys and values in front of those of every layer.
///
/// A row of the table holds, layer after layer, the keys of all heads and then their values.
///
/// # Source
/// - Li and Liang 2021, Prefix-Tuning, arXiv:2101.00190, §4.2
/// - reference: peft `peft_model.py::PeftModel.get_prompt`
#[derive(Debug, Clone)]
pub struct PrefixKeysValues {
    table: Tensor<3>,
    heads: usize,
    head_dim: usize,
}

impl PrefixKeysValues {
    /// The keys and values of one layer.
    ///
    /// # Shapes
    /// - returns two of `[batch, kv_heads, prefix_len, head_dim]`
    ///
    /// # Panics
    /// When the model has no such layer.
    pub fn layer(&self, layer: usize) -> (Tensor<4>, Tensor<4>) {
        let width = self.heads * self.head_dim;
        let part = |index: usize| {
            let part = self.table.clone().narrow(2, index * width, width);
            let [batch, len, _] = part.dims();
            part.reshape([batch, len, self.heads, self.head_dim])
                .swap_dims(1, 2)
        };
        (part(2 * layer), part(2 * layer + 1))
    }
}
