"""A row's work in parts that run side by side: the seeds of a cell, the groups of a row of experts.

A part is a process (`--part 2/4`) that leaves in .checkpoints what it has finished, as a stage that was stopped does.
The stage itself comes after its parts, finds all of it there and computes nothing.
"""

import argparse
import collections


def part(text):
    """A part as the command line has it, "2/4" -> (2, 4)."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"found {text!r}; a part is one of several, as 2/4")
    return int(number), int(count)


def share(units, part):
    """Those of `units` that a part does; all of them where part is None."""
    return units[part[0] - 1 :: part[1]] if part else units


def units_of(params, name):
    """How many parts a stage, STAGE@KEY, can have."""
    stage, _, key = name.partition("@")
    if stage == "distill":
        return len(params.cells[key].distill.seeds)
    if stage == "experts":
        return -(-params.experts[key].count // params.experts[key].together)
    return 1


def with_parts(params, waits, slots):
    """{stage: those before it} with parts beside the stages, "STAGE@KEY 2/4", which the stage waits for.

    slots: how many stages run at once. A stage has parts where there are more slots than stages of its kind.
    """
    kinds = collections.Counter(name.partition("@")[0] for name in waits)
    result = {}
    for name, before in waits.items():
        count = min(units_of(params, name), slots // kinds[name.partition("@")[0]])
        parts = [f"{name} {number}/{count}" for number in range(1, count + 1)] if count > 1 else []
        result |= {each: before for each in parts} | {name: [*before, *parts]}
    return result
