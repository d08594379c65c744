"""Greedy generation by llama.cpp on the CPU, for the race in `flametune-benches`.

Reads one JSON request a line on standard input and writes one JSON reply a line on standard
output, as `benches/src/protocol.rs` says. A GGUF file is used as it is stored, so number formats
that the request names have no effect here. Batches are decoded together, a sequence for each row.
"""

import json
import os
import sys
import time

# Replies go to what standard output was; whatever libraries print goes to standard error.
replies = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import numpy as np

try:
    import llama_cpp as llama

    MISSING = None
except (ImportError, OSError, RuntimeError) as error:
    llama, MISSING = None, repr(error)

# Tokens of all rows together that a context holds.
CONTEXT = 2048


class Model:
    def __init__(self, path, threads):
        self.threads = threads
        params = llama.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = llama.llama_model_load_from_file(path.encode(), params)
        if not self.model:
            raise ValueError(f"cannot load {path}")
        self.width = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self.model))
        self.contexts = {}

    def context(self, rows):
        """A context for so many rows, cleared."""
        if rows not in self.contexts:
            params = llama.llama_context_default_params()
            params.n_ctx = params.n_batch = params.n_ubatch = CONTEXT
            params.n_seq_max = rows
            params.n_threads = params.n_threads_batch = self.threads
            params.kv_unified = False
            self.contexts[rows] = llama.llama_init_from_model(self.model, params)
            if not self.contexts[rows]:
                raise ValueError(f"no context for {rows} rows")
        context = self.contexts[rows]
        llama.llama_memory_clear(llama.llama_get_memory(context), True)
        return context

    def step(self, context, rows, position):
        """Takes tokens in; the best next token of each row and its logit."""
        batch = llama.llama_batch_init(sum(map(len, rows)), 0, 1)
        at, last = 0, []
        for row, tokens in enumerate(rows):
            for offset, token in enumerate(tokens):
                batch.token[at] = token
                batch.pos[at] = position + offset
                batch.n_seq_id[at] = 1
                batch.seq_id[at][0] = row
                batch.logits[at] = offset == len(tokens) - 1
                at += 1
            last.append(at - 1)
        batch.n_tokens = at
        failed = llama.llama_decode(context, batch)
        if failed:
            raise ValueError(f"llama_decode: {failed}")
        best = []
        for index in last:
            pointer = llama.llama_get_logits_ith(context, index)
            logits = np.ctypeslib.as_array(pointer, shape=(self.width,))
            token = int(logits.argmax())
            best.append((token, float(logits[token])))
        llama.llama_batch_free(batch)
        return best

    def generate(self, prompts, decode_steps):
        context = self.context(len(prompts))
        begin = time.perf_counter()
        best = self.step(context, prompts, 0)
        prefill_s = time.perf_counter() - begin

        tokens = [[token] for token, _ in best]
        first_logits = [logit for _, logit in best]
        position = len(prompts[0])
        begin = time.perf_counter()
        for _ in range(decode_steps):
            best = self.step(context, [[row[-1]] for row in tokens], position)
            for row, (token, _) in zip(tokens, best):
                row.append(token)
            position += 1
        return {
            "prefill_s": prefill_s,
            "decode_s": time.perf_counter() - begin,
            "tokens": tokens,
            "first_logits": first_logits,
        }


def main():
    if llama:
        llama.llama_backend_init()
    model = None
    for line in sys.stdin:
        request = json.loads(line)
        name, fields = (request, {}) if isinstance(request, str) else next(iter(request.items()))
        try:
            if MISSING:
                reply = {"failed": MISSING}
            elif name == "hello":
                reply = {"hello": f"llama.cpp of llama-cpp-python {llama.__version__}, Q4_1"}
            elif name == "load":
                model = Model(fields["model"], fields["threads"])
                reply = "loaded"
            elif name == "generate":
                reply = {"finished": model.generate(**fields)}
            else:
                reply = {"failed": f"cannot {name}"}
        except Exception as error:  # the referee decides what a failure means
            reply = {"failed": repr(error)}
        print(json.dumps(reply), file=replies, flush=True)


main()
