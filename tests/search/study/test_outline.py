"""Outlines say of trials what whole records say, whatever the storage is."""

import pytest
from optuna.trial import TrialState

from search.study.outline import outlines
from tests.search.stored import Stored

COMPLETE, PRUNED, FAIL, RUNNING = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING


@pytest.mark.parametrize("storage", ["sqlite", "journal"])
def test_outlines_agree_with_the_records_of_each_half(tmp_path, storage):
    made = Stored(tmp_path, storage=f"journal://{tmp_path}/journal" if storage == "journal" else None)
    made.searched("I2V2", COMPLETE, 6)
    made.searched("Y4", PRUNED, 2)
    made.searched("I4", FAIL, 3, closed="interrupted")
    made.searched("I4", RUNNING, 4, continues=2)
    made.searched("V4", RUNNING, 0)
    made.stl("PDw", FAIL, 1, error="the disk is gone")
    made.study.search.ask()  # a driver died before it described this one
    study = made.study
    for half, records in ((study.search, study.searched()), (study.references, study.referenced())):
        found = outlines(study.storage, half)
        assert [(one.number, one.state.name.lower()) for one in found] == [
            (one.number, str(one.state)) for one in records
        ]
        assert [(one.epochs, one.closed, one.continues) for one in found] == [
            (one.epochs, one.closed, one.continues) for one in records
        ]
        assert [one.ended for one in found] == [one.ended for one in records]
        assert [study.storage.get_trial(one.trial_id).number for one in found] == [one.number for one in records]
