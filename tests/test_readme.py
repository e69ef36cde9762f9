"""The README's program does what the README says: it runs as printed, with smaller numbers and a smaller space."""

from pathlib import Path

import numpy as np
import pytest

from tests.printed import first_python, run_script, smaller

README = Path(__file__).parents[1] / "README.md"
SIZES = {
    '"train": 14, "val": 12, "test": 20': '"train": 2, "val": 1, "test": 1',
    "matrix=56": "matrix=32",
    ":24:2": ":10:2",
    "40::2": "26::2",
}
SPACE = """
tasks: [PDw, PDw-FS]
scarce: {task: PDw-FS, slices: [2]}
unroll: {blocks: 2, channels: 2, pools: 1, padding: least}
layouts: {kind: free}
weightings: [equal]
training:
  batch_size: 2
  learning_rate: 1.0e-3
  masks:
    train: {accelerations: [3], centre_fractions: [0.16]}
    val: {accelerations: [3], centre_fractions: [0.16]}
    test: {accelerations: [3], centre_fractions: [0.16]}
start: {init: joint, epochs: 1}
fidelity: {epochs: 1}
try_first: [{layout: IV, weighting: equal}]
baselines: {kinds: [stl]}
trials: 2
confirm: {top: 1, seeds: 1}
"""


@pytest.fixture
def printed():
    """The first program of the README."""
    return first_python(README.read_text(encoding="utf-8"))


def test_the_readmes_program_runs_from_nothing_to_an_image(printed, tmp_path):
    """The space that lies in the working directory under the shipped one's name is read in its place."""
    (tmp_path / "quickstart.yaml").write_text(SPACE)
    code = smaller(printed, SIZES) + '\nimport numpy\n\nnumpy.save("image.npy", image)\n'
    out = run_script(code, tmp_path)
    head, *rows = out.splitlines()
    assert head.split() == ["kind", "layout", "weighting", "ssim"]
    assert {row.split()[1] for row in rows} == {"mtl", "joint", "stl"}
    image = np.load(tmp_path / "image.npy")
    assert np.iscomplexobj(image)
    assert image.shape == (32, 36)
    assert np.isfinite(image).all()
    assert np.abs(image).max() > 0
    assert (tmp_path / "runs" / "first" / "bundle" / "model.safetensors").is_file()
