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
REPORTING = ("report", "index")  # the stages to which lib.report is not neutral: it is what they run
ORDER = ("prepare", "whiten", "experts", "distill", "evaluate", "continual", "membership", "scores", "report", "index")


def traced(stage, function, *arguments):
    """The places, [file, line], of our functions that a stage runs, but for what neutral code runs for itself."""
    seen, others, names = set(), set(), [name for name in NEUTRAL if stage not in REPORTING or name != "lib.report"]
    neutral = tuple(f"{ROOT}/{name.replace('.', '/')}" for name in names)

    def note(frame, event, _):
        if event == "call" and frame.f_code not in seen and frame.f_code not in others:
            code = frame.f_code
            ours = code.co_filename.startswith(OURS) and code.co_filename.endswith(".py")  # no template
            if not ours or code.co_name == "<module>":
                others.add(code)
                return
            while frame and not frame.f_code.co_filename.startswith(neutral):
                frame = frame.f_back
            if frame is None:
                seen.add(code)

    threading.settrace(note)
    sys.settrace(note)
    try:
        function(*arguments)
    finally:
        sys.settrace(None)
        threading.settrace(None)
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
            ran[f"{stage}/{path.stem}"] = traced(stage, module.stage, read_recipe(stage, path.stem), runtime)
            print(f"traced {stage} {path.stem} in {time.monotonic() - began:.1f} s", flush=True)
    Path("ran.json").write_text(json.dumps(ran))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
