"""reports/index.html: one self-contained page of all suites' results. Jinja escapes every text that is put in."""

import base64
from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from ..files import read_json, replacing

TYPES = {".png": "image/png", ".svg": "image/svg+xml"}


def data_uri(path):
    return f"data:{TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def write_page(reports):
    """Write `reports`/index.html from every `reports`/SUITE/results.json and the figures beside it."""
    suites = []
    for path in sorted(Path(reports).glob("*/results.json")):
        content = read_json(path)
        figures = [{**f, "uri": data_uri(path.parent / f["file"])} for f in content["figures"]]
        suites.append({**content, "figures": figures})
    template = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True).get_template("page.html")
    with replacing(Path(reports) / "index.html") as tmp:
        tmp.write_text(template.render(suites=suites))
