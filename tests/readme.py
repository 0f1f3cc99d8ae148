"""README's table of measured rows, from reports/: `python -m tests.readme` compares it, `--write` stores it anew."""

import json
import sys
from pathlib import Path

from lib.report.compare import measured_text

ROOT = Path(__file__).parent.parent
START, END = "<!-- generated: python -m tests.readme --write -->\n", "<!-- end -->\n"
HEAD = "| cell | network | measured (%) | networks x seeds | real subset | published | steps |\n" + "|---" * 7 + "|\n"


def figure(row):
    """The published figure that a row is compared with, in words."""
    spread = f" ± {row['published_std']}" if row["published_std"] is not None else ""
    return f"{row['published_mean']}{spread}" + (" (full budget)" if row["budget"] == "reduced" else "")


def table():
    """Every cell that has a published figure, one row on its first network, the highest accuracy first."""
    rows = [row for path in sorted(ROOT.glob("reports/*/results.json")) for row in json.loads(path.read_text())["rows"]]
    first = {row["cell"]: row for row in reversed(rows)}.values()
    compared = [row for row in first if row["published_mean"] is not None]
    lines = [
        f"| `{row['cell']}` | {row['network']} | {measured_text(row)} | {row['n_networks']} x {row['n_seeds']} | "
        f"{row['real_subset_mean']:.1f} | {figure(row)} | {row['steps']:,} |\n"
        for row in sorted(compared, key=lambda row: -row["accuracy_mean"])
    ]
    return HEAD + "".join(lines)


def main(write):
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text().partition(START)
    old, _, after = rest.partition(END)
    if write:
        readme.write_text(before + START + table() + END + after)
    elif old != table():
        sys.exit("README.md: its table is not that of reports/; python -m tests.readme --write stores it anew")


if __name__ == "__main__":
    main("--write" in sys.argv)
