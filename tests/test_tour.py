"""The tour runs from the first cell to the last and leaves what it says; here with smaller sizes."""

import json
from pathlib import Path

import matplotlib.image
import numpy as np

from tests.printed import run_script, smaller

TOUR = Path(__file__).parents[1] / "examples" / "tour.py"
SIZES = {
    '"train": 6, "val": 2, "test": 2': '"train": 2, "val": 1, "test": 1',
    "matrix=48": "matrix=32",
    '"epochs": 10': '"epochs": 2',
    '"channels": 8': '"channels": 2',
    '"epochs": 6': '"epochs": 1',
    '"fidelity": {"epochs": 4': '"fidelity": {"epochs": 1',
    '"trials": 5': '"trials": 2',
}


def test_the_tour_leaves_a_bundle_pictures_and_a_finite_image(tmp_path):
    out = run_script(smaller(TOUR.read_text(encoding="utf-8"), SIZES), tmp_path, TOUR_FOLDER="tour")
    folder = tmp_path / "tour"
    assert "16 slices of the tasks PDw, PDw-FS\n" in out
    assert "epoch 2: loss 0." in out
    board = out[out.index(" rank trial") :].splitlines()
    assert {row.split()[2] for row in board[1:6]} == {"mtl", "joint", "stl"}
    bundle = folder / "runs" / "tour" / "bundle"
    assert json.loads((bundle / "config.json").read_text())["train"]["tasks"] == ["PDw", "PDw-FS"]
    assert f"{bundle.relative_to(tmp_path)} holds trial " in out
    image = np.load(folder / "image.npy")
    assert image.shape == (32, 36)
    assert np.isfinite(image).all()
    assert np.abs(image).max() > 0
    for name in ("look.png", "reconstruct.png"):
        picture = matplotlib.image.imread(folder / name)[..., :3]
        assert picture.std(axis=(0, 1)).min() > 0.1, "a picture of something"
