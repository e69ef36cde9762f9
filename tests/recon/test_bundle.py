"""A bundle gives back the network that was put in, task by task, and a damaged one is refused in a sentence."""

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from recon import bundle
from recon.data.prepared import PreparedData
from recon.errors import InputError
from tests.recon.networks import Bomb, a_batch, output, random_bundle, small

TASKS = ("PDw", "PDw-FS")


@pytest.fixture
def saved(tmp_path):
    """A bundle in a folder, and what was put into it."""
    made = random_bundle()
    bundle.save(tmp_path / "bundle", made, "# A card\n")
    return tmp_path / "bundle", made


def test_a_bundle_gives_bit_for_bit_the_same_images(saved, prepared):
    folder, made = saved
    loaded = bundle.load(folder)
    assert loaded.config == made.config
    assert loaded.provenance == made.provenance
    assert not loaded.network.training
    assert (folder / "README.md").read_text() == "# A card\n"
    for task in TASKS:
        batch = a_batch(PreparedData(prepared), task)
        assert torch.equal(output(loaded.network, batch), output(made.network, batch))


@pytest.mark.parametrize("task", TASKS)
def test_a_tasks_own_network_gives_the_images_of_the_whole_and_holds_its_path_alone(saved, prepared, task):
    folder, made = saved
    loaded = bundle.load(folder / "tasks" / task)
    assert loaded.config.tasks == loaded.network.tasks == (task,)
    assert loaded.config.slices == {task: made.config.slices[task]}
    assert loaded.provenance["path_of"] == "IYV"
    batch = a_batch(PreparedData(prepared), task)
    assert torch.equal(output(loaded.network, batch), output(made.network, batch))
    stl = random_bundle(tasks=(task,), slices={}, network={**small().network.model_dump(), "layout": "I3"})
    assert count(loaded.network) == count(stl.network) < count(made.network)


def count(network) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_tasks_whose_names_are_no_file_names_get_folders_of_their_own(tmp_path):
    tasks = ("T2 fat/sat", "T2_fat_sat", "t2_FAT_sat", "../up")
    bundle.save(tmp_path / "bundle", random_bundle(tasks=tasks, slices={}), "")
    folders = list((tmp_path / "bundle" / "tasks").iterdir())
    assert sorted(path.name for path in folders) == ["T2_fat_sat", "T2_fat_sat_2", "__up", "t2_FAT_sat_3"]
    assert {bundle.load(path).config.tasks for path in folders} == {(task,) for task in tasks}


def test_an_older_bundle_is_replaced_whole(saved):
    folder, _ = saved
    one = random_bundle(tasks=("PDw",), slices={})
    bundle.save(folder, one, "# Another\n")
    assert bundle.load(folder).config == one.config
    assert [path.name for path in (folder / "tasks").iterdir()] == ["PDw"]
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_a_folder_or_file_that_is_no_bundle_is_not_overwritten(tmp_path):
    folder, file, empty = tmp_path / "mine", tmp_path / "file", tmp_path / "empty"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    file.write_text("more")
    empty.mkdir()
    for path in (folder, file):
        with pytest.raises(InputError, match="exists and is no bundle; give a new folder"):
            bundle.save(path, random_bundle(), "")
    assert (folder / "thesis.tex").read_text() == "years of work"
    assert file.read_text() == "more"
    bundle.save(empty, random_bundle(), "")
    assert bundle.load(empty).config == small()


def lose(name):
    return lambda folder: (folder / name).unlink()


def cut(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def reshape(folder):
    weights = load_file(folder / "model.safetensors")
    name = next(iter(weights))
    save_file({**weights, name: torch.zeros(1, 2, 3)}, folder / "model.safetensors")


def drop(folder):
    weights = load_file(folder / "model.safetensors")
    save_file(dict(list(weights.items())[1:]), folder / "model.safetensors")


def add(folder):
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "more": torch.zeros(1)}, folder / "model.safetensors")


def pickled(folder):
    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb(folder / "exploded")))


def torch_saved(folder):
    torch.save({"weights": torch.zeros(3), "bomb": Bomb(folder / "exploded")}, folder / "model.safetensors")


def rewritten(change):
    def damage(folder):
        content = json.loads((folder / "config.json").read_text())
        change(content)
        (folder / "config.json").write_text(json.dumps(content))

    return damage


def text(words):
    return lambda folder: (folder / "config.json").write_bytes(words)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lose("model.safetensors"), r"bundle is no bundle: model\.safetensors is missing$"),
        (lose("config.json"), r"bundle is no bundle: config\.json is missing$"),
        (cut, r"model\.safetensors is damaged or no safetensors file: "),
        (pickled, r"model\.safetensors is damaged or no safetensors file: "),
        (torch_saved, r"model\.safetensors is damaged or no safetensors file: "),
        (reshape, r"does not fit its configuration: blocks\.\S+ is \(1, 2, 3\), where \(.*\) is wanted$"),
        (drop, r"does not fit its configuration: blocks\.\S+ is missing, where \(.*\) is wanted$"),
        (add, r"does not fit its configuration: more is \(1,\), where none is wanted$"),
        (text(b"channels: 18"), r"config\.json is not JSON: "),
        (text(b"\xff\xfe\x00"), r"config\.json is not JSON: "),
        (text(b"[1, 2]"), r"config\.json holds list, where an object of named fields should be$"),
        (rewritten(lambda c: c.update(format=9)), r"config\.json has format 9; this version reads format 1$"),
        (rewritten(lambda c: c.pop("format")), r"config\.json has format None; this version reads format 1$"),
        (rewritten(lambda c: c.pop("train")), r"config\.json is not the configuration of a training: "),
        (rewritten(lambda c: c["train"].update(wheels=4)), r"training: wheels is no known field$"),
        (
            rewritten(lambda c: c["train"]["network"].update(layout="I2Q")),
            r"network\.layout: layout 'I2Q': character 3",
        ),
        (rewritten(lambda c: c["train"]["network"].update(layout="I3")), r"does not fit its configuration: blocks"),
        (rewritten(lambda c: c["train"]["network"].update(channels=3)), r"does not fit its configuration: blocks"),
    ],
)
def test_a_damaged_bundle_is_refused_in_a_sentence_and_nothing_is_unpickled(saved, damage, sentence):
    folder, _ = saved
    damage(folder)
    with pytest.raises(InputError, match=sentence) as caught:
        bundle.load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    assert not (folder / "exploded").exists()


def test_the_bomb_would_explode_where_it_is_unpickled(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "exploded"))).close()
    assert (tmp_path / "exploded").exists()
