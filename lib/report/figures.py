"""Pictures of the report: galleries of distilled images, plots of accuracy, heat maps."""

import math

import numpy as np
import torch
from PIL import Image

from ..files import replacing, write_json
from ..synthetic.set import rendered
from . import GAP

SENTENCES = 20  # shown of a set
GALLERY_LIMIT = 100  # images shown of a set
GALLERY_WIDTH = 640  # pixels, about
GREY = "#888888"  # legible on a light and on a dark page


def save_preview(path, parts, real):
    """Write a preview of a distilled set, a gallery or sentences, beside its file `path` -> the preview's path.

    parts: snapshots of the set's parts; real: the RealSet that it was distilled from.
    """
    sets = [rendered(part) for part in parts]
    x, y = (torch.cat(tensors) for tensors in list(zip(*sets))[:2])
    if hasattr(real.preprocess, "decode"):
        sentences = zip(real.preprocess.decode(x[:SENTENCES]), y.tolist())
        shown = [{"words": " ".join(words), "label": label} for words, label in sentences]
        write_json(path := path.with_suffix(".json"), shown)
        return path
    minibatches = sets[0].lr.shape[1] if sets[0].lr is not None else 1
    pixels = real.preprocess.invert(x.double())
    save_gallery(path := path.with_suffix(".png"), pixels, gallery_groups(len(x), minibatches, real.num_classes))
    return path


def gallery_groups(n, minibatches, classes):
    """How many equal groups a gallery shows a set in: its classes, or its minibatches where it has several."""
    classes = min(classes, n)
    return classes if minibatches == 1 and n % classes == 0 else minibatches


def gallery(stored, names, cfg):
    """What the page is told of a set's gallery: caption, columns, and a name for each group of images, in its order.

    stored: the tensors of the set's file; names: of the classes by label, or None; cfg: the cell's `distill` section.
    """
    n, minibatches = len(stored["y"]), stored["lr"].shape[1] if "lr" in stored else 1
    classes = max(stored["y"].shape[1], 2)
    groups = gallery_groups(n, minibatches, classes)
    columns, shown = gallery_layout(n, groups)
    if groups != classes:
        kind = "image" if groups == n else "minibatch"
        named = [f"{kind} {i + 1}" for i in range(groups)]
    else:  # with class steps, each seed has an order of its classes
        order = range(groups) if cfg.class_steps == 1 else stored["y"][:: n // groups].argmax(1).tolist()
        named = [names[c] if names else f"class {c}" for c in order]
    return {"caption": f"The distilled images (seed {cfg.seeds[0]})", "columns": columns, "names": named,
            "group": min(n // groups, 10), "shown": len(shown)}  # fmt: skip


def gallery_layout(n, classes):
    """How a class-major set of n images is shown -> (columns, indices of the images shown).

    At most ten images of a class, in rows of at most ten that hold whole classes.
    """
    ipc = n // classes
    columns = min(max(10 // ipc, 1) * min(ipc, 10), n)
    return columns, [c * ipc + i for c in range(classes) for i in range(min(ipc, 10))][:GALLERY_LIMIT]


def save_gallery(path, pixels, num_classes):
    """Write images (N, K, H, W) in [0, 1], class-major, as a PNG grid."""
    n, _, height, width = pixels.shape
    columns, shown = gallery_layout(n, num_classes)
    rows = math.ceil(len(shown) / columns)
    scale = max(1, GALLERY_WIDTH // (columns * (width + GAP)))
    width, height = width * scale, height * scale
    sheet = Image.new("RGBA", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), (0, 0, 0, 0))
    arrays = (pixels.clamp(0, 1).cpu().numpy().transpose(0, 2, 3, 1) * 255).round().astype(np.uint8)
    for k, i in enumerate(shown):
        image = Image.fromarray(arrays[i].squeeze()).convert("RGB")
        image = image.resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(image, (k % columns * (width + GAP), k // columns * (height + GAP)))
    with replacing(path) as tmp:
        sheet.save(tmp, format="PNG", optimize=True)


def _axes(xlabel, ylabel="test accuracy (%)", size=(6.4, 3.6), panels=(1, 1)):
    """A transparent figure of panels (rows, columns), legible on both page colours -> (figure, list of its axes)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # Fixed ids and no date: the same data give the same file.
    pyplot.rcParams.update({"svg.hashsalt": "distillery", "svg.fonttype": "none"})
    pyplot.rcParams.update({"font.size": 11, "text.color": GREY, "font.family": "sans-serif"})
    figure, grid = pyplot.subplots(*panels, figsize=size, layout="constrained", squeeze=False)
    figure.patch.set_alpha(0)
    figure.supxlabel(xlabel, fontsize=11)
    figure.supylabel(ylabel, fontsize=11)
    for axes in grid.flat:
        axes.patch.set_alpha(0)
        for spine in axes.spines.values():
            spine.set_color(GREY)
        axes.tick_params(colors=GREY, which="both", labelsize=9)
        axes.grid(True, color=GREY, alpha=0.25)
    return figure, list(grid.flat)


def _save(figure, path):
    from matplotlib import pyplot

    for axes in figure.axes:
        if axes.get_legend_handles_labels()[1]:
            axes.legend(frameon=False, labelcolor=GREY, fontsize=9)
    with replacing(path) as tmp:
        figure.savefig(tmp, format="svg", transparent=True, metadata={"Date": None})
    pyplot.close(figure)


def plot_experts(path, curves, published):
    """Accuracy of experts against epochs; bands are the deviation.

    curves: {label: (experts, epochs)}; published: {label: {epoch: (mean, std)}}.
    """
    figure, (axes,) = _axes("epochs")
    for i, (label, accuracies) in enumerate(curves.items()):
        colour, mean, std = f"C{i}", accuracies.mean(0), accuracies.std(0)
        epochs = np.arange(1, accuracies.shape[1] + 1)
        axes.plot(epochs, mean, colour, lw=1.2, label=label)
        axes.fill_between(epochs, mean - std, mean + std, color=colour, alpha=0.2, lw=0)
        if label in published:
            epochs, points = zip(*sorted(published[label].items()))
            style = {"color": colour, "ls": "", "marker": "o", "ms": 4, "capsize": 3}
            axes.errorbar(epochs, *zip(*points), label=f"{label}, published", **style)
    _save(figure, path)


def plot_ipc(path, lines):
    """Accuracy against images per class. lines: {label: [(ipc, mean, std), ...]}; bars are the deviation."""
    figure, (axes,) = _axes("images per class")
    ticks = sorted({ipc for points in lines.values() for ipc, _, _ in points})
    for label, points in lines.items():
        ipc, mean, std = zip(*sorted(points))
        axes.errorbar(ipc, mean, std, marker="o", ms=4, lw=1.2, capsize=3, label=label)
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.minorticks_off()
    _save(figure, path)


def plot_continual(path, curves):
    """Accuracy on the classes seen so far. curves: {label: (classes seen (T,), mean (T,), std (T,))}; bands are std."""
    figure, (axes,) = _axes("classes seen")
    for label, (classes, mean, std) in curves.items():
        axes.plot(classes, mean, marker="o", ms=4, lw=1.2, label=label)
        axes.fill_between(classes, mean - std, mean + std, alpha=0.2, lw=0)
    _save(figure, path)


def plot_membership(path, lines):
    """AUC of the best attack against accuracy. lines: {label: [(accuracy, auc, half interval), ...]}, by updates."""
    figure, (axes,) = _axes("test accuracy (%)", "AUC of the best attack")
    for label, points in lines.items():
        accuracy, auc, half = zip(*points)
        axes.errorbar(accuracy, auc, half, marker="o", ms=4, lw=1.2, capsize=3, label=label)
    axes.axhline(0.5, color=GREY, lw=1, ls=":")
    _save(figure, path)


def plot_heat(path, rows, columns, values):
    """A heat map of values (rows, columns), NaN where nothing was measured."""
    figure, (axes,) = _axes("", "", (1.6 + 0.95 * len(columns) + 0.07 * max(map(len, rows)), 1.2 + 0.36 * len(rows)))
    axes.grid(False)
    axes.imshow(values, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=25, ha="right")
    axes.set_yticks(range(len(rows)), rows)
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for (i, j), value in np.ndenumerate(values):
        if not np.isnan(value):
            colour = "black" if value > middle else "white"
            axes.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=9, color=colour)
    _save(figure, path)
