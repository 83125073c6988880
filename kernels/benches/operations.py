"""PyTorch's side of `operations.rs`: answers each line of its input, the name of a case, with the milliseconds of a step."""

import sys
import time

import torch

torch.set_num_threads(int(sys.argv[1]))
torch.manual_seed(1)


def lstm():
    layer = torch.nn.LSTM(36, 128, num_layers=2, bidirectional=True, batch_first=True)
    x = torch.randn(32, 50, 36)

    def step():
        layer.zero_grad()
        layer(x)[0].square().mean().backward()

    return step


def causal_convolution():
    dilations = [1, 2, 4, 8] * 2
    layers = torch.nn.ModuleList(torch.nn.Conv1d(64, 64, 3, dilation=d) for d in dilations)
    x = torch.randn(32, 64, 96)

    def step():
        layers.zero_grad()
        y = x
        for layer, dilation in zip(layers, dilations):
            y = layer(torch.nn.functional.pad(y, (2 * dilation, 0)))
        y.square().mean().backward()

    return step


steps = {"lstm": lstm(), "causal_convolution": causal_convolution()}
for line in sys.stdin:
    step = steps.get(line.strip())
    start = time.perf_counter()
    if step:
        step()
    print((time.perf_counter() - start) * 1e3 if step else "nan", flush=True)
