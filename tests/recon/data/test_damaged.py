"""Damaged files: a sentence each, no traceback, nothing half written, bounded memory.

Hypothesis draws the format, the damage and where it strikes; every damage makes the file or slices of it unusable, so a
slice that is prepared after it without a word is a failure too.
"""

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recon.data.options import PrepareOptions
from recon.data.prepare import prepare
from recon.simulate import simulate

EXAMPLES = 400
MEMORY = 600 * 1024**2
"""Bytes by which the whole run may raise the process's peak; one of the declared arrays would take terabytes."""
OPTIONS = PrepareOptions(calibration_width=16)

Damage = Callable[[Path, float], None]


def truncated(path: Path, at: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(0.97 * at * len(content))])


def noise_from_the_start(path: Path, at: float) -> None:
    """The beginning overwritten, with the format's signature in it."""
    content = bytearray(path.read_bytes())
    junk = np.random.default_rng(int(at * 2**32)).bytes(max(256, int(at * len(content))))
    content[: len(junk)] = junk
    path.write_bytes(bytes(content))


def edit(path: Path, change: Callable[[h5py.File], None]) -> None:
    with h5py.File(path, "r+") as file:
        change(file)


def replaced(name: str, make: Callable[[float], object]) -> Damage:
    """A data set of an HDF5 file replaced by something else."""

    def damage(path: Path, at: float) -> None:
        def change(file: h5py.File) -> None:
            del file[name]
            value = make(at)
            if value is not None:
                file[name] = value

        edit(path, change)

    return damage


def declared_huge(name: str, shape: tuple[int, ...], dtype: str = "c8") -> Damage:
    """A data set that says that it is huge, and holds nothing."""

    def damage(path: Path, at: float) -> None:
        def change(file: h5py.File) -> None:
            kind = file[name].dtype if dtype == "same" else np.dtype(dtype)
            del file[name]
            file.create_dataset(
                name, tuple(int(n * (1 + at)) for n in shape), kind, chunks=tuple(min(n, 64) for n in shape)
            )

        edit(path, change)

    return damage


def samples_set(value: complex) -> Damage:
    """One slice of fastMRI's k-space set to something that is no number, or to nothing."""

    def damage(path: Path, at: float) -> None:
        def change(file: h5py.File) -> None:
            kspace = file["kspace"]
            kspace[int(at * 0.999 * len(kspace))] = value

        edit(path, change)

    return damage


def half_written(path: Path, at: float) -> None:
    """Columns that count as acquired were never written."""

    def change(file: h5py.File) -> None:
        columns = file["kspace"].shape[-1]
        file["kspace"][1, :, :, 2 : 3 + int(at * (columns - 8))] = 0

    edit(path, change)


def header_text(old: str, new: str) -> Damage:
    """Some text of the ISMRMRD header replaced, in either HDF5 format."""

    def damage(path: Path, at: float) -> None:
        def change(file: h5py.File) -> None:
            text = (file["ismrmrd_header"][()] if "ismrmrd_header" in file else file["dataset/xml"][0]).decode()
            assert old in text
            text = text.replace(old, new)
            if "ismrmrd_header" in file:
                del file["ismrmrd_header"]
                file["ismrmrd_header"] = text
            else:
                file["dataset/xml"][0] = text

        edit(path, change)

    return damage


def header_cut(path: Path, at: float) -> None:
    """The header ends in the middle."""

    def change(file: h5py.File) -> None:
        text = (file["ismrmrd_header"][()] if "ismrmrd_header" in file else file["dataset/xml"][0]).decode()
        cut = text[: int(at * 0.95 * len(text))]
        if "ismrmrd_header" in file:
            del file["ismrmrd_header"]
            file["ismrmrd_header"] = cut
        else:
            file["dataset/xml"][0] = cut

    edit(path, change)


def readout(field: str, value: int) -> Damage:
    """A field of one readout's head, or of its counters, overwritten."""

    def damage(path: Path, at: float) -> None:
        def change(file: h5py.File) -> None:
            data = file["dataset/data"]
            number = 64 + int(at * (len(data) - 65))  # behind the noise scan
            one = data[number]
            (one["head"]["idx"] if field in one["head"]["idx"].dtype.names else one["head"])[field] = value
            data[number] = one

        edit(path, change)

    return damage


def readout_samples(make: Callable[[np.ndarray], np.ndarray]) -> Damage:
    """The samples of one readout replaced."""

    def damage(path: Path, at: float) -> None:
        def change(file: h5py.File) -> None:
            data = file["dataset/data"]
            number = 64 + int(at * (len(data) - 65))
            one = data[number]
            one["data"] = make(one["data"].copy())
            data[number] = one

        edit(path, change)

    return damage


def readouts_lost(path: Path, at: float) -> None:
    """The file ends early, though it is whole as HDF5: the last slice lacks lines."""

    def change(file: h5py.File) -> None:
        file["dataset/data"].resize(len(file["dataset/data"]) - 1 - int(at * 30), axis=0)

    edit(path, change)


def not_finite(numbers: np.ndarray) -> np.ndarray:
    numbers[3] = np.nan
    return numbers


def rewritten(text: str) -> Damage:
    """BART's header rewritten."""
    return lambda path, at: path.with_suffix(".hdr").write_text(text) and None


def without_header(path: Path, at: float) -> None:
    path.with_suffix(".hdr").unlink()


def array(make: Callable[[np.ndarray], np.ndarray]) -> Damage:
    """A NumPy file saved anew."""
    return lambda path, at: np.save(path, make(np.load(path)))


def huge_npy(path: Path, at: float) -> None:
    header = {"descr": "<c8", "fortran_order": False, "shape": (3, 4, 10**6, 10**6 + int(at * 10**6))}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)


def hints(**changes: object) -> Damage:
    """The hints beside a file changed; a value of None takes one out."""

    def damage(path: Path, at: float) -> None:
        beside = path.with_name(path.name + ".json")
        said = json.loads(beside.read_text()) | changes
        beside.write_text(json.dumps({name: value for name, value in said.items() if value is not None}))

    return damage


def hints_cut(path: Path, at: float) -> None:
    beside = path.with_name(path.name + ".json")
    text = beside.read_text().strip()
    beside.write_text(text[: int(at * (len(text) - 1))])


def matlab(change: Callable[[dict], dict]) -> Damage:
    """One slice's MATLAB file saved anew."""

    def damage(path: Path, at: float) -> None:
        files = sorted(path.parent.glob("rawdata*.mat"))
        file = files[int(at * 0.999 * len(files))]
        scipy.io.savemat(file, change({"rawdata": scipy.io.loadmat(file)["rawdata"]}))

    return damage


def matlab_new_and_huge(path: Path, at: float) -> None:
    """MATLAB's 7.3 format, with a variable that says that it is huge."""
    with h5py.File(path, "w") as file:
        kind = np.dtype([("real", "f4"), ("imag", "f4")])
        file.create_dataset("rawdata", (4, 10**6, 10**6), kind, chunks=(1, 1, 1))


WRONG_SHAPES = (lambda at: np.zeros((3, 4, 8)), lambda at: np.ones((2, 4, 64, 36)), lambda at: "text", lambda at: None)
HUGE = (10**4, 16, 10**5, 10**5)
DAMAGES: dict[str, list[Damage]] = {
    "fastmri": [
        truncated,
        noise_from_the_start,
        *(replaced("kspace", one) for one in WRONG_SHAPES),
        replaced("ismrmrd_header", lambda at: None),
        replaced("ismrmrd_header", lambda at: np.arange(5)),
        declared_huge("kspace", HUGE),
        declared_huge("kspace", (10**6, 4, 64, 36)),
        samples_set(np.nan),
        samples_set(np.inf),
        samples_set(0),
        half_written,
        header_cut,
        header_text("<maximum>33<", "<maximum>99<"),
        header_text("<x>64<", "<x>many<"),
        header_text("encoding>", "decoding>"),
        header_text("<y>32<", "<y>0<"),
    ],
    "ismrmrd": [
        truncated,
        noise_from_the_start,
        replaced("dataset/data", lambda at: np.zeros(7)),
        replaced("dataset/data", lambda at: None),
        replaced("dataset/xml", lambda at: np.zeros(0)),
        declared_huge("dataset/data", (10**9,), "same"),
        declared_huge("dataset/data", (2000,), "same"),
        header_cut,
        header_text("<x>64<", f"<x>{2**40}<"),
        header_text("<x>64<", "<x>48<"),
        header_text("<center>17<", "<center>2000<"),
        header_text("cartesian", "spiral"),
        readout("kspace_encode_step_1", 999),
        readout("number_of_samples", 65000),
        readout("active_channels", 3),
        readout("encoding_space_ref", 2),
        readout("repetition", 1),
        readout("kspace_encode_step_2", 4),
        readout_samples(lambda numbers: numbers[:-3]),
        readout_samples(lambda numbers: numbers[:0]),
        readout_samples(not_finite),
        readouts_lost,
    ],
    "cfl": [
        truncated,
        without_header,
        rewritten(""),
        rewritten("# Dimensions\n"),
        rewritten("# Dimensions\n64 36 1 four 1\n"),
        rewritten("# Dimensions\n64 -36 1 4 1\n"),
        rewritten("# Dimensions\n" + "9999999 " * 16 + "\n"),
        rewritten("# Dimensions\n64 36 2 4 1 1\n"),
        rewritten("# Dimensions\n64 36 1 4 1 1 1 1 1 1 1 1 1 3 7 1\n"),
        hints(padding=[40, 40]),
        hints_cut,
    ],
    "numpy": [
        truncated,
        noise_from_the_start,
        array(np.abs),
        array(lambda kspace: kspace[0, 0]),
        array(lambda kspace: kspace * np.nan),
        array(lambda kspace: kspace * 0),
        array(lambda kspace: kspace[:0]),
        array(lambda kspace: kspace.astype(str)),
        huge_npy,
        hints(axes=None),
        hints(axes=["rows", "columns"]),
        hints(axes=["slices", "coils", "rows", "time"]),
        hints(oversampling=0),
        hints(echoes=3),
        hints_cut,
    ],
    "hammernik": [
        truncated,
        noise_from_the_start,
        matlab(lambda said: {"kspace": said["rawdata"]}),
        matlab(lambda said: {"rawdata": np.abs(said["rawdata"])}),
        matlab(lambda said: {"rawdata": said["rawdata"][:, :, 0]}),
        matlab(lambda said: {"rawdata": said["rawdata"] * np.nan}),
        matlab(lambda said: {"rawdata": said["rawdata"][:, ::2]}),
        matlab(lambda said: {"rawdata": "text"}),
        matlab_new_and_huge,
        hints_cut,
    ],
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A whole volume of each format: the file that stands for it."""
    root = tmp_path_factory.mktemp("whole")
    found = {}
    for form in DAMAGES:
        simulate(root / form, subjects={"train": 1}, matrix=32, slices=3, coils=4, seed=2, format=form)
        pattern = "CORPD_FBK/*/rawdata1.mat" if form == "hammernik" else "*_CORPD_FBK.*"
        files = [one for one in (root / form).rglob(pattern) if one.suffix not in (".json", ".hdr")]
        (found[form],) = files
    return found


def copied(path: Path, to: Path) -> Path:
    """A volume with whatever belongs to it, elsewhere."""
    beside = path.parent.iterdir() if path.suffix == ".mat" else path.parent.glob(path.stem + ".*")
    to.mkdir(parents=True)
    for one in beside:
        shutil.copy(one, to / one.name)
    return to / path.name


def test_the_whole_files_can_be_prepared(whole, tmp_path):
    for form, path in whole.items():
        report = prepare(copied(path, tmp_path / form / "p1"), tmp_path / "out" / form, OPTIONS)
        assert report.ok, report.failed


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("damaged")


seen: list[str] = []


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    damaged=st.sampled_from([(form, place) for form, all_of in DAMAGES.items() for place in range(len(all_of))]),
    at=st.floats(0, 1),
)
def test_a_damaged_file_gives_a_sentence_and_nothing_else(whole, work, damaged, at):
    form, place = damaged
    folder = work / str(len(seen))
    path = copied(whole[form], folder / "raw" / "p1")
    DAMAGES[form][place](path, at)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = prepare(path, folder / "out", OPTIONS)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    (result,) = report.results
    if report.ok:
        # A bad slice costs a slice.
        assert result.record is not None
        out = {one.slice for one in result.findings if one.severity == "error"}
        assert out, f"{form}, damage {place} at {at}: it was prepared"
        assert None not in out
        assert not out & set(result.record.positions or ())
        seen.append("; ".join(one.what for one in result.findings))
        shutil.rmtree(folder)
        return
    assert result.detail == "", result.detail
    assert "\n" not in result.reason
    assert path.name in result.reason or path.with_suffix(".hdr").name in result.reason or "rawdata" in result.reason
    assert 20 < len(result.reason) < 600
    assert "Unable to" not in result.reason, "h5py's own words"
    assert (report.problems["severity"] == "error").any()
    assert report.hash is None
    assert [one.name for one in (folder / "out").rglob("*") if one.is_file()] == ["problems.csv"]
    assert grown < MEMORY, f"{form}, damage {place} at {at}: {grown / 1024**2:.0f} MiB"
    seen.append(result.reason)
    shutil.rmtree(folder)


def test_there_were_three_hundred_of_them_and_many_kinds():
    """Runs behind the one above: a health check of the drawing itself."""
    if not seen:
        pytest.skip("the damages were not run")
    assert len(seen) >= 300
    assert len(set(seen)) > 50
