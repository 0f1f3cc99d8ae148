"""A stage as a process: the row that DVC runs it for."""

import os
import re

from lib.config.settings import KEY, ParamsError


def key_of(stage):
    """The key of the row that DVC runs a stage for; `all` for a stage without rows.

    It stands in DVC_STAGE alone, as `distill@KEY`, with the path of dvc.yaml before it where DVC was started in a folder
    below: in a command, a shell would read what params.yaml has for a key.
    """
    _, rows, key = os.environ.get("DVC_STAGE", "").partition(f"{stage}@")
    if rows and not re.fullmatch(KEY, key):
        raise ParamsError(f"params.yaml: found {key!r}; a key may hold letters, digits, - and _ alone")
    return key or "all"
