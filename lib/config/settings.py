"""A recipe as a stage sees it. Imports nothing but the standard library and files: a stage waits for no validation."""

import difflib
import json
from pathlib import Path
from types import SimpleNamespace

from ..files import read_json

PLAN = Path("build/plan")
# A key, and a suite's name, is a part of names of files and of DVC's stages, an argument (- first: an option), and a
# word on the page.
KEY = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}"
ALLOWED = "letters, digits, - and _ alone, at most 100, and not begin with -"


class ParamsError(Exception):
    """All that is wrong in a parameter file, one line each."""


class Settings(SimpleNamespace):
    """Attributes by name, nested as in their JSON; lists are tuples. `changed` gives a copy with other values."""

    @classmethod
    def of(cls, node):
        if isinstance(node, dict):
            return cls(**{key: cls.of(value) for key, value in node.items()})
        return tuple(map(cls.of, node)) if isinstance(node, list) else node

    def plain(self):
        """The JSON again: dictionaries in dictionaries, tuples as they are."""
        return {key: value.plain() if isinstance(value, Settings) else value for key, value in vars(self).items()}

    def __str__(self):
        return json.dumps(self.plain())

    def changed(self, **values):
        return type(self)(**{**vars(self), **values})


def check_key(table, key, known):
    """ParamsError for a key that is not among the known ones of a table of params.yaml."""
    if key not in known:
        near = ", ".join(difflib.get_close_matches(key, known, 9, 0.3) or list(known)[:9])
        raise ParamsError(f"params.yaml: {table}: found {key!r}; must be one of its {len(known)} keys, such as {near}")


def read_recipe(stage, key, folder=PLAN):
    """A row's recipe as Settings; ParamsError names the keys that there are."""
    check_key(stage, key, sorted(path.stem for path in (folder / stage).glob("*.json")))
    return Settings.of(read_json(folder / stage / f"{key}.json"))
