"""Export: the network that a study found, as a bundle. Its card says what is known of it, and how surely.

``recon.bundle`` defines the bundle's format; ``search.results.pick`` chooses among confirmed configurations.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from recon import bundle
from recon.errors import InputError
from recon.evaluation.definitions import DEFINITIONS, METRICS, REPORTED, Quantity
from recon.training.checkpoint import CHECKPOINT, load_network
from search.results.card import card
from search.results.clean import missing
from search.results.pick import picked
from search.study.open import OpenStudy
from search.study.record import Record, State


@dataclass(frozen=True)
class Exported:
    """The result of an export.

    Attributes:
        folder: the bundle.
        record: the trial whose weights it holds.
        why: the reason for this trial, in a sentence.
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
        InputError: there is no such trial, it is not complete, its checkpoint is gone, or nothing is confirmed yet.
    """
    record, why = (named(study, trial), f"trial {trial} was asked for") if trial is not None else best(study)
    if record.checkpoint is None or not (Path(record.checkpoint) / CHECKPOINT).is_file():
        raise missing(study, record)
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
        "metric_definition": {REPORTED: DEFINITIONS[REPORTED]},
        "validation": {name: value for name, value in record.metrics.items() if Quantity.of_column(name) in METRICS},
    }
    bundle.save(folder, bundle.Bundle(network, config, provenance), card(study, record, why))
    return Exported(folder, record, why)


def named(study: OpenStudy, trial: str) -> Record:
    """The complete trial of that name."""
    record = study.record(trial)
    if record.state is not State.COMPLETE:
        raise InputError(
            f"trial {trial} of study {study.name!r} is {record.state}, and only a complete one is exported"
        )
    return record


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
