"""Times a case of `training.rs` in PyTorch and ONNX Runtime: `peers.py natron_v2.finetune.32 THREADS`.

Prints one JSON line an engine: {"engine": .., "ms": ..}, the median after warming up.
"""

import json
import statistics
import sys
import time

import torch
from torch import nn

WINDOW_BARS, INPUTS, WIDTH, HEADS, LAYERS, FEED_FORWARD, DROPOUT = 96, 100, 256, 8, 6, 1024, 0.1


class Natron(nn.Module):
    """The network of `natron_v2`: pre-norm encoder, mean over time, four heads."""

    def __init__(self):
        super().__init__()
        self.input = nn.Linear(INPUTS, WIDTH)
        self.positions = nn.Parameter(torch.randn(WINDOW_BARS, WIDTH), requires_grad=False)
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, FEED_FORWARD, DROPOUT, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, LAYERS, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.dropout = nn.Dropout(DROPOUT)
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 128), nn.GELU(), nn.Dropout(DROPOUT), nn.Linear(128, n)) for n in (1, 1, 3, 6)
        )

    def forward(self, x):
        states = self.encoder(self.dropout(self.input(x) + self.positions))
        pooled = states.mean(1)
        return tuple(head(pooled) for head in self.heads)


def median_ms(call, seconds, at_least):
    for _ in range(2):
        call()
    times = []
    start = time.perf_counter()
    while len(times) < at_least or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        call()
        times.append((time.perf_counter() - before) * 1e3)
    return statistics.median(times)


def report(engine, ms):
    print(json.dumps({"engine": engine, "ms": ms}), flush=True)


def finetune(batch):
    model = Natron().train()
    optimizer = torch.optim.AdamW(model.parameters(), 5e-5, weight_decay=1e-5)
    x = torch.randn(batch, WINDOW_BARS, INPUTS)
    buy = (torch.arange(batch) % 2).float()[:, None]
    direction, regime = torch.arange(batch) % 3, torch.arange(batch) % 6
    binary, cross = nn.functional.binary_cross_entropy_with_logits, nn.functional.cross_entropy

    def step():
        optimizer.zero_grad()
        outputs = model(x)
        loss = binary(outputs[0], buy) + binary(outputs[1], buy)
        loss = loss + 1.5 * cross(outputs[2], direction) + 1.2 * cross(outputs[3], regime)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    def mixed_step():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            step()

    report("torch f32", median_ms(step, 0, 5))
    report("torch bf16 autocast", median_ms(mixed_step, 0, 5))


def inference(batch, threads):
    import io

    import onnxruntime

    model = Natron().eval()
    x = torch.randn(batch, WINDOW_BARS, INPUTS)
    # The fused inference path of torch cannot be exported.
    torch.backends.mha.set_fastpath_enabled(False)
    graph = io.BytesIO()
    with torch.no_grad():
        torch.onnx.export(model, (x,), graph, input_names=["x"], opset_version=20, dynamo=False)
    torch.backends.mha.set_fastpath_enabled(True)

    def eager():
        with torch.inference_mode():
            return model(x)

    report("torch f32", median_ms(eager, 1, 5))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph.getvalue(), options, providers=["CPUExecutionProvider"])
    feed = {"x": x.numpy()}
    worst = max(abs(a - b.numpy()).max() for a, b in zip(session.run(None, feed), eager()))
    assert worst < 1e-4, f"onnxruntime is off by {worst}"
    report("onnxruntime f32", median_ms(lambda: session.run(None, feed), 1, 5))


def main():
    case, threads = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    model, phase, batch = case.rsplit(".", 2)
    if model != "natron_v2":
        return
    if phase == "finetune":
        finetune(int(batch))
    else:
        inference(int(batch), threads)


main()
