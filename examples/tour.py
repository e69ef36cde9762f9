# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # A tour of Splitpoint
#
# We simulate knees, train one network for two contrasts, look at an image, and then search for the place where such a
# network should split. All sizes are tiny: the tour takes one to two minutes on two cores, and its numbers show how
# things work, not how well.
#
# Run it as a script (`python examples/tour.py`) or open it as a notebook with jupytext. It writes into `runs/tour`, or
# into the folder that `TOUR_FOLDER` names.

# %%
import os
from pathlib import Path

import numpy as np
from PIL import Image

import splitpoint as sp
from recon.evaluation.pictures import Column, draw_columns
from recon.physics.coils import sense_combine
from recon.physics.fourier import ifft

folder = Path(os.environ.get("TOUR_FOLDER", "runs/tour"))

# %% [markdown]
# ## Simulate
#
# Each subject is one knee, scanned twice: proton density without fat suppression (PDw) and with it (PDw-FS). The files
# have fastMRI's layout, so everything below also works on fastMRI's knees.

# %%
sp.simulate(folder / "raw", subjects={"train": 6, "val": 2, "test": 2}, matrix=48, slices=2, coils=4, snr=20, seed=0)

# %% [markdown]
# ## Prepare
#
# Preparing removes the readout oversampling, estimates coil maps by ESPIRiT, and combines the fully sampled coil images
# to the reference image. The training, validation and test subjects stay apart.

# %%
report = sp.prepare(folder / "raw", folder / "prepared")
data = sp.open_data(folder / "prepared")
print(f"{len(report.index)} slices of the tasks {', '.join(data.tasks)}")

# %% [markdown]
# ## Train
#
# A layout has one letter per block of the unrolled network. I: all tasks share the block. Y: they share its encoder,
# and each task has its own decoder. V: each task has its own block. `I2V2` shares the first two blocks of four. PDw-FS
# has 4 training slices and PDw has all of its own, as when one contrast is scarce.
#
# Each line below is one pass over the training slices: the loss, and the mean SSIM over both tasks on the validation
# subjects.

# %%
masks = {"accelerations": [3.0], "centre_fractions": [0.2]}
fields = {
    "batch_size": 2,
    "optimiser": "muon",
    "learning_rate": 3e-3,
    "schedule": "one-cycle",
    "clip_norm": 1.0,
    "masks": {"train": masks, "val": masks, "test": masks},
}
unet = {"channels": 8, "pools": 1, "consistency": "accelerated", "padding": "least"}
config = sp.TrainConfig.model_validate(
    {
        "tasks": ["PDw", "PDw-FS"],
        "slices": {"PDw-FS": 4},
        "network": {"layout": "I2V2", **unet},
        "epochs": 10,
        **fields,
    }
)
network = sp.train(
    config,
    data,
    out=folder / "train",
    report=lambda epoch: print(
        f"epoch {epoch.epoch}: loss {epoch.metrics['loss']:.4f}, validation SSIM {epoch.metrics['ssim']:.4f}"
    ),
)

# %% [markdown]
# ## Look
#
# We take one fully sampled validation slice of PDw-FS, keep every third column of k-space and ten in the middle, and
# set the others to zero. A bundle is a network with its configuration; it needs no more than such k-space, and finds
# coil maps and mask itself. Where it finds no coil signal its image is zero, so we compare inside the knee alone.
#
# Left is the reference. The zero-filled image shows what the missing columns do: edges blur. The network's error, below
# its image, is smaller there; what remains looks like noise. The picture is saved as `look.png`.

# %%
piece = data.read(data.subset("PDw-FS", split="val")[0])
columns = np.arange(piece.kspace.shape[-1])
keep = (columns % 3 == 0) | (abs(columns - len(columns) // 2) < 5)
kspace = piece.kspace * keep
zero_filled = sense_combine(ifft(kspace, (-2, -1)), piece.maps)
trained = sp.Bundle(network, config).reconstruct(kspace, task="PDw-FS")
inside = trained != 0
reference = abs(piece.target) * inside


def column(name: str, image: np.ndarray) -> Column:
    """An image for the picture, with its error inside the knee."""
    shown = abs(image) * inside
    return Column(name, shown, f"nRMSE {np.linalg.norm(shown - reference) / np.linalg.norm(reference):.3f}")


def picture(name: str, *columns: Column) -> Image.Image:
    """Draw reconstructions beside the reference, and save the picture in the folder."""
    draw_columns(reference, columns, "PDw-FS, one slice").savefig(folder / name, dpi=150)
    with Image.open(folder / name) as found:
        return found.copy()


picture("look.png", column("zero-filled", zero_filled), column("I2V2", trained))

# %% [markdown]
# ## Search
#
# I2V2 was a guess. A space says what to choose from: here, the kind of each of four blocks. First, one network that
# shares everything is trained on both tasks (`start`). Each trial gives its weights another layout and trains on for a
# few epochs. So trials differ by their layout alone. The single-task networks (STL) are the baseline.
#
# Trials run on Ray, side by side where there are cores. The study is stored in the folder: the same call goes on
# where an earlier one ended.

# %%
space = sp.Space.model_validate(
    {
        "tasks": ["PDw", "PDw-FS"],
        "scarce": {"task": "PDw-FS", "slices": [4]},
        "unroll": {"blocks": 4, **unet},
        "weightings": ["equal"],
        "training": fields,
        "start": {"init": "joint", "epochs": 6, "learning_rate": 1e-3, "muon_learning_rate": 3e-3},
        "fidelity": {"epochs": 4, "rungs": []},
        "try_first": [{"layout": "I2V2", "weighting": "equal"}, {"layout": "V4", "weighting": "equal"}],
        "baselines": {"kinds": ["stl"]},
        "trials": 5,
    }
)
sp.launch(space, folder / "prepared", "tour", runs_dir=folder / "runs")

# %% [markdown]
# ## Leaderboard
#
# One row per training, best first; only networks of all tasks have a rank. Look at the differences between the layouts:
# here they are tiny, and another seed could order them otherwise. That is why a real study retrains its leaders over
# several seeds (`sp.confirm`) before it believes one of them.

# %%
study = sp.open_study("tour", runs_dir=folder / "runs")
board = sp.leaderboard(study)
print(board[["rank", "trial", "kind", "layout", "ssim/PDw", "ssim/PDw-FS"]].to_string(index=False))

# %% [markdown]
# ## Export
#
# The best searched trial becomes a bundle: weights (safetensors), configuration, and a card (`README.md`) that says
# where the network comes from. After `sp.confirm`, `sp.export(study)` would export the best over seeds.

# %%
best = board[board["kind"] == "mtl"].iloc[0]
exported = sp.export(study, trial=best["trial"])
print(f"{exported.folder} holds trial {best['trial']}, layout {best['layout']}")

# %% [markdown]
# ## Reconstruct
#
# Whoever gets the bundle needs Splitpoint and k-space, and neither the study nor the data. We give it the same slice as
# before, and see the two trained networks side by side (`reconstruct.png`).

# %%
image = sp.load(exported.folder).reconstruct(kspace, task="PDw-FS")
np.save(folder / "image.npy", image)
picture("reconstruct.png", column("I2V2, by hand", trained), column(f"{best['layout']}, by search", image))
