"""What dvc.lock says of the stages: with which recipe, and on which data, each ran last, here or in another clone."""

import hashlib
from pathlib import Path

from lib.config.settings import PLAN
from lib.files import read_yaml

from .common import DISTILLED


class Lock:
    """dvc.lock as it is now; it outlives the outputs, which a clone need not have."""

    def __init__(self):
        stages = read_yaml("dvc.lock")["stages"] if Path("dvc.lock").is_file() else {}
        self.paths = {at: {f["path"]: f.get("md5") for f in e["deps"] + e.get("outs", [])} for at, e in stages.items()}

    def of(self, stage, key):
        """{path: digest} of what a stage read and wrote; {} if it never ran."""
        return self.paths.get(f"{stage}@{key}", {})

    def ran(self, stage, key, recipe):
        """Whether a stage ran last with the recipe of this text."""
        md5 = self.of(stage, key).get((PLAN / stage / f"{key}.json").as_posix())
        return md5 is not None and md5 == hashlib.md5(recipe.encode()).hexdigest()

    def judged(self, suite, key, recipe_of):
        """Whether a cell's evaluation is of its set, and both of their recipes: texts, `recipe_of(stage, key)`."""
        folder = (DISTILLED / suite / key).as_posix()
        same = self.of("distill", key).get(folder) == self.of("evaluate", key).get(folder)
        return same and all(self.ran(stage, key, recipe_of(stage, key)) for stage in ("distill", "evaluate"))


def commit_without_data(addresses):
    """`dvc commit` of stages whose data are not here, whose digests stay: the command itself has no option for that."""
    from dvc.repo import Repo  # takes a second

    with Repo() as repo, repo.lock:
        for stage in (stage for address in addresses for stage in repo.stage.collect(address)):
            stage.save(allow_missing=True, run_cache=False)
            stage.dump(update_pipeline=False)


def unchanged_before(address, lock, same):
    """Whether a stage, and all whose data it was made of, differ in their code at most."""
    made = {out["path"]: at for at, entry in lock.items() for out in entry.get("outs", ()) if at != "plan"}
    before = {made[dep["path"]] for dep in lock[address]["deps"] if dep["path"] in made}
    return address in same and all(unchanged_before(at, lock, same) for at in before)
