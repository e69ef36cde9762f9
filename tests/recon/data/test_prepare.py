import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import ProcessPoolExecutor

import h5py
import numpy as np
import pytest
from pydantic import ValidationError
from sigpy import mri

from recon.config import MaskConfig
from recon.data import volume as module
from recon.data.job import VolumeJob, prepare_volume
from recon.data.options import PrepareOptions
from recon.data.prepare import prepare
from recon.data.prepared import PreparedData
from recon.data.readers import read_volume
from recon.data.splits import split_patients
from recon.data.volume_file import read_record
from recon.errors import InputError
from recon.physics import coils, espirit
from recon.physics.fourier import fft, ifft
from tests.recon.bart import bart, needs_bart
from tests.recon.data import rawfiles
from tests.recon.data.conftest import make_folder
from tests.recon.physics.test_coils import phantom_kspace


@pytest.fixture
def one(tmp_path):
    return rawfiles.make(tmp_path / "raw" / "one.h5", patient="p")


def first_piece(raw, options=None):
    options = options or PrepareOptions()
    return next(module.pieces(raw, options, module.coil_matrices(raw, options, module.survey(raw, options))))


def volume_of(report, name):
    return h5py.File(report.out / "volumes" / f"{name}.h5", "r")


def test_oversampling_goes_and_the_image_inside_stays(one, tmp_path):
    report = prepare(one.path, tmp_path / "out", PrepareOptions(calibration="full"))
    raw = read_volume(one.path)
    with volume_of(report, "one") as file:
        assert file["kspace"].shape == (3, 4, 32, 36)
        for position in range(3):
            acquired = raw.read_slice(position)
            acquired[..., :2] = acquired[..., -3:] = 0
            np.testing.assert_allclose(ifft(file["kspace"][position]), ifft(acquired)[:, 16:48], atol=1e-5)


@needs_bart
def test_oversampling_goes_as_with_bart(one, tmp_path):
    kspace = read_volume(one.path).read_slice(0)
    image = bart(tmp_path, "fft -i -u 1", kspace)
    theirs = bart(tmp_path, "fft -u 1", bart(tmp_path, "resize -c 0 32", image))
    np.testing.assert_allclose(module.without_oversampling(kspace, 32), theirs, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize(("rows", "kept"), [(64, 32), (63, 31), (64, 33), (63, 32)])
def test_oversampling_goes_about_the_centre_for_even_and_odd(rows, kept):
    image = np.zeros((1, rows, 4), np.complex64)
    image[0, rows // 2] = 1
    result = ifft(module.without_oversampling(fft(image), kept))
    assert np.abs(result[0, :, 0]).argmax() == kept // 2
    np.testing.assert_allclose(np.abs(result).sum(), 4, rtol=1e-4)


def test_padding_is_zero_and_recorded(one, tmp_path):
    report = prepare(one.path, tmp_path / "out")
    with volume_of(report, "one") as file:
        kspace = file["kspace"][()]
    assert not kspace[..., :2].any()
    assert not kspace[..., -3:].any()
    assert kspace[..., 2].all()
    assert kspace[..., -4].all()
    row = PreparedData(report.out).row(0)
    assert (row.pad_left, row.pad_right) == (2, 3)


def test_target_is_the_sense_combination_and_shows_the_object(one, tmp_path):
    report = prepare(one.path, tmp_path / "out")
    with volume_of(report, "one") as file:
        kspace, maps, target = file["kspace"][1], file["maps"][1], file["target"][1]
    expected = np.sum(maps.conj() * ifft(kspace), axis=0)
    np.testing.assert_allclose(target, expected, atol=1e-5)
    truth = np.abs(one.image[1]) * np.linalg.norm(one.maps, axis=0)
    truth = truth[16:48]
    inside = truth > 0.2 * truth.max()
    assert np.corrcoef(np.abs(target)[inside], truth[inside])[0, 1] > 0.98


def test_maps_agree_with_sigpys_inside_the_object(one, tmp_path):
    report = prepare(one.path, tmp_path / "out")
    with volume_of(report, "one") as file:
        kspace, maps, target = file["kspace"][0], file["maps"][0], np.abs(file["target"][0])
    theirs = mri.app.EspiritCalib(kspace, show_pbar=False).run()
    inside = target > 0.2 * target.max()
    assert np.abs(np.sum(maps.conj() * theirs, axis=0))[inside].mean() > 0.995


def test_scale_is_the_volumes_largest_magnitude_inside_the_crop(one, tmp_path):
    report = prepare(one.path, tmp_path / "out")
    with volume_of(report, "one") as file:
        inside = np.abs(file["target"][:, 2:30, 3:33])
    assert report.index["scale"].unique().tolist() == [inside.max()]


@pytest.mark.parametrize(("crop", "expected"), [("header", (28, 30)), ("full", (32, 36)), ((20, 99), (20, 36))])
def test_crop_is_the_headers_all_or_given(one, tmp_path, crop, expected):
    report = prepare(one.path, tmp_path / "out", PrepareOptions(crop=crop))
    assert tuple(report.index.loc[0, ["crop_rows", "crop_columns"]]) == expected


def test_coils_are_compressed_alike_in_all_slices_and_recorded(one, tmp_path):
    report = prepare(one.path, tmp_path / "out", PrepareOptions(coils=3))
    whole = prepare(one.path, tmp_path / "whole")
    with volume_of(report, "one") as file, volume_of(whole, "one") as full:
        matrix = file["compression"][()]
        assert matrix.shape == (3, 4)
        for position in range(3):
            np.testing.assert_allclose(
                file["kspace"][position], coils.compress(full["kspace"][position], matrix), atol=1e-4
            )
        assert "compression" not in full
    assert set(report.index["coils"]) == {3}
    few = rawfiles.make(tmp_path / "both" / "few.h5", coils=2).path
    both = prepare([one.path, few], tmp_path / "more", PrepareOptions(coils=3))
    assert dict(zip(both.index["volume"], both.index["coils"], strict=True)) == {"one": 3, "few": 2}


def test_mask_limited_calibration_sees_only_the_masks_centre(one, tmp_path):
    mask = MaskConfig(accelerations=(2,), centre_fractions=(0.25,))
    options = PrepareOptions(calibration="mask", calibration_mask=mask)
    report = prepare(one.path, tmp_path / "out", options)
    raw = read_volume(one.path)
    acquired = module.without_padding(raw.read_slice(0), 2, 3)
    columns = module.fixed(mask, (64, 36), (2, 3)).kept
    with volume_of(report, "one") as file:
        np.testing.assert_array_equal(file["maps"][0], espirit.espirit(acquired, mask=columns, rows=32))


def test_too_narrow_a_calibration_mask_fails_each_volume_with_the_reason(one, tmp_path):
    mask = MaskConfig(accelerations=(6,), centre_fractions=(0.06,))
    report = prepare(one.path, tmp_path / "out", PrepareOptions(calibration="mask", calibration_mask=mask))
    assert report.hash is None
    assert "one.h5: slice 0: ESPIRiT needs 4 contiguous lines" in report.failed[str(one.path)]
    with pytest.raises(InputError, match=r"holds no dataset\.json|half prepared"):
        PreparedData(tmp_path / "out")


def test_provenance_stands_in_each_volume(one, tmp_path):
    report = prepare(one.path, tmp_path / "out", PrepareOptions(calibration_width=20))
    record = read_record(report.out / "volumes" / "one.h5")
    assert record.source == "one.h5"
    assert record.source_sha256 == hashlib.sha256(one.path.read_bytes()).hexdigest()
    assert record.recipe["calibration"] == "full"
    assert record.recipe["calibration_width"] == 20
    assert record.acquisition == "CORPD_FBK"
    assert record.versions["numpy"] == np.__version__
    assert str(tmp_path) not in record.model_dump_json()


def test_tasks_may_be_named_by_the_caller(raw_folder, tmp_path):
    options = PrepareOptions(tasks={"*/p0_*FS_*": "first", "p1_*": "second"})
    index = prepare(raw_folder, tmp_path / "out", options).index
    tasks = {volume: set(group["task"]) for volume, group in index.groupby("volume")}
    assert tasks["p0_CORPDFS_FBK"] == {"first"}
    assert tasks["p0_CORPD_FBK"] == {"PDw"}
    assert tasks["p1_CORPD_FBK"] == tasks["p1_CORPDFS_FBK"] == {"second"}


def test_hash_is_the_same_wherever_and_whenever_it_is_prepared(prepared_folder, tmp_path):
    moved = make_folder(tmp_path / "elsewhere")
    again = prepare([*sorted(moved.glob("*FS*"), reverse=True), moved], tmp_path / "out")
    assert again.hash == PreparedData(prepared_folder).hash


@pytest.mark.parametrize(
    "change",
    [
        {"calibration_width": 16},
        {"eigenvalue_crop": 0.7},
        {"coils": 3},
        {"crop": "full"},
        {"tasks": {"p0*": "other"}},
        {"split_seed": 1},
        {"subset_seed": 1},
        {"fractions": (0.4, 0.3, 0.3)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_hash_changes_with_every_option_that_changes_the_content(raw_folder, prepared_folder, tmp_path, change):
    assert prepare(raw_folder, tmp_path / "out", PrepareOptions(**change)).hash != PreparedData(prepared_folder).hash


def test_hash_changes_with_one_raw_sample(tmp_path):
    raw = make_folder(tmp_path / "raw")
    before = prepare(raw, tmp_path / "out")
    with h5py.File(raw / "p0_CORPD_FBK.h5", "r+") as file:
        file["kspace"][0, 0, 5, 5] *= 1.001
    after = prepare(raw, tmp_path / "out")
    assert after.prepared == ("p0_CORPD_FBK",)
    assert len(after.kept) == 11
    assert after.hash != before.hash


def test_a_second_run_does_nothing_and_other_options_do_all_again(raw_folder, tmp_path):
    first = prepare(raw_folder, tmp_path / "out")
    assert len(first.prepared) == 12
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "volumes").iterdir()}
    second = prepare(raw_folder, tmp_path / "out")
    assert (len(second.kept), second.prepared, second.hash) == (12, (), first.hash)
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "volumes").iterdir()}
    third = prepare(raw_folder, tmp_path / "out", PrepareOptions(calibration_width=16))
    assert len(third.prepared) == 12
    # The split is in the index alone: no volume is made again for it.
    fourth = prepare(raw_folder, tmp_path / "out", PrepareOptions(calibration_width=16, split_seed=5))
    assert len(fourth.kept) == 12


SLOW_PREPARE = """
import sys, time
from recon.data.prepare import prepare
prepare(sys.argv[1], sys.argv[2], progress=lambda done, all, result: (print(done, flush=True), time.sleep(0.2)))
"""


def test_a_killed_run_goes_on_with_what_is_missing(raw_folder, prepared_folder, tmp_path):
    out = tmp_path / "out"
    run = subprocess.Popen(
        [sys.executable, "-c", SLOW_PREPARE, str(raw_folder), str(out)], stdout=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    while run.stdout.readline().strip() != "3":
        assert run.poll() is None
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    done = sorted(path.stem for path in (out / "volumes").glob("[!.]*.h5"))
    assert 3 <= len(done) < 12
    with pytest.raises(InputError, match="half prepared"):
        PreparedData(out)
    report = prepare(raw_folder, out)
    assert sorted(report.kept) == done
    assert len(report.prepared) == 12 - len(done)
    assert report.hash == PreparedData(prepared_folder).hash


def test_what_a_killed_run_left_half_written_goes(one, tmp_path):
    volumes = tmp_path / "out" / "volumes"
    volumes.mkdir(parents=True)
    (volumes / f".one.h5.{os.getpid()}-abc.part").write_bytes(b"half")  # this process writes nothing yet
    (volumes / "one.h5").write_bytes(b"not HDF5")
    assert prepare(one.path, tmp_path / "out").prepared == ("one",)
    assert [path.name for path in volumes.iterdir()] == ["one.h5"]


def break_truncated(path):
    path.write_bytes(path.read_bytes()[:3000])


def break_text(path):
    path.write_text("hello")


def break_finite(path):
    with h5py.File(path, "r+") as file:
        file["kspace"][1, 0, 0, 7] = np.nan


def break_header(path):
    with h5py.File(path, "r+") as file:
        del file["ismrmrd_header"]
        file["ismrmrd_header"] = "<a/>"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (break_truncated, "is broken or of a format"),
        (break_text, "is broken or of a format"),
        (break_header, "its ISMRMRD header cannot be read"),
    ],
)
def test_a_broken_file_is_named_and_the_rest_goes_on(tmp_path, spoil, reason):
    raw = make_folder(tmp_path / "raw")
    broken = raw / "p3_CORPD_FBK.h5"
    whole = broken.read_bytes()
    spoil(broken)
    report = prepare(raw, tmp_path / "out")
    assert not report.ok
    assert list(report.failed) == [str(broken)]
    assert "p3_CORPD_FBK.h5" in report.failed[str(broken)]
    assert reason in report.failed[str(broken)]
    assert len(report.prepared) == 11
    assert "p3_CORPD_FBK" not in set(report.index["volume"])
    assert not list((tmp_path / "out" / "volumes").glob("*p3_CORPD_FBK*"))
    assert set(PreparedData(tmp_path / "out").description.failed) == {"p3_CORPD_FBK.h5"}
    broken.write_bytes(whole)
    mended = prepare(raw, tmp_path / "out")
    assert mended.ok
    assert mended.prepared == ("p3_CORPD_FBK",)


def test_a_bad_slice_costs_a_slice_and_is_named(tmp_path):
    raw = make_folder(tmp_path / "raw")
    whole = prepare(raw, tmp_path / "whole")
    broken = raw / "p3_CORPD_FBK.h5"
    break_finite(broken)
    report = prepare(raw, tmp_path / "out")
    assert report.ok
    assert report.slices_left_out == 1
    (finding,) = report.problems[report.problems["severity"] == "error"].itertuples()
    assert (finding.file, finding.slice) == (str(broken), 1)
    assert finding.what == "it holds samples that are not finite"
    record = PreparedData(report.out).record("p3_CORPD_FBK")
    assert record.positions == (0, 2)
    assert record.raw_slices == 3
    assert len(report.index) == len(whole.index) - 1
    with volume_of(report, "p3_CORPD_FBK") as some, volume_of(whole, "p3_CORPD_FBK") as all_of_them:
        for name in ("kspace", "maps", "target"):
            np.testing.assert_array_equal(some[name][()], all_of_them[name][()][[0, 2]])
    again = prepare(raw, tmp_path / "out")
    assert len(again.kept) == 12
    assert again.problems.equals(report.problems)
    assert again.hash == report.hash


def test_maps_of_a_volume_with_a_missing_slice_are_found_again(tmp_path, monkeypatch):
    path = rawfiles.make(tmp_path / "raw" / "one.h5").path
    break_finite(path)
    first = prepare(path, tmp_path / "first")
    renamed = path.rename(path.with_name("two.h5"))
    monkeypatch.setattr(espirit, "espirit", None)
    again = prepare(renamed, tmp_path / "second", reuse=[tmp_path / "first"])
    assert again.ok
    with volume_of(first, "one") as one, volume_of(again, "two") as two:
        np.testing.assert_array_equal(one["maps"][()], two["maps"][()])


def test_a_slice_without_a_reference_is_left_out(tmp_path, monkeypatch):
    path = rawfiles.make(tmp_path / "raw" / "one.h5").path
    numbers = iter((0, 1, 0))
    true = espirit.espirit
    monkeypatch.setattr(espirit, "espirit", lambda *given, **how: true(*given, **how) * next(numbers))
    report = prepare(path, tmp_path / "out")
    assert PreparedData(report.out).record("one").positions == (1,)
    assert report.problems["what"].str.contains("zero everywhere in the object").all()
    assert report.problems["slice"].tolist() == [0, 2]


def test_findings_are_kept_where_nothing_could_be_prepared(tmp_path):
    path = tmp_path / "raw" / "text.h5"
    path.parent.mkdir()
    path.write_text("hello")
    report = prepare(path, tmp_path / "out")
    assert report.hash is None
    assert "error" in (tmp_path / "out" / "problems.csv").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tasks": {"*nomatch*": "PDx"}}, r"--task: no raw file matches '\*nomatch\*'"),
        ({"coils": 9}, "--coils is 9, and no volume has more than 4"),
        ({"compression": "geometric"}, "--compression does nothing without --coils"),
        ({"maps": "own", "eigenvalue_crop": 0.5}, "--eigenvalue-crop does nothing with --maps own"),
        ({"hints": {"axes": ("coils", "rows", "columns")}}, "--axes names the axes of .npy files, and there is none"),
    ],
)
def test_options_that_do_nothing_are_refused_before_any_work(raw_folder, tmp_path, options, said):
    with pytest.raises(InputError, match=said):
        prepare(raw_folder, tmp_path / "out", PrepareOptions(**options))
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_no_prepared_data_cannot_be_reused(raw_folder, tmp_path):
    with pytest.raises(InputError, match="holds no prepared volumes; --reuse"):
        prepare(raw_folder, tmp_path / "out", reuse=[raw_folder])


def test_two_sets_of_maps_are_stored_with_an_image_each(one, tmp_path):
    report = prepare(one.path, tmp_path / "out", PrepareOptions(maps_sets=2))
    with volume_of(report, "one") as file:
        assert file["maps"].shape == (3, 2, 4, 32, 36)
        assert file["target"].shape == (3, 2, 32, 36)
        images = ifft(file["kspace"][0])
        expected = np.einsum("scxy,cxy->sxy", file["maps"][0].conj(), images)
        np.testing.assert_allclose(file["target"][0], expected, atol=1e-5 * np.abs(expected).max())


def test_our_own_failure_is_reported_with_its_traceback(one, tmp_path, monkeypatch):
    def fail(images, maps):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(coils, "sense_combine", fail)
    result = prepare_volume(VolumeJob(one.path, "PDw", "p", tmp_path / "out", PrepareOptions(), {}))
    assert result.status == "failed"
    assert "ZeroDivisionError: ours" in result.reason
    assert "Traceback" in result.detail
    assert not list((tmp_path / "out" / "volumes").iterdir())


def test_undersampled_files_are_refused_with_their_lines(tmp_path):
    mask = np.arange(rawfiles.COLUMNS) % 2 == 0
    path = rawfiles.make(tmp_path / "raw" / "under.h5", mask=mask).path
    rawfiles.make(tmp_path / "raw" / "full.h5")
    report = prepare(tmp_path / "raw", tmp_path / "out")
    assert "is undersampled (its mask keeps 18 of 36 columns)" in report.failed[str(path)]
    assert report.prepared == ("full",)


def test_undersampled_volumes_are_prepared_for_reconstruction_from_their_own_lines(tmp_path):
    mask = np.arange(rawfiles.COLUMNS) % 2 == 0
    mask[10:26] = True
    under = read_volume(rawfiles.make(tmp_path / "under.h5", mask=mask).path)
    full = read_volume(rawfiles.make(tmp_path / "full.h5").path)
    piece = first_piece(under)
    reference = first_piece(full)
    assert not piece.kspace[..., ~mask].any()
    inside = np.abs(reference.target) > 0.3 * np.abs(reference.target).max()
    assert np.abs(np.sum(piece.maps.conj() * reference.maps, axis=0))[inside].mean() > 0.98


def test_one_volume_under_two_names_is_taken_once(tmp_path):
    path = rawfiles.make(tmp_path / "raw" / "a.h5", patient="p").path
    rawfiles.make(tmp_path / "raw" / "c.h5", patient="r", seed=1)
    twin = path.with_name("b.h5")
    twin.write_bytes(path.read_bytes())
    with h5py.File(twin, "r+") as file:
        file.attrs["patient_id"] = "q"
    report = prepare(tmp_path / "raw", tmp_path / "out")
    assert f"holds the same samples as {path.name}" in report.duplicates[str(twin)]
    assert report.ok
    assert report.problems[["file", "severity"]].to_numpy().tolist() == [[str(twin), "warning"]]
    assert set(report.index["volume"]) == {"a", "c"}


@pytest.mark.parametrize("seed", range(6))
def test_patients_who_share_a_volume_are_one_person(tmp_path, seed):
    """Volume ``a`` is listed twice, as p's and as q's: whatever else is of p and q lies on one side of the split."""
    for name, patient in (("a", "p"), ("c", "p"), ("d", "q"), ("e", "r"), ("f", "s"), ("g", "t")):
        path = rawfiles.make(tmp_path / "raw" / f"{name}.h5", patient=patient, seed=ord(name), slices=1).path
        if name == "a":
            path.with_name("b.h5").write_bytes(path.read_bytes())
    with h5py.File(tmp_path / "raw" / "b.h5", "r+") as file:
        file.attrs["patient_id"] = "q"
    report = prepare(tmp_path / "raw", tmp_path / "out", PrepareOptions(split_seed=seed))
    sides = report.index.set_index("volume")["split"]
    assert sides["a"] == sides["c"] == sides["d"]
    assert set(sides) == {"train", "val", "test"}


def test_folders_that_part_a_person_are_refused_once_a_shared_volume_tells(tmp_path):
    path = rawfiles.make(tmp_path / "raw" / "train" / "a.h5", patient="p").path
    rawfiles.make(tmp_path / "raw" / "val" / "c.h5", patient="q", seed=1)
    twin = tmp_path / "raw" / "val" / "b.h5"
    twin.write_bytes(path.read_bytes())
    with h5py.File(twin, "r+") as file:
        file.attrs["patient_id"] = "q"
    with pytest.raises(InputError, match="patient p is on both sides of the split"):
        prepare(tmp_path / "raw", tmp_path / "out")


def test_two_files_of_one_name_are_refused(tmp_path):
    rawfiles.make(tmp_path / "raw" / "x" / "a.h5")
    rawfiles.make(tmp_path / "raw" / "y" / "a.h5", seed=1)
    with pytest.raises(InputError, match="are both named a;"):
        prepare(tmp_path / "raw", tmp_path / "out")


def test_nothing_to_prepare_is_said(tmp_path):
    with pytest.raises(InputError, match=r"there is no raw file \(.*\.h5.*\) in"):
        prepare(tmp_path, tmp_path / "out")
    with pytest.raises(InputError, match="neither a file nor a folder"):
        prepare(tmp_path / "nowhere", tmp_path / "out")


def test_prepared_data_inside_the_raw_folder_are_not_taken_for_raw(one):
    report = prepare(one.path.parent, one.path.parent / "prepared")
    assert prepare(one.path.parent, one.path.parent / "prepared").hash == report.hash


def test_no_patient_is_on_both_sides_of_a_drawn_split(raw_folder, tmp_path):
    for seed in range(4):
        index = prepare(raw_folder, tmp_path / "out", PrepareOptions(split_seed=seed)).index
        assert index.groupby("patient")["split"].nunique().max() == 1
        for _, group in index.groupby("task"):
            assert set(group["split"]) == {"train", "val", "test"}


def test_drawn_split_gives_each_group_its_fractions():
    patients = {f"a{n}": frozenset({"A"}) for n in range(20)} | {f"b{n}": frozenset({"B"}) for n in range(40)}
    patients |= {"c0": frozenset({"A", "B"})}
    sides = split_patients(patients, PrepareOptions(fractions=(0.6, 0.1, 0.3)))
    for prefix, counts in (("a", (12, 2, 6)), ("b", (24, 4, 12)), ("c", (1, 0, 0))):
        found = [side for patient, side in sides.items() if patient.startswith(prefix)]
        assert tuple(found.count(side) for side in ("train", "val", "test")) == counts
    assert sides != split_patients(patients, PrepareOptions(fractions=(0.6, 0.1, 0.3), split_seed=1))
    without = split_patients(patients, PrepareOptions(fractions=(0.9, 0.1, 0)))
    assert "test" not in without.values()


@pytest.mark.parametrize("folders", [("train", "val", "test"), ("multicoil_train", "multicoil_val", "multicoil_test")])
def test_split_follows_folders(tmp_path, folders):
    for number, folder in enumerate(folders):
        rawfiles.make(tmp_path / "raw" / folder / "deep" / f"v{number}.h5", patient=f"p{number}", seed=number)
    index = prepare(tmp_path / "raw", tmp_path / "out").index
    assert index.groupby("volume")["split"].first().to_dict() == {"v0": "train", "v1": "val", "v2": "test"}
    # The same by naming the folders, or the files in them.
    named = [tmp_path / "raw" / folder for folder in folders]
    assert prepare(named, tmp_path / "out").index.equals(index)


def test_a_folder_above_what_was_named_says_nothing_of_the_split(tmp_path):
    for number in range(3):
        rawfiles.make(tmp_path / "test" / "raw" / f"v{number}.h5", patient=f"p{number}", seed=number)
    assert set(prepare(tmp_path / "test" / "raw", tmp_path / "out").index["split"]) == {"train", "val", "test"}


def test_a_file_outside_the_split_folders_is_named(tmp_path):
    rawfiles.make(tmp_path / "raw" / "train" / "a.h5")
    rawfiles.make(tmp_path / "raw" / "b.h5", seed=1)
    with pytest.raises(InputError, match=r"b\.h5 lies in no folder named train, val or test"):
        prepare(tmp_path / "raw", tmp_path / "out")
    with pytest.raises(InputError, match="lies in no folder"):
        prepare(tmp_path / "raw" / "b.h5", tmp_path / "out", PrepareOptions(split="folders"))


def test_a_patient_in_two_split_folders_is_refused(tmp_path):
    rawfiles.make(tmp_path / "raw" / "train" / "a.h5", patient="twice")
    rawfiles.make(tmp_path / "raw" / "test" / "b.h5", patient="twice", seed=1)
    with pytest.raises(
        InputError, match=r"patient twice is on both sides of the split: .*a\.h5 is in train, .*b\.h5 in test"
    ):
        prepare(tmp_path / "raw", tmp_path / "out")


def test_adding_a_volume_leaves_the_nested_order_of_the_others(raw_folder, tmp_path):
    options = PrepareOptions(fractions=(1, 0, 0))
    before = prepare(raw_folder, tmp_path / "out", options).index
    extra = rawfiles.make(tmp_path / "extra" / "q.h5", patient="q", seed=99).path
    after = prepare([raw_folder, extra], tmp_path / "out", options).index
    for rank in ("rank_volumes", "rank_slices"):
        kept = after[after["volume"] != "q"]
        for task in ("PDw", "PDw-FS"):
            old, new = (t[t["task"] == task].sort_values(rank)[["volume", "slice"]] for t in (before, kept))
            assert old.to_numpy().tolist() == new.to_numpy().tolist()


def test_a_parallel_map_gives_what_a_serial_one_gives(raw_folder, prepared_folder, tmp_path):
    seen = []
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        report = prepare(
            raw_folder,
            tmp_path / "out",
            map=pool.map,
            progress=lambda done, all, one: seen.append((done, all, one.status)),
        )
    assert seen == [(number, 12, "prepared") for number in range(1, 13)]
    assert report.hash == PreparedData(prepared_folder).hash
    assert (tmp_path / "out" / "index.csv").read_bytes() == (prepared_folder / "index.csv").read_bytes()
    for path in (prepared_folder / "volumes").iterdir():
        with h5py.File(path) as serial, h5py.File(tmp_path / "out" / "volumes" / path.name) as parallel:
            for name in ("kspace", "maps", "target"):
                np.testing.assert_array_equal(serial[name][()], parallel[name][()])


def test_results_may_come_back_in_any_order(raw_folder, prepared_folder, tmp_path):
    report = prepare(raw_folder, tmp_path / "out", map=lambda f, jobs: (f(job) for job in reversed(list(jobs))))
    assert report.hash == PreparedData(prepared_folder).hash


def test_preparing_holds_a_slice_at_a_time(tmp_path):
    """The peak of NumPy's memory does not grow with the number of slices."""
    peaks = []
    for slices in (4, 40):
        raw = rawfiles.make(tmp_path / f"s{slices}.h5", slices=slices).path
        tracemalloc.start()
        assert (
            prepare_volume(VolumeJob(raw, "PDw", "p", tmp_path / "out", PrepareOptions(coils=3), {})).status
            == "prepared"
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    volume = 36 * rawfiles.COILS * 2 * rawfiles.ROWS * rawfiles.COLUMNS * 8
    assert peaks[1] - peaks[0] < volume / 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"fractions": (0.5, 0.5, 0.5)},
        {"fractions": (0, 0.5, 0.5)},
        {"crop": (0, 3)},
        {"calibration_mask": MaskConfig(accelerations=(4, 6))},
        {"coils": 0},
        {"unknown": 1},
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValidationError):
        PrepareOptions(**wrong)


def test_a_64_by_64_slice_of_8_coils_takes_less_than_a_quarter_second():
    """300 such slices are prepared within the quickstart: processor time, so that busy neighbours do not count."""
    kspace, _ = phantom_kspace(128, 74, 8)
    espirit.espirit(kspace, rows=64)
    begin = time.process_time()
    for _ in range(3):
        espirit.espirit(kspace, rows=64)
    assert (time.process_time() - begin) / 3 < 0.25
