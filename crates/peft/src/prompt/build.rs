//! The virtual tokens of a new adapter.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::affine::Affine;
use super::config::{
    PrefixInit, PrefixTuningConfig, PromptEncoderConfig, PromptEncoderReparameterizationType,
    PromptTuningConfig, PromptTuningInit,
};
use super::encoder::{Lstm, Mlp, Projection, PromptEncoder};
use super::lstm::LstmLayer;
use super::place::{PromptMethod, PromptPlace, PromptSlot};
use crate::base::cast;
use crate::build::{Build, Site};
use crate::error::{Error, Result};
use crate::random::Stream;
use burn::module::Param;

/// Builds the virtual tokens of one adapter.
pub(crate) enum PromptBuilder<'a> {
    PromptTuning(&'a PromptTuningConfig),
    PrefixTuning(&'a PrefixTuningConfig),
    PromptEncoder(&'a PromptEncoderConfig),
}

/// Random numbers for one slot.
struct Init<'a> {
    keys: (u64, u64),
    device: &'a Device,
}

impl Init<'_> {
    fn stream(&self, part: u64) -> Stream {
        Stream::new(&[self.keys.0, self.keys.1, part])
    }

    /// Standard normal numbers, as torch's `nn.Embedding` begins.
    fn embedding(&self, shape: [usize; 2]) -> Tensor<2> {
        let place = (self.device, DType::F32);
        self.stream(0).normal_tensor(shape, 1.0, place)
    }

    /// The linear map number `index`.
    fn affine(&self, index: u64, shape: [usize; 2]) -> Affine {
        Affine::init(
            shape,
            |part| self.stream(1000 + 2 * index + part),
            self.device,
        )
    }
}

impl Build for PromptBuilder<'_> {
    fn method(&self) -> &'static str {
        match self {
            Self::PromptTuning(_) => "prompt tuning",
            Self::PrefixTuning(_) => "prefix tuning",
            Self::PromptEncoder(_) => "P-tuning",
        }
    }

    fn prompt(&self, site: &Site<'_>, slot: &PromptSlot<'_>) -> Result<Option<PromptMethod>> {
        let device = slot.embedding.device();
        let init = Init {
            keys: site.keys(),
            device: &device,
        };
        let (encoder, place, label) = match self {
            Self::PromptTuning(config) => (
                PromptEncoder::table(prompt_tuning(config, slot, &init)?),
                PromptPlace::Input,
                "prompt_tuning",
            ),
            Self::PrefixTuning(config) => (
                prefix_tuning(config, slot, &init),
                PromptPlace::KeysValues,
                "prefix_tuning",
            ),
            Self::PromptEncoder(config) => (
                p_tuning(config, slot, &init),
                PromptPlace::Input,
                "p_tuning",
            ),
        };
        Ok(Some(PromptMethod {
            encoder,
            place,
            label,
        }))
    }
}

fn prompt_tuning(
    config: &PromptTuningConfig,
    slot: &PromptSlot<'_>,
    init: &Init<'_>,
) -> Result<Tensor<2>> {
    let len = config.tokens.len();
    let [vocab, width] = slot.embedding.dims();
    let how = match config.common.inference_mode {
        true => PromptTuningInit::Random,
        false => config.prompt_tuning_init,
    };
    let ids: Vec<i64> = match how {
        PromptTuningInit::Random => return Ok(init.embedding([len, width])),
        PromptTuningInit::SampleVocab => {
            let modulus = (vocab as u64).max(1);
            (0..len as u64)
                .map(|index| i64::try_from(init.stream(1).bits(index) % modulus).unwrap_or(0))
                .collect()
        }
        PromptTuningInit::Text => {
            let given = config.init_token_ids.as_deref().unwrap_or_default();
            let outside = given.iter().find(|&&id| id as usize >= vocab);
            let reason = match outside {
                Some(id) => format!("must be ids below {vocab}, got {id}"),
                None if given.is_empty() => {
                    "must hold the tokens of prompt_tuning_init_text".to_owned()
                }
                None => String::new(),
            };
            if !reason.is_empty() {
                let field = "init_token_ids";
                return Err(Error::InvalidConfig { field, reason });
            }
            given
                .iter()
                .cycle()
                .take(len)
                .map(|&id| i64::from(id))
                .collect()
        }
    };
    let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [len]), init.device);
    let vectors = cast(slot.embedding.clone().select(0, ids).detach(), DType::F32);
    Ok(vectors * slot.shape.embed_scale)
}

fn prefix_tuning(
    config: &PrefixTuningConfig,
    slot: &PromptSlot<'_>,
    init: &Init<'_>,
) -> PromptEncoder {
    let (len, width) = (config.tokens.len(), slot.shape.prefix_width());
    let zero = config.init_weights == Some(PrefixInit::Zero);
    if !config.prefix_projection || config.common.inference_mode {
        let table = match zero {
            true => Tensor::zeros([len, width], (init.device, DType::F32)),
            false => init.embedding([len, width]),
        };
        return PromptEncoder::table(table);
    }
    let token_dim = slot.shape.kv_width();
    let hidden = config.encoder_hidden_size.unwrap_or(token_dim);
    let last = [width, hidden];
    PromptEncoder::Projection(Projection {
        embedding: Param::from_tensor(init.embedding([len, token_dim])),
        transform: vec![
            init.affine(0, [hidden, token_dim]),
            match zero {
                true => Affine::zeros(last, init.device),
                false => init.affine(1, last),
            },
        ],
    })
}

fn p_tuning(config: &PromptEncoderConfig, slot: &PromptSlot<'_>, init: &Init<'_>) -> PromptEncoder {
    let (len, width) = (config.tokens.len(), slot.shape.hidden_size);
    let embedding = init.embedding([len, width]);
    if config.common.inference_mode {
        return PromptEncoder::table(embedding);
    }
    let embedding = Param::from_tensor(embedding);
    let hidden = config.encoder_hidden_size.unwrap_or(width);
    match config.encoder_reparameterization_type {
        PromptEncoderReparameterizationType::Mlp => PromptEncoder::Mlp(Mlp {
            embedding,
            mlp_head: vec![
                init.affine(0, [hidden, width]),
                init.affine(1, [hidden, hidden]),
                init.affine(2, [width, hidden]),
            ],
        }),
        PromptEncoderReparameterizationType::Lstm => {
            let layer = |index: usize| {
                let d_in = if index == 0 { width } else { 2 * hidden };
                let stream = |part| init.stream(2000 + 8 * index as u64 + part);
                LstmLayer::init(d_in, hidden, stream, init.device)
            };
            PromptEncoder::Lstm(Lstm {
                embedding,
                lstm_head: (0..config.encoder_num_layers).map(layer).collect(),
                mlp_head: vec![
                    init.affine(0, [2 * hidden, 2 * hidden]),
                    init.affine(1, [width, 2 * hidden]),
                ],
                dropout: config.encoder_dropout,
            })
        }
    }
}
