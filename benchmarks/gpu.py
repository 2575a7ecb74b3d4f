"""python -m benchmarks.gpu [--phases]: both kernels on a GPU against PyTorch, by turns, answers compared.

A time is what CUDA events around one call measure, what Python does before its first kernel included, with the device
idle beforehand: the median of the turns. `--phases` prints the kernels of ours, and what the call costs the host.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated

import torch
import typer
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.contest import OURS
from benchmarks.loss import in_torch
from pymetaner.ops import cuda

TURNS = 30
TOPK = [
    (14_041, 1, 768, 2),
    (14_041, 64, 768, 2),
    (14_041, 4_096, 768, 2),
    (1_000_000, 64, 768, 16),
    (1_000_000, 1_024, 768, 16),
]
LOSS = [(32, 128), (1_024, 128), (8_192, 128)]
Contenders = dict[str, Callable[[], object]]


def times(contenders: Contenders) -> dict[str, float]:
    """Milliseconds of each contender: the median of TURNS turns, in which they take part one after another."""
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(TURNS + 3):
        for name, function in contenders.items():
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize()
            start.record()
            function()
            end.record()
            torch.cuda.synchronize()
            if turn >= 3:
                taken[name].append(start.elapsed_time(end))
    return {name: statistics.median(values) for name, values in taken.items()}


def host(function: Callable[[], object], calls: int) -> float:
    """Microseconds that a call keeps the host."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        function()
    taken = (time.perf_counter() - start) / calls * 1e6
    torch.cuda.synchronize()
    return taken


def phases(function: Callable[[], object]) -> Iterator[tuple[str, float]]:
    """(name, microseconds a call) of the kernels of a function, and of the host while it launches them."""
    calls = 10
    yield "host", host(function, calls)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(calls):
            function()
        torch.cuda.synchronize()
    for kernel in profile.key_averages():
        if kernel.device_time_total > 0:
            yield kernel.key.removeprefix("void ")[:70], kernel.device_time_total / calls


def topk(size: int, count: int, dim: int, k: int) -> Contenders:
    """Ours, with the bank encoded beforehand, and PyTorch in float32 and, inexact, in bfloat16."""
    bank = normalize(torch.randn(size, dim, device="cuda"))
    queries = normalize(torch.randn(count, dim, device="cuda"))
    encoded, narrow = cuda.encode(bank), bank.bfloat16()
    scores, _ = cuda.cosine_topk(queries, encoded, k)
    torch.testing.assert_close(scores, (queries @ bank.T).topk(k).values, rtol=0, atol=1e-5)
    return {
        OURS: lambda: cuda.cosine_topk(queries, encoded, k),
        "torch": lambda: (queries @ bank.T).topk(k),
        "torch, bfloat16, inexact": lambda: (queries.bfloat16() @ narrow.T).topk(k),
    }


def loss(sentences: int, tokens: int) -> Contenders:
    """Ours in one call, and PyTorch's formula, eager and compiled, forward and backward."""
    logits = torch.randn(sentences, tokens, 13, device="cuda")
    labels = torch.randint(0, 13, (sentences, tokens), device="cuda")
    labels[torch.rand(labels.shape, device="cuda") < 0.3] = -100
    leaf = logits.clone().requires_grad_()
    compiled = torch.compile(in_torch)

    def backward(function: Callable[[Tensor, Tensor, float], Tensor]) -> Tensor:
        return torch.autograd.grad(function(leaf, labels, 2.0).sum(), leaf)[0]

    _, gradient = cuda.masked_token_loss_with_gradient(logits, labels, 2.0)
    torch.testing.assert_close(gradient, backward(in_torch), rtol=1e-4, atol=1e-5)
    return {
        OURS: lambda: cuda.masked_token_loss_with_gradient(logits, labels, 2.0),
        "torch, eager": lambda: backward(in_torch),
        "torch.compile": lambda: backward(compiled),
    }


def main(
    show_phases: Annotated[bool, typer.Option("--phases", help="the time of each kernel of ours")] = False,
) -> None:
    """Prints every case and contender, and how many times longer than ours it takes."""
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    cases = [(f"top-k {case}", partial(topk, *case)) for case in TOPK]
    cases += [(f"loss {case} x 13", partial(loss, *case)) for case in LOSS]
    if show_phases:
        rows = torch.randn(1, 64, device="cuda")
        encoded = cuda.encode(rows)
        print(f"host, an allocation: {host(lambda: rows.new_empty((64, 2)), 100):.1f} us")
        print(f"host, one kernel: {host(lambda: cuda.extension().encode(encoded.pointers, 0), 100):.1f} us")
    for name, make in cases:
        contenders = make()
        taken = times(contenders)
        for contender, milliseconds in taken.items():
            print(f"{name:36} {contender:26} {milliseconds:8.3f} ms {milliseconds / taken[OURS]:7.2f}", flush=True)
        if show_phases:
            for phase, microseconds in phases(contenders[OURS]):
                print(f"    {phase:70} {microseconds:10.1f} us", flush=True)


if __name__ == "__main__":
    typer.run(main)
