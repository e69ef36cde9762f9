"""Multi-task MR reconstruction with unrolled networks: a library of its own, which knows nothing of searching.

Data sets are prepared in ``recon.data``, networks are built in ``recon.network`` on the operators of ``recon.physics``,
trained in ``recon.training`` and measured in ``recon.evaluation``. ``recon.simulate`` simulates knee data to try it on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from recon.door import door

if TYPE_CHECKING:
    from recon.arrays import reconstruct_arrays as reconstruct_arrays
    from recon.bundle import Bundle as Bundle
    from recon.bundle import load as load_bundle
    from recon.config import NetworkConfig as NetworkConfig
    from recon.config import TrainConfig as TrainConfig
    from recon.data.options import PrepareOptions as PrepareOptions
    from recon.data.prepare import prepare as prepare
    from recon.data.prepared import PreparedData as PreparedData
    from recon.data.readers import read_volume as read_volume
    from recon.errors import InputError as InputError
    from recon.evaluation.final_test import final_test as final_test
    from recon.evaluation.metrics import nrmse as nrmse
    from recon.evaluation.metrics import psnr as psnr
    from recon.evaluation.metrics import ssim as ssim
    from recon.network.layout import Layout as Layout
    from recon.network.unrolled import UnrolledNetwork as UnrolledNetwork
    from recon.physics.espirit import espirit as espirit
    from recon.physics.fourier import fft as fft
    from recon.physics.fourier import ifft as ifft
    from recon.physics.operators import ColumnSense as ColumnSense
    from recon.physics.operators import Sense as Sense
    from recon.reconstruct import reconstruct_file as reconstruct_file
    from recon.training.loop import train as train

_HOMES = {
    "Bundle": "recon.bundle",
    "ColumnSense": "recon.physics.operators",
    "InputError": "recon.errors",
    "Layout": "recon.network.layout",
    "NetworkConfig": "recon.config",
    "PrepareOptions": "recon.data.options",
    "PreparedData": "recon.data.prepared",
    "Sense": "recon.physics.operators",
    "TrainConfig": "recon.config",
    "UnrolledNetwork": "recon.network.unrolled",
    "espirit": "recon.physics.espirit",
    "fft": "recon.physics.fourier",
    "final_test": "recon.evaluation.final_test",
    "ifft": "recon.physics.fourier",
    "load_bundle": "recon.bundle:load",
    "nrmse": "recon.evaluation.metrics",
    "prepare": "recon.data.prepare",
    "psnr": "recon.evaluation.metrics",
    "read_volume": "recon.data.readers",
    "reconstruct_arrays": "recon.arrays",
    "reconstruct_file": "recon.reconstruct",
    "ssim": "recon.evaluation.metrics",
    "train": "recon.training.loop",
}

__all__ = [
    "Bundle",
    "ColumnSense",
    "InputError",
    "Layout",
    "NetworkConfig",
    "PrepareOptions",
    "PreparedData",
    "Sense",
    "TrainConfig",
    "UnrolledNetwork",
    "espirit",
    "fft",
    "final_test",
    "ifft",
    "load_bundle",
    "nrmse",
    "prepare",
    "psnr",
    "read_volume",
    "reconstruct_arrays",
    "reconstruct_file",
    "ssim",
    "train",
]

__getattr__, __dir__ = door(__name__, _HOMES)
