"""Check params.yaml and write a recipe for each stage and row: all that its result depends on, into build/plan."""

from lib.config.load import load_params
from lib.config.recipes import write_plan
from lib.files import replacing

from .common import EXPERTS


def stage():
    """Write every recipe that is new or changed."""
    count, written = write_plan(load_params())
    if written:
        print(f"plan: {count} recipes, {written} of them new or changed", flush=True)
    if not (none := EXPERTS / "none").is_file():  # what a cell without experts depends on in their place
        with replacing(none) as tmp:
            tmp.write_text("no experts\n")
