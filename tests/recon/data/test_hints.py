"""Hints as records of earlier versions hold them, and as users give them."""

import json

import pytest

from recon.data.options import PrepareOptions
from recon.data.readers import Hints, read_volumes
from recon.errors import InputError
from tests.recon.data import rawfiles

OLD = {"axes": None, "oversampling": 1.0, "padding": None, "crop": None, "task": None, "patient": None}


def test_an_oversampling_of_one_in_an_old_record_overrules_no_header():
    assert PrepareOptions.model_validate_json(json.dumps({"hints": OLD})).hints.oversampling is None
    assert Hints.model_validate({**OLD, "oversampling": 2.0}).oversampling == 2


def test_an_oversampling_of_one_that_a_user_gives_is_kept():
    assert Hints.model_validate({"axes": None, "oversampling": 1.0}).oversampling == 1
    assert Hints(oversampling=1).oversampling == 1


def test_a_record_of_today_is_read_as_it_was_written():
    for given in (Hints(), Hints(oversampling=1), Hints(oversampling=2, images="volumes")):
        assert Hints.model_validate_json(given.model_dump_json()) == given


def test_axes_beside_a_file_that_names_its_own_are_refused(tmp_path):
    path = rawfiles.make(tmp_path / "scan.h5").path
    (tmp_path / "scan.h5.json").write_text('{"axes": ["coils", "rows", "columns"]}')
    with pytest.raises(InputError, match=r"scan\.h5\.json: axes are those of a \.npy file, and scan\.h5 is fastmri"):
        read_volumes(path)
