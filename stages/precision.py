"""The dtype that a cell is distilled and judged in, on this device."""

from lib.config.settings import ParamsError
from lib.training.compute import allow_tf32, precision


def with_precision(key, cell, device):
    """A cell with the dtype that its convolutions run in on this device. A run in another one has checkpoints apart."""
    return cell.changed(distill=in_precision(cell.distill, f"{key}.distill", device))


def in_precision(settings, path, device):
    """Settings with the dtype that their `conv_dtype` stands for on this device; path: theirs below `cells`."""
    try:
        return settings.changed(conv_dtype=precision(settings.conv_dtype, device))
    except ValueError as error:
        raise ParamsError(f"params.yaml: cells.{path}.conv_dtype: {error}") from None


def distilled_in(recipe, device):
    """A recipe of `distill` with its dtype on this device, whose convolutions round to TF32 where that is it."""
    recipe = recipe.changed(cell=with_precision(recipe.key, recipe.cell, device))
    allow_tf32(recipe.cell.distill.conv_dtype)
    return recipe


def judged_in(recipe, device):
    """A recipe of `evaluate`, likewise, with the dtype of the networks that judge; one that names none has float32."""
    judge = recipe.evaluate.changed(**{"conv_dtype": "float32", **vars(recipe.evaluate)})
    judge = in_precision(judge, f"{recipe.key}.evaluate", device)
    allow_tf32(judge.conv_dtype)
    return recipe.changed(evaluate=judge)
