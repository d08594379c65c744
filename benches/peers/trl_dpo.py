"""DPO by TRL on transformers, peft and torch's CPU device, for `flametune-benches`.

Reads one JSON request a line on standard input and writes one JSON reply a line on standard
output, as `benches/src/protocol.rs` says. The rows of a step are chosen answers, then the rejected
ones; the first half of a row is its prompt. The loss is TRL's own, of its trainer, with its fused
head; a step is that loss, backward, clipping to a norm of one and AdamW, without a data loader or
a loop around it: the peer is taken at its best. The reference is the model without its adapter.
"""

import json
import os
import sys
import tempfile
import time

# Replies go to what standard output was; whatever libraries print goes to standard error.
replies = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import peft
import torch
import transformers
import trl
from datasets import Dataset
from peft import LoraConfig, set_peft_model_state_dict
from peft.utils.save_and_load import load_peft_weights
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
BETA = 0.1
RATE = 1e-6


class Training:
    def __init__(self, model, dtype, method, adapter, recompute, threads, **_):
        assert method == "dpo", method
        torch.set_num_threads(threads)
        dtype = DTYPES[dtype]
        self.folder = tempfile.TemporaryDirectory()
        base = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
        base.config.use_cache = False
        config = DPOConfig(
            output_dir=self.folder.name,
            beta=BETA,
            loss_type=["sigmoid"],
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=recompute,
            gradient_checkpointing_kwargs={"use_reentrant": False} if recompute else None,
            max_length=None,
            report_to=[],
        )
        # The rows come as ids: the trainer wants a tokenizer and some text all the same.
        words = Tokenizer(models.WordLevel({"<pad>": 0}, unk_token="<pad>"))
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=words, pad_token="<pad>", eos_token="<pad>"
        )
        rows = {"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]}
        self.trainer = DPOTrainer(
            model=base,
            args=config,
            train_dataset=Dataset.from_dict(rows),
            processing_class=tokenizer,
            peft_config=LoraConfig.from_pretrained(adapter),
        )
        self.model = self.trainer.model
        # Adapters stay in f32 beside a bf16 base, as TRL has them by default: in bf16 their updates
        # would be rounded away, and losses would not stay together.
        set_peft_model_state_dict(self.model, load_peft_weights(adapter, device="cpu"))
        self.model.train()
        self.parameters = []
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_("lora_" in name)
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
                self.parameters.append(parameter)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=RATE, weight_decay=0.0)

    def step(self, rows):
        begin = time.perf_counter()
        ids = torch.tensor(rows)
        completion = torch.ones_like(ids)
        completion[:, : ids.shape[1] // 2] = 0
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "completion_mask": completion,
        }
        loss = self.trainer.compute_loss(self.model, inputs)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {"seconds": time.perf_counter() - begin, "loss": loss.item()}


def software():
    return (
        f"trl {trl.__version__}, transformers {transformers.__version__}, "
        f"peft {peft.__version__}, torch {torch.__version__}"
    )


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
