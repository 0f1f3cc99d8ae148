"""The published figures, in published.yaml, and which of them a cell is compared with."""

import re
from pathlib import Path

from ..files import read_yaml

TABLE = Path(__file__).with_name("published.yaml")
NO_FIGURE = "no published figure"


def published_figures(path=TABLE):
    """{suite: {dataset: {ipc: figure}}}, and `cells` {key: figure}, `complexity`, `experts`; ipc is a text, as in JSON.

    A figure is {mean, std, status, source}: published with a source, or unverified without one; where another value is
    printed too, with it as `second`. `networks` {suite or method: (distilled with, judged by)}.
    """
    table = read_yaml(path)
    sources = table.pop("sources")

    def expanded(node):
        if isinstance(node, dict):
            return {str(key): expanded(value) for key, value in node.items()}
        if isinstance(node, list) and isinstance(node[0], list):
            return expanded(node[0]) | {"second": expanded(node[1])}
        if not isinstance(node, list) or len(node) != 3:  # of `complexity`, `experts` and `networks`
            return node
        mean, std, source = node
        if source == "unverified":
            return {"mean": mean, "std": std, "status": source}
        return {"mean": mean, "std": std, "status": "published", "source": sources[source]}

    return expanded(table)


def figure_of(table, key, cell, net):
    """The published figure of a cell on a network; {} where there is none.

    By its key, on the network that it was distilled with; or by its suite or method, dataset and ipc, where both
    networks are those of the table.
    """
    if key in table.get("cells", {}):
        return table["cells"][key] if net == cell.distill.net else {}
    cfg = cell.distill  # the tables are of sets of pixels, distilled from all classes and images
    plain = cfg.class_steps == 1 and not cfg.chunk and not cfg.rank
    name = cell.suite if cell.suite in table else cell.method
    (kind, depth), (judge, judge_depth) = without_depth(cfg.net), without_depth(net)
    if not plain or depth != judge_depth or (kind, judge) != tuple(table["networks"].get(name, ())):
        return {}
    return table[name].get(cell.dataset, {}).get(str(cfg.ipc), {})


def without_depth(net):
    """(`conv-batch`, `3`) of `conv3-batch`; a network of one depth alone has none."""
    depth = re.search(r"(?<=[a-z])\d(?=-|$)", net)
    return (net[: depth.start()] + net[depth.end() :], depth[0]) if depth else (net, "")
