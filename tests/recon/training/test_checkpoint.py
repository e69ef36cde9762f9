"""Checkpoints: whole on the disk after any kill, refused in a sentence when damaged, and the curve that goes with them.

The state of a training and its exact resumption are held by ``test_training``.
"""

import csv
import errno
import hashlib
import itertools
import os
import random
import re
import resource
import shutil
import signal
import warnings
from typing import Any

import pytest
import torch

from recon.data.prepared import PreparedData
from recon.errors import DamagedError, InputError
from recon.training import checkpoint as checkpoints
from recon.training.checkpoint import load_checkpoint, load_network, save_checkpoint, usable, write_curve
from recon.training.loop import train
from tests.recon.networks import Bomb, small

TINY = small(
    tasks=("PDw",), network={"layout": "I1", "channels": 1, "pools": 1}, slices={"PDw": 2}, epochs=2, batch_size=2
)
MEASURED = ("seconds", "gpu_seconds", "peak_memory_bytes")


@pytest.fixture(scope="module")
def half(prepared, tmp_path_factory):
    """A checkpoint after one epoch of several."""
    folder = tmp_path_factory.mktemp("half") / "c"

    class Stop(Exception):
        pass

    def save(report):
        report.save(folder)
        raise Stop

    with pytest.raises(Stop):
        train(TINY, PreparedData(prepared), report=save)
    return folder


@pytest.fixture(scope="module")
def undisturbed(prepared, tmp_path_factory):
    """The folder of a training that nothing interrupted."""
    folder = tmp_path_factory.mktemp("undisturbed")
    train(TINY, PreparedData(prepared), out=folder)
    return folder


def as_before(folder, out):
    """The checkpoint as earlier versions wrote it: the configuration beside it, no checksum."""
    state, config = load_checkpoint(folder)
    out.mkdir()
    torch.save(state, out / "checkpoint.pt")
    (out / "config.json").write_text(config.model_dump_json(indent=2) + "\n")
    return out


def same(one, other):
    """Whether two states are equal, tensors to the last bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def curve_of(folder):
    with (folder / "curve.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if name not in MEASURED} for row in csv.DictReader(file)]


def assert_as_undisturbed(folder, undisturbed):
    weights = [load_checkpoint(one / "checkpoint")[0]["network"] for one in (folder, undisturbed)]
    assert same(*weights)
    assert curve_of(folder) == curve_of(undisturbed)
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    assert left == ["checkpoint", "checkpoint/checkpoint.pt", "curve.csv"]


def killed(work, at):
    """Do ``work`` in a process that dies where it would change the disk for the ``at``-th time, counted from 1.

    Returns whether it died; False if there are fewer changes.
    """
    child = os.fork()
    if child:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 9)
        return code == 9
    left = at

    def counted(change):
        def changed(*args: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os._exit(9)
            return change(*args, **named)

        return changed

    code = 1
    try:
        for name in ("mkdir", "replace", "rename", "fsync"):
            setattr(os, name, counted(getattr(os, name)))
        work()
        code = 0
    finally:
        os._exit(code)


def test_a_training_killed_between_any_two_writes_ends_as_if_undisturbed(prepared, tmp_path, monkeypatch, undisturbed):
    """What is on the disk before each change of it is what a killed process leaves."""
    data, folder, left, looking = PreparedData(prepared), tmp_path / "t", {}, False

    def look(change):
        def changed(*args: Any, **named: Any) -> Any:
            nonlocal looking
            if folder.is_dir() and not looking:
                looking = True
                paths = sorted(path.relative_to(folder) for path in folder.rglob("*"))
                content = [(re.sub(r"\d+-[0-9a-f]{8}", "", str(path)), content_of(folder / path)) for path in paths]
                if str(content) not in left:
                    left[str(content)] = shutil.copytree(folder, tmp_path / f"killed-{len(left)}")
                looking = False
            return change(*args, **named)

        return changed

    def content_of(path):
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"

    with monkeypatch.context() as patched:
        for name in ("mkdir", "replace", "rename", "unlink", "fsync"):
            patched.setattr(os, name, look(getattr(os, name)))
        write, number = checkpoints._Sealed.write, itertools.count()
        patched.setattr(
            checkpoints._Sealed,
            "write",
            lambda self, content: (look(write) if next(number) % 20 == 19 else write)(self, content),
        )
        train(TINY, data, out=folder)
    assert len(left) >= 2 * 5, "each epoch writes half a checkpoint, a whole one, and a curve, under two names each"
    assert_as_undisturbed(folder, undisturbed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing that a kill leaves is taken for damage
        for killed_there in left.values():
            train(TINY, data, out=killed_there)
            assert_as_undisturbed(killed_there, undisturbed)


def test_a_training_killed_again_and_again_loses_no_epoch_that_was_reported(prepared, tmp_path, undisturbed):
    rng, data, reached = random.Random(0), PreparedData(prepared), 0
    for _ in range(20):
        died = killed(lambda: train(TINY, data, out=tmp_path), rng.randint(6, 24))
        if usable(tmp_path / "checkpoint"):
            epoch = load_checkpoint(tmp_path / "checkpoint")[0]["epoch"]
            assert epoch >= reached
            reached = epoch
        else:
            assert reached == 0
        if not died:
            break
    assert not died
    assert_as_undisturbed(tmp_path, undisturbed)


def test_a_lost_curve_is_written_again_from_the_checkpoint(prepared, tmp_path, undisturbed):
    shutil.copytree(undisturbed, tmp_path / "t")
    whole = (tmp_path / "t" / "curve.csv").read_bytes()
    (tmp_path / "t" / "curve.csv").unlink()
    train(TINY, PreparedData(prepared), out=tmp_path / "t")
    assert (tmp_path / "t" / "curve.csv").read_bytes() == whole


def test_a_training_of_an_earlier_version_goes_on_with_its_curve(prepared, tmp_path, undisturbed, half):
    as_before(half, tmp_path / "checkpoint")
    state, _ = load_checkpoint(half)
    curve = state.pop("curve")
    torch.save(state, tmp_path / "checkpoint" / "checkpoint.pt")
    # The line of an epoch that another run reached.
    write_curve(tmp_path / "curve.csv", [*curve, {**curve[0], "epoch": 2}])
    train(TINY, PreparedData(prepared), out=tmp_path)
    assert_as_undisturbed(tmp_path, undisturbed)


@pytest.mark.parametrize("earlier", [False, True])
def test_a_damaged_checkpoint_is_loaded_equal_or_refused(half, tmp_path, earlier):
    """Cut off at any length, with bits flipped, with a block of zeros: never another exception, never another state.

    In a checkpoint of an earlier version, without a checksum of the whole, one bit at a time.
    """
    folder = as_before(half, tmp_path / "c") if earlier else shutil.copytree(half, tmp_path / "c")
    path, (good, config) = folder / "checkpoint.pt", load_checkpoint(folder)
    content, rng = path.read_bytes(), random.Random(1)
    damaged = [content[:length] for length in (*range(0, 80), *rng.sample(range(len(content)), 100))]
    damaged += [content[: len(content) - cut] for cut in range(1, 200)]
    damaged += [content + b"\0", content[:-1] + b"x", content * 2]
    for _ in range(300):
        hurt = bytearray(content)
        for _ in range(1 if earlier else rng.choice((1, 1, 2, 8))):
            hurt[rng.randrange(len(hurt))] ^= 1 << rng.randrange(8)
        damaged.append(bytes(hurt))
    for _ in range(100):
        start, length = rng.randrange(len(content)), rng.choice((16, 512, 4096))
        damaged.append((content[:start] + bytes(length) + content[start + length :])[: len(content)])
    said = []
    for hurt in damaged:
        path.write_bytes(hurt)
        try:
            state, found = load_checkpoint(folder)
        except DamagedError as error:
            said.append(str(error))
        else:
            assert same(state, good)
            assert found == config
    assert all("\n" not in one and str(path) in one for one in said)
    if not earlier:
        assert len(said) == sum(hurt != content for hurt in damaged)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("checkpoint.pt", None, r"holds no checkpoint: checkpoint\.pt is missing$"),
        ("checkpoint.pt", b"words", r"checkpoint\.pt is damaged or no checkpoint of ours$"),
        ("checkpoint.pt", b"", r"checkpoint\.pt is damaged or no checkpoint of ours$"),
        ("config.json", None, r"holds no checkpoint: config\.json is missing$"),
        ("config.json", b"{", r"config\.json is not JSON: "),
        ("config.json", b"\xff\xfe", r"config\.json is not JSON: "),
        ("config.json", b'{"tasks": []}', r"not the configuration of a training: tasks: "),
    ],
)
def test_a_damaged_checkpoint_is_refused_in_a_sentence(tmp_path, once, name, content, sentence):
    folder = as_before(once, tmp_path / "c")
    assert usable(folder)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(DamagedError, match=sentence) as caught:
        load_network(folder)
    assert "\n" not in str(caught.value)
    assert not usable(folder)


def test_weights_that_do_not_fit_their_configuration_are_refused_in_a_sentence(tmp_path, once):
    state, config = load_checkpoint(once)
    shorter = config.model_copy(update={"network": config.network.model_copy(update={"layout": "IY"})})
    save_checkpoint(tmp_path / "c", state, shorter)
    with pytest.raises(InputError, match=r"checkpoint\.pt does not fit its"):
        load_network(tmp_path / "c")


def test_nothing_in_a_checkpoint_is_unpickled(once, tmp_path):
    state, config = load_checkpoint(once)
    for write in (
        lambda bad: torch.save(bad, tmp_path / "c" / "checkpoint.pt"),
        lambda bad: save_checkpoint(tmp_path / "c", bad, config),
    ):
        shutil.copytree(once, tmp_path / "c")
        write({**state, "epoch": Bomb(tmp_path / "exploded")})
        with pytest.raises(DamagedError, match="damaged or no checkpoint of ours"):
            load_checkpoint(tmp_path / "c")
        write({"network": {}})
        with pytest.raises(DamagedError, match=r"is no checkpoint of ours: it lacks .*epoch, "):
            load_checkpoint(tmp_path / "c")
        assert not (tmp_path / "exploded").exists()
        shutil.rmtree(tmp_path / "c")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_checkpoint_that_may_not_be_read_is_not_taken_for_damaged(once, tmp_path):
    shutil.copytree(once, tmp_path / "c")
    (tmp_path / "c" / "checkpoint.pt").chmod(0)
    with pytest.raises(InputError, match="may not be read") as caught:
        load_checkpoint(tmp_path / "c")
    assert not isinstance(caught.value, DamagedError)


def test_a_full_disk_is_said_as_the_system_says_it_and_leaves_the_older_checkpoint(once, tmp_path):
    """By the limit on a file's size, in a process of its own."""
    shutil.copytree(once, tmp_path / "c")
    before = (tmp_path / "c" / "checkpoint.pt").read_bytes()
    state, config = load_checkpoint(once)
    child = os.fork()
    if not child:
        code = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            for limit in (len(before) // 2, len(before) - 40):
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
                try:
                    save_checkpoint(tmp_path / "c", state, config)
                except OSError as error:
                    code = 0 if error.errno == errno.EFBIG else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["checkpoint.pt"]
    assert (tmp_path / "c" / "checkpoint.pt").read_bytes() == before


def test_a_training_with_a_damaged_checkpoint_begins_anew_and_says_so(prepared, tmp_path, undisturbed):
    data = PreparedData(prepared)
    shutil.copytree(undisturbed, tmp_path / "t")
    path = tmp_path / "t" / "checkpoint" / "checkpoint.pt"
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(DamagedError, match=r"checkpoint\.pt is damaged"):
        train(TINY, data, resume=path.parent)
    said = []
    train(TINY, data, out=tmp_path / "t", warn=said.append)
    assert said == [f"{path} is damaged or no checkpoint of ours; the training begins anew"]
    assert_as_undisturbed(tmp_path / "t", undisturbed)
    os.truncate(path, 0)
    with pytest.warns(UserWarning, match="the training begins anew"):
        train(TINY, data, out=tmp_path / "t")


def test_a_training_into_a_folder_goes_on_from_there(prepared, tmp_path, undisturbed):
    """As the command line trains: checkpoint after each report, and the same weights however often it was cut off."""

    class Cut(Exception):
        pass

    def cut(report):
        raise Cut

    data = PreparedData(prepared)
    for _ in range(TINY.epochs):
        with pytest.raises(Cut):
            train(TINY, data, out=tmp_path, report=cut)
    network = train(TINY, data, out=tmp_path, report=cut)
    assert_as_undisturbed(tmp_path, undisturbed)
    assert same(dict(network.state_dict()), dict(load_checkpoint(tmp_path / "checkpoint")[0]["network"]))
