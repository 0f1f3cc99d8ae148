"""Compute the traces of toy-sized runs and compare them with the stored ones: `python -m tests.golden`."""

import argparse
import sys

from . import traces


def parser():
    found = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    found.add_argument("--write", action="store_true", help="Store the traces anew in place of comparing them.")
    found.add_argument("--only", default="", metavar="SUBSTRING", help="Take the cases whose names contain this alone.")
    return found


def main(args=None):
    """Compare, or store with --write -> the process's exit code."""
    asked, stored = parser().parse_args(args), traces.stored_traces()
    names = sorted(name for name in {*traces.CASES, *stored} if asked.only in name)
    if not names:
        parser().error(f"no case's name contains {asked.only!r}")
    found = {name: traces.trace(name) for name in names if name in traces.CASES}
    if asked.write:
        others = {name: numbers for name, numbers in stored.items() if asked.only not in name}
        traces.store({**others, **found})
        print(f"{traces.STORED}: {len(found)} traces stored")
        return 0
    lines = [line for name in names for line in traces.differences(name, stored.get(name), found.get(name))]
    print("\n".join(lines) if lines else f"{len(names)} traces agree with the stored ones")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
