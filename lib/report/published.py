"""The published figures, in published.yaml, and which of them a cell is compared with."""

from pathlib import Path

from ..files import read_yaml

TABLE = Path(__file__).with_name("published.yaml")
NO_FIGURE = "no published figure"


def published_figures(path=TABLE):
    """The table, its images per class as texts, as JSON has them."""
    return with_text_keys(read_yaml(path))


def with_text_keys(node):
    return {str(key): with_text_keys(value) for key, value in node.items()} if isinstance(node, dict) else node


def figure_of(table, key, cell, net):
    """The figure for a cell, by its key or by its dataset and ipc, on the architecture it was distilled on, its norm aside; else nothing."""
    if key in table.get("cells", {}):
        return table["cells"][key] if net == cell.distill.net else {}
    settings = cell.distill  # the tables are of sets of pixels, distilled from all classes and images
    plain = settings.class_steps == 1 and not settings.chunk and not settings.rank
    same = plain and net.split("-")[0] == cell.distill.net.split("-")[0]
    suite = table.get(cell.suite if cell.suite in table else cell.method, {})
    return suite.get(cell.dataset, {}).get(str(cell.distill.ipc), {}) if same else {}
