"""Tables of named things that grow by adding a file: methods, networks, augmentations, readers."""

import importlib
import pkgutil
import sys
from collections.abc import Mapping


class Registry(Mapping):
    """What the modules of a package offer by name. The first look-up imports them, so that none has to be listed.

    A recipe's fingerprint follows the entry that a row names, and no other: a new file changes no existing result.
    """

    def __init__(self, package):
        self.package, self.entries, self.complete = package, {}, False

    def register(self, *names, **traits):
        """A decorator: the entry is found under `names`, or its own in lower case; `traits` become its attributes."""

        def add(entry):
            for name in names or (entry.__name__.lower(),):
                self.entries[name] = entry
            for trait, value in traits.items():
                setattr(entry, trait, value)
            return entry

        return add

    def _all(self):
        if not self.complete:
            self.complete = True
            for module in pkgutil.iter_modules(sys.modules[self.package].__path__):
                importlib.import_module(f"{self.package}.{module.name}")
        return self.entries

    def __getitem__(self, name):
        return self._all()[name]

    def __iter__(self):
        return iter(sorted(self._all()))

    def __len__(self):
        return len(self._all())
