"""Charts of the page, as inline SVG that templates/chart.svg draws: dots and lines are links and tell their values.

Figures that are files of their own come from matplotlib (figures.py); these follow the page's colours and its anchors.
"""

import math
from dataclasses import dataclass

from matplotlib.ticker import LogLocator, MaxNLocator

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 12, 52  # margins
PADDING = 0.05  # of an axis, on either side of its values
GRAPHS = "lines", "dots", "marks", "levels"


@dataclass
class Axis:
    """From values to pixels."""

    label: str
    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @classmethod
    def around(cls, label, values, start, end, log=False):
        """An axis that holds all values; log: they are above 0."""
        low, high = min(values), max(values)
        if log:
            low, high = math.log10(low), math.log10(high)
        padding = (high - low or 1) * PADDING
        low, high = low - padding, high + padding
        return cls(label, *((10**low, 10**high) if log else (low, high)), start, end, log)

    def at(self, value):
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return round(self.start + (self.end - self.start) * (value - low) / (high - low), 1)

    def ticks(self):
        """[(pixel, text)] of round values within the axis."""
        locator = LogLocator(subs=(1.0, 2.0, 5.0)) if self.log else MaxNLocator(6)
        values = [v for v in locator.tick_values(self.low, self.high) if self.low <= v <= self.high]
        return [(self.at(v), f"{v:,.6g}") for v in values]


def chart(title, x_label, y_label, *, log=False, percent=False, **graphs):
    """What templates/chart.svg draws; None without a dot or a line.

    log: a logarithmic x axis; percent: both axes go from 0 to 100, with a line where they are equal.

    lines: {"points": [(x, y)], "kind", "title", "href"}; dots: {"x", "y", "kind", "title", "href"} and perhaps "dx",
    "dy" (half lengths of error bars) and "hollow"; marks: {"x", "title"}, ticks below; levels: {"y", "title"},
    horizontals. kind: a CSS class that gives the colour.
    """
    lines, dots, marks, levels = (graphs.get(name, []) for name in GRAPHS)
    if not lines and not dots:
        return None
    points = [point for line in lines for point in line["points"]] + [(dot["x"], dot["y"]) for dot in dots]
    points += [(dot["x"], dot["y"] + sign * (dot.get("dy") or 0)) for dot in dots for sign in (-1, 1)]
    ends = [0, 100] if percent else []
    xs = [x for x, _ in points] + [mark["x"] for mark in marks] + ends
    ys = [y for _, y in points] + [level["y"] for level in levels] + ends
    x = Axis.around(x_label, xs, LEFT, WIDTH - RIGHT, log)
    y = Axis.around(y_label, ys, HEIGHT - BOTTOM, TOP)
    for line in lines:
        line["path"] = " ".join(f"{x.at(a)},{y.at(b)}" for a, b in line["points"])
    for dot in dots:
        for name, axis, half in (("x", x, "dx"), ("y", y, "dy")):
            at = axis.at(dot[name])
            dot |= {f"c{name}": at, half: abs(axis.at(dot[name] + (dot.get(half) or 0)) - at)}
    marks = [mark | {"cx": x.at(mark["x"])} for mark in marks]
    levels = [level | {"cy": y.at(level["y"])} for level in levels]
    equal = [(x.at(end), y.at(end)) for end in ends]
    return {
        "title": title, "x": x, "y": y, "lines": lines, "dots": dots, "marks": marks, "levels": levels,
        "equal": equal, "width": WIDTH, "height": HEIGHT,
        "kinds": list(dict.fromkeys(each["kind"] for each in [*lines, *dots])),
    }  # fmt: skip
