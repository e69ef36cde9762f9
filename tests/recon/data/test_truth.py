"""Simulated data know their noise-free truth: in every format, through every step, and never in training."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from recon.config import TrainConfig
from recon.data import volume
from recon.data.loading import Loader
from recon.data.options import PrepareOptions
from recon.data.prepare import prepare
from recon.data.prepared import PreparedData
from recon.data.readers import drawn, read_volume
from recon.data.readers.drawn import NAME, DrawnNoise, draw_noise, noise_factor
from recon.errors import InputError
from recon.physics import coils
from recon.physics.fourier import ifft
from recon.simulate import simulate
from tests.conftest import without_truth

FORMATS = ("fastmri", "ismrmrd", "hammernik", "cfl", "numpy")
OPTIONS = PrepareOptions(calibration_width=16, prewhiten="off")
SMALL = {"subjects": {"train": 1}, "matrix": 32, "slices": 3, "coils": 4, "seed": 3}


@pytest.fixture(scope="module")
def knees(tmp_path_factory):
    """One noisy subject in each format, and the same without noise in fastMRI's."""
    root = tmp_path_factory.mktemp("truth")
    for form in FORMATS:
        simulate(root / form, snr=12, format=form, **SMALL)
    simulate(root / "noiseless", snr=np.inf, **SMALL)
    return root


def noiseless_images(knees: Path, out: Path) -> dict[tuple[str, int], np.ndarray]:
    """What a second simulation without noise gives with the coil matrices and maps of the noisy one, step by step."""
    found = {}
    for path in (knees / "noiseless").rglob("*.h5"):
        opened = read_volume(path)
        with h5py.File(next((out / "volumes").glob(f"*{path.stem}.h5"))) as file:
            matrices = [file[name][()] for name in ("whitening", "compression") if name in file]
            for position in range(opened.slices):
                kspace = opened.read_slice(position)
                for matrix in matrices:
                    kspace = coils.compress(kspace, matrix)
                kspace = volume.without_oversampling(kspace, opened.image_rows)
                found[opened.task, position] = coils.sense_combine(ifft(kspace, (-2, -1)), file["maps"][position])
    return found


@pytest.mark.parametrize(
    "options",
    [
        {"prewhiten": "off"},
        {"prewhiten": "edge", "coils": 3},
        {"prewhiten": "edge", "coils": 3, "compression": "geometric"},
    ],
    ids=["plain", "whitened and compressed", "geometric"],
)
def test_the_truth_is_what_a_simulation_without_noise_gives_with_the_noisy_slices_maps(knees, tmp_path, options):
    report = prepare(knees / "fastmri", tmp_path / "out", PrepareOptions(calibration_width=16, **options))
    data = PreparedData(report.out)
    expected = noiseless_images(knees, report.out)
    assert len(expected) == len(data.index) == 6
    for one in data.index["slice_id"]:
        piece = data.read(one, truth=True)
        wanted = expected[piece.row.task, piece.row.slice]
        assert piece.truth.dtype == np.complex64
        # Single precision's rounding of k-space, against noise of 5 to 50 % of the maximum.
        assert np.abs(piece.truth - wanted).max() < 2e-6 * np.abs(wanted).max()
        assert np.abs(piece.target - wanted).max() > 2e-2 * np.abs(wanted).max()


def test_every_format_knows_the_same_truth_and_nothing_is_found_wrong(knees, tmp_path):
    truths = {}
    for form in FORMATS:
        report = prepare(knees / form, tmp_path / form, OPTIONS)
        assert report.ok
        assert report.problems.empty, report.problems
        data = PreparedData(report.out)
        assert all(data.knows_truth(task, "train") for task in data.tasks)
        pieces = [data.read(one, truth=True) for one in data.index["slice_id"]]
        truths[form] = {(piece.row.task, piece.row.slice): piece.truth for piece in pieces}
    for form in FORMATS[1:]:
        assert truths[form].keys() == truths["fastmri"].keys()
        for where, expected in truths["fastmri"].items():
            assert np.abs(truths[form][where] - expected).max() <= 1e-5 * np.abs(expected).max(), (form, where)


def test_without_noise_the_truth_is_the_target(knees, tmp_path):
    data = PreparedData(prepare(knees / "noiseless", tmp_path, OPTIONS).out)
    for one in data.index["slice_id"]:
        piece = data.read(one, truth=True)
        np.testing.assert_array_equal(piece.truth, piece.target)


def test_a_scan_of_nothing_has_no_truth(tmp_path):
    paths = simulate(tmp_path / "raw", snr=0, **SMALL)
    assert read_volume(paths[0]).simulated_noise is None


def test_what_a_file_says_of_its_noise_is_a_few_kilobytes(knees):
    for path in (knees / "fastmri").rglob("*.h5"):
        with h5py.File(path) as file:
            assert len(file[NAME][()]) < 2048


def test_a_volume_that_was_moved_and_renamed_knows_its_truth(knees, tmp_path):
    source = next((knees / "numpy").rglob("*_CORPD_FBK.npy"))
    for name in (source.name, source.name + ".json"):
        shutil.copy(source.with_name(name), tmp_path / name.replace(source.stem, "another"))
    data = PreparedData(prepare(tmp_path / "another.npy", tmp_path / "out", OPTIONS).out)
    assert data.read(0, truth=True).truth is not None


def test_a_truth_that_becomes_known_is_prepared_and_the_data_keep_their_hash(knees, tmp_path):
    folder = shutil.copytree(knees / "cfl", tmp_path / "raw")
    hints = {path: json.loads(path.read_text()) for path in folder.rglob("*.json")}
    for path, content in hints.items():
        path.write_text(json.dumps({name: value for name, value in content.items() if name != NAME}))
    before = prepare(folder, tmp_path / "out", OPTIONS)
    data = PreparedData(before.out)
    assert not data.knows_truth("PDw", "train")
    assert data.read(0, truth=True).truth is None
    with h5py.File(before.out / data.row(0).file) as file:
        assert "truth" not in file
    for path, content in hints.items():
        path.write_text(json.dumps(content))
    after = prepare(folder, tmp_path / "out", OPTIONS)
    assert len(after.prepared) == 2
    assert after.hash == before.hash
    assert PreparedData(after.out).knows_truth("PDw", "train")
    assert len(prepare(folder, tmp_path / "out", OPTIONS).kept) == 2


def test_data_that_were_prepared_before_there_was_a_truth_are_read_and_kept(raw_folder, prepared_folder, tmp_path):
    folder = without_truth(prepared_folder, tmp_path / "old")
    data = PreparedData(folder)
    assert data.read(0, truth=True).truth is None
    assert not data.knows_truth("PDw", "val")
    assert len(prepare(raw_folder, folder).kept) == 12


def test_the_truth_is_read_only_where_it_is_asked_for_and_under_the_splits_guard(prepared):
    data = PreparedData(prepared)
    one = data.subset("PDw", split="val")[0]
    assert data.read(one).truth is None
    assert data.read(one, truth=True).truth is not None
    test = int(data.index.loc[data.index["split"] == "test", "slice_id"].iloc[0])
    for ask in (lambda: data.read(test, truth=True), lambda: data.knows_truth("PDw", "test")):
        with pytest.raises(InputError, match="the test split is opened by `splitpoint test` alone"):
            ask()


def test_training_never_reads_the_truth(prepared, tmp_path):
    folder = shutil.copytree(prepared, tmp_path / "poisoned")
    for path in (folder / "volumes").glob("*.h5"):
        with h5py.File(path, "r+") as file:
            file["truth"][...] = np.nan
    config = TrainConfig(tasks=("PDw", "PDw-FS"), batch_size=3)

    def tensors(where: Path) -> list[torch.Tensor]:
        loader = Loader(PreparedData(where), config, workers=0)
        batches = [*loader.training_batches(1), *loader.validation_batches()]
        return [tensor for batch in batches for tensor in batch if isinstance(tensor, torch.Tensor)]

    expected, found = tensors(prepared), tensors(folder)
    assert len(expected) == len(found) > 20
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


def test_samples_that_were_changed_since_have_no_truth_and_that_is_said(knees, tmp_path):
    folder = shutil.copytree(knees / "fastmri", tmp_path / "raw")
    path = next(folder.rglob("*_CORPD_FBK.h5"))
    with h5py.File(path, "r+") as file:
        file["kspace"][1] *= 2
    report = prepare(folder, tmp_path / "out", OPTIONS)
    assert report.ok
    (found,) = report.problems.itertuples()
    assert (found.file, found.severity) == (str(path), "warning")
    assert found.what == "it says how its noise was drawn, but its samples were changed since; its truth is not known"
    data = PreparedData(report.out)
    assert (data.knows_truth("PDw", "train"), data.knows_truth("PDw-FS", "train")) == (False, True)
    again = prepare(folder, tmp_path / "out", OPTIONS)
    assert len(again.kept) == 2
    assert again.problems["what"].tolist() == report.problems["what"].tolist()


def test_a_numpy_that_draws_other_numbers_gives_no_truth_and_that_is_said(knees, tmp_path, monkeypatch):
    monkeypatch.setattr(drawn, "draw_noise", lambda shape, factor, rng: draw_noise(shape, factor, rng)[:, ::-1] + 0.1)
    report = prepare(knees / "fastmri", tmp_path / "out", OPTIONS)
    assert report.ok
    assert set(report.problems["what"]) == {
        "NumPy draws other numbers than when it was simulated; its truth is not known"
    }
    assert not PreparedData(report.out).knows_truth("PDw", "train")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda said: "{", "simulated_noise: Invalid JSON"),
        (lambda said: said[:200], "simulated_noise: Invalid JSON"),
        (lambda said: np.arange(3.0), "simulated_noise"),
        (lambda said: said.replace('"scale":', '"scales":'), "simulated_noise.scale is missing"),
        (lambda said: json.dumps({**json.loads(said), "factor": "AAAA"}), "factor has 3 bytes, where 128 are expected"),
        (lambda said: json.dumps({**json.loads(said), "factor": "*"}), "factor is not base64"),
        (lambda said: json.dumps({**json.loads(said), "acquired": [9, 900]}), r"acquired is \(9, 900\), where columns"),
        (
            lambda said: json.dumps({**json.loads(said), "entropy": [-1]}),
            r"noise.entropy\[0\] must be greater",
        ),
    ],
)
@pytest.mark.parametrize("form", ["fastmri", "ismrmrd"])
def test_a_damaged_word_on_the_noise_is_one_sentence(knees, tmp_path, form, change, sentence):
    path = next((knees / form).rglob("*_CORPD_FBK.*"))
    path = Path(shutil.copy(path, tmp_path / path.name))
    with h5py.File(path, "r+") as file:
        said = file[NAME][()].decode()
        del file[NAME]
        file[NAME] = change(said)
    with pytest.raises(InputError, match=sentence) as raised:
        read_volume(path)
    assert str(raised.value).startswith(str(path))


def test_noise_has_the_covariance_it_was_given_and_is_drawn_again():
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((4, 4)) + 1j * rng.standard_normal((4, 4))
    covariance = mixing @ mixing.conj().T
    factor = noise_factor(covariance)
    samples = draw_noise((4, 100, 500), factor, rng).reshape(4, -1)
    measured = samples @ samples.conj().T / samples.shape[1]
    np.testing.assert_allclose(measured, covariance, atol=0.03 * np.abs(covariance).max())
    circular = samples @ samples.T / samples.shape[1]
    assert np.abs(circular).max() < 0.03 * np.abs(covariance).max()
    noise = DrawnNoise.remember(
        entropy=(7, 1), shape=(4, 20, 30), acquired=(3, 28), scale=0.5, factor=factor, kspace_sha256=""
    )
    again = DrawnNoise.model_validate_json(noise.model_dump_json())
    assert again.is_drawn_alike()
    seeded = np.random.default_rng(np.random.SeedSequence([7, 1, 2]))
    expected = np.pad(0.5 * draw_noise((4, 20, 25), factor, seeded), ((0, 0), (0, 0), (3, 2)))
    np.testing.assert_array_equal(again.of_slice(2), expected)
