"""Export: the network that a study found, as a bundle with a card: what is known of it, and how sure one can be.

The bundle's format is left to ``recon.bundle``, the choice among confirmed configurations to ``search.confirm``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from recon import bundle
from recon.config import TrainConfig
from recon.definitions import DEFINITIONS
from recon.errors import InputError
from recon.layout import Layout
from recon.training import CHECKPOINT, load_network
from search.confirm import picked
from search.leaderboard import DEFINITION, confirmed, markdown_table, render_markdown
from search.study import OpenStudy, Record, State


@dataclass(frozen=True)
class Exported:
    """What was exported.

    Attributes:
        folder: the bundle.
        record: the trial whose weights it holds.
        why: why this trial, in a sentence.
    """

    folder: Path
    record: Record
    why: str


def export(study: OpenStudy, trial: str | None = None, out: Path | None = None) -> Exported:
    """Write a bundle of the confirmed best, or of a named trial.

    Args:
        study: the study.
        trial: a trial's name in the leaderboard (``12``, or ``r3`` for a reference); without it, the confirmed best.
        out: the bundle's folder; without it ``bundle/`` in the study's folder.

    Raises:
        InputError: no such trial, it is not complete, its checkpoint is gone, or nothing is confirmed yet.
    """
    record, why = (named(study, trial), f"trial {trial} was asked for") if trial is not None else best(study)
    if record.checkpoint is None or not (Path(record.checkpoint) / CHECKPOINT).is_file():
        raise InputError(
            f"the checkpoint of trial {record.name} is not at {record.checkpoint}; was it moved or deleted?"
        )
    network, config = load_network(Path(record.checkpoint))
    folder = Path(out) if out is not None else study.folder / "bundle"
    provenance = {
        "study": study.name,
        "trial": record.name,
        "kind": record.kind,
        "stage": record.stage,
        "chosen": why,
        "data_hash": record.data_hash,
        "prepare": study.attributes.get("prepared", {}),
        "code_version": record.code_version,
        "metric_definition": {DEFINITION: DEFINITIONS[DEFINITION]},
        "validation": {name: value for name, value in record.metrics.items() if name.split("/")[0] in METRICS},
    }
    bundle.save(folder, bundle.Bundle(network, config, provenance), card(study, record, why))
    return Exported(folder, record, why)


METRICS = {"ssim": ".4f", "psnr": ".2f", "nrmse": ".4f"}
"""Metrics of the card, and how they are written."""


def named(study: OpenStudy, trial: str) -> Record:
    """The complete trial of that name."""
    records = {record.name: record for record in study.records()}
    if trial not in records:
        raise InputError(f"study {study.name!r} has no trial {trial!r}; the leaderboard's column «trial» names them")
    if records[trial].state is not State.COMPLETE:
        raise InputError(
            f"trial {trial} of study {study.name!r} is {records[trial].state}, and only a complete one is exported"
        )
    return records[trial]


def best(study: OpenStudy) -> tuple[Record, str]:
    """The best seed of the configuration that is best on average over seeds, and why it was chosen."""
    pick = picked(study)
    chosen, metric = pick.chosen, study.space.objective.metric
    spread = "" if chosen.deviation is None else f" (standard deviation {chosen.deviation:.4f})"
    seeds = ", ".join(str(record.seed) for record in chosen.records)
    why = (
        f"{chosen.point.layout} with {chosen.point.weighting} weighting is the best of {len(pick.ranking)} confirmed "
        f"configurations: mean validation {metric} {chosen.mean:.4f}{spread} over the seeds {seeds}; "
        f"these are the weights of seed {pick.record.seed}. "
    )
    other = pick.unconfirmed
    if other is None:
        why += "Nothing was searched: these are all the configurations of its grid."
    elif pick.changed:
        why += (
            f"Without confirmation it would have been trial {other.name}, "
            f"{other.layout} with {other.weighting} weighting."
        )
    else:
        why += "The search alone would have chosen the same configuration."
    return pick.record, why


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
            {"task": task, **{name: f"{record.metrics[f'{name}/{task}']:{form}}" for name, form in METRICS.items()}}
            for task in config.tasks
        ]
    )
    slices = ", ".join(f"{task} {record.slices[task]}" for task in config.tasks)
    parts = [
        f"# {config.network.layout} for {', '.join(config.tasks)}\n",
        f"{why}\n",
        "## What it is\n",
        f"An unrolled network of {len(Layout.parse(config.network.layout))} blocks (I shared, Y shared encoder with a "
        f"decoder a task, V private to a task), U-Nets with {config.network.channels} channels first "
        f"and {config.network.pools} times pooled, {config.network.consistency} data consistency"
        f"{_first_steps(config)}; {record.parameters} parameters. "
        "`tasks/` holds one network a task with only the path that it uses.\n",
        "## How it was trained\n",
        f"- study `{study.name}`, trial {record.name} ({record.kind}, {record.stage}), seed {record.seed}\n"
        f"- training slices: {slices}, cut by {config.cut}; {config.weighting.kind} weighting; {record.epochs} epochs, "
        f"batch {config.batch_size}, {_rates(config)} ({config.schedule})\n"
        f"{_start(study, record)}"
        f"- data hash `{record.data_hash}`, code {record.code_version}\n",
        "## Validation\n",
        f"{render_markdown(metrics)}\n"
        f"Definition «{DEFINITION}»: {DEFINITIONS[DEFINITION]} Masks: {config.masks.val.kind}, "
        f"R {config.masks.val.accelerations[0]:g}, centre {config.masks.val.centre_fractions[0]:g}.\n",
    ]
    if record.stage == "confirm":
        parts += [
            "Means over seeds ± standard errors, beside the baselines:\n",
            markdown_table(confirmed(study)),
        ]
    parts += [
        "## Use\n",
        "```python\nfrom recon import bundle\n\n"
        'loaded = bundle.load("this/folder")  # loaded.network, loaded.config\n```\n',
        "`splitpoint test THIS/FOLDER --data PREPARED` runs the final test "
        f"({mask.kind}, R {mask.accelerations[0]:g}, centre {mask.centre_fractions[0]:g}).\n",
        "## Limits\n",
        "It knows the contrasts, coils, resolution and undersampling that it was trained on, and no others. "
        "It is for research, not for diagnosis.\n",
    ]
    return "\n".join(parts)
