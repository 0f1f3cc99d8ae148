"""reports/index.html: one self-contained page of all suites' results. Jinja escapes every text that is put in."""

import base64
from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from ..files import replacing

TYPES = {".png": "image/png", ".svg": "image/svg+xml"}


def data_uri(path):
    return f"data:{TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def write_page(path, suites, pairs):
    """Write the page. suites: each a results.json with its `folder`, where its figures are; pairs: of `compare.paired`."""
    for suite in suites:
        suite["attacks"] = list(dict.fromkeys(name for row in suite["membership"] for name in row["attacks"]))
        suite["baselines"] = list(dict.fromkeys(name for row in suite["rows"] for name in row.get("baselines", {})))
        suite["moves"] = list(dict.fromkeys(std for row in suite["rows"] for std in row.get("moved", {})))
        suite["figures"] = [{**f, "uri": data_uri(suite["folder"] / f["file"])} for f in suite["figures"]]
    template = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True).get_template("page.html")
    with replacing(path) as tmp:
        tmp.write_text(template.render(suites=suites, pairs=pairs))
