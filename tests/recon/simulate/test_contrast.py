"""The signal equation, and what fat suppression does."""

import h5py
import numpy as np
import pytest

from recon.simulate.contrast import (
    FAT_T1_MS,
    FAT_T2_MS,
    PROTOCOLS,
    SUPPRESSION_HALF_WIDTH_HZ,
    TISSUES,
    signals,
    water_and_fat,
)

NAMES = list(TISSUES)
PD, FS, T2 = PROTOCOLS


def of(tissue, protocol, off_resonance=0.0):
    """Signal of a pixel full of one tissue."""
    fractions = np.zeros((len(NAMES), 1, 1), np.float32)
    fractions[NAMES.index(tissue)] = 1
    water, fat = water_and_fat(fractions, protocol, np.full((1, 1), off_resonance, np.float32))
    return float(water[0, 0] + fat[0, 0])


def test_signal_equation_by_hand():
    """Cartilage and fat, worked out with the formula from the docstring."""
    cartilage = TISSUES["cartilage"]
    expected = cartilage.proton_density * (1 - np.exp(-PD.tr_ms / 1240)) * np.exp(-PD.te_ms / 36.9)
    assert of("cartilage", PD) == pytest.approx(expected, rel=1e-5)
    water, fat = signals(PD)
    marrow, index = TISSUES["marrow"], NAMES.index("marrow")
    pool = (1 - np.exp(-PD.tr_ms / FAT_T1_MS)) * np.exp(-PD.te_ms / FAT_T2_MS)
    assert fat[index] == pytest.approx(marrow.proton_density * marrow.fat_fraction * pool, rel=1e-5)
    assert 0 < water[index] < 0.1 * fat[index]


def test_mixtures_are_linear():
    rng = np.random.default_rng(0)
    fractions = rng.dirichlet(np.ones(len(NAMES)), 6).T.reshape(len(NAMES), 2, 3).astype(np.float32)
    water, fat = water_and_fat(fractions, PD, np.zeros((2, 3), np.float32))
    expected = sum(fractions[i] * of(name, PD) for i, name in enumerate(NAMES))
    np.testing.assert_allclose(water + fat, expected, rtol=1e-5)


def test_proton_density_order_of_brightness():
    """As read in clinic: fat and marrow brightest, then fluid, cartilage, muscle; meniscus, ligament, bone dark."""
    order = ["fat", "marrow", "fluid", "cartilage", "muscle", "meniscus", "ligament", "cortex"]
    values = [of(tissue, PD) for tissue in order]
    assert values == sorted(values, reverse=True)
    assert values[0] > 2 * values[4] > 4 * values[6]


def test_fat_suppression_darkens_fat_and_keeps_fluid():
    for tissue in ("fat", "marrow"):
        assert of(tissue, FS) < 0.2 * of(tissue, PD)
        assert of(tissue, FS) > 0  # it is imperfect
    assert of("fluid", FS) > 0.8 * of("fluid", PD)
    order = ["fluid", "cartilage", "muscle", "marrow", "cortex"]
    values = [of(tissue, FS) for tissue in order]
    assert values == sorted(values, reverse=True)
    assert of("oedema", FS) > 3 * of("marrow", FS)


def test_fat_suppression_fails_far_off_resonance():
    strengths = [of("fat", FS, hertz) for hertz in (0, 80, SUPPRESSION_HALF_WIDTH_HZ, 180, 400)]
    assert strengths == sorted(strengths)
    assert strengths[2] == pytest.approx((strengths[0] + strengths[-1]) / 2, rel=0.05)
    assert strengths[-1] > 0.9 * of("fat", PD)
    assert of("fat", PD, 400) == of("fat", PD)


def test_the_volumes_show_it(knees):
    """Subcutaneous fat loses its signal; what is bright with fat suppression was not dark without it."""
    with (
        h5py.File(knees / "train/knee0000_CORPD_FBK.h5") as pd,
        h5py.File(knees / "train/knee0000_CORPDFS_FBK.h5") as fs,
    ):
        plain, suppressed = pd["reconstruction_rss"][()], fs["reconstruction_rss"][()]
    brightest = plain > np.quantile(plain, 0.95)
    assert suppressed[brightest].mean() < 0.4 * plain[brightest].mean()
    wet = suppressed > np.quantile(suppressed, 0.99)
    assert suppressed[wet].mean() > 0.4 * plain[wet].mean()


def test_the_t2_weighted_scan_shows_fluid_and_darkens_what_relaxes_fast():
    """A T2-weighted fast spin echo: fluid is brightest, fat stays bright, muscle and cartilage are dark."""
    order = ["fluid", "fat", "oedema", "cartilage", "muscle", "meniscus", "ligament", "cortex"]
    values = [of(tissue, T2) for tissue in order]
    assert values == sorted(values, reverse=True)
    for tissue in ("muscle", "cartilage"):
        assert of("fluid", T2) / of(tissue, T2) > 2.5 * of("fluid", PD) / of(tissue, PD)
    fluid = TISSUES["fluid"]
    expected = fluid.proton_density * (1 - np.exp(-T2.tr_ms / fluid.t1_ms)) * np.exp(-T2.te_ms / fluid.t2_ms)
    assert of("fluid", T2) == pytest.approx(expected, rel=1e-5)
