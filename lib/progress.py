"""Progress: in a terminal a bar that is drawn again and again, elsewhere a line a minute."""

import sys

from tqdm import tqdm

LINE = "{desc}: {percentage:3.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]\n"


def progress_bar(iterable=None, **settings):
    """A tqdm bar; settings: tqdm's. Its `set_postfix` is to be called with refresh=False."""
    if sys.stderr.isatty():
        return tqdm(iterable, mininterval=0.5, **settings)
    return tqdm(iterable, mininterval=60, maxinterval=60, bar_format=LINE, **settings)
