"""ISMRMRD files of one image in slices, as converters write them."""

import contextlib

import h5py
import ismrmrd
import numpy as np
import pytest
from ismrmrd import xsd

from recon.data import readers
from recon.errors import InputError
from tests.recon.data.mrdfiles import COILS, COLUMNS, ROWS, header, random_kspace, readout, readouts, write


@pytest.fixture
def path(tmp_path):
    return tmp_path / "scan.h5"


def test_facts_are_the_headers(path):
    kspace = random_kspace(slices=2)
    lines = [line for number in range(2) for line in readouts(kspace[number], number=number)]
    subject = xsd.subjectInformationType(patientID="P 17", patientName="Somebody")
    volume = readers.read_volume(
        write(path, lines, image=(7, 10), fields=(400.0, 200.0), protocol="CORPD_FBK", patient=subject)
    )
    assert (volume.name, volume.format, volume.files) == ("scan", "ismrmrd", (path,))
    assert (volume.slices, volume.coils, volume.rows, volume.columns) == (2, COILS, ROWS, COLUMNS)
    # Half the field of view remains, whatever matrix it was interpolated to.
    assert volume.image_rows == 8
    assert volume.crop == (8, 10)
    assert (volume.pad_left, volume.pad_right, volume.mask) == (0, 0, None)
    assert (volume.acquisition, volume.task, volume.patient) == ("CORPD_FBK", "PDw", "P 17")
    assert volume.load_noise is None
    assert volume.load_maps is None


def test_the_crop_is_no_larger_than_the_image(path):
    lines = readouts(random_kspace()[0])
    volume = readers.read_volume(write(path, lines, image=(2 * ROWS, 2 * COLUMNS), fields=(400.0, 200.0)))
    assert (volume.image_rows, volume.crop) == (ROWS // 2, (ROWS // 2, COLUMNS))


@pytest.mark.parametrize("ending", [".h5", ".mrd", ".ismrmrd", ".ismrmrd.h5"])
def test_a_file_is_named_without_its_endings_and_is_its_own_patient(tmp_path, ending):
    volume = readers.read_volume(write(tmp_path / f"knee.7{ending}", readouts(random_kspace()[0])))
    assert (volume.name, volume.patient, volume.task) == ("knee.7", "knee.7", "unnamed")


@pytest.mark.parametrize("name", ["", "  ", "anonymous", "Anonymized", "XXXX", "xxx-xxx", "000", "Unknown", "N/A"])
def test_names_that_were_taken_out_are_no_patient(path, name):
    subject = xsd.subjectInformationType(patientName=name)
    assert readers.read_volume(write(path, readouts(random_kspace()[0]), patient=subject)).patient == "scan"


def test_a_patients_number_goes_before_the_name(path):
    both = xsd.subjectInformationType(patientName="Somebody", patientID="17")
    assert readers.read_volume(write(path, readouts(random_kspace()[0]), patient=both)).patient == "17"


def test_a_name_stands_where_the_number_was_taken_out(path):
    both = xsd.subjectInformationType(patientName="Somebody", patientID="anonymous")
    assert readers.read_volume(write(path, readouts(random_kspace()[0]), patient=both)).patient == "Somebody"


def test_samples_land_at_their_line_in_whatever_order_they_come(path):
    kspace = random_kspace(slices=2)
    lines = [line for number in range(2) for line in readouts(kspace[number], number=number)]
    np.random.default_rng(1).shuffle(lines)
    volume = readers.read_volume(write(path, lines))
    for position in range(2):
        np.testing.assert_array_equal(volume.read_slice(position), kspace[position])


def test_whole_readouts_need_no_centre(path):
    kspace = random_kspace()
    volume = readers.read_volume(write(path, readouts(kspace[0], centre=0)))
    np.testing.assert_array_equal(volume.read_slice(0), kspace[0])


def test_noise_scans_are_kept_aside_and_given(path):
    kspace = random_kspace()
    noise = random_kspace(slices=2, seed=1)
    # As scanners do it: ahead of the image, in another encoding and of another length.
    scan = [readout(part[:, :, 0], flags=(ismrmrd.ACQ_IS_NOISE_MEASUREMENT,), encoding_space_ref=5) for part in noise]
    scan.append(readout(np.full((COILS, 40), 2j), flags=(ismrmrd.ACQ_IS_NOISE_MEASUREMENT,)))
    volume = readers.read_volume(write(path, scan + readouts(kspace[0])))
    np.testing.assert_array_equal(volume.read_slice(0), kspace[0])
    expected = np.concatenate([noise[0, :, :, 0], noise[1, :, :, 0], np.full((COILS, 40), 2j)], axis=1)
    np.testing.assert_array_equal(volume.load_noise(), expected)


def test_discarded_samples_are_no_noise(path):
    stored = np.full((COILS, 20), 1e6, np.complex64)
    stored[:, 3:-2] = 1
    scan = readout(stored, flags=(ismrmrd.ACQ_IS_NOISE_MEASUREMENT,), discard_pre=3, discard_post=2)
    volume = readers.read_volume(write(path, [scan, *readouts(random_kspace()[0])]))
    np.testing.assert_array_equal(volume.load_noise(), np.ones((COILS, 15)))


def test_a_noise_scan_is_as_loud_as_in_the_images_bandwidth(path):
    """Sampled four times as long in the image, noise is half as loud there."""
    scan = readout(np.ones((COILS, 20)), flags=(ismrmrd.ACQ_IS_NOISE_MEASUREMENT,), sample_time_us=2.0)
    volume = readers.read_volume(write(path, [scan, *readouts(random_kspace()[0], sample_time_us=8.0)]))
    np.testing.assert_allclose(volume.load_noise(), np.full((COILS, 20), 0.5), rtol=1e-6)


def test_a_noise_scan_of_other_coils_is_refused(path):
    scan = readout(np.ones((COILS + 1, ROWS)), flags=(ismrmrd.ACQ_IS_NOISE_MEASUREMENT,))
    volume = readers.read_volume(write(path, [scan, *readouts(random_kspace()[0])]))
    with pytest.raises(InputError, match=r"scan\.h5: its noise scan has 4 coils, its image 3"):
        volume.load_noise()


@pytest.mark.parametrize(
    "flag",
    [
        "NAVIGATION_DATA",
        "PHASECORR_DATA",
        "HPFEEDBACK_DATA",
        "DUMMYSCAN_DATA",
        "RTFEEDBACK_DATA",
        "SURFACECOILCORRECTIONSCAN_DATA",
        "PHASE_STABILIZATION",
        "PHASE_STABILIZATION_REFERENCE",
        "PARALLEL_CALIBRATION",
    ],
)
def test_readouts_that_are_not_of_the_image_are_left_aside(path, flag):
    kspace = random_kspace()
    number = getattr(ismrmrd, f"ACQ_IS_{flag}")
    # At the image's own lines, and such as an image could not hold: of fewer samples and with a counter of its own.
    aside = readouts(100 * kspace[0], flags=(number,))
    aside.append(readout(np.ones((COILS, 5)), 0, flags=(number,), counters={"repetition": 3}))
    volume = readers.read_volume(write(path, aside + readouts(kspace[0])))
    assert volume.load_noise is None
    np.testing.assert_array_equal(volume.read_slice(0), kspace[0])


@pytest.mark.parametrize(
    "flags",
    [
        (ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING,),
        (ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING, ismrmrd.ACQ_IS_PARALLEL_CALIBRATION),
    ],
)
def test_calibration_that_is_of_the_image_too_counts(path, flags):
    kspace = random_kspace()
    centre = range(4, 8)
    others = [column for column in range(COLUMNS) if column not in centre]
    lines = readouts(kspace[0], columns=others) + readouts(kspace[0], columns=centre, flags=flags)
    volume = readers.read_volume(write(path, lines))
    assert volume.mask is None
    np.testing.assert_array_equal(volume.read_slice(0), kspace[0])


def test_a_file_without_an_image_is_refused(path):
    lines = readouts(random_kspace()[0], flags=(ismrmrd.ACQ_IS_NOISE_MEASUREMENT,))
    with pytest.raises(InputError, match=r"scan\.h5: none of its 12 readouts is of an image"):
        readers.read_volume(write(path, lines))


def test_reversed_readouts_are_turned_round(path):
    kspace = random_kspace()
    odd, even = range(1, COLUMNS, 2), range(0, COLUMNS, 2)
    lines = readouts(kspace[0], columns=even)
    lines += readouts(kspace[0][:, ::-1], columns=odd, centre=ROWS // 2 - 1, flags=(ismrmrd.ACQ_IS_REVERSE,))
    np.testing.assert_array_equal(readers.read_volume(write(path, lines)).read_slice(0), kspace[0])


def test_several_averages_are_averaged(path):
    first, second, third = (random_kspace(seed=seed)[0] for seed in range(3))
    lines = readouts(first) + readouts(second, counters={"average": 1})
    # The centre once more, as some protocols weight it.
    lines += readouts(third, columns=range(4, 8), counters={"average": 2})
    expected = (first + second) / 2
    expected[..., 4:8] = (first + second + third)[..., 4:8] / 3
    volume = readers.read_volume(write(path, lines))
    np.testing.assert_allclose(volume.read_slice(0), expected, rtol=1e-5, atol=1e-6)


def test_a_sample_is_averaged_over_those_readouts_that_have_it(path):
    first, second = (random_kspace(seed=seed)[0] for seed in range(2))
    short = readouts(second[:, 5:], centre=ROWS // 2 - 5, counters={"average": 1})
    expected = first.copy()
    expected[:, 5:] = (first + second)[:, 5:] / 2
    volume = readers.read_volume(write(path, readouts(first) + short))
    np.testing.assert_allclose(volume.read_slice(0), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("begin", "end"), [(5, ROWS), (0, ROWS - 3), (2, ROWS - 1)])
def test_partial_echoes_lie_where_their_centre_sample_says(path, begin, end, reverse):
    kspace = random_kspace()[0]
    part, centre, flags = kspace[:, begin:end], ROWS // 2 - begin, ()
    if reverse:
        part, centre, flags = part[:, ::-1], end - begin - 1 - centre, (ismrmrd.ACQ_IS_REVERSE,)
    expected = np.zeros_like(kspace)
    expected[:, begin:end] = kspace[:, begin:end]
    volume = readers.read_volume(write(path, readouts(part, centre=centre, flags=flags)))
    assert volume.rows == ROWS
    np.testing.assert_array_equal(volume.read_slice(0), expected)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("begin", [0, 4])
def test_discarded_samples_are_cut_off(path, begin, reverse):
    """Of whole readouts and of partial echoes; the numbers count samples as they are stored."""
    kspace = random_kspace()[0]
    part, centre, flags = kspace[:, begin:], ROWS // 2 - begin, ()
    if reverse:
        part, centre, flags = part[:, ::-1], ROWS - begin - 1 - centre, (ismrmrd.ACQ_IS_REVERSE,)
    stored = np.pad(part, ((0, 0), (3, 2), (0, 0)), constant_values=1e6)
    expected = kspace.copy()
    expected[:, :begin] = 0
    lines = readouts(stored, centre=centre + 3, flags=flags, discard_pre=3, discard_post=2)
    np.testing.assert_array_equal(readers.read_volume(write(path, lines)).read_slice(0), expected)


@pytest.mark.parametrize(
    ("length", "centre", "discard"), [(ROWS + 4, ROWS // 2, 0), (10, 0, 0), (10, 9, 0), (10, 5, 10), (10, 5, 12)]
)
def test_samples_that_do_not_fit_are_refused(path, length, centre, discard):
    lines = readouts(random_kspace()[0])
    lines[7] = readout(np.ones((COILS, length)), 7, centre=centre, discard_pre=discard)
    with pytest.raises(InputError, match=r"scan\.h5: readout 7 puts .* into 16; .* encodedSpace do not fit"):
        readers.read_volume(write(path, lines))


@pytest.mark.parametrize(("left", "right"), [(4, 0), (0, 3), (2, 3)])
def test_lines_missing_at_a_side_are_padding(path, left, right):
    """Partial Fourier, or zero padding: the header's centre step says where the lines lie."""
    kspace = random_kspace()
    lines = readouts(kspace[0], columns=range(left, COLUMNS - right), first=left)
    volume = readers.read_volume(write(path, lines, centre=COLUMNS // 2 - left))
    assert (volume.columns, volume.pad_left, volume.pad_right, volume.mask) == (COLUMNS, left, right, None)
    expected = np.zeros_like(kspace[0])
    expected[..., left : COLUMNS - right] = kspace[0][..., left : COLUMNS - right]
    np.testing.assert_array_equal(volume.read_slice(0), expected)


def test_partial_fourier_may_count_steps_from_where_the_whole_would_begin(path):
    kspace = random_kspace()
    volume = readers.read_volume(write(path, readouts(kspace[0], columns=range(4, COLUMNS))))
    assert (volume.pad_left, volume.pad_right) == (4, 0)
    np.testing.assert_array_equal(volume.read_slice(0)[..., 4:], kspace[0][..., 4:])


def test_steps_are_columns_where_the_header_gives_no_limits(path):
    kspace = random_kspace()
    volume = readers.read_volume(write(path, readouts(kspace[0]), centre=None))
    np.testing.assert_array_equal(volume.read_slice(0), kspace[0])


def test_undersampled_lines_are_the_mask(path):
    kspace = random_kspace(slices=2)
    kept = [1, 3, 5, 6, 7, 9, 11]
    lines = [line for number in range(2) for line in readouts(kspace[number], number=number, columns=kept)]
    volume = readers.read_volume(write(path, lines))
    np.testing.assert_array_equal(np.flatnonzero(volume.mask), kept)
    for position in range(2):
        np.testing.assert_array_equal(volume.read_slice(position)[..., kept], kspace[position][..., kept])
        assert not volume.read_slice(position)[..., ~volume.mask].any()


@pytest.mark.parametrize("direction", [(0, 0, 1), (0, 0, -1), (0.6, 0, 0.8)])
def test_slices_are_ordered_along_their_normal(path, direction):
    """Counters of interleaved slices follow time, and the file its own order: neither is the order of space."""
    kspace = random_kspace(slices=4)
    counter, lines = (2, 0, 3, 1), []
    for place in (1, 3, 0, 2):
        where = (place - 5.0) * 4.5 * np.asarray(direction)
        lines += readouts(kspace[place], number=counter[place], position=where, direction=direction)
    volume = readers.read_volume(write(path, lines))
    assert volume.slices == 4
    for place in range(4):
        np.testing.assert_array_equal(volume.read_slice(place), kspace[place])


def test_slices_are_ordered_by_the_counter_where_positions_are_missing(path):
    kspace = random_kspace(slices=3)
    lines = [line for number in (2, 0, 1) for line in readouts(kspace[number], number=number)]
    volume = readers.read_volume(write(path, lines))
    for position in range(3):
        np.testing.assert_array_equal(volume.read_slice(position), kspace[position])


def test_slices_may_be_counted_with_gaps(path):
    kspace = random_kspace(slices=2)
    volume = readers.read_volume(write(path, readouts(kspace[0], number=3) + readouts(kspace[1], number=8)))
    assert volume.slices == 2
    np.testing.assert_array_equal(volume.read_slice(1), kspace[1])


@pytest.mark.parametrize("counter", ["contrast", "phase", "repetition", "set"])
def test_several_images_a_slice_are_refused(path, counter):
    kspace = random_kspace()[0]
    lines = readouts(kspace) + readouts(kspace, counters={counter: 1})
    with pytest.raises(InputError, match=rf"scan\.h5: it holds 2 images a slice, told apart by {counter}; --images"):
        readers.read_volume(write(path, lines))


def test_a_second_phase_encoding_that_the_header_lacks_is_refused(path):
    kspace = random_kspace()[0]
    lines = readouts(kspace) + readouts(kspace, counters={"kspace_encode_step_2": 1})
    with pytest.raises(InputError, match=r"scan\.h5: .*kspace_encode_step_2, .*encodedSpace do not fit"):
        readers.read_volume(write(path, lines))


def test_several_encodings_are_refused(path):
    kspace = random_kspace()[0]
    lines = readouts(kspace) + readouts(kspace, number=1, encoding_space_ref=1)
    with pytest.raises(InputError, match=r"scan\.h5: it holds 2 images a slice, told apart by encoding; "):
        readers.read_volume(write(path, lines, encodings=2))


def test_an_encoding_that_the_header_lacks_is_refused(path):
    lines = readouts(random_kspace()[0], encoding_space_ref=2)
    with pytest.raises(InputError, match=r"scan\.h5: readouts are of encoding 2, its header has 1"):
        readers.read_volume(write(path, lines))


@pytest.mark.parametrize("trajectory", ["RADIAL", "SPIRAL", "EPI"])
def test_other_trajectories_are_refused(path, trajectory):
    lines = readouts(random_kspace()[0])
    with pytest.raises(InputError, match=rf"scan\.h5: its trajectory is {trajectory.lower()}; only Cartesian"):
        readers.read_volume(write(path, lines, trajectory=getattr(xsd.trajectoryType, trajectory)))


def test_a_slice_that_lacks_lines_has_zeros_there(path):
    kspace = random_kspace(slices=3)
    lines = readouts(kspace[0]) + readouts(kspace[1], number=1) + readouts(kspace[2], number=2, columns=range(7))
    volume = readers.read_volume(write(path, lines))
    assert (volume.slices, volume.pad_left, volume.pad_right, volume.mask) == (3, 0, 0, None)
    kspace[2, ..., 7:] = 0
    for position in range(3):
        np.testing.assert_array_equal(volume.read_slice(position), kspace[position])


def test_of_two_slices_the_one_with_more_lines_counts(path):
    kspace = random_kspace(slices=2)
    lines = readouts(kspace[0], columns=range(7)) + readouts(kspace[1], number=1)
    volume = readers.read_volume(write(path, lines))
    assert (volume.pad_left, volume.pad_right, volume.mask) == (0, 0, None)
    assert not volume.read_slice(0)[..., 7:].any()


def test_a_line_that_one_of_many_slices_has_is_left_out(path):
    """A step that was damaged, say: it must not make the other slices undersampled."""
    kspace = random_kspace(slices=3)
    lines = [one for number in range(3) for one in readouts(kspace[number], number=number, columns=range(3, COLUMNS))]
    lines += readouts(kspace[1], number=1, columns=[1])
    volume = readers.read_volume(write(path, lines))
    assert (volume.pad_left, volume.pad_right, volume.mask) == (3, 0, None)
    assert volume.notes == ("1 lines that fewer than half of its slices have are left out",)
    assert not volume.read_slice(1)[..., :3].any()


def test_a_file_most_of_whose_slices_lack_lines_is_refused(path):
    kspace, all_of = random_kspace(slices=3), set(range(COLUMNS))
    lines = [
        line
        for number in range(3)
        for line in readouts(kspace[number], number=number, columns=sorted(all_of - {4 * number, 4 * number + 1}))
    ]
    with pytest.raises(InputError, match=r"scan\.h5: slice 0 has 10 of 12 lines \(3 such slices in all\)"):
        readers.read_volume(write(path, lines))


def test_slices_without_a_line_in_common_are_refused(path):
    kspace = random_kspace(slices=3)
    lines = [one for n in range(3) for one in readouts(kspace[n], number=n, columns=range(4 * n, 4 * n + 4))]
    with pytest.raises(InputError, match=r"scan\.h5: its 3 slices have no lines in common"):
        readers.read_volume(write(path, lines))


def test_readouts_of_several_numbers_of_coils_are_refused(path):
    lines = [*readouts(random_kspace()[0], columns=range(11)), readout(np.ones((2, ROWS)), 11)]
    with pytest.raises(InputError, match=r"scan\.h5: its readouts have 2, 3 coils"):
        readers.read_volume(write(path, lines))


@pytest.mark.parametrize("length", [1, ROWS // 2, ROWS + 1])
def test_readouts_that_hold_other_samples_than_their_head_says_are_refused(path, length):
    write(path, readouts(random_kspace()[0]))
    with h5py.File(path, "r+") as file:
        line = file["dataset/data"][4]
        line["data"] = np.ones(2 * COILS * length, np.float32)
        file["dataset/data"][4] = line
    with pytest.raises(InputError, match=r"scan\.h5: readout 4 holds \d+ numbers, .*16 samples"):
        readers.read_volume(path).read_slice(0)


def test_waveforms_are_ignored(path):
    kspace = random_kspace()
    write(path, readouts(kspace[0]))
    with contextlib.closing(ismrmrd.Dataset(str(path))) as dataset:
        for _ in range(3):
            dataset.append_waveform(ismrmrd.Waveform.from_array(np.arange(100, dtype=np.uint32).reshape(2, 50)))
    with h5py.File(path) as file:
        assert "waveforms" in file["dataset"]
    volume = readers.read_volume(path)
    assert (volume.slices, volume.load_noise) == (1, None)
    np.testing.assert_array_equal(volume.read_slice(0), kspace[0])


def test_readouts_may_lie_in_a_group_of_any_name(path):
    kspace = random_kspace()
    write(path, readouts(kspace[0]))
    with h5py.File(path, "r+") as file:
        file.move("dataset", "scan 2")
        # Reconstructed images, and a link to what is not here.
        file["images/data"] = np.ones(3)
        file["a link"] = h5py.SoftLink("/nowhere")
    np.testing.assert_array_equal(readers.read_volume(path).read_slice(0), kspace[0])


def test_hdf5_of_another_kind_is_not_recognised(path):
    with h5py.File(path, "w") as file:
        file["dataset/data"] = np.ones(3)
        file["a link"] = h5py.SoftLink("/nowhere")
    with pytest.raises(InputError, match=r"scan\.h5 is broken or of a format that is not known here"):
        readers.read_volume(path)


def test_groups_that_hold_no_readouts_are_refused(path):
    with h5py.File(path, "w") as file:
        file["dataset/xml"] = np.array([header().toXML().encode()], dtype=object)
        file["dataset/data"] = np.ones(3)
    with pytest.raises(InputError, match=r"scan\.h5: dataset/data does not hold ISMRMRD readouts"):
        readers.read_volume(path)


def test_headers_that_are_none_are_refused(path):
    write(path, readouts(random_kspace()[0]))
    with h5py.File(path, "r+") as file:
        file["dataset/xml"][0] = "not XML <"
    with pytest.raises(InputError, match=r"scan\.h5: its ISMRMRD header cannot be read"):
        readers.read_volume(path)
