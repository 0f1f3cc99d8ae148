"""What stages cost that run side by side: their work, and the least time that it takes on one device and on several."""

import collections
import heapq

from lib.training.work import H100

from .cost import rate_of
from .parts import with_parts
from .work import work_of_cell, work_of_evaluations, work_of_experts

GPUS = (1, 8, 64)


def cost_of_stages(params, waits, device=None):
    """The work of all that distil and train among the stages {STAGE@KEY: those before it}, in sentences.

    device: this machine's, where they run here. Where FLOPs are not known, of a folder of the user's, they count as 0.
    """
    works = {name: flops_of(params, name, device) for name in waits}
    rows = {name.partition("@")[2] for name in waits if name.startswith("experts@")}
    disk = sum(work[4] for row in rows if (work := work_of_experts(params, row))) / 1e9
    total = sum(flops for work in works.values() for flops, _ in work)
    text = f"work: {total / 1e15:.3g} PFLOP; experts on disk: {disk:.1f} GB"
    if device:
        here = sum(flops / rate_of(dtype, device) for work in works.values() for flops, dtype in work) / 3600
        text += f"\ntime: at least {here:.3g} hours of one {device.type.upper()} like this machine's"
    seconds = {name: sum(flops / H100[dtype] for flops, dtype in work) for name, work in works.items()}
    least = [makespan(*divided(with_parts(params, waits, gpus), seconds), gpus) / 3600 for gpus in GPUS]
    hours = ", ".join(f"{each:.3g}" for each in least)
    return f"{text}\non {', '.join(map(str, GPUS))} H100s at the peak of their data sheet: at least {hours} hours"


def flops_of(params, name, device=None):
    """[(FLOPs, their dtype), ...] of a stage that trains experts, distils or evaluates; none where not known."""
    stage, _, key = name.partition("@")
    works = []
    if stage == "experts":
        works.append(work_of_experts(params, key))
    if stage == "distill":
        works.append(work_of_cell(params, key, device))
    if stage in ("distill", "evaluate") and (evaluations := work_of_evaluations(params, key, device)):
        flops, dtype = evaluations[stage == "evaluate"]
        works.append((flops, 1, 1, dtype))
    return [(flops * steps * runs, dtype) for flops, steps, runs, dtype, *_ in filter(None, works)]


def divided(waits, seconds):
    """The same stages and parts, and {each: its seconds}. Parts share the time of their stage, which then has none."""
    times = {name: seconds.get(name, 0) for name in waits}
    for name in (name for name in waits if " " in name):
        stage, _, part = name.partition(" ")
        times[name], times[stage] = seconds[stage] / int(part.partition("/")[2]), 0
    return waits, times


def makespan(waits, seconds, slots):
    """Seconds until all have ended, if each starts on the first free one of `slots` after those before it."""
    missing = {name: sum(each in waits for each in before) for name, before in waits.items()}
    after, ready = collections.defaultdict(list), collections.deque(name for name in waits if not missing[name])
    for name, before in waits.items():
        for each in before:
            after[each].append(name)
    now, running = 0.0, []
    while ready or running:
        while ready and len(running) < slots:
            name = ready.popleft()
            heapq.heappush(running, (now + seconds[name], name))
        now, ended = heapq.heappop(running)
        for name in after[ended]:
            missing[name] -= 1
            if not missing[name]:
                ready.append(name)
    return now
