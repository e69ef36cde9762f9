"""The version of the code, for the records of its results."""

from __future__ import annotations

import os
from pathlib import Path


def code_version() -> str:
    """The installed version, and the commit where the code runs from a checkout (``+`` marks changes on top of it)."""
    import importlib.metadata
    import subprocess

    version = importlib.metadata.version("splitpoint")
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return version
    command = ["git", "-C", str(here), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
        )
    except (OSError, subprocess.CalledProcessError):
        return version
    return f"{version} ({done.stdout.strip()})"
