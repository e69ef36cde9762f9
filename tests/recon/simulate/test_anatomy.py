"""The leg: every tissue is there, shares sum to one, and nothing sticks out."""

import numpy as np
import pytest

from recon.simulate.anatomy import Subject
from recon.simulate.atlas import atlas
from recon.simulate.canvas import TISSUE_INDEX
from recon.simulate.geometry import Geometry

KNEES = ("a", "b", "c")
GEOMETRY = Geometry(matrix=64, columns=74, lines=66, slices=9, field_of_view_mm=160.0, spacing_mm=9.0, thickness_mm=3.0)


@pytest.fixture(scope="module", params=KNEES)
def leg(request):
    """Tissue shares (slices, tissues, rows, columns) of one subject from each knee, with an effusion."""
    subject = Subject(request.param, np.random.default_rng(5), coarse=True)
    subject.effusion = 0.8
    rng = np.random.default_rng(0)
    return np.stack([subject.fractions(GEOMETRY, index, rng) for index in range(GEOMETRY.slices)])


def test_shares_sum_to_one_in_the_leg_and_to_nothing_outside(leg):
    total = leg.sum(1)
    assert leg.min() >= 0
    assert total.max() == pytest.approx(1, abs=1e-4)
    middle = total[4, total.shape[1] // 2]
    assert middle[len(middle) // 2] == pytest.approx(1, abs=1e-4)
    assert total[:, :, 0].max() == 0
    assert total[:, :, -1].max() == 0


@pytest.mark.parametrize("tissue", ["fat", "muscle", "cartilage", "deep_cartilage", "fluid", "synovium", "meniscus",
                                    "ligament", "cortex", "marrow", "skin", "artery", "vein", "nerve"])  # fmt: skip
def test_every_tissue_is_drawn(leg, tissue):
    pixels = leg[:, TISSUE_INDEX[tissue]].sum()
    assert pixels > 10


def test_bones_are_the_labels_bones(leg):
    """Cortex and marrow fill about the volume of the labelled bones that lies in the scan."""
    bone = leg[:, [TISSUE_INDEX[t] for t in ("cortex", "marrow", "red_marrow", "oedema")]].sum(1)
    share = bone.sum() / leg.sum()
    assert 0.2 < share < 0.5


def test_cartilage_lies_between_the_bones(leg):
    """Cartilage is found near the joint's middle rows, not in the shafts."""
    rows = leg[:, TISSUE_INDEX["cartilage"]].sum((0, 2))
    height = np.arange(len(rows)) - len(rows) / 2
    pixel = GEOMETRY.pixel_mm / 2
    assert rows[np.abs(height * pixel) < 60].sum() > 0.97 * rows.sum()


def test_subjects_of_a_knee_differ_and_both_sides_occur():
    subjects = [Subject("a", np.random.default_rng(seed), coarse=True) for seed in range(6)]
    assert {s.side for s in subjects} == {"left", "right"}
    legs = [s.fractions(GEOMETRY, 4, np.random.default_rng(0))[TISSUE_INDEX["cortex"]] for s in subjects[:3]]
    for first, second in ((0, 1), (1, 2), (0, 2)):
        overlap = np.minimum(legs[first], legs[second]).sum() / legs[first].sum()
        assert overlap < 0.8


def test_a_left_knee_mirrors_a_right_one():
    subject = Subject("a", np.random.default_rng(1), coarse=True)
    points = np.random.default_rng(2).uniform(-40, 40, (3, 50)).astype(np.float32)
    subject.shift[:] = 0
    subject.side = "right"
    right = subject.to_anatomy(points)
    subject.side = "left"
    left = subject.to_anatomy(points * np.array([[1], [1], [-1]], np.float32))
    np.testing.assert_allclose(left, right, atol=1e-4)


@pytest.mark.parametrize("knee", KNEES)
def test_atlas_distance_agrees_with_the_shape(knee):
    """Where the near field says deep inside or far outside a bone, the far distances agree."""
    fields = atlas(knee, coarse=True)
    points = np.random.default_rng(0).uniform(-45, 45, (3, 4000)).astype(np.float32)
    depth = fields.near(points)[0]
    distance = fields.far(points)[:4].min(0)
    assert np.all(distance[depth > 2.4] < 1.0)
    assert np.all(distance[depth < -2.4] > -1.0)


def test_the_atlas_is_in_millimetres():
    """A step of a tenth of a millimetre into a bone is a tenth deeper."""
    fields = atlas("a", coarse=False)
    points = np.random.default_rng(0).uniform(-40, 40, (3, 20000)).astype(np.float32)
    depth = fields.near(points)[0]
    points = points[:, np.abs(depth) < 0.5]
    slope = np.sqrt(
        sum(
            (fields.near(points + step)[0] - fields.near(points - step)[0]) ** 2
            for step in np.eye(3, dtype=np.float32)[:, :, None] * 0.5
        )
    )
    assert np.median(slope) == pytest.approx(1, abs=0.15)
