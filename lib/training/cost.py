"""What a run will cost, before it starts: its FLOPs over this device's measured rate of matrix products."""

import time

import torch

from ..progress import duration


def seconds_in_turns(functions, device, repeats):
    """Median seconds of each function(i), after two warm-up calls; called in turns, so that other load falls on all."""
    times = [[] for _ in functions]
    for i in range(repeats + 2):
        for function, durations in zip(functions, times):
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            started = time.perf_counter()
            function(i)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            durations.append(time.perf_counter() - started)
    return [sorted(durations[2:])[repeats // 2] for durations in times]


def seconds(function, device, repeats):
    """Median seconds of `function(i)`."""
    return seconds_in_turns([function], device, repeats)[0]


def matmul_rate(dtype, device, repeats=9, n=None):
    """FLOP/s of a square matrix product in the named dtype: an upper bound for convolutions on this device."""
    n = n or (2048 if device.type == "cpu" else 8192)
    a, b = (torch.randn(n, n, device=device).to(getattr(torch, dtype.replace("tf32", "float32"))) for _ in range(2))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else before)
    try:
        return 2 * n**3 / seconds(lambda i: a @ b, device, repeats)
    finally:
        torch.set_float32_matmul_precision(before)


def describe(step_flops, steps, runs, dtype, rate):
    """One sentence for a person who is about to spend the time."""
    total = step_flops * steps * runs
    return (
        f"cost: {step_flops / 1e9:.3g} GFLOP a step, {steps} steps, {runs} run(s): {total / 1e15:.3g} PFLOP; "
        f"at least {duration(total / rate)} at this device's {rate / 1e12:.3g} TFLOP/s in {dtype}"
    )


def describe_evaluations(during, last):
    """What evaluations cost, by (FLOPs, FLOP/s) of those during the runs and of those of the finished sets."""
    each = (f"{flops / 1e15:.3g} PFLOP, at least {duration(flops / rate)}" for flops, rate in (during, last))
    return "evaluations: during the runs {}; of the sets {}".format(*each)
