"""Run every stage of a folder's params.yaml in one process, and write which functions of lib and stages each called.

`python -m tests.trace FOLDER` -> FOLDER/ran.json: {stage/key: [[file, line], ...]}. Used by test_recipes.py.
"""

import importlib
import json
import os
import sys
import threading
import time
from pathlib import Path

from lib.config.fingerprint import NEUTRAL

ROOT = Path(__file__).parent.parent
OURS = (f"{ROOT}/lib/", f"{ROOT}/stages/")
NEUTRAL_FILES = tuple(f"{ROOT}/{name.replace('.', '/')}" for name in NEUTRAL if name != "lib.report")
ORDER = ("prepare", "whiten", "experts", "distill", "evaluate", "continual", "membership", "scores", "report", "index")


def traced(function, *arguments):
    """The places, [file, line], of our functions that a call runs, but for what neutral code runs for itself."""
    seen, others = set(), set()

    def note(frame, event, _):
        if event == "call" and frame.f_code not in seen and frame.f_code not in others:
            code = frame.f_code
            ours = code.co_filename.startswith(OURS) and code.co_filename.endswith(".py")  # no template
            if not ours or code.co_name == "<module>":
                others.add(code)
                return
            while frame and not frame.f_code.co_filename.startswith(NEUTRAL_FILES):
                frame = frame.f_back
            if frame is None:
                seen.add(code)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        function(*arguments)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return sorted((code.co_filename, code.co_firstlineno) for code in seen)


def main(folder):
    os.chdir(folder)
    sys.path.insert(0, str(ROOT))
    from lib.config.settings import PLAN, Settings, read_recipe
    from lib.files import read_json
    from stages.plan import stage as plan

    plan()
    runtime, ran = Settings.of(read_json(PLAN / "runtime.json")), {}
    for stage in ORDER:
        module = importlib.import_module(f"stages.{stage}")
        for path in sorted((PLAN / stage).glob("*.json")):
            began = time.monotonic()
            ran[f"{stage}/{path.stem}"] = traced(module.stage, read_recipe(stage, path.stem), runtime)
            print(f"traced {stage} {path.stem} in {time.monotonic() - began:.1f} s", flush=True)
    Path("ran.json").write_text(json.dumps(ran))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
