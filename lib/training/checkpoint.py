"""The checkpoint of a run that may be killed at any moment: the newest state, and the one before it."""

import os
import time
from pathlib import Path

from ..files import FileError
from ..tensors import load_state, save_state


class Checkpoint:
    """Two files, PATH and PATH.older. Each has a digest, and says of whose run it is.

    owner: a text that names the run and all that its result depends on.
    """

    def __init__(self, path, owner):
        self.path, self.owner = Path(path), owner
        self.older = self.path.with_name(f"{self.path.name}.older")

    def exists(self):
        return self.path.is_file()

    def save(self, state):
        if self.exists():
            os.replace(self.path, self.older)
        save_state(self.path, state, self.owner)

    def load(self):
        """The newest state that is whole and of this run, on the CPU; None where there is none.

        A file that is not is set aside, with a word.
        """
        for path in (self.path, self.older):
            if path.is_file():
                try:
                    return load_state(path, self.owner)
                except FileError as error:
                    aside = path.with_name(f"{path.name}.aside")
                    os.replace(path, aside)
                    print(f"{error}. It is now {aside.name}; going on without it", flush=True)
        return None

    def give_to(self, owner):
        """Make the state another owner's."""
        if state := self.load():
            self.owner = owner
            self.save(state)

    def remove(self):
        for path in self.path.parent.glob(f"{self.path.name}*"):
            path.unlink()


class Saving:
    """Saves the state of a training to a Checkpoint every `minutes`."""

    def __init__(self, checkpoint, minutes):
        self.checkpoint, self.minutes, self.saved_at = checkpoint, minutes, time.monotonic()

    def after(self, state):
        """Save what state() returns, if it is time."""
        if time.monotonic() - self.saved_at > self.minutes * 60:
            self.checkpoint.save(state())
            self.saved_at = time.monotonic()
