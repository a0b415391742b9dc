"""What PyTorch, FlashInfer and the card's own libraries reach on the same shapes.

Prints `NAME SECONDS` lines for the cases that it can run, and says on standard error which it
cannot. kernels/benches/gpu runs it with python3 (or PLIMSOLL_PYTHON) on the card it measures.
"""

import statistics
import sys

HEADS, KV_HEADS, DIM, HIDDEN, MLP, VOCABULARY, BLOCK = 32, 8, 128, 4096, 14336, 128256, 16
DECODE = [(64, 4096), (16, 16384), (1, 32768)]
PREFILL = [2048, 8192]
LINEAR = {"qkv": (6144, HIDDEN), "gate_up": (2 * MLP, HIDDEN), "down": (HIDDEN, MLP), "head": (VOCABULARY, HIDDEN)}
SKINNY, WIDE = [1, 4, 16], [512, 2048, 8192]

try:
    import torch
    import torch.nn.functional as F
except ImportError as error:
    sys.exit(f"no PyTorch: {error}")
try:
    import flashinfer
except ImportError as error:
    flashinfer = None
    print(f"no FlashInfer: {error}", file=sys.stderr)

DEVICE = "cuda"


def seconds(work, batch=10, repeats=15):
    """Median over `repeats` of the mean of `batch` calls, after a warm-up.

    The card waits for Python where a call takes it less time than Python needs to make it (tens of
    microseconds): such a figure is the peer's as its users meet it, not its kernel's.
    """
    for _ in range(3):
        work()
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(batch):
            work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / batch / 1e3)
    return statistics.median(times)


def show(name, work, **options):
    try:
        print(name, seconds(work, **options), flush=True)
    except Exception as error:  # a peer that cannot run a case is a gap in a table, no more
        print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
    torch.cuda.empty_cache()


def random(*shape):
    return torch.randn(*shape, device=DEVICE, dtype=torch.bfloat16)


def rotating(make, bytes_each):
    """Calls that take turns over copies, so that none finds its weights in the second cache."""
    copies = [make() for _ in range(min(32, (256 << 20) // bytes_each + 1))]
    state = {"next": 0}

    def take():
        state["next"] = (state["next"] + 1) % len(copies)
        return copies[state["next"]]

    return take


def linear():
    a, b = random(8192, 8192), random(8192, 8192)
    show("ceiling/matmul", lambda: a @ b)
    del a, b
    for name, (rows, cols) in LINEAR.items():
        take = rotating(lambda: random(rows, cols), rows * cols * 2)
        for tokens in SKINNY + (WIDE if name in ("gate_up", "down") else []):
            x = random(tokens, cols)
            show(f"linear/{name}/{tokens}/torch", lambda: F.linear(x, take()))


def prefill():
    for tokens in PREFILL:
        q, k, v = random(1, HEADS, tokens, DIM), random(1, KV_HEADS, tokens, DIM), random(1, KV_HEADS, tokens, DIM)
        show(
            f"prefill/{tokens}/torch-sdpa",
            lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True),
        )
        if flashinfer:
            fq, fk, fv = random(tokens, HEADS, DIM), random(tokens, KV_HEADS, DIM), random(tokens, KV_HEADS, DIM)
            show(f"prefill/{tokens}/flashinfer", lambda: flashinfer.single_prefill_with_kv_cache(fq, fk, fv, causal=True))


def decode():
    if not flashinfer:
        return
    for sequences, context in DECODE:
        try:
            show(f"decode/{sequences}x{context}/flashinfer", paged_decode(sequences, context))
        except Exception as error:  # FlashInfer may have to compile first, and lack what it needs for that
            print(f"decode/{sequences}x{context}: {type(error).__name__}: {error}", file=sys.stderr)


def paged_decode(sequences, context):
    blocks = sequences * context // BLOCK
    shape = (blocks, 2, BLOCK, KV_HEADS, DIM)
    take = rotating(lambda: random(*shape), blocks * 2 * BLOCK * KV_HEADS * DIM * 2)
    table = torch.randperm(blocks, device=DEVICE, dtype=torch.int32)
    starts = torch.arange(0, blocks + 1, context // BLOCK, device=DEVICE, dtype=torch.int32)
    last = torch.full((sequences,), BLOCK, device=DEVICE, dtype=torch.int32)
    workspace = torch.empty(256 << 20, dtype=torch.uint8, device=DEVICE)
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(workspace, "NHD", use_tensor_cores=True)
    wrapper.plan(starts, table, last, HEADS, KV_HEADS, DIM, BLOCK, q_data_type=torch.bfloat16, kv_data_type=torch.bfloat16)
    q = random(sequences, HEADS, DIM)
    return lambda: wrapper.run(q, take())


if __name__ == "__main__":
    torch.manual_seed(0)
    linear()
    prefill()
    decode()
