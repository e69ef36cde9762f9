"""What a study found becomes a bundle whose network is the checkpoint's and whose card says where it comes from."""

import dataclasses
from pathlib import Path

import pytest

from recon import bundle
from recon.data.options import PrepareOptions
from recon.data.prepared import PreparedData
from recon.errors import InputError
from recon.evaluation.definitions import DEFINITIONS
from recon.training.checkpoint import load_network
from search.results.card import card
from search.results.export import best, export, named
from search.results.pick import picked
from search.run.facts import DataFacts
from search.run.launch import launch
from search.study.record import State
from tests.recon.networks import a_batch, output
from tests.search import boards
from tests.search.boards import confirmed_study, opened
from tests.search.conftest import facts, listed


@pytest.fixture(scope="module")
def study(local_ray, tmp_path_factory):
    return opened(confirmed_study(tmp_path_factory))


@pytest.fixture(scope="module")
def exported(study, tmp_path_factory):
    return export(study, out=tmp_path_factory.mktemp("out") / "bundle")


def test_the_confirmed_best_is_exported(study, exported):
    pick = picked(study)
    assert exported.record == pick.record
    assert exported.record.stage == "confirm"
    loaded = bundle.load(exported.folder)
    assert loaded.config == pick.record.config
    assert loaded.provenance["trial"] == pick.record.name
    assert loaded.provenance["study"] == "one"
    assert loaded.provenance["data_hash"] == pick.record.data_hash == "abc"
    assert loaded.provenance["validation"]["ssim"] == pick.record.metrics["ssim"]
    assert loaded.provenance["metric_definition"] == {"paper": DEFINITIONS["paper"]}


@pytest.mark.parametrize("task", ["PDw", "PDw-FS"])
def test_the_bundles_images_are_the_checkpoints(exported, prepared, task):
    batch = a_batch(PreparedData(prepared), task)
    network, _ = load_network(Path(exported.record.checkpoint))
    expected = output(network, batch)
    assert expected.abs().max() > 0
    for folder in (exported.folder, exported.folder / "tasks" / task):
        assert output(bundle.load(folder).network, batch).equal(expected)


def test_the_card_names_data_definition_seeds_and_why_it_was_chosen(study, exported):
    card = (exported.folder / "README.md").read_text()
    record, pick = exported.record, picked(study)
    assert f"data hash `{record.data_hash}`, code {record.code_version}" in card
    assert f"Definition «paper»: {DEFINITIONS['paper']}" in card
    assert f"trial {record.name} (mtl, confirm), seed {record.seed}" in card
    assert exported.why in card
    assert f"mean validation gain {pick.chosen.mean:.4f}" in card
    assert f"(standard deviation {pick.chosen.deviation:.4f}) over the seeds 1, 2;" in card
    assert f"these are the weights of seed {record.seed}" in card
    for one in pick.chosen.records:
        assert one.name in card, "each seed's trial stands in the table"
    for task in record.tasks:
        ssim, psnr, nrmse = (record.metrics[f"{name}/{task}"] for name in ("ssim", "psnr", "nrmse"))
        assert f"| {task} | {ssim:.4f} | {psnr:.2f} | {nrmse:.4f} |" in card
    assert "PDw 40, PDw-FS " in card


def test_the_reason_says_whether_the_search_alone_would_have_chosen_otherwise(study, monkeypatch):
    pick = picked(study)
    another = next(record for record in study.searched() if record.point != pick.chosen.point)
    monkeypatch.setattr("search.results.export.picked", lambda _: dataclasses.replace(pick, unconfirmed=another))
    assert f"Without confirmation it would have been trial {another.name}, {another.layout} with" in best(study)[1]
    same = next(record for record in study.searched() if record.point == pick.chosen.point)
    monkeypatch.setattr("search.results.export.picked", lambda _: dataclasses.replace(pick, unconfirmed=same))
    assert best(study)[1].endswith("The search alone would have chosen the same configuration.")


def test_a_named_trial_is_exported_whatever_was_confirmed(study, prepared, tmp_path):
    searched = next(record for record in study.searched() if record.state is State.COMPLETE)
    stl = next(record for record in study.referenced() if record.tasks == ("PDw-FS",))
    for record in (searched, stl):
        done = export(study, record.name, tmp_path / record.name)
        loaded = bundle.load(done.folder)
        assert (loaded.config, loaded.provenance["trial"]) == (record.config, record.name)
        assert done.why == f"trial {record.name} was asked for"
        batch = a_batch(PreparedData(prepared), "PDw-FS")
        assert output(loaded.network, batch).equal(output(load_network(Path(record.checkpoint))[0], batch))
        assert "Over seeds" not in (done.folder / "README.md").read_text()


def test_without_a_folder_it_goes_beside_the_study(study):
    assert export(study).folder == study.folder / "bundle"
    assert (study.folder / "bundle" / "model.safetensors").is_file()


@pytest.mark.parametrize("state", [State.PRUNED, State.FAIL, State.RUNNING])
def test_a_trial_that_is_not_complete_is_refused(study, state, tmp_path, monkeypatch):
    records = study.records()
    found = [record for record in records if record.state is state]
    if state is State.RUNNING:
        found = [dataclasses.replace(records[0], state=state)]
        monkeypatch.setattr(type(study), "records", lambda _: found)
    name = found[0].name
    with pytest.raises(
        InputError, match=f"trial {name} of study 'one' is {state}, and only a complete one is exported"
    ):
        export(study, name, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_trial_that_is_not_there_is_refused(study):
    with pytest.raises(InputError, match=r"study 'one' has no trial '99'; the leaderboard's column «trial» names them"):
        named(study, "99")


def test_a_study_of_which_nothing_is_confirmed_is_refused_until_a_trial_is_named(local_ray, tmp_path):
    wanted = listed("I2V2", baselines={"kinds": []})
    outcome = launch(wanted, facts(tmp_path / "data"), "new", runs_dir=tmp_path, trainer=boards.train)
    with pytest.raises(InputError, match="study 'new' has no confirmed trial yet; run splitpoint confirm new"):
        export(outcome.study)
    assert export(outcome.study, "0").record.layout == "I2V2"
    (trial,) = outcome.study.searched()
    checkpoint = Path(trial.checkpoint)
    checkpoint.rename(checkpoint.with_name("elsewhere"))
    with pytest.raises(InputError, match=f"the checkpoint of trial 0 is not at {checkpoint}; was it moved or deleted"):
        export(outcome.study, "0")


def test_a_bundle_remembers_how_its_data_were_prepared(exported, prepared):
    loaded = bundle.load(exported.folder)
    assert loaded.prepare_options == PrepareOptions(calibration_width=16)
    assert DataFacts.of(prepared).prepared == PreparedData(prepared).options.model_dump(mode="json")
    assert bundle.Bundle(loaded.network, loaded.config).prepare_options == PrepareOptions()


def test_the_card_says_how_the_network_begins_and_what_steps_it(study, exported):
    config = exported.record.config
    assert f"Adam {config.learning_rate:g} ({config.schedule})" in card(study, exported.record, "")
    network = config.network.model_copy(update={"sense_steps": 7, "consistency": "accelerated"})
    changed = config.model_copy(update={"optimiser": "muon", "muon_learning_rate": 0.01, "network": network})
    text = card(study, dataclasses.replace(exported.record, config=changed), "")
    assert "accelerated data consistency after 7 SENSE steps without a U-Net" in text
    assert f"Muon 0.01 on convolutions, Adam {config.learning_rate:g} on the rest" in text
