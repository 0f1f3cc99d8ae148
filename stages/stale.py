"""Which stages are stale, and in which order they can run: by DVC's own graph and status."""

import subprocess
import sys

from lib.config.settings import ParamsError


def stale(targets):
    """The stale stages that the targets (suites, or STAGE@KEY) need -> {address: all stages before it}, in order.

    All stages where no target is named. The plan is brought up to date first. ParamsError for an unknown target.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from networkx import topological_sort

    if subprocess.run([sys.executable, "-m", "dvc", "repro", "--quiet", "--single-item", "plan"]).returncode:
        sys.exit(1)  # it has said why
    try:
        with Repo() as repo:
            graph, changed = repo.index.graph, repo.status(targets or None, with_deps=True)
            parts = [repo.stage.collect(target, with_deps=True) for target in targets] or [graph]
    except DvcException as error:
        raise ParamsError(f"fanout: {error}; a target is a suite or STAGE@KEY, as `dvc stage list` has them") from None
    wanted, waits = {each.addressing for part in parts for each in part} - {"plan"}, {}
    for each in reversed([*topological_sort(graph)]):  # an edge goes from a stage to one that it needs
        name = each.addressing
        before = [other.addressing for other in graph.successors(each)]
        if name in wanted and (name in changed or waits.keys() & before):
            waits[name] = before
    return waits
