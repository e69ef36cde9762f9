"""The bundle's card: a description of the exported network, in Markdown."""

from __future__ import annotations

import json

import pandas as pd

from recon.config import TrainConfig
from recon.evaluation.definitions import DEFINITIONS, METRICS, REPORTED
from recon.network.layout import Layout
from search.results.leaderboard import confirmed
from search.results.text import markdown_table, render_markdown
from search.study.open import OpenStudy
from search.study.record import Record


def _start(study: OpenStudy, record: Record) -> str:
    """What the training started from, as a line of the card."""
    joint = f"the joint network of all tasks, {study.space.joint_epochs} epochs"
    starts = {"joint": joint, "transfer": f"the single-task network of {study.space.source}"}
    start = starts.get(record.point.init if record.point else record.kind.removesuffix("-tuned"))
    # A joint network itself starts at random.
    return "" if start is None or record.kind == "joint" else f"- started from {start}, with the same seed\n"


def _first_steps(config: TrainConfig) -> str:
    steps = config.network.sense_steps
    return f" after {steps} SENSE steps without a U-Net" if steps else ""


def _rates(config: TrainConfig) -> str:
    """The optimiser with its rates."""
    if config.optimiser == "muon":
        return f"Muon {config.muon_learning_rate:g} on convolutions, Adam {config.learning_rate:g} on the rest"
    return f"{'AdamW' if config.optimiser == 'adamw' else 'Adam'} {config.learning_rate:g}"


def card(study: OpenStudy, record: Record, why: str) -> str:
    """The bundle's card, in Markdown."""
    config = record.config
    mask = config.masks.test
    metrics = pd.DataFrame(
        [
            {"task": task, **{one.value: format(record.metrics[one.of(task)], one.form) for one in METRICS}}
            for task in config.tasks
        ]
    )
    slices = ", ".join(f"{task} {record.slices[task]}" for task in config.tasks)
    parts = [
        f"# {config.network.layout} for {', '.join(config.tasks)}\n",
        f"{why}\n",
        "## What it is\n",
        f"An unrolled network of {len(Layout.parse(config.network.layout))} blocks (I shared, Y shared encoder with "
        f"one decoder per task, V private to a task), U-Nets with {config.network.channels} channels first "
        f"and {config.network.pools} times pooled, {config.network.consistency} data consistency"
        f"{_first_steps(config)}; {record.parameters} parameters. "
        "`tasks/` holds one network per task with only the path that it uses.\n",
        "## How it was trained\n",
        f"- study `{study.name}`, trial {record.name} ({record.kind}, {record.stage}), seed {record.seed}\n"
        f"- training slices: {slices}, cut by {config.cut}; {config.weighting.kind} weighting; {record.epochs} epochs, "
        f"batch {config.batch_size}, {_rates(config)} ({config.schedule})\n"
        f"{_start(study, record)}"
        f"- data hash `{record.data_hash}`, code {record.code_version}\n",
        "## Validation\n",
        f"{render_markdown(metrics)}\n"
        f"Definition «{REPORTED}»: {DEFINITIONS[REPORTED]} Masks: {config.masks.val.kind}, "
        f"R {config.masks.val.accelerations[0]:g}, centre {config.masks.val.centre_fractions[0]:g}.\n",
    ]
    if record.stage == "confirm":
        parts += [
            "Means over seeds ± standard errors, beside the baselines:\n",
            markdown_table(confirmed(study)),
        ]
    parts += [
        "## Use\n",
        "```python\nimport splitpoint as sp\n\n"
        'bundle = sp.load("this/folder")\n'
        f"image = bundle.reconstruct(kspace, task={json.dumps(config.tasks[0], ensure_ascii=False)})\n```\n",
        "`kspace` is complex, (coils, rows, columns) or with slices in front, centred, and zero where nothing was "
        "acquired. ESPIRiT finds coil maps where none are given. `image` is complex and in the units of `kspace`.\n",
        "`splitpoint test THIS/FOLDER --data PREPARED` runs the final test "
        f"({mask.kind}, R {mask.accelerations[0]:g}, centre {mask.centre_fractions[0]:g}).\n",
        "## Limits\n",
        "It knows the contrasts, coils, resolution and undersampling that it was trained on, and no others. "
        "It is for research, not for diagnosis.\n",
    ]
    return "\n".join(parts)
