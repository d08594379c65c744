"""Evaluation by lm-evaluation-harness with transformers on torch's CPU device, for `flametune-benches`.

Reads one JSON request a line on standard input and writes one JSON reply a line on standard
output, as `benches/src/protocol.rs` says. Only the model's answers are timed: neither reading
tasks nor scoring.
"""

import json
import os
import sys
import time

# Replies go to what standard output was; whatever libraries print goes to standard error.
replies = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
os.environ["LMEVAL_LOG_LEVEL"] = "ERROR"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import lm_eval
import torch
import transformers
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def load(model, dtype, threads):
    torch.set_num_threads(threads)
    place = {"pretrained_model_name_or_path": os.path.dirname(model), "gguf_file": os.path.basename(model)}
    tokenizer = AutoTokenizer.from_pretrained(**place)
    return AutoModelForCausalLM.from_pretrained(**place, dtype=DTYPES[dtype]).eval(), tokenizer


def evaluate(state, folder, task, batch_size):
    model, tokenizer = state["model"]
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
    seconds = 0.0
    for name in ("loglikelihood", "generate_until"):
        method = getattr(lm, name)

        def timed(*args, method=method, **kwargs):
            nonlocal seconds
            begin = time.perf_counter()
            answers = method(*args, **kwargs)
            seconds += time.perf_counter() - begin
            return answers

        setattr(lm, name, timed)
    if folder not in state:
        state[folder] = TaskManager(include_path=folder, include_defaults=False)
    results = lm_eval.simple_evaluate(
        lm, tasks=[task], task_manager=state[folder], bootstrap_iters=0, log_samples=True
    )
    answers = []
    for sample in sorted(results["samples"][task], key=lambda sample: sample["doc_id"]):
        for answer in sample["resps"]:
            answer = answer[0]
            answers.append(answer if isinstance(answer, str) else float(answer[0]))
    return {"seconds": seconds, "answers": answers}


def main():
    state = {}
    for line in sys.stdin:
        request = json.loads(line)
        name, fields = (request, {}) if isinstance(request, str) else next(iter(request.items()))
        try:
            if name == "hello":
                versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
                reply = {"hello": f"lm-eval 0.4.13, {versions}"}
            elif name == "load":
                state["model"] = load(**fields)
                reply = "loaded"
            elif name == "evaluate":
                reply = {"evaluated": evaluate(state, **fields)}
            else:
                reply = {"failed": f"cannot {name}"}
        except Exception as error:  # the referee decides what a failure means
            reply = {"failed": repr(error)}
        print(json.dumps(reply), file=replies, flush=True)


main()
