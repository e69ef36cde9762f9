"""Siemens' raw files, made from the published layout; twixtools, which reads real ones, reads them alike."""

import sys

import numpy as np
import pytest
import sigpy as sp
from sigpy import mri

from recon.data import readers
from recon.data.options import PrepareOptions
from recon.data.prepare import find, prepare
from recon.errors import InputError
from tests.recon.data import twixfile
from tests.recon.data.twixfile import Line

twixtools = pytest.importorskip("twixtools", reason="the extra siemens is not installed")

SLICES, COILS, ROWS, COLUMNS = 2, 3, 32, 24
CENTRE = (ROWS // 2, COLUMNS // 2)


def random_kspace(seed=0, slices=SLICES):
    rng = np.random.default_rng(seed)
    shape = (slices, COILS, ROWS, COLUMNS)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def lines(kspace, columns=range(COLUMNS), flags=(), **counters: int):
    """Readouts of whole slices; slice 0 is the one with the counter 0, 5 mm below the next."""
    return [
        Line(one[:, :, column], {"Lin": column, "Sli": number, **counters}, flags, CENTRE, (0, 0, 5.0 * number))
        for column in columns
        for number, one in enumerate(kspace)
    ]


def write(path, readouts, *before: bytes, **changes: object):
    scan = twixfile.measurement(twixfile.protocol(ROWS // 2, COLUMNS, **changes), readouts)
    return twixfile.write(path, *before, scan)


def assert_holds(volume, kspace):
    assert (volume.slices, volume.coils, volume.rows, volume.columns) == kspace.shape
    for position, one in enumerate(kspace):
        np.testing.assert_allclose(volume.read_slice(position), one, atol=1e-6)


def test_slices_with_readout_oversampling_are_read(tmp_path):
    kspace = random_kspace()
    volume = readers.read_volume(write(tmp_path / "meas_MID7.dat", lines(kspace)))
    assert_holds(volume, kspace)
    assert (volume.format, volume.name, volume.acquisition, volume.task) == ("siemens", "meas_MID7", "t1_tse", "t1_tse")
    # A name that was taken out is none.
    assert volume.patient == "meas_MID7"
    assert (volume.image_rows, volume.crop) == (ROWS // 2, (ROWS // 2, COLUMNS))
    assert (volume.pad_left, volume.pad_right, volume.mask) == (0, 0, None)
    assert (volume.load_noise, volume.load_calibration) == (None, None)
    assert volume.geometry.voxel_mm == pytest.approx((220 / (ROWS // 2), 200 / COLUMNS, 5.0))


def test_twixtools_reads_the_same_samples(tmp_path):
    kspace = random_kspace()
    path = write(tmp_path / "scan.dat", lines(kspace))
    (scan,) = twixtools.read_twix(str(path), parse_geometry=False, parse_pmu=False, verbose=False)
    theirs = twixtools.map_twix([scan])[0]["image"]
    theirs.flags["remove_os"] = False
    theirs.flags["zf_missing_lines"] = True
    squeezed = np.squeeze(theirs[:])  # slices, lines, coils, samples
    volume = readers.read_volume(path)
    for position in range(SLICES):
        np.testing.assert_array_equal(volume.read_slice(position), squeezed[position].transpose(1, 2, 0))


def test_the_older_vb_line_is_read(tmp_path):
    kspace = random_kspace()
    path = tmp_path / "scan.dat"
    path.write_bytes(twixfile.measurement(twixfile.protocol(ROWS // 2, COLUMNS), lines(kspace), old=True))
    assert_holds(readers.read_volume(path), kspace)


def test_averages_are_averaged_and_slices_come_in_the_order_of_space(tmp_path):
    kspace = random_kspace(slices=3)
    # Interleaved: the counter is the order of time.
    place = {0: 0.0, 1: 10.0, 2: 5.0}
    first, second = lines(kspace * 0.5), lines(kspace * 1.5, Ave=1)
    for one in (*first, *second):
        one.position = (0, 0, place[one.counters["Sli"]])
    assert_holds(readers.read_volume(write(tmp_path / "scan.dat", first + second)), kspace[[0, 2, 1]])


def test_partial_fourier_and_partial_echoes_are_placed_by_their_centres(tmp_path):
    kspace = random_kspace()
    kspace[:, :, :6] = kspace[..., :5] = 0
    readouts = lines(kspace, range(5, COLUMNS))
    for one in readouts:
        # The protocol counts the lines from the first that is acquired, and a readout's samples from its first.
        one.samples = one.samples[:, 6:]
        one.counters["Lin"] -= 5
        one.centre = (CENTRE[0] - 6, CENTRE[1] - 5)
    volume = readers.read_volume(write(tmp_path / "scan.dat", readouts))
    assert_holds(volume, kspace)
    assert (volume.pad_left, volume.pad_right, volume.mask) == (5, 0, None)


def test_a_reversed_readout_is_placed_by_its_centre(tmp_path):
    kspace = random_kspace()
    readouts = lines(kspace)
    for one in readouts:
        if one.counters["Lin"] % 2:
            # Sample j lies at row 16 - j + 16: the centre stays at sample 16.
            one.samples = np.roll(one.samples[:, ::-1], 1, axis=1)
            one.flags = ("REFLECT",)
    # Row 0 of a turned line is sample 32, which was not acquired.
    kspace[:, :, 0, 1::2] = 0
    assert_holds(readers.read_volume(write(tmp_path / "scan.dat", readouts)), kspace)


def test_samples_that_were_cut_off_are_left_out(tmp_path):
    kspace = random_kspace()
    readouts = lines(kspace)
    for one in readouts:
        one.cut = (3, 2)
    kspace[:, :, :3] = kspace[:, :, -2:] = 0
    assert_holds(readers.read_volume(write(tmp_path / "scan.dat", readouts)), kspace)


def test_calibration_lines_are_kept_apart(tmp_path):
    kspace = random_kspace()
    third, middle = range(0, COLUMNS, 3), range(8, 16)
    both = [column for column in middle if column in third]
    alone = [column for column in middle if column not in third]
    image = lines(kspace, [column for column in third if column not in both])
    image += lines(kspace, both, ("PATREFIMA", "PATREF"))
    volume = readers.read_volume(write(tmp_path / "scan.dat", image + lines(kspace, alone, ("PATREF",))))
    mask = np.isin(np.arange(COLUMNS), third)
    # The last columns hold nothing, as in a partial scan.
    assert (volume.pad_left, volume.pad_right) == (0, 2)
    np.testing.assert_array_equal(volume.mask, mask)
    assert_holds(volume, kspace * mask)
    np.testing.assert_array_equal(volume.load_calibration(1), kspace[1] * np.isin(np.arange(COLUMNS), middle))


def test_noise_comes_from_its_own_measurement_at_the_images_bandwidth(tmp_path):
    rng = np.random.default_rng(2)
    noise = (rng.standard_normal((COILS, 256)) + 1j * rng.standard_normal((COILS, 256))).astype(np.complex64)
    plan = twixfile.protocol(ROWS // 2, COLUMNS, **{"sRXSPEC.alDwellTime[0]": 20000})
    before = twixfile.measurement(plan, [Line(noise, {}, ("NOISE",))])
    volume = readers.read_volume(write(tmp_path / "scan.dat", lines(random_kspace()), before))
    # A fourth of the bandwidth: half the noise.
    np.testing.assert_allclose(volume.load_noise(), 2 * noise, rtol=1e-6)


def test_phase_oversampling_is_no_part_of_the_crop(tmp_path):
    path = write(tmp_path / "scan.dat", lines(random_kspace()), **{"sKSpace.dPhaseOversamplingForDialog": 0.5})
    assert readers.read_volume(path).crop == (ROWS // 2, COLUMNS // 3 * 2)


def test_phase_correction_and_data_between_readouts_are_skipped(tmp_path):
    kspace = random_kspace()
    other = lines(random_kspace(seed=4), [12], ("PHASCOR",))
    assert_holds(readers.read_volume(write(tmp_path / "scan.dat", other + lines(kspace))), kspace)


def test_echoes_and_repetitions_become_volumes_where_asked(tmp_path):
    kspace = [random_kspace(seed) for seed in range(4)]
    readouts = [one for number, part in enumerate(kspace) for one in lines(part, Eco=number // 2, Rep=number % 2)]
    path = write(tmp_path / "scan.dat", readouts)
    with pytest.raises(InputError, match=r"several images of a slice \(2 by echo and 2 by repetition\); --images"):
        readers.read_volume(path)
    found = readers.read_volumes(path, readers.Hints(images="volumes"))
    assert [one.name for one in found] == [f"scan_echo{echo}_rep{rep}" for echo in (1, 2) for rep in (1, 2)]
    assert [one.task for one in found] == ["t1_tse-echo1"] * 2 + ["t1_tse-echo2"] * 2
    for one, due in zip(found, kspace, strict=True):
        assert_holds(one, due)
    averaged = readers.read_volumes(path, readers.Hints(images="average"))
    for one, due in zip(averaged, (kspace[0] + kspace[1], kspace[2] + kspace[3]), strict=True):
        assert_holds(one, due / 2)


@pytest.mark.parametrize(
    ("counters", "changes", "message"),
    [
        ({"Par": 1}, {}, "it is three-dimensional"),
        ({}, {"sKSpace.ucTrajectory": 2}, "its trajectory is not Cartesian"),
    ],
)
def test_other_scans_are_refused_with_the_converters_name(tmp_path, counters, changes, message):
    readouts = lines(random_kspace()) + lines(random_kspace(), **counters)
    path = write(tmp_path / "scan.dat", readouts, **changes)
    with pytest.raises(InputError, match=rf"scan\.dat: {message}.*siemens_to_ismrmrd"):
        readers.read_volume(path)


def test_a_stopped_scan_is_refused(tmp_path):
    path = write(tmp_path / "scan.dat", lines(random_kspace())[:-1])
    with pytest.raises(InputError, match=r"scan\.dat: slice 1 has 23 of 24 lines"):
        readers.read_volume(path)


def test_without_the_extra_a_sentence_names_it_and_the_converter(tmp_path, monkeypatch):
    path = write(tmp_path / "scan.dat", lines(random_kspace()))
    monkeypatch.setitem(sys.modules, "twixtools", None)
    with pytest.raises(InputError, match=r"scan\.dat: .*splitpoint\[siemens\].*siemens_to_ismrmrd"):
        readers.read_volume(path)


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_file_gives_a_sentence(tmp_path, seed):
    path = write(tmp_path / "scan.dat", lines(random_kspace()))
    content, rng = bytearray(path.read_bytes()), np.random.default_rng(seed)
    if seed % 2:
        content = content[: int(rng.random() * 0.95 * len(content))]
    else:
        # The first head's length of samples, the protocol, the table, or all of the beginning.
        begin = int(rng.integers(0, 3 * 10240 // 2))
        content[begin : begin + 3000] = rng.bytes(3000)
    path.write_bytes(bytes(content))
    said = str(path)
    try:
        volume = readers.read_volume(path)
        for position in range(volume.slices):
            volume.read_slice(position)
    except InputError as error:
        said = str(error)
    assert said.startswith(str(path))
    assert "\n" not in said


def test_a_broken_file_is_reported_beside_a_good_one(tmp_path):
    image = np.abs(sp.shepp_logan((ROWS, COLUMNS))) * mri.birdcage_maps((COILS, ROWS, COLUMNS))
    write(tmp_path / "raw" / "good.dat", lines(sp.fft(image, axes=(-2, -1))[None]))
    (tmp_path / "raw" / "bad.dat").write_bytes(bytes([0, 0, 0, 0, 1, 0, 0, 0]) + bytes(504))
    report = prepare(tmp_path / "raw", tmp_path / "out", PrepareOptions(calibration_width=12, prewhiten="off"))
    assert report.prepared == ("good",)
    ((bad, reason),) = report.failed.items()
    assert bad.endswith("bad.dat")
    assert "siemens_to_ismrmrd" in reason


def test_a_text_file_of_the_same_ending_in_a_folder_is_passed_over(tmp_path):
    scan = write(tmp_path / "scan.dat", lines(random_kspace()))
    (tmp_path / "table.dat").write_text("# time  flow\n0.0  1.25\n")
    assert [source.path for source in find(tmp_path)] == [scan]
