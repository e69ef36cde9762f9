"""The hosts of a search: one look at each before the first trial, and a watch over those that are lost or come later.

A trial needs the data, the folder of the study and the code on whatever host it runs. Where a host lacks one of them,
every trial there would fail, or write where nobody looks. So each host is asked once, before anything is trained.
``search.run.cluster`` says how many trials the hosts have room for.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import secrets
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from search.run.cluster import Resources, fit

LOOK_SECONDS = 60.0
"""How long a host may take to answer. A first Python process from a folder over the network takes some 20 s."""
SHARED_SECONDS = 3.0
"""How long a file may take from one host to another."""
OLD_SECONDS = 3600.0
"""A look's file that is older belongs to no look that goes on."""
SCARCE_BYTES = 2**30
"""With less free space, a host is spoken of."""
PACKAGES = ("recon", "spaces", "search", "splitpoint")


@dataclass(frozen=True)
class HostFacts:
    """What one look at a host found."""

    node: str
    """Ray's id of the host, another one after each start of Ray there."""
    address: str
    """IP address."""
    name: str
    cpus: float
    """CPUs that Ray may give away there."""
    gpus: float
    room: bool
    """Whether a trial fits there at all."""
    fault: str | None = None
    """What it lacks, as the rest of a sentence that begins with the host; None if a trial can run there."""
    threads: int | None = None
    """CPUs that a process there may use; this and the rest are None where the host was not asked, or did not answer."""
    free_bytes: int | None = None
    """Free space where the study's files lie."""
    versions: tuple[tuple[str, str], ...] = ()
    """Versions of Python, torch and Ray, by name."""


@dataclass(frozen=True)
class Errand:
    """What a host is asked; it travels there."""

    data: str
    """Folder of the prepared data."""
    data_hash: str | None
    """Their content hash; None if they are none that ``prepare`` wrote, whose content nobody can tell."""
    description: str
    """The file in that folder with the hash."""
    files: tuple[str, ...]
    """Files that the description promises, relative to the folder."""
    folder: str
    """The folder of the study, or of all studies."""
    token: str
    """A random text. A file of the driver's in the folder holds it."""
    code: str
    """Digest of the driver's sources."""
    version: str
    """The driver's version of the code."""

    def file(self, owner: str = "") -> Path:
        """The file that the driver writes into the folder, or that another owner does."""
        return Path(self.folder) / f".look-{self.token}{owner}.part"


@dataclass(frozen=True)
class Answer:
    """What a host answers; it travels back."""

    fault: str | None
    threads: int
    free_bytes: int | None
    versions: tuple[tuple[str, str], ...]


def look(
    data: Path,
    data_hash: str,
    runs: Path,
    code_version: str,
    resources: Resources,
    only: Collection[str] | None = None,
) -> list[HostFacts]:
    """Look at every host that has room for a trial: what ``complaint`` and ``remarks`` speak of.

    Hosts without room are in the list, but were not asked. A host that is lost meanwhile is left out. If the driver's
    host is the only one, no Ray task is run.

    Args:
        data: folder of the prepared data.
        data_hash: their content hash.
        runs: the folder into which trials write, which every host must see. It exists.
        code_version: the driver's version of the code.
        resources: what a trial needs.
        only: Ray's ids of the hosts to look at; without it, all.

    Raises:
        InputError: no host has the resources of a trial.
    """
    cpus, gpus, _ = fit(resources)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    alone = [node["NodeID"] for node in nodes] == [ray.get_runtime_context().get_node_id()]
    errand = _errand(data, data_hash, runs, code_version)
    wanted = [node for node in nodes if only is None or node["NodeID"] in only]
    asked = [node["NodeID"] for node in wanted if _room(node["Resources"], cpus, gpus)]
    with _marked(errand) as fault:
        if fault is not None:
            answers: dict[str, Answer | str | None] = dict.fromkeys(asked, fault)
        elif alone:
            answers = {node: examine(errand, node) for node in asked}
        else:
            answers = _ask(errand, asked)
        return [
            _facts(node, answers.get(node["NodeID"]), _room(node["Resources"], cpus, gpus))
            for node in wanted
            if node["NodeID"] not in asked or answers[node["NodeID"]] is not None
        ]


def complaint(facts: Sequence[HostFacts]) -> str | None:
    """Why the search cannot run on these hosts, in a sentence that names the first one that lacks something; None if it
    can."""
    faulty = [one for one in facts if one.fault is not None]
    if not faulty:
        return None
    more = len(faulty) - 1
    others = f" ({more} more {'host lacks' if more == 1 else 'hosts lack'} something, too)" if more else ""
    return f"host {faulty[0].address} {faulty[0].fault}{others}"


def remarks(facts: Sequence[HostFacts]) -> list[str]:
    """What the user should know of these hosts, in sentences; none of it keeps a search from running."""
    found = [
        f"host {one.address} has no room for a trial (it has {one.cpus:g} CPUs and {one.gpus:g} GPUs)"
        for one in facts
        if not one.room
    ]
    found += [
        f"host {one.address} has {one.free_bytes / 2**20:.0f} MiB of free space for the study's files"
        for one in facts
        if one.free_bytes is not None and one.free_bytes < SCARCE_BYTES
    ]
    known = [one for one in facts if one.versions]
    for one in known[1:]:
        for (name, theirs), (_, first) in zip(one.versions, known[0].versions, strict=True):
            if theirs != first:
                found.append(
                    f"host {one.address} has {name} {theirs}, host {known[0].address} {first}: "
                    "the same training may differ in its last digits"
                )
    return found


def _room(there: dict[str, float], cpus: float, gpus: float) -> bool:
    return there.get("CPU", 0) >= cpus and there.get("GPU", 0) >= gpus


def _errand(data: Path, data_hash: str, folder: Path, version: str) -> Errand:
    from recon.data.prepared import DATASET_FILE, INDEX_FILE
    from recon.data.volume_file import volume_file

    files: tuple[str, ...] = ()
    described = (data / DATASET_FILE).is_file()
    if described:
        keys = json.loads((data / DATASET_FILE).read_text(encoding="utf-8"))["keys"]
        files = (INDEX_FILE, *(volume_file(name) for name in keys))
    return Errand(
        data=str(data),
        data_hash=data_hash if described else None,
        description=DATASET_FILE,
        files=files,
        folder=str(folder),
        token=secrets.token_hex(8),
        code=code_digest(),
        version=version,
    )


def code_digest() -> str:
    """Digest of the sources that this process would run: equal exactly where the code is the same, whatever its
    version is called."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@contextlib.contextmanager
def _marked(errand: Errand) -> Iterator[str | None]:
    """Have the driver's file in the folder meanwhile; yields why it cannot be written."""
    for old in Path(errand.folder).glob(".look-*.part"):  # of hosts that did not answer in time, and of dead drivers
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > OLD_SECONDS:
                old.unlink()
    try:
        try:
            _write(errand.file(), errand.token)
        except OSError as error:
            yield _cannot_write(errand, error)
        else:
            yield None
    finally:
        for own in Path(errand.folder).glob(f".look-{errand.token}*.part"):
            with contextlib.suppress(OSError):
                own.unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _holds(path: Path, text: str) -> bool:
    """Whether a file with this text is there, or comes soon: a network's file system may lag behind."""
    end = time.monotonic() + SHARED_SECONDS
    while True:
        with contextlib.suppress(OSError):
            if path.read_text(encoding="utf-8") == text:
                return True
        if time.monotonic() > end:
            return False
        time.sleep(0.1)


def _cannot_write(errand: Errand, error: OSError) -> str:
    return f"cannot write into {errand.folder}: {(error.strerror or str(error)).lower()}"


def examine(errand: Errand, node: str) -> Answer:
    """Look at the host on which this runs. If it sees the driver's folder, it leaves a file there for the driver."""
    return Answer(
        fault=_wrong_code(errand) or _wrong_data(errand) or _wrong_folder(errand, node),
        threads=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        free_bytes=shutil.disk_usage(errand.folder).free if Path(errand.folder).is_dir() else None,
        versions=(
            ("Python", platform.python_version()),
            ("torch", importlib.metadata.version("torch")),
            ("Ray", ray.__version__),
        ),
    )


def _wrong_code(errand: Errand) -> str | None:
    if code_digest() == errand.code:
        return None
    from recon.version import code_version

    version = code_version()
    if version == errand.version:
        return f"runs other sources of Splitpoint than the driver, though both call themselves {version}"
    return f"runs version {version} of Splitpoint, the driver {errand.version}"


def _wrong_data(errand: Errand) -> str | None:
    folder = Path(errand.data)
    if not folder.is_dir():
        return f"does not see the data {folder}: pass a path that every host sees"
    if errand.data_hash is None:
        return None
    try:
        found = json.loads((folder / errand.description).read_text(encoding="utf-8"))["hash"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"sees no prepared data in {folder}: pass a path that every host sees"
    if found != errand.data_hash:
        return f"sees other data in {folder} (hash {str(found)[:12]}, the driver's have {errand.data_hash[:12]})"
    there: dict[Path, set[str]] = {}
    for path in (folder / name for name in errand.files):
        if path.parent not in there:
            there[path.parent] = set(os.listdir(path.parent)) if path.parent.is_dir() else set()
        if path.name not in there[path.parent]:
            return f"lacks {path}, which is part of the data"
    return None


def _wrong_folder(errand: Errand, node: str) -> str | None:
    if not Path(errand.folder).is_dir():
        return f"does not see the folder {errand.folder}: pass a --runs-dir that every host sees"
    own = errand.file(f"-{node}")
    try:
        _write(own, errand.token)
    except OSError as error:
        return _cannot_write(errand, error)
    if _holds(errand.file(), errand.token):
        return None
    own.unlink()
    return _other_folder(errand)


def _other_folder(errand: Errand) -> str:
    return (
        f"sees another folder {errand.folder} than the driver (its files are not the driver's): "
        "pass a --runs-dir that every host sees"
    )


def _ask(errand: Errand, nodes: Sequence[str]) -> dict[str, Answer | str | None]:
    """By node, its answer, or why there is none; None where the host was lost meanwhile."""
    task = ray.remote(num_cpus=0, max_retries=0)(examine)
    asked = {
        node: task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(errand, node)
        for node in nodes
    }
    end = time.monotonic() + LOOK_SECONDS
    answers: dict[str, Answer | str | None] = {}
    for node, reference in asked.items():
        try:
            answers[node] = ray.get(reference, timeout=max(0.0, end - time.monotonic()))
        except GetTimeoutError:
            answers[node] = f"did not answer within {LOOK_SECONDS:.0f} s; Ray's log there may say why"
            ray.cancel(reference, force=True)
        except RayTaskError as error:
            answers[node] = f"cannot run this version of Splitpoint: {str(error).strip().splitlines()[-1]}"
        except RayError as error:
            alive = any(one["NodeID"] == node and one["Alive"] for one in ray.nodes())
            answers[node] = f"could not run a task: {str(error).strip().splitlines()[0]}" if alive else None
    for node, answer in answers.items():
        own = errand.file(f"-{node}")
        if isinstance(answer, Answer) and answer.fault is None and not _holds(own, errand.token):
            answers[node] = _other_folder(errand)
        own.unlink(missing_ok=True)
    return answers


def _facts(node: dict[str, Any], answer: Answer | str | None, room: bool) -> HostFacts:
    there = node["Resources"]
    said = (
        {"threads": answer.threads, "free_bytes": answer.free_bytes, "versions": answer.versions}
        if isinstance(answer, Answer)
        else {}
    )
    return HostFacts(
        node=node["NodeID"],
        address=node["NodeManagerAddress"],
        name=node["NodeManagerHostname"],
        cpus=there.get("CPU", 0),
        gpus=there.get("GPU", 0),
        room=room,
        fault=answer.fault if isinstance(answer, Answer) else answer,
        **said,  # type: ignore[arg-type]
    )
