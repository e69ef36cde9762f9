"""Reading back what checkpoints and bundles share, a configuration and weights; what does not fit is one sentence.

``recon.training.checkpoint`` and ``recon.bundle`` decide which files hold them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from recon.config import TrainConfig
from recon.errors import InputError, sentence
from recon.network.unrolled import UnrolledNetwork


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises InputError if it does not.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds {type(content).__name__}, where an object of named fields should be")
    return content


def train_config(content: object, path: Path) -> TrainConfig:
    """The configuration of a training, as it was stored in ``path``.

    Raises InputError that names the field at fault.
    """
    try:
        return TrainConfig.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path} is not the configuration of a training: {sentence(error)}") from error


def load_weights(network: UnrolledNetwork, weights: Mapping[str, Tensor], path: Path) -> None:
    """Copy weights that were stored in ``path`` into a network.

    Raises InputError that names the first weight that is missing, superfluous, or of another shape.
    """
    wanted = network.state_dict()
    for name in [*wanted, *weights]:
        here = tuple(weights[name].shape) if name in weights else "missing"
        there = tuple(wanted[name].shape) if name in wanted else "none"
        if here != there:
            raise InputError(f"{path} does not fit its configuration: {name} is {here}, where {there} is wanted")
    network.load_state_dict(weights)
