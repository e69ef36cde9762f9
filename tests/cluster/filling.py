"""Fills in cluster.yaml's marked lines as a user would: by editing them, and no other line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CLUSTER_YAML = Path(__file__).resolve().parents[2] / "cluster.yaml"
MARK = "# fill in:"


@dataclass(frozen=True)
class Hosts:
    """What a user knows of their hosts."""

    head: str
    workers: tuple[str, ...]
    user: str
    key: str
    """Path of the private key on the machine that runs `ray up`."""
    folder: str
    """The checkout in the folder that all hosts share."""

    @classmethod
    def read(cls, path: Path) -> Hosts:
        """From a YAML or JSON file of these five fields."""
        fields = yaml.safe_load(path.read_text())
        return cls(**{**fields, "workers": tuple(fields["workers"])})


def marked_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if MARK in line]


def fill_in(hosts: Hosts) -> str:
    """cluster.yaml's text for these hosts."""
    wanted = {
        "head_ip": hosts.head,
        "worker_ips": f"[{', '.join(hosts.workers)}]",
        "ssh_user": hosts.user,
        "ssh_private_key": hosts.key,
        "- ln -sfn": f"{hosts.folder} ~/.splitpoint",
    }
    filled = set()

    def edited(line: str) -> str:
        if MARK not in line:
            return line
        before, comment = line.split(MARK)
        (name,) = (name for name in wanted if before.strip().startswith(name))
        filled.add(name)
        start = re.match(rf"\s*{re.escape(name)}:?", before)
        assert start is not None
        return f"{start[0]} {wanted[name]}  {MARK}{comment}"

    text = "\n".join(edited(line) for line in CLUSTER_YAML.read_text().splitlines()) + "\n"
    assert filled == set(wanted), f"cluster.yaml has no marked line for {set(wanted) - filled}"
    return text


def filled_config(hosts: Hosts) -> dict[str, Any]:
    return yaml.safe_load(fill_in(hosts))
