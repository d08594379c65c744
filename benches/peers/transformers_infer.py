"""Generation, scoring and adapters by transformers and peft on torch's CPU device, for the race in
`flametune-benches`.

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


def load(model, dtype, threads, quantize=None):
    torch.set_num_threads(threads)
    options = {}
    if quantize is not None:
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant={"nf4": False, "nf4_double": True}[quantize],
            bnb_4bit_compute_dtype=DTYPES[dtype],
        )
        options["device_map"] = "cpu"
    place = (
        {"pretrained_model_name_or_path": model}
        if os.path.isdir(model)
        else {
            "pretrained_model_name_or_path": os.path.dirname(model),
            "gguf_file": os.path.basename(model),
        }
    )
    return AutoModelForCausalLM.from_pretrained(**place, dtype=DTYPES[dtype], **options).eval()


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


@torch.inference_mode()
def score(model, rows):
    scores = []
    for row in rows:
        ids = torch.tensor([row])
        logits = model(input_ids=ids).logits[0, :-1].float()
        losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        scores.append(losses.double().sum().item())
    return scores


def put_on(model, folders):
    from peft import PeftModel

    if isinstance(model, PeftModel):
        model = model.unload()
    model = PeftModel.from_pretrained(model, folders[0], adapter_name="0", autocast_adapter_dtype=False)
    for index, folder in enumerate(folders[1:], 1):
        model.load_adapter(folder, adapter_name=str(index), autocast_adapter_dtype=False)
    return model.eval()


@torch.inference_mode()
def switch(model, token, passes):
    ids, names, sample = torch.tensor([[token]]), list(model.peft_config), []
    begin = time.perf_counter()
    for index in range(passes):
        model.set_adapter(names[index % len(names)])
        sample.append(model(input_ids=ids, use_cache=False).logits[0, -1].max().item())
    return {"seconds": time.perf_counter() - begin, "sample": sample}


def save_adapter(model, folder):
    begin = time.perf_counter()
    model.save_pretrained(folder, selected_adapters=["0"])
    return {"seconds": time.perf_counter() - begin, "sample": []}


def load_adapter(model, folder):
    begin = time.perf_counter()
    model.load_adapter(folder, adapter_name="one more", autocast_adapter_dtype=False)
    seconds = time.perf_counter() - begin
    model.delete_adapter("one more")
    return {"seconds": seconds, "sample": []}


def main():
    model = None
    for line in sys.stdin:
        request = json.loads(line)
        name, fields = (request, {}) if isinstance(request, str) else next(iter(request.items()))
        try:
            if name == "hello":
                reply = {"hello": f"transformers {transformers.__version__}, torch {torch.__version__}"}
            elif name == "load":
                model = load(**fields)
                reply = "loaded"
            elif name == "generate":
                reply = {"finished": generate(model, **fields)}
            elif name == "score":
                reply = {"scored": score(model, **fields)}
            elif name == "adapters":
                model = put_on(model, **fields)
                reply = "loaded"
            elif name == "switch":
                reply = {"timed": switch(model, **fields)}
            elif name == "save_adapter":
                reply = {"timed": save_adapter(model, **fields)}
            elif name == "load_adapter":
                reply = {"timed": load_adapter(model, **fields)}
            else:
                reply = {"failed": f"cannot {name}"}
        except Exception as error:  # the referee decides what a failure means
            reply = {"failed": repr(error)}
        print(json.dumps(reply), file=replies, flush=True)


main()
