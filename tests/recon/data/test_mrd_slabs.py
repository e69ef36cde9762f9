"""ISMRMRD files with a second phase encoding: a slab, whose slices lie along the readout."""

import ismrmrd
import numpy as np
import pytest
import sigpy as sp

from recon.data import readers
from recon.data.readers import Hints
from recon.data.readers.mrd import hybrid
from recon.errors import InputError
from tests.recon.data.mrdfiles import document, encoding, readout, write

COILS, SAMPLES, LINES, PARTITIONS = 3, 16, 10, 6
SLICES = SAMPLES // 2


@pytest.fixture
def path(tmp_path):
    return tmp_path / "slab.h5"


@pytest.fixture(params=["in memory", "in a file"], autouse=True)
def room(request, monkeypatch):
    """Every test runs with the transformed scan in either place, and more than one block of readouts."""
    monkeypatch.setattr(hybrid, "AT_ONCE", 8 * COILS * SAMPLES * 7)
    if request.param == "in a file":
        monkeypatch.setattr("recon.data.readers.hybrid.IN_MEMORY", 0)


def random_slab(seed=0):
    """k-space (coils, samples, lines, partitions)."""
    rng = np.random.default_rng(seed)
    shape = (COILS, SAMPLES, LINES, PARTITIONS)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def says(**changes: object):
    """A header of the slab, oversampled twice along the readout."""
    facts = {
        "encoded": (SAMPLES, LINES, PARTITIONS),
        "image": (SLICES, LINES, PARTITIONS),
        "fields": ((320.0, 200.0, 90.0), (160.0, 200.0, 90.0)),
        "centre": LINES // 2,
        "second": PARTITIONS // 2,
    }
    return document(encoding(**(facts | changes)))


def everywhere():
    """All places (line, partition)."""
    return [(line, partition) for partition in range(PARTITIONS) for line in range(LINES)]


def readouts(kspace, places=None, first=(0, 0), counters=None, **how: object):
    """Readouts of some places; ``first`` is the place of steps 0."""
    how = {"centre": SAMPLES // 2, **how}
    return [
        readout(
            kspace[:, :, line, partition],
            line - first[0],
            counters={"kspace_encode_step_2": partition - first[1], **(counters or {})},
            **how,
        )
        for line, partition in (everywhere() if places is None else places)
    ]


def slices_of(kspace):
    """What is due: (slices, coils, lines, partitions), with sigpy's transform."""
    image = sp.ifft(kspace, axes=(1,))
    return image[:, SAMPLES // 4 : SAMPLES // 4 + SLICES].transpose(1, 0, 2, 3)


def check(volume, expected):
    """The volume's slices are as expected."""
    assert (volume.slices, volume.coils, volume.rows, volume.columns) == expected.shape
    for position in range(volume.slices):
        np.testing.assert_allclose(volume.read_slice(position), expected[position], atol=1e-5)


def test_the_readout_gives_slices_without_its_oversampling(path):
    kspace = random_slab()
    lines = readouts(kspace)
    np.random.default_rng(1).shuffle(lines)
    volume = readers.read_volume(write(path, lines, says()))
    assert (volume.phase_encodings, volume.image_rows, volume.crop) == (2, LINES, (LINES, PARTITIONS))
    assert (volume.pad_left, volume.pad_right, volume.mask, volume.notes) == (0, 0, None, ())
    check(volume, slices_of(kspace))


def test_the_crop_follows_the_fields_of_view_along_both_phase_encodings(path):
    """Oversampled along both, and interpolated."""
    one = says(image=(64, 64, 4), fields=((320.0, 200.0, 90.0), (160.0, 120.0, 60.0)))
    volume = readers.read_volume(write(path, readouts(random_slab()), one))
    assert (volume.slices, volume.crop) == (SLICES, (6, 4))


def test_lines_that_are_missing_at_a_side_are_padding(path):
    """The header's centre steps say where the lines lie; along both axes they begin to count where they begin."""
    kspace = random_slab()
    kept = [(line, partition) for line, partition in everywhere() if line >= 3 and 1 <= partition < 5]
    lines = readouts(kspace, kept, first=(3, 1))
    volume = readers.read_volume(write(path, lines, says(centre=LINES // 2 - 3, second=PARTITIONS // 2 - 1)))
    assert (volume.pad_left, volume.pad_right, volume.mask) == (1, 1, None)
    expected = slices_of(kspace)
    expected[:, :, :3] = expected[..., [0, 5]] = 0
    check(volume, expected)


def test_corners_that_were_not_acquired_are_no_undersampling(path):
    kspace = random_slab()
    kept = [(y, z) for y, z in everywhere() if ((y - 5) / 5.1) ** 2 + ((z - 3) / 3.1) ** 2 <= 1]
    volume = readers.read_volume(write(path, readouts(kspace, kept), says()))
    assert len(kept) < 0.9 * LINES * PARTITIONS
    assert volume.mask is None
    there = np.zeros((LINES, PARTITIONS), bool)
    there[tuple(np.transpose(kept))] = True
    check(volume, slices_of(kspace * there))


@pytest.mark.parametrize("how", ["points", "lines", "partitions"])
def test_undersampling_is_a_mask_of_rows_and_columns(path, how):
    kspace = random_slab()
    kept = {
        "points": [(y, z) for y, z in everywhere() if (y + 2 * z) % 3 == 0 or 4 <= y < 7],
        "lines": [(y, z) for y, z in everywhere() if y % 2 == 0],
        "partitions": [(y, z) for y, z in everywhere() if z % 2 == 0],
    }[how]
    volume = readers.read_volume(write(path, readouts(kspace, kept), says()))
    expected = np.zeros((LINES, PARTITIONS), bool)
    expected[tuple(np.transpose(kept))] = True
    np.testing.assert_array_equal(volume.mask, expected)
    check(volume, slices_of(kspace * expected))


def test_averages_are_averaged_and_reversed_and_partial_readouts_placed(path):
    """Sample by sample: where one average is a partial echo, the other alone counts."""
    first, second = random_slab(), random_slab(1)
    lines = readouts(first)
    lines += readouts(second[:, 5:], centre=SAMPLES // 2 - 5, counters={"average": 1})
    # A few once more, in the reverse direction, so that a block holds a place twice.
    more = everywhere()[:4] * 2
    lines += readouts(
        second[:, ::-1],
        more,
        centre=SAMPLES // 2 - 1,
        flags=(ismrmrd.ACQ_IS_REVERSE,),
        counters={"average": 2},
    )
    total, times = first.copy(), np.ones((SAMPLES, LINES, PARTITIONS))
    total[:, 5:] += second[:, 5:]
    times[5:] += 1
    for line, partition in more:
        total[:, :, line, partition] += second[:, :, line, partition]
        times[:, line, partition] += 1
    check(readers.read_volume(write(path, lines, says())), slices_of(total / times))


def test_a_slab_may_have_the_base_resolution_as_its_matrix(path):
    kspace = random_slab()
    one = says(encoded=(SLICES, LINES, PARTITIONS), fields=((160.0, 200.0, 90.0),) * 2)
    volume = readers.read_volume(write(path, readouts(kspace), one))
    assert "base resolution" in volume.notes[0]
    check(volume, slices_of(kspace))


def test_hints_say_the_oversampling_the_padding_and_the_crop(path):
    kspace = random_slab()
    write(path, readouts(kspace), says(fields=((320.0, 200.0, 90.0),) * 2, second=0))
    volume = readers.read_volume(path, Hints(oversampling=2, padding=(1, 2), crop=(4, 5)))
    assert (volume.columns, volume.pad_left, volume.pad_right, volume.crop) == (PARTITIONS + 3, 1, 2, (4, 5))
    check(volume, np.pad(slices_of(kspace), ((0, 0), (0, 0), (0, 0), (1, 2))))


def test_noise_scans_are_kept_aside(path):
    noise = readout(np.full((COILS, 40), 2j), flags=(ismrmrd.ACQ_IS_NOISE_MEASUREMENT,))
    volume = readers.read_volume(write(path, [noise, *readouts(random_slab())], says()))
    np.testing.assert_array_equal(volume.load_noise(), np.full((COILS, 40), 2j))


@pytest.mark.parametrize("shared", [True, False])
def test_calibration_lines_are_transformed_like_the_images(path, shared):
    """Integrated ones are the image's too; those of a separate scan are for the maps alone."""
    alone, both = ismrmrd.ACQ_IS_PARALLEL_CALIBRATION, ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING
    kspace = random_slab()
    middle = [(y, z) for y, z in everywhere() if 3 <= y < 7 and 1 <= z < 5]
    image = [(y, z) for y, z in everywhere() if y % 2 == 0 and z % 2 == 0]
    lines = readouts(kspace, [one for one in image if one not in middle])
    lines += readouts(kspace, [one for one in image if one in middle], flags=(both,) if shared else ())
    lines += readouts(kspace, [one for one in middle if shared is False or one not in image], flags=(alone,))
    volume = readers.read_volume(write(path, lines, says()))
    kept, reference = np.zeros((2, LINES, PARTITIONS), bool)
    kept[tuple(np.transpose(image + middle if shared else image))] = True
    reference[tuple(np.transpose(middle))] = True
    np.testing.assert_array_equal(volume.mask, kept)
    for position in (0, SLICES - 1):
        expected = slices_of(kspace)[position]
        np.testing.assert_allclose(volume.read_slice(position), expected * kept, atol=1e-5)
        np.testing.assert_allclose(volume.load_calibration(position), expected * reference, atol=1e-5)


def test_each_repetition_is_a_slab_of_its_own(path):
    first, second = random_slab(), random_slab(1)
    write(path, readouts(first) + readouts(second, counters={"repetition": 1}), says())
    both = readers.read_volumes(path, Hints(images="volumes"))
    assert [one.name for one in both] == ["slab_rep1", "slab_rep2"]
    check(both[1], slices_of(second))
    check(both[0], slices_of(first))


def test_several_slabs_are_refused(path):
    lines = readouts(random_slab()) + readouts(random_slab(), counters={"slice": 1})
    with pytest.raises(InputError, match=r"slab\.h5: it has a second phase encoding and 2 slabs; "):
        readers.read_volume(write(path, lines, says()))


def test_partitions_far_beyond_the_encoded_matrix_are_refused(path):
    with pytest.raises(InputError, match=r"slab\.h5: .* of 2; kspace_encode_step_2, .* do not fit"):
        readers.read_volume(write(path, readouts(random_slab()), says(encoded=(SAMPLES, LINES, 2))))


def test_a_scan_is_transformed_once(path, monkeypatch):
    volume = readers.read_volume(write(path, readouts(random_slab()), says()))
    volume.read_slice(3)
    monkeypatch.setattr(hybrid, "ifft", None)
    for position in range(SLICES):
        volume.read_slice(position)
