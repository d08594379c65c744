"""Training by transformers, peft and bitsandbytes on torch's CPU device, for `flametune-benches`.

Reads one JSON request a line on standard input and writes one JSON reply a line on standard
output, as `benches/src/protocol.rs` says. A step is forward, backward, clipping to a norm of one
and AdamW, without a data loader or a trainer around it: the peer is taken at its best.
"""

import json
import os
import sys
import time

# Replies go to what standard output was; whatever libraries print goes to standard error.
replies = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import peft
import torch
import transformers
from peft import PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
RATES = {"lora": 5e-6, "dora": 5e-6, "qlora": 5e-6, "full": 1e-6}


class Training:
    def __init__(self, model, dtype, method, adapter, recompute, threads):
        torch.set_num_threads(threads)
        dtype = DTYPES[dtype]
        options = {}
        if method == "qlora":
            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=False,
                bnb_4bit_compute_dtype=dtype,
            )
            options["device_map"] = "cpu"
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, **options)
        self.model.config.use_cache = False
        if adapter is not None:
            # Adapters in the format of the activations: in f32 they cost two conversions a layer.
            self.model = PeftModel.from_pretrained(
                self.model, adapter, is_trainable=True, autocast_adapter_dtype=False
            )
        if recompute:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
            self.model.enable_input_require_grads()
        self.model.train()
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        if adapter is not None:
            for parameter in self.parameters:
                parameter.data = parameter.data.to(dtype)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=RATES[method], weight_decay=0.0)

    def step(self, rows):
        begin = time.perf_counter()
        ids = torch.tensor(rows)
        loss = self.model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {"seconds": time.perf_counter() - begin, "loss": loss.item()}


def software():
    names = f"transformers {transformers.__version__}, peft {peft.__version__}"
    try:
        import bitsandbytes

        names += f", bitsandbytes {bitsandbytes.__version__}"
    except ImportError:
        pass
    return f"{names}, torch {torch.__version__}"


def main():
    training = None
    for line in sys.stdin:
        request = json.loads(line)
        name, fields = (request, {}) if isinstance(request, str) else next(iter(request.items()))
        try:
            if name == "hello":
                reply = {"hello": software()}
            elif name == "train":
                training = Training(**fields)
                reply = "loaded"
            elif name == "step":
                reply = {"stepped": training.step(**fields)}
            else:
                reply = {"failed": f"cannot {name}"}
        except Exception as error:  # the referee decides what a failure means
            reply = {"failed": repr(error)}
        print(json.dumps(reply), file=replies, flush=True)


main()
