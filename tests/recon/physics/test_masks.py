"""Masks equal fastMRI's, count what was acquired, and depend on nothing but their seed."""

import numpy as np
import pytest

from recon.config import MaskConfig
from recon.errors import InputError
from recon.physics import masks

CASES = [(332, 6, 0.07), (332, 5, 0.05), (368, 7, 0.06), (320, 4, 0.08), (64, 4, 0.1), (97, 3, 0.0), (16, 2, 0.25)]


def subsample():
    return pytest.importorskip("fastmri.data.subsample", reason="fastmri is not installed")


def fastmri_columns(func, columns, offset=None, seed=None):
    mask, centre = func((1, columns, 2), offset, seed)
    return mask.numpy().ravel().astype(bool), centre


@pytest.mark.parametrize(("columns", "acceleration", "centre"), CASES)
def test_equispaced_fraction_equals_fastmri(columns, acceleration, centre):
    func = subsample().EquispacedMaskFractionFunc([centre], [acceleration])
    count = masks.offsets("equispaced-fraction", columns, acceleration, centre)
    assert count >= acceleration
    for offset in range(count):
        expected, lines = fastmri_columns(func, columns, offset=offset)
        np.testing.assert_array_equal(masks.equispaced_fraction(columns, acceleration, centre, offset), expected)
        assert masks.centre_lines(columns, centre) == lines


@pytest.mark.parametrize(("columns", "acceleration", "centre"), CASES)
def test_equispaced_equals_fastmri(columns, acceleration, centre):
    func = subsample().EquiSpacedMaskFunc([centre], [acceleration])
    for offset in range(masks.offsets("equispaced", columns, acceleration, centre)):
        expected, _ = fastmri_columns(func, columns, offset=offset)
        np.testing.assert_array_equal(masks.equispaced(columns, acceleration, centre, offset), expected)


@pytest.mark.parametrize(("columns", "acceleration", "centre"), CASES)
def test_random_equals_fastmri_for_the_same_draws(columns, acceleration, centre):
    expected, _ = fastmri_columns(subsample().RandomMaskFunc([centre], [acceleration]), columns, seed=7)
    state = np.random.RandomState(7)
    state.randint(1)  # fastMRI chooses the pair of fraction and acceleration first
    np.testing.assert_array_equal(masks.random(columns, acceleration, centre, state.uniform(size=columns)), expected)


def test_padding_is_cleared_as_fastmri_does():
    import torch

    transforms = pytest.importorskip("fastmri.data.transforms", reason="fastmri is not installed")
    func = subsample().EquispacedMaskFractionFunc([0.06], [6])
    ones = torch.ones(1, 4, 368, 2)
    for offset in range(8):
        _, expected, _ = transforms.apply_mask(ones, func, offset=offset, padding=(18, 350))
        mask = masks.equispaced_fraction(368, 6, 0.06, offset)
        mask[:18] = mask[350:] = False
        np.testing.assert_array_equal(mask, expected.numpy().ravel().astype(bool))
    drawn = masks.draw_mask(MaskConfig(), (8, 368), np.random.default_rng(3), padding=(18, 18))
    assert drawn.offset is not None
    _, expected, _ = transforms.apply_mask(ones, func, offset=drawn.offset, padding=(18, 350))
    np.testing.assert_array_equal(drawn.kept, expected.numpy().ravel().astype(bool))


def test_the_papers_test_mask_has_55_lines_at_width_332():
    mask = masks.fixed(MaskConfig(accelerations=(6,), centre_fractions=(0.07,)), (8, 332))
    assert (mask.count, mask.unit, masks.centre_lines(332, 0.07)) == (55, "lines", 23)
    assert round(mask.net_acceleration, 2) == 6.04


@pytest.mark.parametrize("kind", ["equispaced-fraction", "equispaced", "random"])
def test_padded_columns_are_never_sampled_nor_counted(kind):
    config = MaskConfig(kind=kind, accelerations=(3.0, 4.0), centre_fractions=(0.05, 0.1))
    for seed in range(30):
        mask = masks.draw_mask(config, (8, 92), np.random.default_rng(seed), padding=(7, 5))
        assert not mask.kept[:7].any()
        assert not mask.kept[-5:].any()
        assert mask.acquired == 80
        assert mask.net_acceleration == 80 / mask.kept.sum()


def test_net_acceleration_of_equispaced_fraction_is_close_to_the_nominal_one():
    for seed in range(50):
        mask = masks.draw_mask(
            MaskConfig(accelerations=(5, 6, 7), centre_fractions=(0.05, 0.06, 0.07)),
            (8, 332),
            np.random.default_rng(seed),
        )
        assert mask.net_acceleration == pytest.approx(mask.acceleration, rel=0.06)


def test_random_keeps_the_asked_share_on_average():
    config = MaskConfig(kind="random", accelerations=(4,), centre_fractions=(0.08,))
    rng = np.random.default_rng(0)
    assert np.mean([masks.draw_mask(config, (8, 320), rng).count for _ in range(400)]) == pytest.approx(80, abs=1.5)


def test_draws_cover_every_acceleration_fraction_and_offset():
    config = MaskConfig(kind="equispaced", accelerations=(2, 3), centre_fractions=(0.1, 0.2))
    rng = np.random.default_rng(0)
    drawn = [masks.draw_mask(config, (8, 40), rng) for _ in range(300)]
    seen = {(mask.acceleration, bool(mask.kept[16:24].all()), mask.offset) for mask in drawn}
    assert seen == {(r, eight, o) for r in (2, 3) for eight in (True, False) for o in range(r)}


def test_a_fixed_mask_depends_on_its_seed_alone():
    config = MaskConfig(kind="random", accelerations=(4,))
    np.random.seed(5)  # noqa: NPY002 - the global state must not matter
    first = masks.fixed(config, (8, 100))
    np.random.seed(6)  # noqa: NPY002
    np.testing.assert_array_equal(first.kept, masks.fixed(config, (8, 100)).kept)
    assert (masks.fixed(config.model_copy(update={"seed": 1}), (8, 100)).kept != first.kept).any()


def test_a_fixed_mask_is_drawn_once_and_cannot_be_written_to_and_a_file_is_read_anew(tmp_path):
    config = MaskConfig(kind="poisson-disc", accelerations=(4,), centre_fractions=(0.1,))
    mask = masks.fixed(config, (32, 24))
    assert masks.fixed(config, (32, 24)) is mask
    assert masks.fixed(config, (24, 32)).kept.shape == (24, 32)
    with pytest.raises(ValueError, match="read-only"):
        mask.kept[0, 0] = True
    given = MaskConfig(kind="file", path=str(tmp_path / "mask.npy"))
    for kept in (np.eye(20)[3], np.eye(20)[7]):
        np.save(tmp_path / "mask.npy", kept)
        np.testing.assert_array_equal(masks.fixed(given, (8, 20)).kept, kept)


def test_drawing_leaves_numpys_global_state_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    masks.fixed(MaskConfig(kind="random"), (8, 64))
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize("kind", ["equispaced-fraction", "equispaced", "random"])
def test_acceleration_one_keeps_everything(kind):
    assert masks.fixed(MaskConfig(kind=kind, accelerations=(1,)), (8, 30)).kept.all()
    assert masks.fixed(MaskConfig(kind=kind, accelerations=(1,), centre_fractions=(1,)), (8, 30)).kept.all()


@pytest.mark.parametrize("kind", ["equispaced-fraction", "random"])
def test_more_centre_than_the_acceleration_permits_is_refused(kind):
    with pytest.raises(InputError, match=r"0\.3 keeps 30 of 100 columns, where an acceleration of 6 permits .* 16\.67"):
        masks.fixed(MaskConfig(kind=kind, accelerations=(6,), centre_fractions=(0.3,)), (8, 100))


def test_equispaced_refuses_a_broken_acceleration():
    with pytest.raises(InputError, match=r"whole acceleration, found 2\.5"):
        masks.fixed(MaskConfig(kind="equispaced", accelerations=(2.5,)), (8, 100))


def test_a_padding_that_leaves_nothing_is_refused():
    with pytest.raises(InputError, match="a padding of 20 and 12 columns leaves nothing of 32"):
        masks.fixed(MaskConfig(), (8, 32), padding=(20, 12))


def test_an_empty_mask_is_refused():
    config = MaskConfig(kind="random", accelerations=(1000,), centre_fractions=(0,))
    with pytest.raises(InputError, match="keeps none of 16 columns"):
        masks.fixed(config, (8, 16))


def test_a_file_gives_its_columns(tmp_path):
    columns = np.zeros(20, dtype=np.uint8)
    columns[[0, 3, 9, 10, 11, 17, 19]] = 1
    np.save(tmp_path / "mask.npy", columns)
    mask = masks.fixed(MaskConfig(kind="file", path=str(tmp_path / "mask.npy")), (8, 20), padding=(1, 1))
    np.testing.assert_array_equal(np.flatnonzero(mask.kept), [3, 9, 10, 11, 17])
    assert (mask.kind, mask.offset, mask.acceleration) == ("file", None, 18 / 5)


def test_a_file_gives_its_samples(tmp_path):
    samples = np.random.default_rng(0).random((8, 20)) < 0.3
    np.save(tmp_path / "mask.npy", samples)
    mask = masks.fixed(MaskConfig(kind="file", path=str(tmp_path / "mask.npy")), (8, 20), padding=(1, 2))
    np.testing.assert_array_equal(mask.kept[:, 1:18], samples[:, 1:18])
    assert not mask.kept[:, [0, 18, 19]].any()
    assert (mask.count, mask.unit, mask.acquired) == (samples[:, 1:18].sum(), "samples", 8 * 17)
    assert mask.acceleration == mask.net_acceleration == 8 * 17 / mask.count


@pytest.mark.parametrize("shape", [(20,), (8, 20)])
def test_what_a_raw_file_kept_is_a_mask_without_its_padding(shape):
    pattern = np.ones(shape, bool)
    pattern[..., 4] = False
    mask = masks.given(pattern, (1, 2))
    assert mask.by_sample == (len(shape) == 2)
    assert (mask.count, mask.acquired) == (16 * pattern.size // 20, 17 * pattern.size // 20)
    assert pattern[..., 0].all(), "what was given stays as it is"
    with pytest.raises(InputError, match="keeps none of the acquired"):
        masks.given(np.zeros(shape, bool))


def test_what_was_never_acquired_is_neither_sampled_nor_counted():
    """The corners of a three-dimensional scan; a mask of whole columns stays as it is."""
    rows, columns = np.ogrid[-10:10, -15:15]
    acquired = (rows / 10) ** 2 + (columns / 15) ** 2 < 1
    drawn = masks.fixed(MaskConfig(kind="random-points", accelerations=(3,)), (20, 30), padding=(2, 1))
    mask = drawn.within(acquired)
    np.testing.assert_array_equal(mask.kept, drawn.kept & acquired)
    assert mask.acquired == acquired[:, 2:29].sum()
    assert mask.net_acceleration == mask.acquired / mask.kept.sum()
    lines = masks.fixed(MaskConfig(accelerations=(3,)), (20, 30))
    assert lines.within(acquired) is lines
    with pytest.raises(InputError, match="the random-points mask keeps none of 1 acquired samples"):
        drawn.within(~drawn.kept & (np.cumsum(~drawn.kept).reshape(20, 30) == 1))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.ones(19), "has 19 columns, where the k-space has 20"),
        (np.full(20, 2), "array of 0 and 1"),
        (np.ones((20, 20)), "has 20 × 20 samples, where the k-space has 8 × 20"),
        (np.ones((1, 8, 20)), "one for each column of k-space or one for each row and column"),
        (np.array([None] * 20), r"no mask in NumPy's \.npy format"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_mask_file_is_named(tmp_path, content, message):
    path = tmp_path / "mask.npy"
    if content is not None:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(InputError, match=message) as error:
        masks.fixed(MaskConfig(kind="file", path=str(path)), (8, 20))
    assert str(path) in str(error.value)
