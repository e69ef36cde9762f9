"""ISMRMRD files that hold several images of each slice: repetitions, echoes, phases, sets, encodings."""

import ismrmrd
import numpy as np
import pytest
from ismrmrd import xsd

from recon.data import readers
from recon.data.readers import Hints
from recon.errors import InputError
from tests.recon.data.mrdfiles import COILS, COLUMNS, ROWS, document, encoding, random_kspace, readout, readouts, write

VOLUMES, AVERAGE = Hints(images="volumes"), Hints(images="average")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "scan.h5"


def counted(images, *counters: str):
    """Readouts of images: counter values → k-space (coils, rows, columns)."""
    return [
        line
        for values, kspace in images.items()
        for line in readouts(kspace, counters=dict(zip(counters, values, strict=True)))
    ]


@pytest.mark.parametrize(
    ("counter", "name", "tasks"),
    [
        ("repetition", "rep", ["T1", "T1"]),
        ("phase", "phase", ["T1", "T1"]),
        ("set", "set", ["T1", "T1"]),
        ("contrast", "echo", ["T1-echo1", "T1-echo2"]),
    ],
)
def test_each_image_becomes_a_volume_of_one_patient(path, counter, name, tasks):
    kspace = random_kspace(slices=2)
    write(path, counted({(0,): kspace[0], (1,): kspace[1]}, counter), protocol="T1")
    both = readers.read_volumes(path, VOLUMES)
    assert [one.name for one in both] == [f"scan_{name}1", f"scan_{name}2"]
    assert [one.task for one in both] == tasks
    assert [one.patient for one in both] == ["scan", "scan"]
    for one, expected in zip(both, kspace, strict=True):
        np.testing.assert_array_equal(one.read_slice(0), expected)


def test_the_patient_and_the_task_are_the_headers_or_the_hints(path):
    kspace = random_kspace()[0]
    subject = xsd.subjectInformationType(patientID="P7")
    write(path, counted({(0,): kspace, (1,): kspace}, "contrast"), protocol="CORPD_FBK", patient=subject)
    assert [(one.task, one.patient) for one in readers.read_volumes(path, VOLUMES)] == [
        ("PDw-echo1", "P7"),
        ("PDw-echo2", "P7"),
    ]
    hints = Hints(images="volumes", task="DESS", patient="P8")
    assert [(one.task, one.patient) for one in readers.read_volumes(path, hints)] == [
        ("DESS-echo1", "P8"),
        ("DESS-echo2", "P8"),
    ]


def test_several_counters_make_a_volume_of_each_combination(path):
    kspace = random_kspace(slices=4)
    images = {(echo, rep): kspace[2 * echo + rep] for rep in range(2) for echo in range(2)}
    write(path, counted(images, "contrast", "repetition"))
    found = readers.read_volumes(path, VOLUMES)
    assert [one.name for one in found] == [
        "scan_echo1_rep1",
        "scan_echo1_rep2",
        "scan_echo2_rep1",
        "scan_echo2_rep2",
    ]
    np.testing.assert_array_equal(found[2].read_slice(0), kspace[2])
    np.testing.assert_array_equal(readers.read_volume(path, VOLUMES, "scan_echo2_rep2").read_slice(0), kspace[3])


def test_repetitions_are_averaged_where_asked_and_echoes_stay_apart(path):
    kspace = random_kspace(slices=4)
    images = {(echo, rep): kspace[2 * echo + rep] for rep in range(2) for echo in range(2)}
    write(path, counted(images, "contrast", "repetition"))
    found = readers.read_volumes(path, AVERAGE)
    assert [one.name for one in found] == ["scan_echo1", "scan_echo2"]
    np.testing.assert_allclose(found[1].read_slice(0), (kspace[2] + kspace[3]) / 2, rtol=1e-5, atol=1e-6)


def test_averaged_repetitions_alone_are_one_volume_of_the_files_name(path):
    kspace = random_kspace(slices=2)
    write(path, counted({(0,): kspace[0], (1,): kspace[1]}, "repetition"))
    volume = readers.read_volume(path, AVERAGE)
    assert volume.name == "scan"
    np.testing.assert_allclose(volume.read_slice(0), kspace.mean(axis=0), rtol=1e-5, atol=1e-6)


def test_a_file_of_one_image_keeps_its_name_whatever_is_asked(path):
    """Its counter need not be 0."""
    write(path, counted({(3,): random_kspace()[0]}, "repetition"))
    for hints in (VOLUMES, AVERAGE, Hints()):
        assert [one.name for one in readers.read_volumes(path, hints)] == ["scan"]


def test_one_image_is_due_where_none_is_chosen(path):
    write(path, counted({(0,): random_kspace()[0], (1,): random_kspace()[0]}, "repetition"))
    with pytest.raises(InputError, match=r"scan\.h5: it holds 2 images a slice.*--images volumes.*--images average"):
        readers.read_volume(path)
    with pytest.raises(InputError, match=r"scan\.h5 holds the volumes scan_rep1, scan_rep2; name one"):
        readers.read_volume(path, VOLUMES)


def test_encodings_become_volumes_of_their_own_size(path):
    kspace, other = random_kspace(slices=2)[0], random_kspace(seed=1)[0][:, 4:12]
    lines = readouts(kspace) + readouts(other, centre=4, encoding_space_ref=1)
    write(path, lines, document(encoding(), encoding(encoded=(8, COLUMNS, 1), image=(8, COLUMNS, 1))))
    first, second = readers.read_volumes(path, VOLUMES)
    assert (first.name, first.rows, second.name, second.rows) == ("scan_encoding1", ROWS, "scan_encoding2", 8)
    np.testing.assert_array_equal(first.read_slice(0), kspace)
    np.testing.assert_array_equal(second.read_slice(0), other)


def test_images_may_have_lines_and_slices_of_their_own(path):
    """A last repetition that was broken off, say."""
    kspace = random_kspace(slices=2)
    lines = readouts(kspace[0]) + readouts(kspace[1], number=1)
    lines += readouts(kspace[0], columns=range(3, 10), counters={"repetition": 1})
    write(path, lines)
    first, second = readers.read_volumes(path, VOLUMES)
    assert (first.slices, first.pad_left, first.pad_right) == (2, 0, 0)
    assert (second.slices, second.pad_left, second.pad_right) == (1, 3, 2)


def test_all_volumes_share_the_noise_scan(path):
    noise = readout(np.full((COILS, 20), 1j), flags=(ismrmrd.ACQ_IS_NOISE_MEASUREMENT,))
    write(path, [noise, *counted({(0,): random_kspace()[0], (1,): random_kspace()[0]}, "set")])
    for one in readers.read_volumes(path, VOLUMES):
        np.testing.assert_array_equal(one.load_noise(), np.full((COILS, 20), 1j))
