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
    drawn = masks.draw_mask(MaskConfig(), 368, np.random.default_rng(3), padding=(18, 18))
    assert drawn.offset is not None
    _, expected, _ = transforms.apply_mask(ones, func, offset=drawn.offset, padding=(18, 350))
    np.testing.assert_array_equal(drawn.columns, expected.numpy().ravel().astype(bool))


def test_the_papers_test_mask_has_55_lines_at_width_332():
    mask = masks.fixed(MaskConfig(accelerations=(6,), centre_fractions=(0.07,)), 332)
    assert (mask.lines, mask.centre_lines) == (55, 23)
    assert round(mask.net_acceleration, 2) == 6.04


@pytest.mark.parametrize("kind", ["equispaced-fraction", "equispaced", "random"])
def test_padded_columns_are_never_sampled_nor_counted(kind):
    config = MaskConfig(kind=kind, accelerations=(3.0, 4.0), centre_fractions=(0.05, 0.1))
    for seed in range(30):
        mask = masks.draw_mask(config, 92, np.random.default_rng(seed), padding=(7, 5))
        assert not mask.columns[:7].any()
        assert not mask.columns[-5:].any()
        assert mask.acquired == 80
        assert mask.net_acceleration == 80 / mask.columns.sum()


def test_net_acceleration_of_equispaced_fraction_is_close_to_the_nominal_one():
    for seed in range(50):
        mask = masks.draw_mask(
            MaskConfig(accelerations=(5, 6, 7), centre_fractions=(0.05, 0.06, 0.07)), 332, np.random.default_rng(seed)
        )
        assert mask.net_acceleration == pytest.approx(mask.acceleration, rel=0.06)


def test_random_keeps_the_asked_share_on_average():
    config = MaskConfig(kind="random", accelerations=(4,), centre_fractions=(0.08,))
    rng = np.random.default_rng(0)
    assert np.mean([masks.draw_mask(config, 320, rng).lines for _ in range(400)]) == pytest.approx(80, abs=1.5)


def test_draws_cover_every_acceleration_fraction_and_offset():
    config = MaskConfig(kind="equispaced", accelerations=(2, 3), centre_fractions=(0.1, 0.2))
    rng = np.random.default_rng(0)
    seen = {(m.acceleration, m.centre_lines, m.offset) for m in (masks.draw_mask(config, 40, rng) for _ in range(300))}
    assert seen == {(r, c, o) for r in (2, 3) for c in (4, 8) for o in range(r)}


def test_a_fixed_mask_depends_on_its_seed_alone():
    config = MaskConfig(kind="random", accelerations=(4,))
    np.random.seed(5)  # noqa: NPY002 - the global state must not matter
    first = masks.fixed(config, 100)
    np.random.seed(6)  # noqa: NPY002
    np.testing.assert_array_equal(first.columns, masks.fixed(config, 100).columns)
    assert (masks.fixed(config.model_copy(update={"seed": 1}), 100).columns != first.columns).any()


def test_drawing_leaves_numpys_global_state_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    masks.fixed(MaskConfig(kind="random"), 64)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize("kind", ["equispaced-fraction", "equispaced", "random"])
def test_acceleration_one_keeps_everything(kind):
    assert masks.fixed(MaskConfig(kind=kind, accelerations=(1,)), 30).columns.all()
    assert masks.fixed(MaskConfig(kind=kind, accelerations=(1,), centre_fractions=(1,)), 30).columns.all()


@pytest.mark.parametrize("kind", ["equispaced-fraction", "random"])
def test_more_centre_than_the_acceleration_permits_is_refused(kind):
    with pytest.raises(InputError, match=r"0\.3 keeps 30 of 100 columns, where an acceleration of 6 permits .* 16\.67"):
        masks.fixed(MaskConfig(kind=kind, accelerations=(6,), centre_fractions=(0.3,)), 100)


def test_equispaced_refuses_a_broken_acceleration():
    with pytest.raises(InputError, match=r"whole acceleration, found 2\.5"):
        masks.fixed(MaskConfig(kind="equispaced", accelerations=(2.5,)), 100)


def test_a_padding_that_leaves_nothing_is_refused():
    with pytest.raises(InputError, match="a padding of 20 and 12 columns leaves nothing of 32"):
        masks.fixed(MaskConfig(), 32, padding=(20, 12))


def test_an_empty_mask_is_refused():
    config = MaskConfig(kind="random", accelerations=(1000,), centre_fractions=(0,))
    with pytest.raises(InputError, match="keeps none of 16 columns"):
        masks.fixed(config, 16)


def test_a_file_gives_its_columns(tmp_path):
    columns = np.zeros(20, dtype=np.uint8)
    columns[[0, 3, 9, 10, 11, 17, 19]] = 1
    np.save(tmp_path / "mask.npy", columns)
    mask = masks.fixed(MaskConfig(kind="file", path=str(tmp_path / "mask.npy")), 20, padding=(1, 1))
    np.testing.assert_array_equal(np.flatnonzero(mask.columns), [3, 9, 10, 11, 17])
    assert (mask.centre_lines, mask.offset, mask.acceleration) == (3, None, 18 / 5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.ones(19), "has 19 columns, where the k-space has 20"),
        (np.full(20, 2), "array of 0 and 1"),
        (np.ones((20, 20)), "one-dimensional"),
        (np.array([None] * 20), r"no mask in NumPy's \.npy format"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_mask_file_is_named(tmp_path, content, message):
    path = tmp_path / "mask.npy"
    if content is not None:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(InputError, match=message) as error:
        masks.fixed(MaskConfig(kind="file", path=str(path)), 20)
    assert str(path) in str(error.value)
