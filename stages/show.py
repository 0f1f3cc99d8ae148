"""A cell's settings with all defaults, its cost, state, results and command: `python -m stages show CELL`."""

import json

import yaml

from lib.config.load import load_params
from lib.config.recipes import text_of
from lib.config.settings import ParamsError, check_key
from lib.report.compare import measured_text

from .cost import cost_of_cell
from .inputs import device_of
from .results import Results, figure_text

APPLICATIONS = ("continual", "membership", "scores")


def stage(key):
    """Print all that params.yaml says of a cell, then what is there of it and the commands that run it."""
    params = load_params()
    check_key("cells", key, params.cells)
    cell, results = params.cells[key], Results(params)
    print(yaml.safe_dump(settings_of(params, key), sort_keys=False, default_flow_style=None, width=110))
    try:
        print(cost_of_cell(params, key, device_of(params.runtime), repeats=1))
    except ParamsError as error:  # a dtype or a device that this machine does not have
        print(f"cost: {error}")
    state, more = results.state(key)
    print(f"state: {state}" + (f", {more}" if more else ""))
    for row in results.rows(key):
        print(f"measured: {result_text(row)}")
        then, now = (json.loads(text_of(settings)) for settings in (row["settings"], vars(cell.distill)))
        if other := [f"{name} {then[name]}" for name in sorted(then) if now.get(name, then[name]) != then[name]]:
            print(f"  made with other settings: {', '.join(other)}")
    figures = results.figures(key)
    for net, figure in figures.items():
        source = figure.get("source", "recalled, not read in any table")
        print(f"published: {net} {figure_text(figure, cell)} %; {source}")
    if not figures:
        print("published: none to compare with")
    for name in ("evaluate", *(table for table in APPLICATIONS if key in getattr(params, table))):
        print(f"run: dvc repro {name}@{key}")


def settings_of(params, key):
    """{table: {key: row}} of a cell and of the rows that it names, as plain values."""
    cell = params.cells[key]
    named = {"datasets": [cell.dataset], "preprocessing": [cell.preprocessing], "experts": [cell.experts]}
    named |= {"protocols": [cell.evaluate.protocol, cell.distill.eval_protocol], "cells": [key]}
    rows = {table: {name: getattr(params, table).get(name) for name in names} for table, names in named.items()}
    plain = {table: {name: row.model_dump() for name, row in each.items() if row} for table, each in rows.items()}
    plain["cells"][key]["evaluate"]["conv_dtype"] = params.cells[key].evaluate.conv_dtype  # recipes leave float32 out
    return {table: each for table, each in plain.items() if each}


def result_text(row):
    """One network's result, of how many networks and seeds, beside the real subset, and where it was made."""
    each = f"{row['n_networks']} network(s) a seed, seed(s) {', '.join(map(str, row['seeds']))}"
    real = f"real subset {row['real_subset_mean']:.1f} ± {row['real_subset_std']:.1f} %"
    return (
        f"{row['network']} {measured_text(row)} %, {each}; {real}; commit {row['commit']}, {row['date'] or 'no date'}"
    )
