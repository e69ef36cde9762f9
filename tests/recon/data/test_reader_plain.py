"""Formats without a header: BART's pairs, NumPy's arrays, Hammernik's folders, and the hints that go with them."""

import json
import subprocess

import h5py
import numpy as np
import pytest
import scipy.io
from pydantic import ValidationError

from recon.data import readers
from recon.data.options import PrepareOptions
from recon.data.volume import coil_matrices, pieces, survey
from recon.errors import InputError
from tests.recon.bart import needs_bart

SLICES, COILS, ROWS, COLUMNS = 3, 4, 16, 12
AXES = ("slices", "coils", "rows", "columns")


def random_kspace(slices=SLICES, seed=0):
    """(slices, COILS, ROWS, COLUMNS), no sample of it zero."""
    rng = np.random.default_rng(seed)
    shape = (slices, COILS, ROWS, COLUMNS)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def beside(path, **hints: object):
    """Write the file of hints beside a raw one."""
    path.with_name(path.name + ".json").write_text(json.dumps(hints))


def write_cfl(path, kspace, header=None):
    """A pair as BART writes it: column-major over readout, phase encoding, –, coils, …, slices."""
    slices, coils, rows, columns = kspace.shape
    sizes = [rows, columns, 1, coils, *[1] * 9, slices, 1, 1]
    text = "# Dimensions\n" + " ".join(map(str, sizes)) + " \n# Command\nfft 3 a b \n" if header is None else header
    path.with_suffix(".hdr").write_text(text)
    bart = kspace.transpose(2, 3, 1, 0).reshape(sizes)
    path.write_bytes(bart.astype("<c8").tobytes(order="F"))
    return path


def write_npy(path, array, *order: str):
    """The array with its axes in ``order``."""
    np.save(path, array.transpose([AXES.index(name) for name in order]))
    return path


def write_mat(path, **variables: object):
    """MATLAB's format 5."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, variables)


def write_mat73(path, **variables: object):
    """MATLAB's format 7.3: HDF5 behind a block of text, axes reversed, complex numbers as pairs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in variables.items():
            array = np.atleast_2d(value).T
            if array.dtype.kind == "c":
                part = array.real.dtype
                pairs = np.empty(array.shape, [("real", part), ("imag", part)])
                pairs["real"], pairs["imag"] = array.real, array.imag
                array = pairs
            file[name] = array
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


FORMATS = pytest.mark.parametrize("write", [write_mat, write_mat73], ids=["v5", "v7.3"])


def as_matlab(kspace):
    """(coils, rows, columns) → readout, phase encoding, coils."""
    return kspace.transpose(1, 2, 0)


def write_patient(folder, kspace, write=write_mat, *, numbers=None, **variables: object):
    """A patient's folder, a file a slice; the volume's path."""
    numbers = numbers or range(1, len(kspace) + 1)
    for number, one in zip(numbers, kspace, strict=True):
        write(folder / f"rawdata{number}.mat", rawdata=as_matlab(one), **variables)
    return folder / f"rawdata{min(numbers)}.mat"


def assert_holds(volume, kspace):
    assert (volume.slices, volume.coils, volume.rows, volume.columns) == kspace.shape
    for position, one in enumerate(kspace):
        np.testing.assert_array_equal(volume.read_slice(position), one)


def test_cfl_facts_and_samples(tmp_path):
    kspace = random_kspace()
    path = write_cfl(tmp_path / "AXT2.cfl", kspace)
    volume = readers.read_volume(path)
    assert_holds(volume, kspace)
    assert (volume.format, volume.name, volume.task, volume.patient) == ("cfl", "AXT2", "AXT2", "AXT2")
    assert (volume.image_rows, volume.crop) == (ROWS, (ROWS, COLUMNS))
    assert (volume.pad_left, volume.pad_right, volume.mask) == (0, 0, None)
    assert volume.files == (path, tmp_path / "AXT2.hdr")
    assert (volume.load_noise, volume.load_maps) == (None, None)


def test_cfl_dimensions_may_be_fewer_than_sixteen(tmp_path):
    kspace = random_kspace(slices=1)
    assert_holds(readers.read_volume(write_cfl(tmp_path / "a.cfl", kspace, "# Dimensions\n16 12 1 4\n")), kspace)
    one = kspace[:, :1]
    assert_holds(readers.read_volume(write_cfl(tmp_path / "b.cfl", one, "# Dimensions\n\n16 12\n")), one)


@needs_bart
def test_cfl_is_read_as_bart_reads_it(tmp_path):
    """Two slices of BART's own making; its ``show`` prints a readout a line."""

    def bart(command):
        done = subprocess.run(
            ["bart", *command.split()], cwd=tmp_path, check=True, timeout=60, capture_output=True, text=True
        )
        return done.stdout

    bart("phantom -x 20 -k -s 3 square")
    bart("resize -c 1 14 square first")
    bart("conj first mirrored")
    bart("scale 2i mirrored second")
    bart("join 13 first second scan")
    volume = readers.read_volume(tmp_path / "scan.cfl")
    assert (volume.slices, volume.coils, volume.rows, volume.columns) == (2, 3, 20, 14)
    for position in range(2):
        for coil in range(3):
            bart(f"slice 13 {position} 3 {coil} scan one")
            lines = [line.split() for line in bart("show one").splitlines() if line.strip()]
            shown = np.array([[complex(word.replace("i", "j")) for word in line] for line in lines])
            np.testing.assert_allclose(volume.read_slice(position)[coil], shown.T, rtol=1e-5)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (None, r"scan\.cfl: scan\.hdr with its dimensions is missing"),
        ("", r"scan\.hdr: its dimensions are ; 2 to 16 sizes"),
        ("# Dimensions\n", r"scan\.hdr: its dimensions are ; 2 to 16 sizes"),
        ("# Dimensions\n16 twelve 1 4\n", r"scan\.hdr: it cannot be read"),
        ("# Dimensions\n2304\n", r"scan\.hdr: its dimensions are 2304; 2 to 16 sizes"),
        ("# Dimensions\n" + "1 " * 17 + "\n", r"scan\.hdr: its dimensions are .*; 2 to 16 sizes"),
        ("# Dimensions\n16 0 1 4\n", r"scan\.hdr: its dimensions are 16 0 1 4; 2 to 16 sizes from 1"),
        ("# Dimensions\n16 12 1 4 3\n", r"scan\.hdr: dimension 4 is 3; a volume has a readout"),
        ("# Dimensions\n16 12 1 4 1 3\n", r"scan\.hdr: it holds several images \(3 in dimension 5\); --images volumes"),
        ("# Dimensions\n16 12 3 2 1 1 1 1 1 1 1 1 1 2\n", r"scan\.hdr: dimensions 2 and 13 are 3 and 2; a three-dim"),
        ("# Dimensions\n16 12 1 5\n", r"scan\.cfl: it has 18432 bytes, where scan\.hdr gives 7680; is the file whole"),
        ("# Dimensions\n" + "99999999999 " * 2, r"scan\.cfl: it has 18432 bytes, where scan\.hdr gives \d{20,}"),
    ],
)
def test_a_cfl_that_does_not_fit_is_refused(tmp_path, header, message):
    path = write_cfl(tmp_path / "scan.cfl", random_kspace(), header or "")
    if header is None:
        path.with_suffix(".hdr").unlink()
    with pytest.raises(InputError, match=message):
        readers.read_volume(path)


def test_numpy_axes_are_named_by_hints(tmp_path):
    kspace = random_kspace()
    order = ("columns", "slices", "rows", "coils")
    path = write_npy(tmp_path / "scan.npy", kspace, *order)
    volume = readers.read_volume(path, readers.Hints(axes=order))
    assert_holds(volume, kspace)
    assert (volume.format, volume.name, volume.task, volume.patient) == ("numpy", "scan", "scan", "scan")
    assert (volume.image_rows, volume.crop, volume.files) == (ROWS, (ROWS, COLUMNS), (path,))


def test_numpy_may_hold_a_single_slice(tmp_path):
    kspace = random_kspace(slices=1)
    np.save(tmp_path / "scan.npy", kspace[0].transpose(1, 0, 2))
    hints = readers.Hints(axes=("rows", "coils", "columns"))
    assert_holds(readers.read_volume(tmp_path / "scan.npy", hints), kspace)


def test_numpy_may_be_column_major_and_double(tmp_path):
    kspace = random_kspace()
    np.save(tmp_path / "scan.npy", np.asfortranarray(kspace.astype(np.complex128)))
    volume = readers.read_volume(tmp_path / "scan.npy", readers.Hints(axes=AXES))
    assert_holds(volume, kspace)
    assert volume.read_slice(0).dtype == np.complex64


@pytest.mark.parametrize(
    ("array", "axes", "message"),
    [
        (np.ones((2, 3, 4, 5), np.complex64), None, r"nothing says which axis is which of 2 × 3 × 4 × 5; give --axes"),
        (np.ones((2, 3, 4, 5), np.float32), AXES, r"it is 4-dimensional float32, where complex over slices, coils"),
        (np.ones((2, 3, 4, 5), np.complex64), AXES[1:], r"4-dimensional complex64, where complex over coils, rows"),
        (np.ones((2, 3, 0, 5), np.complex64), AXES, r"k-space is empty|it cannot be read"),
        (np.ones((0, 3, 4, 5), np.complex64), AXES, r"no slices|it cannot be read"),
        (np.array([None]), AXES, r"it cannot be read"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, array, axes, message):
    np.save(tmp_path / "scan.npy", array)
    with pytest.raises(InputError, match=rf"scan\.npy: .*({message})"):
        readers.read_volume(tmp_path / "scan.npy", readers.Hints(axes=axes))


def test_a_truncated_array_is_refused(tmp_path):
    path = write_npy(tmp_path / "scan.npy", random_kspace(), *AXES)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"scan\.npy: it cannot be read, it is damaged"):
        readers.read_volume(path, readers.Hints(axes=AXES))


def test_columns_of_zeros_are_padding_and_mask_unless_hints_say_otherwise(tmp_path):
    kspace = random_kspace()
    kspace[..., [0, 1, 4, 11]] = 0
    path = write_npy(tmp_path / "scan.npy", kspace, *AXES)
    volume = readers.read_volume(path, readers.Hints(axes=AXES))
    assert (volume.pad_left, volume.pad_right) == (2, 1)
    np.testing.assert_array_equal(np.flatnonzero(~volume.mask), [0, 1, 4, 11])
    volume = readers.read_volume(path, readers.Hints(axes=AXES, padding=(0, 0)))
    assert (volume.pad_left, volume.pad_right) == (0, 0)
    np.testing.assert_array_equal(np.flatnonzero(~volume.mask), [0, 1, 4, 11])


@pytest.mark.parametrize("padding", [(6, 6), (20, 0)])
def test_padding_that_leaves_nothing_is_refused(tmp_path, padding):
    path = write_cfl(tmp_path / "scan.cfl", random_kspace())
    with pytest.raises(InputError, match=r"scan\.cfl: padding of .* leaves nothing of 12"):
        readers.read_volume(path, readers.Hints(padding=padding))


@pytest.mark.parametrize(
    "said", [{"padding": (-1, 2)}, {"oversampling": 0.5}, {"oversampling": 1000}, {"crop": (0, 3)}, {"axes": ("rows",)}]
)
def test_hints_that_make_no_sense_are_refused(said):
    with pytest.raises(ValidationError):
        readers.Hints(**said)


def test_a_file_of_hints_goes_before_the_callers(tmp_path):
    path = write_npy(tmp_path / "scan.npy", random_kspace(), *AXES)
    beside(path, axes=AXES, oversampling=2, task="PDw", padding=[1, 2])
    # The caller's order of axes would not fit; what the file leaves out is the caller's.
    given = readers.Hints(axes=AXES[::-1], task="T2", patient="Somebody", crop=(6, 99))
    volume = readers.read_volume(path, given)
    assert (volume.task, volume.patient) == ("PDw", "Somebody")
    assert (volume.rows, volume.image_rows, volume.crop) == (ROWS, ROWS // 2, (6, COLUMNS))
    assert (volume.pad_left, volume.pad_right) == (1, 2)


def test_hints_are_of_the_file_they_lie_beside(tmp_path):
    one, other = (write_npy(tmp_path / name, random_kspace(), *AXES) for name in ("one.npy", "other.npy"))
    beside(one, axes=AXES, patient="Somebody")
    assert readers.read_volume(one).patient == "Somebody"
    assert readers.read_volume(other, readers.Hints(axes=AXES)).patient == "other"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"oversamplin": 2}', r"oversamplin is no known field"),
        ('{"oversampling": 0.5}', r"oversampling must be greater than or equal to 1"),
        ('{"axes": ["rows", "coils"]}', r"axes: .*axes are slices, coils, rows, columns in the array's order"),
        ('{"axes": ["rows", "rows", "coils", "columns"]}', r"axes: .*axes are slices, coils"),
        ('{"axes": ', r"it is no JSON object of hints"),
        ("[1, 2]", r"it is no JSON object of hints"),
        ("3", r"it is no JSON object of hints"),
    ],
)
def test_hints_that_are_none_are_refused(tmp_path, text, message):
    path = write_npy(tmp_path / "scan.npy", random_kspace(), *AXES)
    path.with_name("scan.npy.json").write_text(text)
    with pytest.raises(InputError, match=rf"scan\.npy\.json: {message}"):
        readers.read_volume(path)


@FORMATS
def test_hammernik_a_folder_is_a_volume(tmp_path, write):
    kspace = random_kspace()
    folder = tmp_path / "coronal_pd" / "3"
    path = write_patient(folder, kspace, write)
    volume = readers.read_volume(path)
    assert_holds(volume, kspace)
    assert (volume.format, volume.name, volume.task) == ("hammernik", "coronal_pd-3", "coronal_pd")
    # The folders number each contrast's patients anew: a number alone would be several people.
    assert volume.patient == "coronal_pd-3"
    assert (volume.pad_left, volume.pad_right, volume.mask, volume.load_maps) == (0, 0, None, None)
    assert volume.files == tuple(folder / f"rawdata{number}.mat" for number in (1, 2, 3))


@FORMATS
def test_hammernik_slices_come_in_the_order_of_their_numbers(tmp_path, write):
    kspace = random_kspace()
    path = write_patient(tmp_path, kspace, write, numbers=[2, 10, 11])
    assert_holds(readers.read_volume(path), kspace)


@FORMATS
def test_hammernik_padding_is_the_files(tmp_path, write):
    kspace = random_kspace()
    path = write_patient(tmp_path, kspace, write, padlength_left=2.0, padlength_right=1.0)
    volume = readers.read_volume(path)
    assert (volume.pad_left, volume.pad_right) == (2, 1)
    volume = readers.read_volume(path, readers.Hints(padding=(3, 0)))
    assert (volume.pad_left, volume.pad_right) == (3, 0)


@FORMATS
@pytest.mark.parametrize("value", [-1.0, 2.5, np.nan, np.inf, 1j, np.array([1.0, 2.0])])
def test_hammernik_padding_that_is_no_number_is_refused(tmp_path, write, value):
    path = write_patient(tmp_path, random_kspace(), write, padlength_left=value, padlength_right=1.0)
    with pytest.raises(InputError, match=r"rawdata1\.mat: padlength_left is .*, where a number of columns is expected"):
        readers.read_volume(path)


def test_hammernik_padding_that_is_text_is_refused(tmp_path):
    path = write_patient(tmp_path, random_kspace(), padlength_left="two", padlength_right=1.0)
    with pytest.raises(InputError, match=r"rawdata1\.mat: padlength_left is .*, where a number of columns is expected"):
        readers.read_volume(path)


@FORMATS
def test_hammernik_maps_of_its_own_are_taken(tmp_path, write):
    kspace = random_kspace(slices=11)
    path = write_patient(tmp_path, kspace, write)
    maps = random_kspace(slices=11, seed=1)
    maps /= np.linalg.norm(maps, axis=1, keepdims=True)
    for number, one in enumerate(maps, start=1):
        write(tmp_path / f"espirit{number}.mat", sensitivities=as_matlab(one))
    volume = readers.read_volume(path)
    assert tmp_path / "espirit10.mat" in volume.files
    options = PrepareOptions(maps="own")
    prepared = list(pieces(volume, options, coil_matrices(volume, options, survey(volume, options))))
    for position, piece in enumerate(prepared):
        np.testing.assert_allclose(piece.maps, maps[position], atol=1e-6)
        np.testing.assert_array_equal(piece.kspace, kspace[position])


def test_hammernik_maps_may_have_an_axis_of_sets(tmp_path):
    """ESPIRiT's programs give several sets of maps; one is (readout, phase encoding, coils, 1)."""
    path = write_patient(tmp_path, random_kspace(slices=1))
    maps = random_kspace(slices=1, seed=1)[0]
    write_mat73(tmp_path / "espirit1.mat", sensitivities=as_matlab(maps)[..., None])
    np.testing.assert_array_equal(readers.read_volume(path).load_maps(0), maps)


@FORMATS
def test_hammernik_maps_that_do_not_fit_are_refused(tmp_path, write):
    path = write_patient(tmp_path, random_kspace(), write)
    write(tmp_path / "espirit1.mat", sensitivities=as_matlab(random_kspace()[0])[:-1])
    write(tmp_path / "espirit2.mat", other=1.0)
    volume = readers.read_volume(path)
    with pytest.raises(InputError, match=r"espirit1\.mat: sensitivities are \(15, 12, 4\), rawdata \(16, 12, 4\)"):
        volume.load_maps(0)
    with pytest.raises(InputError, match=r"espirit2\.mat: the variable sensitivities is missing"):
        volume.load_maps(1)
    with pytest.raises(InputError, match=r"espirit3\.mat with the slice's own maps is missing"):
        volume.load_maps(2)


@FORMATS
def test_hammernik_slices_of_several_shapes_are_refused(tmp_path, write):
    path = write_patient(tmp_path, random_kspace(), write)
    write(tmp_path / "rawdata2.mat", rawdata=as_matlab(random_kspace()[0])[:, :-1])
    with pytest.raises(
        InputError, match=r"rawdata2\.mat: rawdata is \(16, 11, 4\), that of rawdata1\.mat is \(16, 12, 4\)"
    ):
        readers.read_volume(path)


@FORMATS
@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"other": 1.0}, r"the variable rawdata is missing"),
        ({"rawdata": np.ones((16, 12), np.complex64)}, r"rawdata is \(16, 12\), where readout, phase encoding"),
        ({"rawdata": np.ones((16, 12, 4))}, r"rawdata is of type float64, where complex numbers are expected"),
    ],
)
def test_hammernik_variables_that_do_not_fit_are_refused(tmp_path, write, variables, message):
    write(tmp_path / "rawdata1.mat", **variables)
    with pytest.raises(InputError, match=rf"rawdata1\.mat: {message}"):
        readers.read_volume(tmp_path / "rawdata1.mat")


@pytest.mark.parametrize("content", [b"", b"no MATLAB at all", b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"])
def test_hammernik_files_that_are_damaged_are_refused(tmp_path, content):
    write_patient(tmp_path, random_kspace())
    (tmp_path / "rawdata2.mat").write_bytes(content)
    with pytest.raises(InputError, match=r"rawdata2\.mat: "):
        readers.read_volume(tmp_path / "rawdata1.mat")


def test_companions_are_no_volumes_of_their_own(tmp_path):
    write_patient(tmp_path / "t1" / "1", random_kspace(), numbers=[2, 9, 10])
    write_mat(tmp_path / "t1" / "1" / "espirit2.mat", sensitivities=np.ones(3))
    write_patient(tmp_path / "t1" / "2", random_kspace())
    cfl = write_cfl(tmp_path / "scan.cfl", random_kspace())
    array = write_npy(tmp_path / "scan.npy", random_kspace(), *AXES)
    beside(array, axes=AXES)
    beside(tmp_path / "t1" / "1" / "rawdata2.mat", task="T1")
    files = [path for path in sorted(tmp_path.rglob("*")) if path.suffix.lower() in readers.suffixes()]
    first = [tmp_path / "t1" / patient / name for patient, name in (("1", "rawdata2.mat"), ("2", "rawdata1.mat"))]
    assert sorted(readers.volumes(files)) == sorted([cfl, array, *first])
    # In whatever order a folder is listed.
    assert sorted(readers.volumes(reversed(files))) == sorted([cfl, array, *first])


def test_a_hammernik_slice_stands_for_its_folder_even_alone(tmp_path):
    path = write_patient(tmp_path, random_kspace())
    assert readers.volumes([tmp_path / "rawdata3.mat"]) == [path]
