"""Tokenizing by tokenizers and packing by trl, for the race in `flametune-benches`.

Reads one JSON request a line on standard input and writes one JSON reply a line on standard
output, as `benches/src/protocol.rs` says.
"""

import json
import os
import sys
import time

# Replies go to what standard output was; whatever libraries print goes to standard error.
replies = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import pyarrow as pa
import tokenizers
import trl
from transformers import AutoTokenizer
from trl import data_utils

# `pack_dataset` calls this on 1000 examples at a time; here it gets all of them at once, without
# the cache on disk that `datasets` puts around it.
pack_table = data_utils._pack_bfd


def tokenize(state, model, texts):
    if state.get("model") != model:
        tokenizer = AutoTokenizer.from_pretrained(
            os.path.dirname(model), gguf_file=os.path.basename(model)
        )
        state.update(model=model, tokenizer=tokenizer.backend_tokenizer)
    tokenizer, ids = state["tokenizer"], []
    begin = time.perf_counter()
    for text in texts:
        ids.append(tokenizer.encode(text, add_special_tokens=False).ids)
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "ids": [id for row in ids for id in row]}


def pack(state, lengths, row):
    if state.get("lengths") != lengths:
        offsets = pa.array([0] + list(accumulated(lengths)), pa.int32())
        ids = pa.array(range(sum(lengths)), pa.int32())
        labels = pa.array(range(sum(lengths)), pa.int64())
        columns = [pa.ListArray.from_arrays(offsets, values) for values in (ids, labels)]
        state.update(lengths=lengths, table=pa.table(columns, names=["input_ids", "labels"]))
    begin = time.perf_counter()
    packed = pack_table(state["table"], row)
    seconds = time.perf_counter() - begin
    tokens = len(packed["input_ids"].combine_chunks().flatten())
    return {"seconds": seconds, "rows": len(packed), "tokens": tokens}


def accumulated(lengths):
    total = 0
    for length in lengths:
        total += length
        yield total


def main():
    state = {}
    for line in sys.stdin:
        request = json.loads(line)
        name, fields = (request, {}) if isinstance(request, str) else next(iter(request.items()))
        try:
            if name == "hello":
                software = f"tokenizers {tokenizers.__version__}, trl {trl.__version__}"
                reply = {"hello": software}
            elif name == "tokenize":
                reply = {"tokenized": tokenize(state, **fields)}
            elif name == "pack":
                reply = {"packed": pack(state, **fields)}
            else:
                reply = {"failed": f"cannot {name}"}
        except Exception as error:  # the referee decides what a failure means
            reply = {"failed": repr(error)}
        print(json.dumps(reply), file=replies, flush=True)


main()
