"""Hosts are looked at before the first trial."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import ray

from recon.errors import InputError
from search.run import hosts
from search.run.cluster import Resources
from tests.search.run import bench as benches
from tests.search.run.bench import HERE

ROOT = Path(__file__).parents[3]
VERSION = "1.0 (driver)"


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A driver's host and another one."""
    with benches.hosts(tmp_path_factory.mktemp("hosts"), "head", "other") as made:
        yield made


@pytest.fixture
def folders(bench, prepared):
    """The folders of the driver's host and of the other one, each with its own data and its own runs; not shared."""
    found = [bench.folder / name for name in ("head", "other")]
    for folder in found:
        for name in ("data", "runs"):
            shutil.rmtree(folder / name, ignore_errors=True)
        shutil.copytree(prepared, folder / "data")
        (folder / "runs").mkdir()
    return found


def digest(data: Path) -> str:
    return json.loads((data / "dataset.json").read_text())["hash"]


@pytest.fixture
def look(bench, folders):
    """Look from the driver, for the data that its host has."""
    hash = digest(folders[0] / "data")

    def run(data: Path, runs: Path, cpus: float = 1):
        return bench.call(hosts.look, data, hash, runs, VERSION, Resources(cpus=cpus))

    return run


def test_hosts_that_see_data_and_folder_and_run_the_same_code_have_no_fault(look, folders, tmp_path):
    found = look(folders[0] / "data", tmp_path)
    assert hosts.complaint(found) is None
    assert hosts.remarks(found) == []
    assert len({one.node for one in found}) == 2
    assert [dict(one.versions)["Ray"] for one in found] == [ray.__version__] * 2
    assert all(one.threads and one.free_bytes for one in found)
    assert list(tmp_path.iterdir()) == []


def test_a_host_without_the_data_is_named(look, folders, tmp_path):
    shutil.rmtree(folders[1] / "data")
    found = look(HERE / "data", tmp_path)
    assert hosts.complaint(found) == (
        f"host {found[0].address} does not see the data {HERE}/data: pass a path that every host sees"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_host_with_other_data_and_one_that_lacks_a_volume_are_named(look, folders, tmp_path):
    volume = next((folders[1] / "data" / "volumes").iterdir())
    volume.unlink()
    assert f"lacks {HERE}/data/volumes/{volume.name}, which" in hosts.complaint(look(HERE / "data", tmp_path))
    description = folders[1] / "data" / "dataset.json"
    description.write_text(description.read_text().replace(digest(folders[0] / "data"), "f" * 64))
    assert "sees other data in" in hosts.complaint(look(HERE / "data", tmp_path))
    description.unlink()
    assert "sees no prepared data in" in hosts.complaint(look(HERE / "data", tmp_path))


def test_a_private_folder_of_runs_at_the_same_path_is_noticed(look, folders):
    found = look(folders[0] / "data", HERE / "runs")
    assert f"sees another folder {HERE}/runs than the driver" in hosts.complaint(found)
    assert [list((folder / "runs").iterdir()) for folder in folders] == [[], []]
    (folders[1] / "runs").rmdir()
    found = look(folders[0] / "data", HERE / "runs")
    assert f"does not see the folder {HERE}/runs: pass a --runs-dir" in hosts.complaint(found)


def test_a_folder_that_the_driver_cannot_write_into_is_named(look, folders, tmp_path):
    found = look(folders[0] / "data", tmp_path / "none")
    assert f"cannot write into {tmp_path}/none: no such file or directory (1 more host lacks" in hosts.complaint(found)


def test_hosts_without_room_are_not_asked_and_one_with_other_sources_is_named(bench, look, folders, tmp_path):
    shutil.rmtree(folders[1] / "data")
    copy = tmp_path / "code"
    for package in hosts.PACKAGES:
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / "search" / "run" / "trial.py").open("a") as file:
        file.write("# changed\n")
    bench.add("stale", cpus=2, PYTHONPATH=str(copy))
    try:
        found = look(folders[0] / "data", tmp_path, 2)
        assert [one.room for one in found].count(True) == 1
        assert f"of Splitpoint, the driver {VERSION}" in hosts.complaint(found)
        assert "more" not in hosts.complaint(found)
        assert sum("has no room for a trial (it has 1 CPUs and 0 GPUs)" in one for one in hosts.remarks(found)) == 2
        with pytest.raises(InputError, match="which no host has"):
            look(HERE / "data", tmp_path, 4)
    finally:
        bench.remove("stale")


def test_the_only_host_is_looked_at_without_a_task(local_ray, prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(hosts, "_ask", None)
    (found,) = hosts.look(prepared, digest(prepared), tmp_path, VERSION, Resources())
    assert hosts.complaint([found]) is None
    assert found.threads
    (found,) = hosts.look(tmp_path / "none", digest(prepared), tmp_path, VERSION, Resources())
    assert f"does not see the data {tmp_path}/none: pass" in hosts.complaint([found])


def test_data_that_prepare_did_not_write_only_have_to_be_there(local_ray, tmp_path):
    (tmp_path / "data").mkdir()
    assert hosts.complaint(hosts.look(tmp_path / "data", "abc", tmp_path, VERSION, Resources())) is None


def test_the_digest_of_the_code_is_that_of_its_files(monkeypatch, tmp_path):
    copy = tmp_path / "code"
    for package in hosts.PACKAGES:
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    here = hosts.code_digest()
    monkeypatch.setattr(hosts, "__file__", str(copy / "search" / "run" / "hosts.py"))
    assert hosts.code_digest() == here
    (copy / "recon" / "version.py").rename(copy / "recon" / "versions.py")
    assert hosts.code_digest() != here


def facts_of(address: str, **changes: Any):
    known = {"Python": "3.11.9", "torch": "2.6.0", "Ray": "2.60.0"} | changes.pop("versions", {})
    given = {"cpus": 2, "gpus": 0, "room": True, "threads": 2, "free_bytes": 2**40, "versions": tuple(known.items())}
    return hosts.HostFacts(node=address, address=address, name="x", **{**given, **changes})


def test_remarks_name_other_versions_and_little_space():
    here = facts_of("10.0.0.1")
    said = hosts.remarks([here, facts_of("10.0.0.2", versions={"torch": "2.7.0"}, free_bytes=2**20)])
    assert said == [
        "host 10.0.0.2 has 1 MiB of free space for the study's files",
        "host 10.0.0.2 has torch 2.7.0, host 10.0.0.1 2.6.0: the same training may differ in its last digits",
    ]


def test_a_complaint_says_how_many_more_hosts_lack_something():
    lacking = [facts_of(f"10.0.0.{place}", fault="does not see the data /d") for place in (2, 3, 4)]
    assert hosts.complaint([facts_of("10.0.0.1"), *lacking]) == (
        "host 10.0.0.2 does not see the data /d (2 more hosts lack something, too)"
    )
