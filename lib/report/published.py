"""The published figures, in published.yaml, and which of them a cell is compared with."""

from pathlib import Path

from ..files import read_yaml

TABLE = Path(__file__).with_name("published.yaml")
NO_FIGURE = "no published figure"


def published_figures(path=TABLE):
    """{suite: {dataset: {ipc: figure}}}, and `cells` {key: figure}, `complexity`, `experts`; ipc is a text, as in JSON.

    A figure is {mean, std, status, source}: published with a source, or unverified without one.
    """
    table = read_yaml(path)
    sources = table.pop("sources")

    def expanded(node):
        if isinstance(node, dict):
            return {str(key): expanded(value) for key, value in node.items()}
        if not isinstance(node, list) or len(node) != 3:  # of `complexity` and `experts`
            return node
        mean, std, source = node
        if source == "unverified":
            return {"mean": mean, "std": std, "status": source}
        return {"mean": mean, "std": std, "status": "published", "source": sources[source]}

    return expanded(table)


def figure_of(table, key, cell, net):
    """The published figure of a cell, by its key, or by its suite or method, dataset and ipc; {} where there is none.

    It must belong to the network that the set was distilled with, apart from its norm.
    """
    if key in table.get("cells", {}):
        return table["cells"][key] if net == cell.distill.net else {}
    cfg = cell.distill  # the tables are of sets of pixels, distilled from all classes and images
    plain = cfg.class_steps == 1 and not cfg.chunk and not cfg.rank
    if not plain or net.split("-")[0] != cfg.net.split("-")[0]:
        return {}
    suite = table.get(cell.suite if cell.suite in table else cell.method, {})
    return suite.get(cell.dataset, {}).get(str(cfg.ipc), {})
