//! The places for adapters in every architecture, under the names that modules have on disk.

use flametune_peft::{AdapterLinear, AdapterTable, Slot, Slots};

use crate::bert::{BertModel, BertOutput};
use crate::decoder::{Decoder, DecoderLayer, Projections};
use crate::decoder_lm::DecoderLm;
use crate::feed_forward::FeedForward;
use crate::gpt2::Gpt2Lm;
use crate::model::CausalLm;

/// The name of the place of virtual tokens, PEFT's.
const PROMPT: &str = "prompt_encoder";

type Visit<'a> = &'a mut dyn FnMut(Slot<'_>);

impl Slots for CausalLm {
    fn adapters(&self) -> &AdapterTable {
        match self {
            Self::Decoder(lm) => lm.adapters(),
            Self::Gpt2(lm) => lm.adapters(),
        }
    }

    fn adapters_mut(&mut self) -> &mut AdapterTable {
        match self {
            Self::Decoder(lm) => lm.adapters_mut(),
            Self::Gpt2(lm) => lm.adapters_mut(),
        }
    }

    fn visit_slots(&mut self, visit: Visit<'_>) {
        match self {
            Self::Decoder(lm) => lm.visit_slots(visit),
            Self::Gpt2(lm) => lm.visit_slots(visit),
        }
    }
}

impl Slots for DecoderLm {
    fn adapters(&self) -> &AdapterTable {
        &self.model.adapters
    }

    fn adapters_mut(&mut self) -> &mut AdapterTable {
        &mut self.model.adapters
    }

    fn visit_slots(&mut self, visit: Visit<'_>) {
        decoder(&mut self.model, visit);
        if let Some(head) = &mut self.lm_head {
            visit(Slot::head("lm_head", head));
        }
        if let Some(head) = &mut self.tied_head {
            visit(Slot::tied_head("lm_head", head, &self.model.embed_tokens));
        }
        if let Some(score) = &mut self.score {
            visit(Slot::head("score", score));
        }
    }
}

fn decoder(model: &mut Decoder, visit: Visit<'_>) {
    visit(Slot::prompt(PROMPT, &mut model.prompt, &model.embed_tokens));
    visit(Slot::embedding(
        "model.embed_tokens",
        &mut model.embed_tokens,
    ));
    for (index, layer) in model.layers.iter_mut().enumerate() {
        decoder_layer(layer, &format!("model.layers.{index}"), visit);
    }
    visit(Slot::norm("model.norm", &mut model.norm));
}

fn decoder_layer(layer: &mut DecoderLayer, path: &str, visit: Visit<'_>) {
    let attn = &mut layer.self_attn;
    let mut linear = |name: &str, module: &mut AdapterLinear| {
        visit(Slot::linear(&format!("{path}.self_attn.{name}"), module));
    };
    match &mut attn.projections {
        Projections::Separate(p) => {
            linear("q_proj", &mut p.q_proj);
            linear("k_proj", &mut p.k_proj);
            linear("v_proj", &mut p.v_proj);
        }
        Projections::Fused(p) => linear("qkv_proj", &mut p.qkv_proj),
    }
    linear("o_proj", &mut attn.o_proj);
    feed_forward(&mut layer.feed_forward, path, visit);
    let mlp = match layer.feed_forward {
        FeedForward::Experts(_) => "block_sparse_moe",
        _ => "mlp",
    };
    for (name, sublayer) in [
        ("self_attn", &mut layer.self_attn_output),
        (mlp, &mut layer.feed_forward_output),
    ] {
        let device = attn.o_proj.base_layer.device();
        visit(Slot::sublayer(&format!("{path}.{name}"), sublayer, device));
    }
    for (name, norm) in [
        ("self_attn.q_norm", &mut attn.q_norm),
        ("self_attn.k_norm", &mut attn.k_norm),
        ("input_layernorm", &mut layer.input_layernorm),
        (
            "post_attention_layernorm",
            &mut layer.post_attention_layernorm,
        ),
        (
            "pre_feedforward_layernorm",
            &mut layer.pre_feedforward_layernorm,
        ),
        (
            "post_feedforward_layernorm",
            &mut layer.post_feedforward_layernorm,
        ),
    ] {
        if let Some(norm) = norm {
            visit(Slot::norm(&format!("{path}.{name}"), norm));
        }
    }
}

fn feed_forward(module: &mut FeedForward, path: &str, visit: Visit<'_>) {
    let mut linear = |name: &str, module: &mut AdapterLinear| {
        visit(Slot::linear(&format!("{path}.{name}"), module));
    };
    match module {
        FeedForward::Gated(gated) => {
            linear("mlp.gate_proj", &mut gated.mlp.gate_proj);
            linear("mlp.up_proj", &mut gated.mlp.up_proj);
            linear("mlp.down_proj", &mut gated.mlp.down_proj);
        }
        FeedForward::FusedGated(fused) => {
            linear("mlp.gate_up_proj", &mut fused.mlp.gate_up_proj);
            linear("mlp.down_proj", &mut fused.mlp.down_proj);
        }
        FeedForward::Experts(experts) => {
            let moe = &mut experts.block_sparse_moe;
            linear("block_sparse_moe.gate", &mut moe.gate);
            for (index, expert) in moe.experts.iter_mut().enumerate() {
                let at = |name: &str| format!("block_sparse_moe.experts.{index}.{name}");
                linear(&at("w1"), &mut expert.w1);
                linear(&at("w2"), &mut expert.w2);
                linear(&at("w3"), &mut expert.w3);
            }
        }
    }
}

impl Slots for Gpt2Lm {
    fn adapters(&self) -> &AdapterTable {
        &self.transformer.adapters
    }

    fn adapters_mut(&mut self) -> &mut AdapterTable {
        &mut self.transformer.adapters
    }

    fn visit_slots(&mut self, visit: Visit<'_>) {
        let model = &mut self.transformer;
        let device = model.device();
        visit(Slot::prompt(PROMPT, &mut model.prompt, &model.wte));
        visit(Slot::embedding("transformer.wte", &mut model.wte));
        visit(Slot::embedding("transformer.wpe", &mut model.wpe));
        for (index, block) in model.h.iter_mut().enumerate() {
            let at = |name: &str| format!("transformer.h.{index}.{name}");
            visit(Slot::norm(&at("ln_1"), &mut block.ln_1));
            visit(Slot::linear(&at("attn.c_attn"), &mut block.attn.c_attn));
            visit(Slot::linear(&at("attn.c_proj"), &mut block.attn.c_proj));
            visit(Slot::norm(&at("ln_2"), &mut block.ln_2));
            visit(Slot::linear(&at("mlp.c_fc"), &mut block.mlp.c_fc));
            visit(Slot::linear(&at("mlp.c_proj"), &mut block.mlp.c_proj));
            for (name, sublayer) in [
                ("attn", &mut block.attn_output),
                ("mlp", &mut block.mlp_output),
            ] {
                visit(Slot::sublayer(&at(name), sublayer, device.clone()));
            }
        }
        visit(Slot::norm("transformer.ln_f", &mut model.ln_f));
        if let Some(head) = &mut self.lm_head {
            visit(Slot::head("lm_head", head));
        }
        if let Some(head) = &mut self.tied_head {
            visit(Slot::tied_head("lm_head", head, &model.wte));
        }
    }
}

impl Slots for BertModel {
    fn adapters(&self) -> &AdapterTable {
        &self.bert.adapters
    }

    fn adapters_mut(&mut self) -> &mut AdapterTable {
        &mut self.bert.adapters
    }

    fn visit_slots(&mut self, visit: Visit<'_>) {
        let embeddings = &mut self.bert.embeddings;
        for (name, table) in [
            ("word_embeddings", &mut embeddings.word_embeddings),
            ("position_embeddings", &mut embeddings.position_embeddings),
            (
                "token_type_embeddings",
                &mut embeddings.token_type_embeddings,
            ),
        ] {
            visit(Slot::embedding(&format!("bert.embeddings.{name}"), table));
        }
        visit(Slot::norm(
            "bert.embeddings.LayerNorm",
            &mut embeddings.layer_norm,
        ));
        for (index, layer) in self.bert.encoder.layer.iter_mut().enumerate() {
            let path = format!("bert.encoder.layer.{index}");
            let own = &mut layer.attention.self_;
            for (name, module) in [
                ("query", &mut own.query),
                ("key", &mut own.key),
                ("value", &mut own.value),
            ] {
                visit(Slot::linear(
                    &format!("{path}.attention.self.{name}"),
                    module,
                ));
            }
            bert_output(
                &mut layer.attention.output,
                &format!("{path}.attention.output"),
                visit,
            );
            let dense = &mut layer.intermediate.dense;
            visit(Slot::linear(&format!("{path}.intermediate.dense"), dense));
            bert_output(&mut layer.output, &format!("{path}.output"), visit);
        }
        if let Some(pooler) = &mut self.bert.pooler {
            visit(Slot::linear("bert.pooler.dense", &mut pooler.dense));
        }
        if let Some(classifier) = &mut self.classifier {
            visit(Slot::head("classifier", classifier));
        }
        if let Some(head) = &mut self.cls {
            let predictions = &mut head.predictions;
            bert_output(
                &mut predictions.transform,
                "cls.predictions.transform",
                visit,
            );
            visit(Slot::vector("cls.predictions.bias", &mut predictions.bias));
        }
    }
}

fn bert_output(output: &mut BertOutput, path: &str, visit: Visit<'_>) {
    visit(Slot::linear(&format!("{path}.dense"), &mut output.dense));
    visit(Slot::norm(
        &format!("{path}.LayerNorm"),
        &mut output.layer_norm,
    ));
}
