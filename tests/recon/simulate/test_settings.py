"""A volume says the settings that it was simulated with, and a folder takes no volumes of others."""

import hashlib
from pathlib import Path
from typing import get_args

import h5py
import numpy as np
import pytest

from recon.data.readers import read_volume
from recon.errors import InputError
from recon.simulate import simulate
from recon.simulate.formats import Format

TINY = {"subjects": {"train": 1}, "matrix": 32, "slices": 1, "coils": 2}
FORMATS = get_args(Format)


def contents(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One subject's two volumes in each format."""
    root = tmp_path_factory.mktemp("made")
    return {form: simulate(root / form, **TINY, format=form) for form in FORMATS}


def folder_of(made: dict[str, list[Path]], form: str) -> Path:
    """Where a format's volumes lie; Hammernik's are folders themselves."""
    return made[form][0].parents[3 if form == "hammernik" else 1]


def test_every_format_says_the_same_settings(made):
    said = {read_volume(path).simulation for paths in made.values() for path in paths}
    assert said == {"simulator=2 matrix=32 slices=1 coils=2 snr=30.0 seed=0 field_of_view_mm=160.0 phase_lines=34"}


@pytest.mark.parametrize("form", FORMATS)
def test_the_same_settings_again_give_the_same_bytes_and_more_can_be_added(made, form, tmp_path):
    simulate(tmp_path, **TINY, format=form, refuse_others=True)
    before = contents(tmp_path)
    simulate(
        tmp_path,
        **{**TINY, "subjects": {"train": 1, "test": 1}},
        contrasts=["PDw", "T2w"],
        format=form,
        refuse_others=True,
    )
    after = contents(tmp_path)
    assert before.items() < after.items()
    assert contents(folder_of(made, form)) == before


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"matrix": 48, "phase_lines": 34}, "matrix=32 in place of 48"),
        ({"slices": 2}, "slices=1 in place of 2"),
        ({"coils": 3}, "coils=2 in place of 3"),
        ({"snr": np.inf}, "snr=30.0 in place of inf"),
        ({"seed": 1}, "seed=0 in place of 1"),
        ({"field_of_view_mm": 200}, "field_of_view_mm=160.0 in place of 200.0"),
        ({"phase_lines": 30}, "phase_lines=34 in place of 30"),
        ({"format": "cfl"}, "format=fastmri in place of cfl"),
    ],
    ids=str,
)
def test_a_folder_of_other_settings_is_refused_as_it_is(made, other, named, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    # Not where it would be written: a volume that was moved is noticed, too.
    (out / made["fastmri"][0].name).write_bytes(made["fastmri"][0].read_bytes())
    before = contents(out)
    with pytest.raises(InputError, match=named):
        simulate(out, **{**TINY, "subjects": {"test": 1}, **other}, refuse_others=True)
    assert contents(out) == before


def test_a_volume_of_another_version_is_named(made, tmp_path):
    path = tmp_path / "train" / "old.h5"
    path.parent.mkdir()
    path.write_bytes(made["fastmri"][0].read_bytes())
    with h5py.File(path, "r+") as file:
        file.attrs["simulation"] = file.attrs["simulation"].replace("simulator=2", "simulator=1")
    with pytest.raises(InputError, match=r"old\.h5 of simulator=1 in place of 2; give another folder"):
        simulate(tmp_path, **TINY, refuse_others=True)
    with h5py.File(path, "r+") as file:
        del file.attrs["simulation"]
    with pytest.raises(InputError, match=r"old\.h5, which says no settings of this simulator"):
        simulate(tmp_path, **TINY, refuse_others=True)


@pytest.mark.parametrize(
    ("form", "writes"),
    [
        ("cfl", "numpy.ascontiguousarray"),
        ("hammernik", "scipy.io.savemat"),
        ("ismrmrd", "ismrmrd.Dataset.append_acquisition"),
        ("numpy", "numpy.lib.format.open_memmap"),
    ],
)
def test_the_same_command_goes_on_after_a_kill_while_a_volume_is_written(made, form, writes, tmp_path, monkeypatch):
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(writes, killed)
        with pytest.raises(KeyboardInterrupt):
            simulate(tmp_path, **TINY, format=form)
    simulate(tmp_path, **TINY, format=form, refuse_others=True)
    assert contents(tmp_path) == contents(folder_of(made, form))
