"""Progress: in a terminal a bar that is drawn again and again, elsewhere a line a minute; and times in words."""

import sys

from tqdm import tqdm

LINE = "{desc}: {percentage:3.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]\n"


def duration(seconds):
    """Seconds as a person says them: seconds, minutes, hours or days."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def progress_bar(iterable=None, **settings):
    """A tqdm bar; settings: tqdm's. Its `set_postfix` is to be called with refresh=False."""
    if sys.stderr.isatty():
        return tqdm(iterable, mininterval=0.5, **settings)
    return tqdm(iterable, mininterval=60, maxinterval=60, bar_format=LINE, **settings)
