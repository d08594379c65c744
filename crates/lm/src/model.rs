//! Checkpoints on disk, and the models that come out of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor};
use flametune_peft::{AdapterLinear, AdapterPass, AdapterPrompt};

use crate::batch::TokenBatch;
use crate::bert::BertModel;
use crate::cache::KvCache;
use crate::checkpoint::{
    GgufCheckpoint, SafetensorsCheckpoint, SavedCheckpoint, TensorSource, TensorSpec,
    save_safetensors,
};
use crate::config::{ConfigFile, Family, with_quantization};
use crate::decoder::Tap;
use crate::decoder_lm::DecoderLm;
use crate::error::{Error, Result};
use crate::gpt2::{self, Gpt2Lm};
use crate::linears;
use crate::names::{NamedTensor, named_tensors, packed_tensors, quantization};
use crate::options::LoadOptions;
use crate::paged::{PagedKv, PagedRow, VirtualSlots};
use crate::virtual_tokens::tokens_only;
use crate::weights::{LoadProgress, Weights};

/// A model on disk: its configuration and its tensors, nothing loaded yet.
#[derive(Debug)]
pub struct Checkpoint {
    config: ConfigFile,
    tensors: Tensors,
}

#[derive(Debug)]
enum Tensors {
    Safetensors(SafetensorsCheckpoint),
    Gguf(Box<GgufCheckpoint>),
}

impl Checkpoint {
    /// Opens a Hugging Face folder, a `.gguf` file, or a folder that holds one `.gguf` file.
    ///
    /// # Errors
    /// When nothing of the kind is there, or what is there cannot be read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if path.is_dir() && path.join("config.json").exists() {
            let config = ConfigFile::open(path)?;
            let tensors = Tensors::Safetensors(SafetensorsCheckpoint::open(path)?);
            return Ok(Self { config, tensors });
        }
        let file = if path.is_dir() {
            only_gguf(path)?
        } else {
            path.to_owned()
        };
        Self::from_gguf(GgufCheckpoint::open(&file)?)
    }

    /// A GGUF file that is open already.
    ///
    /// # Errors
    /// When its configuration is not an object.
    pub fn from_gguf(gguf: GgufCheckpoint) -> Result<Self> {
        let config = ConfigFile::from_value(gguf.config().clone(), gguf.file().path())?;
        Ok(Self {
            config,
            tensors: Tensors::Gguf(Box::new(gguf)),
        })
    }

    /// The configuration.
    pub fn config(&self) -> &ConfigFile {
        &self.config
    }

    /// The tensors.
    pub fn tensors(&self) -> &dyn TensorSource {
        match &self.tensors {
            Tensors::Safetensors(tensors) => tensors,
            Tensors::Gguf(tensors) => tensors.as_ref(),
        }
    }

    /// The GGUF file behind this checkpoint, if it is one: its header holds the vocabulary too.
    pub fn gguf(&self) -> Option<&GgufCheckpoint> {
        match &self.tensors {
            Tensors::Safetensors(_) => None,
            Tensors::Gguf(gguf) => Some(gguf),
        }
    }

    /// The architecture.
    ///
    /// # Errors
    /// [`Error::UnsupportedArchitecture`] when it is not implemented.
    pub fn family(&self) -> Result<Family> {
        Family::read(&self.config)
    }
}

fn only_gguf(folder: &Path) -> Result<PathBuf> {
    let io = |source| Error::Io {
        path: folder.to_owned(),
        source,
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
        {
            files.push(path);
        }
    }
    match <[PathBuf; 1]>::try_from(files) {
        Ok([file]) => Ok(file),
        Err(files) if files.is_empty() => Err(Error::NoWeights {
            folder: folder.to_owned(),
            looked_for: vec!["config.json".to_owned(), "*.gguf".to_owned()],
        }),
        Err(files) => Err(Error::SeveralModels {
            folder: folder.to_owned(),
            files,
        }),
    }
}

/// A causal language model of any implemented architecture.
///
/// # Examples
/// ```no_run
/// use burn::tensor::Device;
/// use flametune_lm::{AdapterPass, CausalLm, Checkpoint, LoadOptions, TokenBatch};
///
/// let checkpoint = Checkpoint::open("SmolLM2-135M-Instruct")?;
/// let model = CausalLm::load(&checkpoint, &LoadOptions::f32(&Device::flex()), &mut |_| {})?;
/// let batch = TokenBatch::from_rows(&[vec![1, 2, 3]])?;
/// let base = AdapterPass::default();
/// let logits = model.logits(model.forward(&batch, None, &base)?, &base);
/// assert_eq!(logits.dims(), [1, 3, model.vocab_size()]);
/// # Ok::<(), flametune_lm::Error>(())
/// ```
#[expect(
    clippy::large_enum_variant,
    reason = "one a process, and nothing beside its weights"
)]
#[derive(Module, Debug)]
pub enum CausalLm {
    /// The Llama family.
    Decoder(DecoderLm),
    /// GPT-2.
    Gpt2(Gpt2Lm),
}

impl CausalLm {
    /// Loads a checkpoint, one tensor after the other; `progress` hears of each.
    ///
    /// # Errors
    /// When the architecture is no causal language model or not implemented, when a tensor is
    /// missing, unknown or of another shape than the configuration implies, or cannot be read.
    pub fn load(
        checkpoint: &Checkpoint,
        options: &LoadOptions,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Self> {
        let family = checkpoint.family()?;
        let (tensors, config) = (checkpoint.tensors(), checkpoint.config());
        let weights = Weights::new(tensors, config, options, progress)?;
        let model = match family {
            Family::Bert => return Err(Error::NoHead { head: "lm_head" }),
            Family::Gpt2 => Self::Gpt2(Gpt2Lm::load(&weights.root(), checkpoint.config())?),
            _ => Self::Decoder(DecoderLm::load(&weights.root(), checkpoint.config())?),
        };
        let tied = model.is_tied();
        weights.finish(|name| {
            is_buffer(name)
                || (tied && name == "lm_head.weight")
                || (family == Family::Gpt2 && gpt2::is_constant(name))
        })?;
        Ok(model)
    }

    fn is_tied(&self) -> bool {
        match self {
            Self::Decoder(lm) => lm.lm_head.is_none(),
            Self::Gpt2(lm) => lm.lm_head.is_none(),
        }
    }

    /// Checks that the model predicts tokens; a sequence classifier scores its input instead.
    ///
    /// # Errors
    /// [`Error::NoHead`] for a classifier.
    pub fn check_predicts_tokens(&self) -> Result<()> {
        match self {
            Self::Decoder(lm) if lm.score.is_some() => Err(Error::NoHead { head: "lm_head" }),
            Self::Decoder(_) | Self::Gpt2(_) => Ok(()),
        }
    }

    /// Rows of the embedding.
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::Decoder(lm) => lm.model.config().vocab_size,
            Self::Gpt2(lm) => lm.transformer.config().vocab_size,
        }
    }

    /// The longest sequence the model is declared for, in tokens.
    pub fn max_position_embeddings(&self) -> usize {
        match self {
            Self::Decoder(lm) => lm.model.config().max_position_embeddings,
            Self::Gpt2(lm) => lm.transformer.config().n_positions,
        }
    }

    /// The number of layers.
    pub fn num_layers(&self) -> usize {
        match self {
            Self::Decoder(lm) => lm.model.layers.len(),
            Self::Gpt2(lm) => lm.transformer.h.len(),
        }
    }

    /// The device of the parameters.
    pub fn device(&self) -> Device {
        match self {
            Self::Decoder(lm) => lm.model.device(),
            Self::Gpt2(lm) => lm.transformer.device(),
        }
    }

    /// The dtype of hidden states.
    pub fn compute_dtype(&self) -> DType {
        match self {
            Self::Decoder(lm) => lm.model.compute_dtype(),
            Self::Gpt2(lm) => lm.transformer.compute_dtype(),
        }
    }

    /// An empty cache for `batch` rows of up to `capacity` tokens each.
    pub fn new_cache(&self, batch: usize, capacity: usize) -> KvCache {
        match self {
            Self::Decoder(lm) => lm.model.new_cache(batch, capacity),
            Self::Gpt2(lm) => lm.transformer.new_cache(batch, capacity),
        }
    }

    /// The most virtual tokens that a row of this pass has; they take positions, and slots of a
    /// cache that makes room for them by itself.
    pub fn virtual_tokens(&self, pass: &AdapterPass) -> usize {
        match self {
            Self::Decoder(lm) => lm.model.prompt.longest(pass),
            Self::Gpt2(lm) => lm.transformer.prompt.longest(pass),
        }
    }

    /// Runs the model up to its head, with the adapters that `pass` chooses; with a cache the tokens
    /// continue those already in it.
    ///
    /// # Shapes
    /// - returns `[batch, seq, d_model]`
    ///
    /// # Errors
    /// When an id is outside the vocabulary, a position outside the model's, the cache is full, or
    /// the model lacks an adapter; all of this is found before anything is computed.
    pub fn forward(
        &self,
        batch: &TokenBatch,
        cache: Option<&mut KvCache>,
        pass: &AdapterPass,
    ) -> Result<Tensor<3>> {
        self.forward_tapped(batch, cache, pass, &mut |_, state| state)
    }

    /// [`forward`](Self::forward) that shows every state on its way to `tap`, which may change it.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward).
    pub fn forward_tapped(
        &self,
        batch: &TokenBatch,
        cache: Option<&mut KvCache>,
        pass: &AdapterPass,
        tap: Tap<'_>,
    ) -> Result<Tensor<3>> {
        match self {
            Self::Decoder(lm) => lm.model.forward(batch, cache, pass, tap),
            Self::Gpt2(lm) => lm.transformer.forward(batch, cache, pass, tap),
        }
    }

    /// Room for `pages` pages of `page_len` tokens each, for [`forward_paged`](Self::forward_paged).
    ///
    /// # Panics
    /// When a page has no room for a token.
    pub fn new_paged_kv(&self, pages: usize, page_len: usize) -> PagedKv {
        match self {
            Self::Decoder(lm) => lm.model.new_paged_kv(pages, page_len),
            Self::Gpt2(lm) => lm.transformer.new_paged_kv(pages, page_len),
        }
    }

    /// Runs the model up to its head over the new tokens of some sequences, each with a cache of its
    /// own length in pages.
    ///
    /// `pass` has a row for each sequence. With `alone`, and inside
    /// [`rows_alone`](flametune_kernels::rows_alone), what comes out for a token does not depend, to
    /// the bit, on the other sequences or on how a sequence is cut into steps.
    ///
    /// # Shapes
    /// - returns `[slots, 1, d_model]`: the new slots of one sequence after those of the other
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and when a sequence has too few pages, or vectors enter that
    /// are not those of its adapter.
    pub fn forward_paged(
        &self,
        rows: &[PagedRow<'_>],
        kv: &mut PagedKv,
        pass: &AdapterPass,
        alone: bool,
    ) -> Result<Tensor<3>> {
        match self {
            Self::Decoder(lm) => lm.model.forward_paged(rows, kv, pass, alone),
            Self::Gpt2(lm) => lm.transformer.forward_paged(rows, kv, pass, alone),
        }
    }

    /// The virtual tokens of a sequence with the adapters of a pass.
    pub fn virtual_slots(&self, pass: &AdapterPass) -> VirtualSlots {
        let tokens = self.prompt().rows(pass, 1);
        VirtualSlots {
            prefix: tokens.prefix_len(),
            input: tokens.input_len(),
        }
    }

    /// Writes the keys and values that the adapter of a pass puts in front of a sequence into its
    /// first slots, and returns how many there are.
    ///
    /// # Errors
    /// When the pages have no room for them.
    pub fn write_prefix(
        &self,
        kv: &mut PagedKv,
        pass: &AdapterPass,
        pages: &[u32],
    ) -> Result<usize> {
        kv.write_prefix(self.prompt(), pass, pages, self.compute_dtype())
    }

    /// Whether the keys of a token depend on the length of its text, so that texts which begin
    /// alike cannot share them.
    pub fn rotates_by_length(&self) -> bool {
        match self {
            Self::Decoder(lm) => lm.model.rotates_by_length(),
            Self::Gpt2(_) => false,
        }
    }

    /// Whether a router sends tokens to experts, so that the rows of a product depend on who else
    /// is read.
    pub fn routes_tokens(&self) -> bool {
        match self {
            Self::Decoder(lm) => lm.model.routes_tokens(),
            Self::Gpt2(_) => false,
        }
    }

    fn prompt(&self) -> &AdapterPrompt {
        match self {
            Self::Decoder(lm) => &lm.model.prompt,
            Self::Gpt2(lm) => &lm.transformer.prompt,
        }
    }

    /// The embeddings and the output of every layer at every token, the last one after the final normalisation,
    /// as transformers' `output_hidden_states` returns them.
    ///
    /// # Shapes
    /// - returns `num_layers + 1` of `[batch, seq, d_model]`
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward).
    pub fn hidden_states(&self, batch: &TokenBatch, pass: &AdapterPass) -> Result<Vec<Tensor<3>>> {
        let mut states = Vec::with_capacity(self.num_layers() + 1);
        let last = self.forward_tapped(batch, None, pass, &mut |_, state| {
            states.push(tokens_only(state.clone(), batch.seq()));
            state
        })?;
        states.pop();
        states.push(last);
        Ok(states)
    }

    /// Logits of the next token for each hidden state.
    ///
    /// # Shapes
    /// - `hidden`: `[batch, seq, d_model]`, returns `[batch, seq, vocab]`
    ///
    /// # Panics
    /// When the pass chooses adapters for another number of rows than `batch`.
    pub fn logits(&self, hidden: Tensor<3>, pass: &AdapterPass) -> Tensor<3> {
        match self {
            Self::Decoder(lm) => lm.logits(hidden, pass),
            Self::Gpt2(lm) => lm.logits(hidden, pass),
        }
    }

    /// The linear projections in their order, with the names of their modules.
    ///
    /// # Examples
    /// ```no_run
    /// # fn example(model: &flametune_lm::CausalLm) {
    /// let bytes: usize = model.linears().iter().map(|(_, linear)| linear.base_layer.bytes()).sum();
    /// # let _ = bytes;
    /// # }
    /// ```
    pub fn linears(&self) -> Vec<(String, &AdapterLinear)> {
        match self {
            Self::Decoder(lm) => linears::decoder(lm),
            Self::Gpt2(lm) => linears::gpt2(lm),
        }
    }

    /// The parameters as a Hugging Face file names and lays them out; quantized weights as the
    /// tensors that store them.
    ///
    /// # Errors
    /// [`Error::Quant`] for layers of a kind that has no form on disk (block-wise int8).
    pub fn named_tensors(&self) -> Result<Vec<NamedTensor>> {
        let mut tensors = named_tensors(self);
        if let Self::Gpt2(_) = self {
            let stored = |tensor: NamedTensor| match gpt2::is_conv1d(&tensor.name) {
                true => tensor.transposed(),
                false => tensor,
            };
            tensors = tensors.into_iter().map(stored).collect();
        }
        tensors.extend(packed_tensors(&self.linears())?);
        Ok(tensors)
    }

    /// Writes `config.json` and the weights into `folder`, in the Hugging Face layout.
    ///
    /// Weights go into one file, or several with an index when they exceed `max_shard_bytes`.
    /// Quantized layers are stored as bitsandbytes stores them, and `quantization_config` says so.
    ///
    /// # Errors
    /// - when a file cannot be written; the folder is then as it was before
    /// - [`Error::Quant`] for layers of block-wise int8, [`Error::MixedKinds`] for layers of
    ///   several kinds: neither has a form on disk
    pub fn save_pretrained(
        &self,
        folder: impl AsRef<Path>,
        config: &ConfigFile,
        max_shard_bytes: usize,
    ) -> Result<SavedCheckpoint> {
        let (quantized, mut dense) = quantization(&self.linears())?;
        if self.is_tied() {
            // Without its name in the list, transformers would look for a quantized head.
            dense.push("lm_head".to_owned());
        }
        let config = with_quantization(config, quantized, &dense)?;
        save_pretrained(
            folder.as_ref(),
            &config,
            &self.named_tensors()?,
            max_shard_bytes,
        )
    }
}

impl BertModel {
    /// Loads a checkpoint, one tensor after the other; `progress` hears of each.
    ///
    /// # Errors
    /// As [`CausalLm::load`].
    pub fn from_checkpoint(
        checkpoint: &Checkpoint,
        options: &LoadOptions,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Self> {
        if checkpoint.family()? != Family::Bert {
            let model_type = checkpoint.family()?.model_type().to_owned();
            let supported = vec![Family::Bert.model_type().to_owned()];
            return Err(Error::UnsupportedArchitecture {
                model_type,
                supported,
            });
        }
        let (tensors, config) = (checkpoint.tensors(), checkpoint.config());
        let weights = Weights::new(tensors, config, options, progress)?;
        let model = Self::load(&weights.root(), checkpoint.config())?;
        // A classifier's or a bare encoder's checkpoint may still carry pretraining heads.
        weights.finish(|name| {
            is_buffer(name)
                || name.starts_with("cls.")
                || name.ends_with(".gamma")
                || name.ends_with(".beta")
        })?;
        Ok(model)
    }

    /// Writes `config.json` and the weights into `folder`, in the Hugging Face layout.
    ///
    /// # Errors
    /// As [`CausalLm::save_pretrained`].
    pub fn save_pretrained(
        &self,
        folder: impl AsRef<Path>,
        config: &ConfigFile,
        max_shard_bytes: usize,
    ) -> Result<SavedCheckpoint> {
        let linears = linears::bert(self);
        let (quantized, dense) = quantization(&linears)?;
        let config = with_quantization(config, quantized, &dense)?;
        let mut tensors = named_tensors(self);
        tensors.extend(packed_tensors(&linears)?);
        save_pretrained(folder.as_ref(), &config, &tensors, max_shard_bytes)
    }
}

/// Constants that some checkpoints carry beside their weights.
fn is_buffer(name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq") || name.ends_with("embeddings.position_ids")
}

fn save_pretrained(
    folder: &Path,
    config: &ConfigFile,
    tensors: &[NamedTensor],
    max_shard_bytes: usize,
) -> Result<SavedCheckpoint> {
    let by_name: BTreeMap<&str, &NamedTensor> = tensors
        .iter()
        .map(|tensor| (tensor.name.as_str(), tensor))
        .collect();
    let specs: Vec<TensorSpec> = tensors
        .iter()
        .map(|tensor| TensorSpec {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            dtype: tensor.dtype,
        })
        .collect();
    // Everything that can fail for want of room or rights comes before the first rename.
    fs::create_dir_all(folder).map_err(|source| Error::Io {
        path: folder.to_owned(),
        source,
    })?;
    let config = config.write(folder)?;
    let saved = save_safetensors(folder, &specs, max_shard_bytes, &BTreeMap::new(), |spec| {
        let tensor = by_name
            .get(spec.name.as_str())
            .ok_or_else(|| Error::MissingTensor {
                name: spec.name.clone(),
                file: folder.to_owned(),
            })?;
        Ok(tensor.data())
    })?;
    config.publish()?;
    Ok(saved)
}
