"""Single operations of torch and bitsandbytes on the CPU, for the race in `flametune-benches`.

Reads one JSON request a line on standard input and writes one JSON reply a line on standard
output, as `benches/src/protocol.rs` says. Inputs follow the formula of `benches/src/operate.rs`.
"""

import json
import math
import os
import resource
import sys
import time

# Replies go to what standard output was; whatever libraries print goes to standard error.
replies = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import numpy as np
import torch
import torch.nn.functional as F

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

DEVICE = sys.argv[1] if len(sys.argv) > 1 else "cpu"
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def numbers(shape, seed, scale):
    index = np.arange(math.prod(shape), dtype=np.uint32)
    bits = index * np.uint32(2654435761) + np.uint32((seed * 40503) & 0xFFFFFFFF)
    bits ^= bits >> np.uint32(15)
    bits *= np.uint32(2246822519)
    bits ^= bits >> np.uint32(13)
    values = (bits >> np.uint32(8)).astype(np.float32) / np.float32(1 << 23) - np.float32(1)
    return torch.from_numpy((values * np.float32(scale)).reshape(shape)).to(DEVICE)


def forward_backward(x, dy, forward):
    x.grad = None
    y = forward()
    y.backward(dy)
    return y, x.grad


def prepare(kind, m, k, n, dtype):
    """A function without arguments that does the operation and returns its result."""
    dtype = DTYPES[dtype]
    weight = lambda: numbers([n, k], 2, 0.05)
    if kind == "dense":
        x, w = numbers([m, k], 1, 1).to(dtype), weight().to(dtype)
        return lambda: x @ w.T
    if kind == "dense_gradient":
        dy, w = numbers([m, n], 3, 1).to(dtype), weight().to(dtype)
        x = numbers([m, k], 1, 1).to(dtype).requires_grad_()
        return lambda: forward_backward(x, dy, lambda: x @ w.T)
    if kind in ("nf4", "nf4_gradient", "nf4_packed", "quantize", "dequantize"):
        return prepare_nf4(kind, m, k, n, dtype, weight())
    if kind == "cross_entropy":
        w = numbers([n, k], 2, 0.05).to(dtype)
        h = numbers([m, k], 1, 1).to(dtype).requires_grad_()
        labels = torch.arange(m, device=DEVICE) * 7919 % n

        def step():
            h.grad = None
            loss = F.cross_entropy((h @ w.T).float(), labels, reduction="sum")
            loss.backward()
            return loss, h.grad

        return step
    if kind == "rms_norm":
        x = numbers([m, k], 1, 1).to(dtype).requires_grad_()
        w, dy = numbers([k], 2, 1).to(dtype), numbers([m, k], 3, 1).to(dtype)

        def step():
            x.grad = None
            y = F.rms_norm(x, [k], w, 1e-6)
            y.backward(dy)
            return y, x.grad

        return step
    if kind == "swiglu":
        gate = numbers([m, k], 1, 1).to(dtype).requires_grad_()
        up = numbers([m, k], 2, 1).to(dtype).requires_grad_()
        dy = numbers([m, k], 3, 1).to(dtype)

        def step():
            gate.grad = up.grad = None
            y = F.silu(gate) * up
            y.backward(dy)
            return y, gate.grad, up.grad

        return step
    if kind == "attention":
        shape = [m // k, n, k, 64]
        q, key, v = (numbers(shape, seed, 1).to(dtype).requires_grad_() for seed in (1, 2, 3))
        dy = numbers(shape, 4, 1).to(dtype)

        def step():
            q.grad = key.grad = v.grad = None
            y = F.scaled_dot_product_attention(q, key, v, is_causal=True)
            y.backward(dy)
            return y, q.grad, key.grad, v.grad

        return step
    raise ValueError(f"cannot {kind}")


def prepare_nf4(kind, m, k, n, dtype, w):
    import bitsandbytes as bnb
    import bitsandbytes.functional as bf

    if kind == "quantize":
        return lambda: bf.quantize_4bit(w, blocksize=64, quant_type="nf4")[0]
    codes, state = bf.quantize_4bit(w, blocksize=64, quant_type="nf4")
    if kind == "dequantize":
        return lambda: bf.dequantize_4bit(codes, state)
    state.dtype = dtype
    if kind == "nf4_gradient":
        dy = numbers([m, n], 3, 1).to(dtype)
        x = numbers([m, k], 1, 1).to(dtype).requires_grad_()
        return lambda: forward_backward(x, dy, lambda: bnb.matmul_4bit(x, codes.t(), state))
    x = numbers([m, k], 1, 1).to(dtype)
    if kind == "nf4":
        return lambda: bnb.matmul_4bit(x, codes.t(), state)
    layer = bnb.nn.Linear4bit(k, n, bias=False, compute_dtype=dtype, quant_type="nf4", compress_statistics=False)
    layer.weight = bnb.nn.Params4bit(w, requires_grad=False, quant_type="nf4", compress_statistics=False, blocksize=64)
    layer = layer.to(DEVICE).eval()

    def step():
        with torch.no_grad():
            return layer(x)

    step()
    if not getattr(layer.weight.quant_state, "packing_format_for_cpu", False):
        raise ValueError("this CPU has no packed inference path")
    return step


def synchronize():
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def operate(state, kind, m, k, n, dtype):
    key = (kind, m, k, n, dtype)
    if state.get("key") != key:
        state.clear()
        state.update(key=key, run=prepare(*key))
    run = state["run"]
    result = run()
    synchronize()
    times, begin = [], time.perf_counter()
    while len(times) < 3 or (time.perf_counter() - begin < 0.3 and len(times) < 200):
        before = time.perf_counter()
        result = run()
        synchronize()
        times.append(time.perf_counter() - before)
    parts = result if isinstance(result, tuple) else (result,)
    flat = torch.cat([part.detach().flatten().float().cpu() for part in parts])
    index = torch.arange(64) * flat.numel() // 64
    return {
        "seconds": sorted(times)[len(times) // 2],
        "sample": flat[index].tolist(),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def software():
    names = [f"torch {torch.__version__}"]
    try:
        import bitsandbytes

        names.append(f"bitsandbytes {bitsandbytes.__version__}")
    except ImportError:
        pass
    return ", ".join(names)


def main():
    state = {}
    for line in sys.stdin:
        request = json.loads(line)
        name, fields = (request, {}) if isinstance(request, str) else next(iter(request.items()))
        try:
            if name == "hello":
                reply = {"hello": software()}
            elif name == "operate":
                reply = {"operated": operate(state, **fields)}
            else:
                reply = {"failed": f"cannot {name}"}
        except Exception as error:  # the referee decides what a failure means
            reply = {"failed": repr(error)}
        print(json.dumps(reply), file=replies, flush=True)


main()
