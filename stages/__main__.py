"""The pipeline's stages: `python -m stages STAGE KEY`, KEY of a row of params.yaml; `dvc repro` runs them in order."""

import gc
import importlib
import os
import sys

from stages import commands, guard, signals

if __name__ == "__main__":
    signals.on_signals(signals.leave)
    sys.stdout.reconfigure(errors="replace")  # ± where the locale has none
    name = (given := commands.arguments(__doc__)).pop("stage")
    if "DVC_STAGE" in os.environ:
        guard.start()
    gc.disable()  # until the work begins: importing torch makes no garbage, and to look for some takes long
    from stages import common, process

    with process.errors_in_words():
        process.key_of(name)  # a bad one is refused before torch is there, which takes seconds
    module = importlib.import_module(f"stages.{name}")
    signals.on_signals(signals.unwind)
    common.run(module.stage, name, **given)
    sys.stdout.flush()
    os._exit(signals.status())  # all is written; to take torch's modules apart takes a second
