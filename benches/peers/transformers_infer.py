"""Greedy generation by transformers on torch's CPU device, for the race in `flametune-benches`.

Reads one JSON request a line on standard input and writes one JSON reply a line on standard
output, as `benches/src/protocol.rs` says. Runs the model's forward pass in a loop with a key-value
cache, which is faster than `generate()`: the peer is taken at its best.
"""

import json
import os
import sys
import time

# Replies go to what standard output was; whatever libraries print goes to standard error.
replies = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def load(model, dtype, threads):
    torch.set_num_threads(threads)
    place = (
        {"pretrained_model_name_or_path": model}
        if os.path.isdir(model)
        else {
            "pretrained_model_name_or_path": os.path.dirname(model),
            "gguf_file": os.path.basename(model),
        }
    )
    return AutoModelForCausalLM.from_pretrained(**place, dtype=DTYPES[dtype]).eval()


@torch.inference_mode()
def generate(model, prompts, decode_steps):
    ids = torch.tensor(prompts)
    begin = time.perf_counter()
    cache = DynamicCache(config=model.config)
    output = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    best = output.logits[:, -1].max(-1)
    first_logits, last = best.values.float().tolist(), best.indices
    prefill_s = time.perf_counter() - begin

    tokens = [last.tolist()]
    begin = time.perf_counter()
    for _ in range(decode_steps):
        output = model(
            input_ids=last[:, None], past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        last = output.logits[:, -1].argmax(-1)
        tokens.append(last.tolist())
    decode_s = time.perf_counter() - begin
    return {
        "prefill_s": prefill_s,
        "decode_s": decode_s,
        "tokens": [list(row) for row in zip(*tokens)],
        "first_logits": first_logits,
    }


def main():
    model = None
    for line in sys.stdin:
        request = json.loads(line)
        name, fields = (request, {}) if isinstance(request, str) else next(iter(request.items()))
        try:
            if name == "hello":
                software = f"transformers {transformers.__version__}, torch {torch.__version__}"
                reply = {"hello": software}
            elif name == "load":
                model = load(**fields)
                reply = "loaded"
            elif name == "generate":
                reply = {"finished": generate(model, **fields)}
            else:
                reply = {"failed": f"cannot {name}"}
        except Exception as error:  # the referee decides what a failure means
            reply = {"failed": repr(error)}
        print(json.dumps(reply), file=replies, flush=True)


main()
