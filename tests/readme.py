"""README's table of measured rows, from reports/: `python -m tests.readme` compares it, `--write` stores it anew."""

import json
import sys
from pathlib import Path

from lib.report.compare import measured_text

ROOT = Path(__file__).parent.parent
START, END = "<!-- generated: python -m tests.readme --write -->\n", "<!-- end -->\n"
ROWS = 16
HEAD = "| cell | network | measured (%) | networks x seeds | real subset | published | steps |\n" + "|---" * 7 + "|\n"


def figure(row):
    """What a row is compared with, in words."""
    if row["published_mean"] is not None:
        spread = f" ± {row['published_std']}" if row["published_std"] is not None else ""
        return f"{row['published_mean']}{spread}" + (" (full budget)" if row["budget"] == "reduced" else "")
    return "–" if row["unverified_mean"] is None else f"{row['unverified_mean']} unverified"


def table():
    """One row a cell, on its first network: those with a published figure first, then of each method the best."""
    rows = [row for path in sorted(ROOT.glob("reports/*/results.json")) for row in json.loads(path.read_text())["rows"]]
    first = {row["cell"]: row for row in reversed(rows)}.values()
    by_rank = sorted(
        first,
        key=lambda row: (row["published_mean"] is None, row["unverified_mean"] is None, -row["accuracy_mean"]),
    )
    chosen, methods = [], set()
    for row in by_rank:
        compared = row["published_mean"] is not None or row["unverified_mean"] is not None
        if compared or row["method"] not in methods:
            chosen.append(row)
            methods.add(row["method"])
    lines = [
        f"| `{row['cell']}` | {row['network']} | {measured_text(row)} | {row['n_networks']} x {row['n_seeds']} | "
        f"{row['real_subset_mean']:.1f} | {figure(row)} | {row['steps']:,} |\n"
        for row in chosen[:ROWS]
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
