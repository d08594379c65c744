//! The linear projections of a model under the names they have on disk.

use flametune_peft::AdapterLinear;

use crate::bert::{BertLayer, BertModel};
use crate::decoder::{DecoderLayer, Projections};
use crate::decoder_lm::DecoderLm;
use crate::feed_forward::FeedForward;
use crate::gpt2::Gpt2Lm;

/// Layers and their names without `.weight`, such as `model.layers.0.self_attn.q_proj`.
pub(crate) type NamedLinears<'a> = Vec<(String, &'a AdapterLinear)>;

/// The projections of a decoder and its heads.
pub(crate) fn decoder(lm: &DecoderLm) -> NamedLinears<'_> {
    let mut found = Vec::new();
    for (index, layer) in lm.model.layers.iter().enumerate() {
        decoder_layer(layer, &format!("model.layers.{index}"), &mut found);
    }
    found.extend(lm.lm_head.as_ref().map(|head| ("lm_head".to_owned(), head)));
    found.extend(lm.score.as_ref().map(|head| ("score".to_owned(), head)));
    found
}

fn decoder_layer<'a>(layer: &'a DecoderLayer, prefix: &str, found: &mut NamedLinears<'a>) {
    let attention = &layer.self_attn;
    let mut push = |name: &str, linear: &'a AdapterLinear| {
        found.push((format!("{prefix}.{name}"), linear));
    };
    match &attention.projections {
        Projections::Separate(p) => {
            push("self_attn.q_proj", &p.q_proj);
            push("self_attn.k_proj", &p.k_proj);
            push("self_attn.v_proj", &p.v_proj);
        }
        Projections::Fused(p) => push("self_attn.qkv_proj", &p.qkv_proj),
    }
    push("self_attn.o_proj", &attention.o_proj);
    match &layer.feed_forward {
        FeedForward::Gated(gated) => {
            push("mlp.gate_proj", &gated.mlp.gate_proj);
            push("mlp.up_proj", &gated.mlp.up_proj);
            push("mlp.down_proj", &gated.mlp.down_proj);
        }
        FeedForward::FusedGated(gated) => {
            push("mlp.gate_up_proj", &gated.mlp.gate_up_proj);
            push("mlp.down_proj", &gated.mlp.down_proj);
        }
        FeedForward::Experts(experts) => {
            let moe = &experts.block_sparse_moe;
            push("block_sparse_moe.gate", &moe.gate);
            for (index, expert) in moe.experts.iter().enumerate() {
                let of = |name: &str| format!("block_sparse_moe.experts.{index}.{name}");
                push(&of("w1"), &expert.w1);
                push(&of("w2"), &expert.w2);
                push(&of("w3"), &expert.w3);
            }
        }
    }
}

/// The projections of GPT-2 and its head.
pub(crate) fn gpt2(lm: &Gpt2Lm) -> NamedLinears<'_> {
    let mut found = Vec::new();
    for (index, block) in lm.transformer.h.iter().enumerate() {
        for (name, linear) in [
            ("attn.c_attn", &block.attn.c_attn),
            ("attn.c_proj", &block.attn.c_proj),
            ("mlp.c_fc", &block.mlp.c_fc),
            ("mlp.c_proj", &block.mlp.c_proj),
        ] {
            found.push((format!("transformer.h.{index}.{name}"), linear));
        }
    }
    found.extend(lm.lm_head.as_ref().map(|head| ("lm_head".to_owned(), head)));
    found
}

/// The projections of BERT and its heads.
pub(crate) fn bert(model: &BertModel) -> NamedLinears<'_> {
    let mut found = Vec::new();
    for (index, layer) in model.bert.encoder.layer.iter().enumerate() {
        bert_layer(layer, &format!("bert.encoder.layer.{index}"), &mut found);
    }
    let mut push = |name: &str, linear| found.push((name.to_owned(), linear));
    if let Some(pooler) = &model.bert.pooler {
        push("bert.pooler.dense", &pooler.dense);
    }
    if let Some(classifier) = &model.classifier {
        push("classifier", classifier);
    }
    if let Some(head) = &model.cls {
        let transform = &head.predictions.transform;
        push("cls.predictions.transform.dense", &transform.dense);
    }
    found
}

fn bert_layer<'a>(layer: &'a BertLayer, prefix: &str, found: &mut NamedLinears<'a>) {
    let attention = &layer.attention;
    for (name, linear) in [
        ("attention.self.query", &attention.self_.query),
        ("attention.self.key", &attention.self_.key),
        ("attention.self.value", &attention.self_.value),
        ("attention.output.dense", &attention.output.dense),
        ("intermediate.dense", &layer.intermediate.dense),
        ("output.dense", &layer.output.dense),
    ] {
        found.push((format!("{prefix}.{name}"), linear));
    }
}
