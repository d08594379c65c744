//! `docs/BENCHMARKS.md`: kept results as tables.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use super::results::{Line, Results};

const INTRODUCTION: &str = "\
# Benchmarks

`cargo xtask bench --peers --save` measures, keeps the results in [`benches/results`](../benches/results) and writes this page from them.
It is not edited by hand.

## How it is measured

- Both contenders are processes of their own that get the same token ids and use the same number of threads.
  They take turns, run by run; the order changes every round.
- Before their times count, their answers are compared: in f32 every greedy token must be the same and the first logits equal to rounding, or there is no result.
  In bf16 our products round both operands and add in f32, transformers keeps activations in bf16 between them too; the share of tokens that are alike is given.
- A figure is the median of the runs, followed by the smallest and the greatest.
  Rounds in which other processes took more than 5 % of the machine are repeated, up to three times as many rounds as are wanted; those least disturbed count.
- `lora_step_1x2048` was measured by the same workers with the same checks, under a referee that did not wait for a calm machine: others took 5 to 12 % of it.
- *Ratio* is ours ÷ the peer's: for speed more is better; for memory, seconds and perplexity less.
- transformers runs its forward pass in a loop with a key-value cache, which is faster than its `generate()`.
  Ours does the same on a thread of the pool (`flametune_kernels::in_pool`).
- The model is SmolLM2-135M-Instruct, the text is the licence of this project; where it is too short, as for the growth with length, it begins anew.
- llama.cpp runs the Q4_1 file as it is; ours makes NF4 of the same file, with a bf16 embedding.
  These are two four-bit formats of one model: the share of tokens that are alike is given.
- Training starts from the same weights and the same adapter on both sides, and every token is a target.
  Step by step the losses must agree: to 0.1 % in f32, to 2 % in bf16, to 10 % with Burn's other four-bit format; else there is no result.
  The full step's rate is so low that bf16 parameters, as the peer has them, keep up.
- Single operations get inputs by a formula that both sides know; 64 numbers of the results are compared.
  In bf16 our activations are f32 in memory and rounded as they enter a product, torch's are bf16.

";

/// What training came to: runs of minutes, whose figures are not those of a race.
const TRAINING: &str = include_str!("../../../benches/results/training.md");

/// What alignment came to, likewise.
const ALIGNMENT: &str = include_str!("../../../benches/results/alignment.md");

/// What a case is, in the order of the tables.
const CASES: &[(&str, &str)] = &[
    (
        "prefill_512",
        "a prompt of 512 tokens until its next token is known",
    ),
    (
        "decode_b1",
        "64 further tokens after a prompt of 64, one row",
    ),
    ("decode_b8", "the same for 8 rows at once"),
    (
        "first_token",
        "loading a model and taking 64 tokens in, in a new process, libraries loaded; bf16 from safetensors, NF4 from the GGUF file",
    ),
    (
        "adapter_switch",
        "another adapter than last time and a pass of one token with it",
    ),
    (
        "adapter_load",
        "an adapter more on a model, from its folder",
    ),
    (
        "adapter_save",
        "an adapter into a folder; the same tensors, byte for byte",
    ),
    (
        "tokenize",
        "the lines of a text of 1 MB, one after the other, on one thread; the same ids",
    ),
    (
        "pack",
        "examples of 1 to 512 tokens into rows of 2048 by best fit, on one thread; as many rows",
    ),
    (
        "perplexity",
        "of 16 x 512 tokens of Wikipedia, linear layers stored as the format says, products in f32; int8 beside the peer's f32",
    ),
    (
        "lora_step_bf16",
        "an optimizer step of LoRA, rank 16 on all linear layers, from ids to new parameters; bf16 products",
    ),
    ("lora_step_f32", "the same in f32"),
    (
        "qlora_step",
        "the same on an NF4 base in blocks of 64, beside bitsandbytes",
    ),
    (
        "full_step",
        "a step that trains every parameter: ours are f32 with bf16 products, the peer's bf16 throughout",
    ),
    ("dora_step", "the LoRA step with trained magnitudes"),
    ("lora_step_1x2048", "the LoRA step with one long row"),
    (
        "lora_cost",
        "seconds of the LoRA step beside those of the frozen base's forward and backward pass, for which the first norm alone is trained",
    ),
    (
        "dpo_step",
        "an optimizer step of DPO, LoRA of rank 16, two pairs of 256 tokens, half of them the prompt; the reference is the same model without the adapter, and its pass counts; beside TRL",
    ),
    (
        "burn_qlora_step",
        "the QLoRA step beside Burn's own modules and `apply_qlora`",
    ),
    (
        "peak_fraction_bf16",
        "matrix operations a second of `lora_step_bf16`, as a share of the fastest large product that either side reaches",
    ),
    ("peak_fraction_f32", "the same of `lora_step_f32`"),
    (
        "lora_rss",
        "peak resident memory of loading and three LoRA steps, activations kept",
    ),
    (
        "lora_rss_program",
        "of it, what was there before a model was loaded",
    ),
    ("lora_rss_model", "of it, the model and its adapter"),
    (
        "lora_rss_step",
        "of it, the peak above both: activations, gradients, the optimizer's averages, working memory",
    ),
    ("qlora_rss", "the same of QLoRA"),
    ("qlora_rss_program", "as above"),
    ("qlora_rss_model", "as above"),
    ("qlora_rss_step", "as above"),
    (
        "lora_rss_recompute",
        "the same of LoRA with layers computed again in the backward pass, on both sides",
    ),
    ("qlora_rss_recompute", "the same of QLoRA"),
    (
        "burn_qlora_rss",
        "the same of QLoRA beside Burn's `apply_qlora`, activations kept",
    ),
    (
        "dpo_rss",
        "peak resident memory of loading and three steps of DPO, activations kept",
    ),
    (
        "dpo_rss_program",
        "of it, what was there before a model was loaded",
    ),
    ("dpo_rss_model", "of it, the model and its adapter"),
    ("dpo_rss_step", "of it, the peak above both"),
    (
        "infer_rss",
        "peak resident memory of loading the Q4_1 GGUF file into f32 or bf16, a prompt of 512 tokens and 64 further ones",
    ),
    (
        "infer_rss_safetensors",
        "the same from a folder of safetensors in the format of use, which transformers maps instead of converting",
    ),
    (
        "growth_memory_length",
        "exponent of the growth of a LoRA step's memory, above that of the loaded model, with the length of one row",
    ),
    ("growth_time_length", "of its time"),
    (
        "growth_memory_rank",
        "of all its memory, with the rank of the adapter; 4 x 256 tokens",
    ),
    ("growth_time_rank", "of its time"),
    (
        "growth_memory_layers",
        "of its memory above that of the loaded model, with the layers of the model; 4 x 256 tokens",
    ),
    ("growth_time_layers", "of its time"),
    (
        "growth_memory_adapters",
        "of the memory that adapters of rank 16 take, with their number",
    ),
    (
        "growth_time_adapters",
        "of a forward pass of 16 x 64 tokens in which all of them take part",
    ),
    (
        "nf4_vs_dense",
        "`x·Wᵀ` with an NF4 weight in blocks of 64, beside our own product with the dense weight; sizes are rows of x, width, outputs",
    ),
    (
        "nf4_vs_torch_dense",
        "the same beside torch's dense product",
    ),
    ("nf4_vs_bnb", "the same beside bitsandbytes' `matmul_4bit`"),
    (
        "nf4_vs_bnb_packed",
        "the same beside bitsandbytes' weights packed for AVX512-BF16, which it has for inference alone",
    ),
    (
        "nf4_vs_burn_q4",
        "the same beside Burn's 4-bit block quantization (Q4S, blocks of 32)",
    ),
    (
        "nf4_step_vs_dense",
        "the product and its gradient for x, beside the dense weight",
    ),
    ("nf4_step_vs_bnb", "the same beside `matmul_4bit`"),
    ("dense_vs_torch", "`x·Wᵀ` with a dense weight"),
    ("dense_step_vs_torch", "the product and its gradient for x"),
    (
        "quantize_vs_bnb",
        "a weight to NF4 codes; bytes of f32 read",
    ),
    (
        "dequantize_vs_bnb",
        "NF4 codes to a weight; bytes of f32 written",
    ),
    (
        "rms_norm_vs_torch",
        "forward and backward; bytes of f32 that must be touched",
    ),
    (
        "swiglu_vs_torch",
        "`silu(gate)·up`, forward and backward; bytes of f32 that must be touched",
    ),
    (
        "attention_vs_torch",
        "causal, heads of 64, forward and backward; tokens, length, heads",
    ),
    (
        "cross_entropy_vs_unfused",
        "output head, loss and the gradient of hidden states, beside the same through all logits; tokens, width, vocabulary",
    ),
    ("cross_entropy_vs_torch", "the same beside torch"),
];

/// A ratio that we want to reach.
enum Aim {
    AtLeast(f64),
    AtMost(f64),
}

const AIMS: &[(&str, &str, Aim)] = &[
    ("prefill_512", "f32", Aim::AtLeast(1.5)),
    ("decode_b1", "f32", Aim::AtLeast(2.0)),
    ("decode_b8", "f32", Aim::AtLeast(2.0)),
    ("prefill_512", "bf16", Aim::AtLeast(1.2)),
    ("prefill_512", "nf4", Aim::AtLeast(1.2)),
    ("decode_b1", "nf4", Aim::AtLeast(1.2)),
    ("decode_b8", "nf4", Aim::AtLeast(1.5)),
    ("lora_cost", "bf16", Aim::AtMost(1.15)),
    ("lora_cost", "f32", Aim::AtMost(1.15)),
    ("lora_step_bf16", "bf16", Aim::AtLeast(2.0)),
    ("lora_step_f32", "f32", Aim::AtLeast(2.0)),
    ("qlora_step", "bf16", Aim::AtLeast(2.0)),
    ("full_step", "bf16", Aim::AtLeast(1.3)),
    ("lora_rss", "bf16", Aim::AtMost(0.35)),
    ("qlora_rss", "bf16", Aim::AtMost(0.25)),
    ("burn_qlora_step", "bf16", Aim::AtLeast(3.0)),
    ("burn_qlora_rss", "bf16", Aim::AtMost(0.35)),
    ("dpo_step", "bf16", Aim::AtLeast(2.0)),
    ("dpo_rss", "bf16", Aim::AtMost(0.4)),
    ("infer_rss", "f32", Aim::AtMost(0.6)),
    ("nf4_vs_bnb", "f32", Aim::AtLeast(3.0)),
    ("nf4_vs_bnb", "bf16", Aim::AtLeast(3.0)),
    ("nf4_vs_bnb_packed", "bf16", Aim::AtLeast(1.0)),
    ("nf4_step_vs_bnb", "f32", Aim::AtLeast(3.0)),
    ("nf4_step_vs_bnb", "bf16", Aim::AtLeast(3.0)),
    ("dense_vs_torch", "bf16", Aim::AtLeast(0.85)),
    ("dense_step_vs_torch", "bf16", Aim::AtLeast(0.85)),
    ("quantize_vs_bnb", "f32", Aim::AtLeast(4.0)),
    ("rms_norm_vs_torch", "f32", Aim::AtLeast(1.0)),
    ("swiglu_vs_torch", "f32", Aim::AtLeast(1.0)),
    ("attention_vs_torch", "f32", Aim::AtLeast(1.0)),
    ("cross_entropy_vs_unfused", "f32", Aim::AtLeast(1.0)),
];

/// The whole page.
pub(crate) fn render(results: &Results) -> String {
    let mut page = INTRODUCTION.to_owned();
    page += "## Cases\n\n";
    for (name, meaning) in CASES {
        let _ = writeln!(page, "- `{name}`: {meaning}.");
    }
    page += TRAINING;
    page += ALIGNMENT;
    // One section for each device and set of contenders.
    let mut sections: BTreeMap<(String, usize, String), Vec<&Line>> = BTreeMap::new();
    for line in results.lines() {
        let peer = line.peer.clone().unwrap_or_default();
        let place = (line.machine.clone(), line.threads, peer);
        sections.entry(place).or_default().push(line);
    }
    for ((machine, threads, peer), mut lines) in sections {
        let _ = write!(page, "\n## {machine}\n\n{threads} threads each");
        let _ = match peer.as_str() {
            "" => writeln!(page, ", without a peer.\n"),
            peer => writeln!(page, "; the peer is {peer}.\n"),
        };
        lines.sort_by_key(|line| CASES.iter().position(|(name, _)| *name == line.bench));
        table(&mut page, &lines);
        memory_notes(&mut page, &lines);
        growth_notes(&mut page, &lines);
    }
    page
}

fn table(page: &mut String, lines: &[&Line]) {
    *page += "| case | weights | batch x tokens | ours | peer | ratio | aim | tokens alike | runs | commit |\n";
    *page += "|---|---|---|---|---|---|---|---|---|---|\n";
    for line in lines {
        let ours = figure(line.value, line.min, line.max, &line.unit);
        let peer = match (line.peer_value, line.peer_min, line.peer_max) {
            (Some(value), Some(min), Some(max)) => figure(value, min, max, &line.unit),
            _ => String::new(),
        };
        let ratio = line.ratio.map(|ratio| format!("**{ratio:.2}**"));
        let alike = line
            .agreement
            .map(|share| format!("{:.0} %", share * 100.0));
        let _ = writeln!(
            page,
            "| `{}` | {} | {} | {ours} | {peer} | {} | {} | {} | {} | {} |",
            line.bench,
            line.dtype,
            line.shape,
            ratio.unwrap_or_default(),
            aim(line),
            alike.unwrap_or_default(),
            line.runs,
            line.commit,
        );
    }
}

fn figure(value: f64, min: f64, max: f64, unit: &str) -> String {
    format!(
        "{} {unit} ({} … {})",
        number(value),
        number(min),
        number(max)
    )
}

/// Three digits or all of the whole ones, with commas between thousands.
fn number(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.decimals$}");
    let (whole, fraction) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + fraction
}

fn aim(line: &Line) -> String {
    let row = AIMS
        .iter()
        .find(|(bench, dtype, _)| *bench == line.bench && *dtype == line.dtype);
    let (Some((_, _, aim)), Some(ratio)) = (row, line.ratio) else {
        return String::new();
    };
    let (text, met) = match aim {
        Aim::AtLeast(least) => (format!("≥ {least}"), ratio >= *least),
        Aim::AtMost(most) => (format!("≤ {most}"), ratio <= *most),
    };
    format!("{text}, {}", if met { "met" } else { "missed" })
}

/// What was measured where growth is stated.
fn growth_notes(page: &mut String, lines: &[&Line]) {
    let mut found = false;
    for line in lines {
        let Some(points) = line.rest.get("points").and_then(|points| points.as_array()) else {
            continue;
        };
        if !std::mem::replace(&mut found, true) {
            page.push_str("\nGrowth, measured:\n\n");
        }
        let unit = if line.bench.starts_with("growth_memory") {
            "MB"
        } else {
            "s"
        };
        let point = |point: &Value| -> Option<String> {
            let (size, value) = (point.get(0)?.as_f64()?, point.get(1)?.as_f64()?);
            Some(format!("{size} → {} {unit}", number(value)))
        };
        let points: Vec<String> = points.iter().filter_map(point).collect();
        let _ = writeln!(page, "- `{}`: {}", line.bench, points.join(", "));
    }
}

/// How much of a peak is the program itself.
fn memory_notes(page: &mut String, lines: &[&Line]) {
    let before = |line: &Line, key: &str| line.rest.get(key).and_then(Value::as_f64);
    let found = lines
        .iter()
        .find_map(|line| Some((line, before(line, "before")?, before(line, "peer_before")?)));
    if let Some((line, ours, peer)) = found {
        let unit = &line.unit;
        let _ = writeln!(
            page,
            "\nOf the peaks, {} {unit} (ours) and {} {unit} (the peer) are the programs and their libraries, before a model is loaded.",
            number(ours),
            number(peer)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::line;
    use super::*;

    #[test]
    fn a_page_has_a_row_for_every_result_in_the_order_of_the_cases() {
        let lines = [
            line("decode_b1", "f32", 3.0),
            line("prefill_512", "f32", 3.0),
            line("prefill_512", "bf16", 3.0),
        ];
        let page = render(&Results::from_jsonl(&lines.join("\n")).unwrap());
        let rows: Vec<_> = page
            .lines()
            .filter(|line| line.ends_with("| c0ffee |"))
            .collect();
        assert_eq!(
            rows,
            [
                "| `prefill_512` | f32 | 1x512 | 3.00 tok/s (1,234 … 3.50) | 2.00 tok/s (1.00 … 3.00) | **1.50** | ≥ 1.5, met | 100 % | 7 | c0ffee |",
                "| `prefill_512` | bf16 | 1x512 | 3.00 tok/s (1,234 … 3.50) | 2.00 tok/s (1.00 … 3.00) | **1.50** | ≥ 1.2, met | 100 % | 7 | c0ffee |",
                "| `decode_b1` | f32 | 1x512 | 3.00 tok/s (1,234 … 3.50) | 2.00 tok/s (1.00 … 3.00) | **1.50** | ≥ 2, missed | 100 % | 7 | c0ffee |",
            ]
        );
        assert!(page.contains("## a CPU\n\n2 threads each; the peer is transformers 5.\n"));
    }

    #[test]
    fn numbers_have_three_digits_or_all_whole_ones() {
        let shown = [0.517, 9.999, 12.345, 187.6, 1_234.5, 1_234_567.0].map(number);
        assert_eq!(
            shown,
            ["0.52", "10.00", "12.3", "188", "1,234", "1,234,567"]
        );
    }
}
