"""Masks of single samples keep the asked share of the plane and its centre; Poisson discs are as dense as sigpy's."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sigpy.mri
from scipy.spatial import cKDTree

from recon.config import MaskConfig
from recon.errors import InputError
from recon.physics import masks, plane_masks
from recon.physics.plane_masks import centre_size, poisson_disc, random_points

SHAPES = [(64, 64), (96, 40), (31, 50)]
PATTERNS = [poisson_disc, random_points]


def draw(pattern, shape, acceleration, centre, seed=0):
    return pattern(shape, acceleration, centre, np.random.default_rng(seed))


def nearest(mask):
    """The distance of each sample from its nearest neighbour."""
    places = np.argwhere(mask)
    return cKDTree(places).query(places, 2)[0][:, 1]


def density(found, rings=8):
    """The share of samples in rings about the centre, over several masks."""
    mean = np.mean(found, axis=0)
    rows, columns = (np.abs(np.arange(n) - n / 2) / (n / 2) for n in mean.shape)
    ring = (np.hypot(rows[:, None], columns) * rings / 1.42).astype(int)
    return np.array([mean[ring == one].mean() for one in range(rings)])


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("acceleration", [1.3, 2, 4.5, 9, 20])
def test_the_asked_share_of_the_plane_is_kept(pattern, shape, acceleration):
    mask = draw(pattern, shape, acceleration, 0.1)
    assert mask.shape == shape
    assert mask.sum() == round(mask.size / acceleration)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_centre_is_kept_whole(pattern, shape):
    rows, columns = centre_size(shape, 0.2)
    assert (rows, columns) == (round(0.2 * shape[0]), round(0.2 * shape[1]))
    mask = draw(pattern, shape, 8, 0.2)
    top, left = ((n - m + 1) // 2 for n, m in zip(shape, (rows, columns), strict=True))
    assert mask[top : top + rows, left : left + columns].all()
    assert mask[shape[0] // 2, shape[1] // 2]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("shape", SHAPES)
def test_acceleration_one_keeps_every_sample(pattern, shape):
    assert draw(pattern, shape, 1, 0.1).all()
    assert draw(pattern, shape, 1, 1).all()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_more_centre_than_the_acceleration_permits_is_refused(pattern):
    with pytest.raises(InputError, match=r"0\.5 keeps 32 × 20 of 64 × 40 samples, where .* of 6 permits at most 427"):
        draw(pattern, (64, 40), 6, 0.5)
    assert draw(pattern, (64, 40), 4, 0.5).sum() == 640


@pytest.mark.parametrize("shape", [(96, 96), (128, 64)])
@pytest.mark.parametrize("acceleration", [4, 10])
def test_a_poisson_disc_is_as_dense_as_sigpys_at_every_distance_from_the_centre(shape, acceleration):
    size = centre_size(shape, 0.08)
    theirs = [
        sigpy.mri.poisson(shape, acceleration, size, crop_corner=False, seed=seed).real.astype(bool)
        for seed in range(3)
    ]
    ours = [draw(poisson_disc, shape, acceleration, 0.08, seed) for seed in range(3)]
    np.testing.assert_allclose(density(ours), density(theirs), atol=0.06)
    assert np.mean(nearest(ours[0])) > 0.95 * np.mean(nearest(theirs[0]))


def test_samples_of_a_poisson_disc_keep_a_distance_that_grows_outwards():
    shape, due = (128, 96), 128 * 96 // 8
    mask = draw(poisson_disc, shape, 8, 0.06)
    slope = plane_masks._slope(shape, centre_size(shape, 0.06), due)
    spacing = plane_masks._spacing(shape, centre_size(shape, 0.06), slope)
    # Distances count in samples of the longer axis.
    places = np.argwhere(mask) * (1, 128 / 96)
    asked = spacing[mask]
    pairs = np.array(sorted(cKDTree(places).query_pairs(spacing.max())))
    between = np.linalg.norm(places[pairs[:, 0]] - places[pairs[:, 1]], axis=1)
    # Whichever came first asked for its distance, shortened at most.
    least = np.minimum(asked[pairs[:, 0]], asked[pairs[:, 1]]) - plane_masks.SHORTER - 1 / plane_masks.LEVELS
    assert (between >= least).all()
    apart = cKDTree(places).query(places, 2)[0][:, 1]
    inner, outer = asked < np.quantile(asked, 0.3), asked > np.quantile(asked, 0.7)
    assert apart[outer].mean() > 1.5 * apart[inner].mean()
    assert nearest(mask).mean() > 1.25 * nearest(draw(random_points, shape, 8, 0.06)).mean()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_draws_depend_on_their_seed_alone_in_any_thread(pattern):
    np.random.seed(5)  # noqa: NPY002 - the global state must not matter
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    alone = [draw(pattern, (48, 40), 5, 0.1, seed) for seed in range(12)]
    assert len({mask.tobytes() for mask in alone}) == 12
    plane_masks._slope.cache_clear()
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda seed: draw(pattern, (48, 40), 5, 0.1, seed), range(12)))
    np.testing.assert_array_equal(alone, together)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_a_draw_is_the_same_on_every_machine():
    """By a digest, for there is no other machine here."""
    mask = draw(poisson_disc, (64, 48), 6, 0.08, 3)
    assert hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()[:16] == "c26c3ba400b56881"


@pytest.mark.parametrize("kind", ["poisson-disc", "random-points"])
def test_a_configuration_draws_masks_of_single_samples(kind):
    config = MaskConfig(kind=kind, accelerations=(4, 8), centre_fractions=(0.08,))
    drawn = [masks.draw_mask(config, (64, 40), np.random.default_rng(seed), (3, 2)) for seed in range(8)]
    assert {mask.acceleration for mask in drawn} == {4, 8}
    for mask in drawn:
        assert (mask.kind, mask.unit, mask.by_sample, mask.offset) == (kind, "samples", True, None)
        assert not mask.kept[:, :3].any()
        assert not mask.kept[:, -2:].any()
        assert mask.acquired == 64 * 35
        assert mask.net_acceleration == pytest.approx(mask.acceleration, rel=0.12)
    first, again = masks.fixed(config.model_copy(update={"accelerations": (4,)}), (64, 40)), drawn[0]
    assert first.kept.shape == again.kept.shape == (64, 40)
