"""All suites' results as one self-contained HTML page, in which Jinja escapes every text, and as Markdown tables."""

import base64
import io
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, select_autoescape
from PIL import Image

from ..files import replacing
from ..progress import duration
from . import GAP
from .charts import chart
from .compare import JUDGED, measured_text

METHOD_NAMES = {"frepo": "FRePo", "rat": "RaT-BPTT"}  # the others are capitals
TYPES = {".png": "image/png", ".svg": "image/svg+xml"}
SHOWN_PIXELS = 56  # about, of an image's side on the page; whole multiples of its own pixels
PHONE_PIXELS = 280  # a row of images fits a phone
STRIP = 4  # sets on top of the page
LARGE = 64  # pixels of a side; from it on a gallery is a file beside the page, loaded when it is looked at
NOT_RUN = "not run yet"


def write_page(folder, suites, pairs, external=(), published=()):
    """Write index.html and README.md.

    suites: each a results.json with its `folder`, where its figures are; pairs, external: rows of `compare`; published:
    every published figure, with its cell and network.
    """
    rows = [row for suite in suites for row in suite["rows"]]
    for suite in suites:
        suite["attacks"] = list(dict.fromkeys(name for row in suite["membership"] for name in row["attacks"]))
        suite["baselines"] = list(dict.fromkeys(name for row in suite["rows"] for name in row.get("baselines", {})))
        suite["perturbations"] = list(dict.fromkeys(std for row in suite["rows"] for std in row.get("perturbed", {})))
        for figure in suite["figures"]:
            figure |= shown(suite["folder"], figure)
        suite["cards"] = cards(suite)
    by_cell = {card["cell"]: card for suite in suites for card in suite["cards"]}
    values = {
        "suites": suites, "rows": rows, "pairs": pairs, "external": external,
        "counts": counts(rows, published), "overview": overview(rows, published), "times": against_time(suites),
        "strip": strip(by_cell.values()), "beside": side_by_side(by_cell.values()),
        "sizes": against_bytes(by_cell.values()),
    }  # fmt: skip
    for name, form in {"index.html": TEMPLATES, "README.md": TEMPLATES.overlay(finalize=markdown)}.items():
        with replacing(folder / name) as tmp:
            tmp.write_text(form.get_template(name).render(values), encoding="utf-8")


def markdown(value):
    """A value of README.md as text: what would end a cell of its tables, or begin code or HTML, is escaped."""
    if not isinstance(value, str):
        return value
    return " ".join(value.split("\n")).replace("|", "\\|").replace("`", "'").replace("<", "&lt;")


def data_uri(kind, data):
    return f"data:{TYPES[kind]};base64,{base64.b64encode(data).decode()}"


def shown(folder, figure):
    """What the page needs of a figure: its `uri`; of a gallery the `tiles` {name, uri, width, height}, in pixels."""
    path = folder / figure["file"]
    if "names" not in figure:
        return {"uri": data_uri(path.suffix, path.read_bytes())}
    with Image.open(path) as sheet:
        sheet = sheet.convert("RGBA")
    columns, side = figure["columns"], (sheet.width + GAP) // figure["columns"] - GAP
    scale = next(s for s in range(side, 0, -1) if side % s == 0 and is_scaled(sheet, side, s))
    size, tiles = side // scale, []
    if size >= LARGE:
        return {"href": f"{folder.name}/{figure['file']}", "width": sheet.width, "height": sheet.height}
    for first, name in zip(range(0, figure["shown"], figure["group"]), figure["names"]):
        picture = Image.new("RGB", (size * figure["group"], size))
        for k in range(figure["group"]):
            left, top = ((first + k) % columns * (side + GAP), (first + k) // columns * (side + GAP))
            tile = sheet.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.NEAREST)
            picture.paste(tile, (k * size, 0))
        picture.save(data := io.BytesIO(), format="PNG", optimize=True)
        tiles.append({"name": name, "uri": data_uri(".png", data.getvalue())})
    zoom = max(min(round(SHOWN_PIXELS / size), PHONE_PIXELS // (size * figure["group"])), 1)
    return {"tiles": tiles, "size": size, "width": size * figure["group"] * zoom, "height": size * zoom}


def is_scaled(sheet, side, scale):
    """Whether the first image of a sheet consists of squares of scale x scale equal pixels."""
    tile = sheet.crop((0, 0, side, side))
    small = tile.resize((side // scale,) * 2, Image.Resampling.NEAREST)
    return small.resize((side, side), Image.Resampling.NEAREST).tobytes() == tile.tobytes()


def cards(suite):
    """One entry for each cell of a suite: its rows, the first of them as `row`, its pictures and learning curve."""
    made = []
    for cell in dict.fromkeys(row["cell"] for row in suite["rows"]):
        rows = [row for row in suite["rows"] if row["cell"] == cell]
        figures = [figure for figure in suite["figures"] if figure.get("cell") == cell]
        pictures = next((figure for figure in figures if "names" in figure), None)
        seeds = suite.get("curves", {}).get(cell, {})
        lines = [line(rows[0], f"seed {seed}", points, "step") for seed, points in seeds.items() if len(points) > 1]
        curve = chart(f"Accuracy during distillation of {cell}", "outer steps", "test accuracy (%)", lines=lines)
        figures = [figure for figure in figures if figure is not pictures]
        card = {"cell": cell, "anchor": anchor(cell), "rows": rows, "row": rows[0], "pictures": pictures}
        made.append(card | {"figures": figures, "curve": curve})
    return made


def anchor(cell):
    return f"cell-{cell}"


def line(row, name, points, along, unit=1):
    """A line of a chart: accuracy against what `along` names of a run's evaluations."""
    return {
        "points": [(point[along] / unit, point["accuracy"]) for point in points], "kind": row["method"],
        "title": f"{row['cell']}, {name}", "href": f"#{anchor(row['cell'])}",
    }  # fmt: skip


def counts(rows, published):
    """{judgement: how many published figures have it as their best one}, of all that were read in a publication."""
    best, figures = {}, {}
    for row in rows:
        if row["judged"] in JUDGED[:4]:
            key = figure_key(row, row["published_mean"], row["published_source"])
            best[key] = min(best.get(key, 9), JUDGED.index(row["judged"]))
    for figure in published:
        if figure["status"] == "published":
            key = figure_key(figure, figure["mean"], figure["source"])
            figures[key] = JUDGED[best[key]] if key in best else NOT_RUN
    found = list(figures.values())
    return {name: found.count(name) for name in (*JUDGED[:4], NOT_RUN)} | {"all": len(found)}


def figure_key(entry, mean, source):
    return tuple(entry[name] for name in ("method", "dataset", "ipc", "network")) + (mean, source)


def overview(rows, published):
    """The chart of measured against published accuracy."""
    dots = []
    for row in rows:
        mean, status = row["published_mean"], row["budget"] if row["budget"] == "reduced" else ""
        if mean is None:
            mean, status = row["unverified_mean"], "unverified figure"
        if mean is None:
            continue
        title = f"{row['cell']} on {row['network']}: {measured_text(row)} measured, {mean} published"
        dots.append({
            "x": mean, "y": row["accuracy_mean"], "dx": row["published_std"], "dy": row["accuracy_std"],
            "kind": row["method"], "hollow": bool(status), "href": f"#{anchor(row['cell'])}",
            "title": title + (f" ({status})" if status else ""),
        })  # fmt: skip
    run = {(row["cell"], row["network"]) for row in rows}
    marks = [
        {"x": figure["mean"], "title": f"{figure['cell']} on {figure['network']}: {figure['mean']}, {NOT_RUN}"}
        for figure in published
        if figure["status"] == "published" and (figure["cell"], figure["network"]) not in run
    ]
    title = "Measured against published test accuracy"
    return chart(title, "published (%)", "measured (%)", dots=dots, marks=marks, percent=True)


def accuracy(card):
    return card["row"]["accuracy_mean"]


def strip(all_cards):
    """The sets on top of the page: of each dataset and method the most accurate one, larger images first."""
    best = {}
    for card in all_cards:
        pictures = card["pictures"]
        if pictures and "tiles" in pictures and pictures["group"] == 1 and len(pictures["tiles"]) <= 10:
            key = card["row"]["dataset"], card["row"]["method"]
            best[key] = max(best.get(key, card), card, key=accuracy)
    return sorted(best.values(), key=lambda card: (-card["pictures"]["size"], -accuracy(card)))[:STRIP]


def side_by_side(all_cards):
    """[(dataset, ipc, cards)] where several methods learned as many images of a dataset; the best first."""
    groups = {}
    for card in all_cards:
        if card["pictures"] and "tiles" in card["pictures"]:
            groups.setdefault((card["row"]["dataset"], card["row"]["ipc"]), []).append(card)
    return [
        (*key, sorted(group, key=accuracy, reverse=True))
        for key, group in groups.items()
        if len({card["row"]["method"] for card in group}) > 1
    ]


def against_time(suites):
    """A chart a dataset and images per class: accuracy against the processor time of the steps."""
    groups = {}
    for suite in suites:
        first = {card["cell"]: card["row"] for card in suite["cards"]}
        for cell, seeds in suite.get("curves", {}).items():
            for seed, points in seeds.items():
                timed = [point for point in points if point.get("cpu_s")]
                if len(timed) > 1:
                    row, last = first[cell], timed[-1]
                    name = f"seed {seed}: {last['accuracy']:.1f} % after {duration(last['cpu_s'])}"
                    groups.setdefault((row["dataset"], row["ipc"]), []).append((row, name, timed))
    charts = []
    for (dataset, ipc), runs in groups.items():
        title = f"{dataset}, {ipc} image{'s' * (ipc > 1)} a class"
        minutes = max(timed[-1]["cpu_s"] for _, _, timed in runs) > 300
        lines = [line(*run, "cpu_s", 60 if minutes else 1) for run in runs]
        figures = {row["published_mean"] or row["unverified_mean"] for row, _, _ in runs} - {None}
        levels = [{"y": figure, "title": f"{figure} published"} for figure in sorted(figures)]
        unit = "minutes" if minutes else "seconds"
        charts.append(chart(title, f"processor {unit}", "test accuracy (%)", lines=lines, levels=levels, log=True))
    return charts


def against_bytes(all_cards):
    """A chart a dataset: accuracy against the bytes of a stored set, so that factors and learned labels count too."""
    groups = {}
    for card in all_cards:
        row = card["row"]
        if row["stored_bytes"] and row["settings"]["class_steps"] == 1:
            text = f"{row['cell']} on {row['network']}: {measured_text(row)} %, {row['stored_bytes'] / 1024:,.1f} KiB"
            dot = {"x": row["stored_bytes"] / 1024, "y": row["accuracy_mean"], "dy": row["accuracy_std"]}
            dot |= {"kind": row["method"], "title": text, "href": f"#{anchor(row['cell'])}"}
            groups.setdefault(row["dataset"], []).append(dot)
    charts = [(name, dots) for name, dots in groups.items() if len({dot["x"] for dot in dots}) > 1]
    return [chart(name, "stored KiB of a set", "test accuracy (%)", dots=dots, log=True) for name, dots in charts]


TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=select_autoescape(["html", "svg"]),
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters |= {"duration": duration, "f1": "{:.1f}".format, "f3": "{:.3f}".format, "measured": measured_text}
TEMPLATES.filters |= {"method": lambda name: METHOD_NAMES.get(name, name.upper())}
TEMPLATES.globals |= {"anchor": anchor}
