"""All suites' results as one self-contained HTML page, in which Jinja escapes every text, and as Markdown tables."""

import base64
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, select_autoescape

from ..files import replacing

TYPES = {".png": "image/png", ".svg": "image/svg+xml"}


def data_uri(path):
    return f"data:{TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def duration(seconds):
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


TEMPLATES = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=select_autoescape(["html"]))
TEMPLATES.filters |= {"duration": duration, "f1": "{:.1f}".format, "f3": "{:.3f}".format}


def write_page(folder, suites, pairs, external=()):
    """Write index.html and README.md.

    suites: each a results.json with its `folder`, where its figures are; pairs, external: rows of `compare`.
    """
    for suite in suites:
        suite["attacks"] = list(dict.fromkeys(name for row in suite["membership"] for name in row["attacks"]))
        suite["baselines"] = list(dict.fromkeys(name for row in suite["rows"] for name in row.get("baselines", {})))
        suite["perturbations"] = list(dict.fromkeys(std for row in suite["rows"] for std in row.get("perturbed", {})))
        suite["figures"] = [{**f, "uri": data_uri(suite["folder"] / f["file"])} for f in suite["figures"]]
    for template, name in (("page.html", "index.html"), ("page.md", "README.md")):
        with replacing(folder / name) as tmp:
            tmp.write_text(TEMPLATES.get_template(template).render(suites=suites, pairs=pairs, external=external))
