"""What the stages that run say: a table of it, for a person to watch."""

import time

SHOWN = 20  # lines of the table


class Board:
    """What the stages that run say, for the table: {name: (since, where, its latest line)}."""

    def __init__(self):
        self.lines, self.runs = {}, []

    def say(self, name, place, line):
        since = self.lines.pop(name, (time.time(),))[0]
        if line is not None:
            self.lines[name] = since, place, line

    def keep(self, files):
        """Keep what a stage has sent for MLflow, {path: bytes}."""
        self.runs += [files] if files else []

    def read(self):
        """-> the lines, and what has been sent for MLflow since the last call."""
        runs, self.runs = self.runs, []
        return self.lines, runs


def table(lines, ended, count):
    """The stages that run, for a person to watch."""
    from rich.table import Table

    shown = Table(title=f"{ended} of {count} stages have ended, {len(lines)} run", title_justify="left", box=None)
    for head in ("stage", "node", "minutes", "what it says"):
        shown.add_column(head, no_wrap=True)
    for name, (since, place, line) in [*lines.items()][:SHOWN]:
        shown.add_row(name, place, f"{(time.time() - since) / 60:.1f}", line.split(": ", 1)[-1])
    return shown
