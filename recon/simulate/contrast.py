"""From tissue fractions to the water and fat signals of a fast-spin-echo scan at 3 T.

Leaves to others: where the tissues are (`anatomy`) and how the signal is received (`receive`).

Signal of a pool of protons (each tissue has a water pool and a fat pool that share its proton density by the
proton-density fat fraction): PD · (1 − exp(−TR/T1)) · exp(−TE_eff/T2). The decay within an echo train is not modelled.

Where the numbers of `TISSUES` come from:

- Muscle, cartilage, synovial fluid, subcutaneous and marrow fat: T1 and T2 measured in knees at 3 T by Gold et al.,
  "Musculoskeletal MRI at 3.0 T: relaxation times and image contrast", AJR 183:343–351 (2004).
- Blood: T1 and T2 at 3 T of Stanisz et al., "T1, T2 relaxation and magnetization transfer in tissue at 3T",
  MRM 54:507–512 (2005). Flowing arterial blood leaves a void, so its proton density is set to nearly nothing.
- Meniscus: T2 of healthy menisci at 3 T in Rauscher et al., "Meniscal measurements of T1rho and T2 at MR imaging in
  healthy subjects and patients with osteoarthritis", Radiology 249:591–600 (2008), rounded.
- Cortical bone, tendon, ligament: T2 of the order that Robson and Bydder, "Clinical ultrashort echo time imaging of
  bone and other connective tissues", NMR in Biomedicine 19:765–780 (2006), review; at these echo times they are dark.
- Fat pool that is not suppressed: the olefinic and glycerol peaks near water, together about 9 % of fat protons in the
  spectrum of Hamilton et al., "In vivo characterization of the liver fat 1H MR spectrum", NMR in Biomedicine
  24:784–790 (2011).
- Sequence timing: within the ranges (TR 2200–3000 ms, TE 27–34 ms) of the knee scans described by Knoll et al.,
  "fastMRI: a publicly available raw k-space and DICOM dataset of knee images", Radiology: AI 2:e190007 (2020). That of
  the T2-weighted scan: like the axial T2-weighted fast spin echo of the knee protocol in Hammernik et al., "Learning a
  variational network for reconstruction of accelerated MRI data", MRM 79:3055–3071 (2018), but without its fat
  suppression.

Proton densities, the fat fractions, and all values of skin, nerve, red marrow, oedema, synovium and venous blood are
chosen by us to look right, near the values of the tissue that each resembles; they are not measurements.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Tissue:
    """Proton density (pure water = 1), T1 and T2 of the water pool in ms, and the fat pool's share of the protons."""

    proton_density: float
    t1_ms: float
    t2_ms: float
    fat_fraction: float = 0.0


FAT_T1_MS = 371.0
FAT_T2_MS = 133.0

TISSUES: dict[str, Tissue] = {
    "fat": Tissue(0.95, 1000.0, 35.0, 0.94),
    "muscle": Tissue(0.80, 1420.0, 31.7, 0.02),
    "cartilage": Tissue(0.78, 1240.0, 36.9),
    "deep_cartilage": Tissue(0.68, 1150.0, 25.0),
    "fluid": Tissue(1.00, 3620.0, 767.0),
    "synovium": Tissue(0.85, 1900.0, 70.0, 0.10),
    "meniscus": Tissue(0.70, 960.0, 11.5),
    "ligament": Tissue(0.65, 900.0, 9.0),
    "cortex": Tissue(0.20, 300.0, 0.5),
    "marrow": Tissue(0.93, 1200.0, 40.0, 0.92),
    "red_marrow": Tissue(0.88, 1200.0, 42.0, 0.55),
    "oedema": Tissue(0.92, 1700.0, 85.0, 0.25),
    "skin": Tissue(0.60, 1000.0, 24.0, 0.12),
    "artery": Tissue(0.04, 1932.0, 275.0),
    "vein": Tissue(0.70, 1932.0, 160.0),
    "nerve": Tissue(0.80, 1300.0, 60.0, 0.25),
}
"""Every tissue that `anatomy` draws, in the order of its fraction arrays."""


@dataclass(frozen=True)
class Protocol:
    """One contrast's scan: the fastMRI name, times in ms, and its noise in units of the proton-density scan's."""

    acquisition: str
    tr_ms: float
    te_ms: float
    fat_suppressed: bool
    noise: float


PROTOCOLS = (
    Protocol("CORPD_FBK", 2750.0, 28.0, fat_suppressed=False, noise=1.0),
    Protocol("CORPDFS_FBK", 2850.0, 33.0, fat_suppressed=True, noise=1.35),
    Protocol("CORT2_FBK", 4000.0, 65.0, fat_suppressed=False, noise=1.0),
)
"""The contrasts that can be simulated. A volume's random numbers hang on its place here: add new ones at the end."""

UNSUPPRESSIBLE_FAT = 0.06
"""Share of the fat signal that suppression never removes: most of the peaks that resonate beside water."""
WATER_KEPT = 0.88
"""Share of the water signal left by the suppression pulse (magnetisation transfer, finite bandwidth); our choice."""
SUPPRESSION_HALF_WIDTH_HZ = 130.0
"""Off-resonance at which half of the main fat peak escapes the suppression pulse; our choice."""
SUPPRESSION_EDGE_HZ = 18.0


def signals(protocol: Protocol) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Water and fat signal of every tissue in the order of `TISSUES`, without suppression: two arrays (tissues,)."""

    def pool(density: float, t1: float, t2: float) -> float:
        return float(density * (1 - np.exp(-protocol.tr_ms / t1)) * np.exp(-protocol.te_ms / t2))

    water = [pool(t.proton_density * (1 - t.fat_fraction), t.t1_ms, t.t2_ms) for t in TISSUES.values()]
    fat = [pool(t.proton_density * t.fat_fraction, FAT_T1_MS, FAT_T2_MS) for t in TISSUES.values()]
    return np.array(water, np.float32), np.array(fat, np.float32)


def water_and_fat(
    fractions: NDArray[np.float32],
    protocol: Protocol,
    off_resonance_hz: NDArray[np.float32],
    spread: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Water and fat images of a scan.

    fractions: (tissues, rows, columns), the share of each tissue of `TISSUES` in a place; off_resonance_hz: (rows,
    columns), the B0 map, which decides where fat suppression fails; spread: (2, tissues), factors on the tissues' water
    and fat signals by which one person differs from another. Returns two arrays (rows, columns).
    """
    water_of, fat_of = signals(protocol)
    if spread is not None:
        water_of, fat_of = water_of * spread[0], fat_of * spread[1]
    water = np.einsum("t,trc->rc", water_of, fractions)
    fat = np.einsum("t,trc->rc", fat_of, fractions)
    if protocol.fat_suppressed:
        escaped = 1 / (1 + np.exp((SUPPRESSION_HALF_WIDTH_HZ - np.abs(off_resonance_hz)) / SUPPRESSION_EDGE_HZ))
        fat *= UNSUPPRESSIBLE_FAT + (1 - UNSUPPRESSIBLE_FAT) * escaped
        water *= WATER_KEPT
    return water.astype(np.float32), fat.astype(np.float32)
