"""Figures show the tables' numbers; pictures show the volume that nobody picked."""

import matplotlib.image
import numpy as np
import pandas as pd
import PIL.Image
import pytest
from matplotlib.colors import to_rgba

from recon.errors import InputError
from search.report.compare import Comparison
from search.report.figures import curves, draw_figures, forest, styles
from search.report.pictures import draw_slices, median_volume, picture
from search.results.folder import images_path, read_images, read_results, write_images
from tests.search.report.made import CEILING, HEAD, PEER, SPLIT, compare, made, store, study_table


@pytest.fixture
def table():
    return study_table()


def test_curves_are_the_tables_means_with_bands_of_their_errors(table):
    comparison = compare(table)
    for axis, task in zip(curves(comparison).axes, ("PDw-FS", "PDw"), strict=True):
        lines = {line.get_label(): line for line in axis.get_lines()}
        assert axis.get_xscale() == "log"
        assert [text.get_text() for text in axis.get_xticklabels()] == ["12", "30"]
        for row in comparison.rows[1:]:
            cells = [(n, one) for n in (12, 30) if (one := comparison.cell(row, n, task, "ssim"))]
            if not cells:
                assert row.name not in lines
                continue
            assert lines[row.name].get_xdata().tolist() == [n for n, _ in cells]
            np.testing.assert_allclose(lines[row.name].get_ydata(), [one.mean for _, one in cells])
        bands = axis.collections
        assert len(bands) == len(lines)
        low, high = bands[0].get_datalim(axis.transData).intervaly
        one = comparison.cell(comparison.rows[1], 12, task, "ssim")
        assert low == pytest.approx(one.mean - one.error)
        assert high >= one.mean + one.error - 1e-12
    legend = [text.get_text() for text in curves(comparison).legends[0].get_texts()]
    assert legend == ["STL", "Transfer", "I2V10 naive", "I2Y10 dwa"]


def test_the_ceiling_is_said_and_shown_but_is_no_line(table, tmp_path):
    ceiling = [made(CEILING, task, 0.99, seeds=(None,)) for task in ("PDw", "PDw-FS")]
    comparison = Comparison(read_results(store(pd.concat([table, *ceiling]), tmp_path)))
    figure = curves(comparison)
    assert [axis.get_title().partition("\n")[0] for axis in figure.axes] == ["PDw-FS", "PDw"]
    for axis in figure.axes:
        assert "zero-filled 0." in axis.get_title()
        assert "noise-free truth 0." in axis.get_title()
    assert "Noise-free truth" not in [text.get_text() for text in figure.legends[0].get_texts()]
    shown = [axis.get_title() for axis in picture(comparison, "PDw-FS", 12).axes]
    assert shown[:4] == ["reference", "Zero-filled", "Noise-free truth", "STL"]


def test_no_two_networks_look_alike(table):
    layouts = ("I12", "I2Y10", *(f"I{n}V{12 - n}" for n in range(4, 12)))
    others = [SPLIT.__class__("mtl", layout, "naive", init) for layout in layouts for init in ("random", "transfer")]
    looks = styles(compare(pd.concat([table, *(made(row, "PDw", 0.8, 12) for row in (*others, PEER))])))
    assert len({str(look) for look in looks.values()}) == len(looks) == 9 + 16


def test_the_forest_shows_every_difference_from_stl_and_its_interval(table):
    by_volume = np.linspace(-0.01, 0.02, 6)
    comparison = compare(pd.concat([table, made(HEAD, "PDw-FS", 0.73, 30, by_volume=by_volume)]))
    figure = forest(comparison)
    assert [axis.get_title() for axis in figure.axes] == [
        "PDw-FS, N = 12", "PDw-FS, N = 30", "PDw, N = 12", "PDw, N = 30",
    ]  # fmt: skip
    axis = figure.axes[1]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["Transfer", "I2V10 naive", "I2Y10 dwa"]
    expected = comparison.cell(HEAD, 30, "PDw-FS", "ssim").against["stl"]
    drawn = [line for line in axis.get_lines() if set(line.get_ydata()) == {2}]
    interval, mean = drawn
    assert list(interval.get_xdata()) == [expected.low, expected.high]
    assert list(mean.get_xdata()) == [expected.mean]
    # It does not exclude zero, so its marker is hollow; transfer's does.
    assert expected.sign == 0
    assert to_rgba(mean.get_markerfacecolor()) == (1, 1, 1, 1)
    transfer = next(line for line in axis.get_lines() if list(line.get_ydata()) == [0])
    assert to_rgba(transfer.get_markerfacecolor()) != (1, 1, 1, 1)


def test_the_volume_shown_is_the_median_of_the_middle_slices_differences(table):
    network = made(HEAD, "PDw-FS", 0.73, 30, by_volume=(0.03, 0.0, 0.05, 0.01, 0.04, 0.02))
    # Slices at the edge say nothing, and one seed alone neither.
    network.loc[(network["volume"] == "v1") & (network["slice"] != 1), "ssim"] += 1
    network.loc[(network["volume"] == "v5") & (network["seed"] == 0), "ssim"] -= 0.1
    network.loc[(network["volume"] == "v5") & (network["seed"] == 1), "ssim"] += 0.1
    # In order: v1, v3, v5, v0, v4, v2; of six the lower of the two in the middle.
    assert median_volume(compare(pd.concat([table, network])), HEAD, "PDw-FS", 30) == ("v5", 0)


def test_a_picture_shows_the_stored_images_and_the_tables_numbers(table, tmp_path):
    comparison = Comparison(read_results(store(table, tmp_path)))
    figure = picture(comparison, "PDw-FS", 12)
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert titles == ["reference", "Zero-filled", "STL", "MTL: I2V10 naive", "Transfer"]
    above, below = figure.axes[3], figure.axes[8]
    volume, _ = median_volume(comparison, SPLIT, "PDw-FS", 12)
    assert volume in figure.get_suptitle()
    assert "median" in figure.get_suptitle()
    line = table[(table["trial"] == "mtl-I2V10-naive-random-12-0") & (table["task"] == "PDw-FS")]
    line = line[(line["volume"] == volume) & (line["slice"] == 1)].iloc[0]
    stored, _ = read_images(images_path(tmp_path, line["trial"]))
    np.testing.assert_array_equal(above.get_images()[0].get_array(), stored[f"PDw-FS/{volume}"].astype(np.float32))
    assert below.get_xlabel() == f"SSIM {line['ssim']:.3f}\npSNR {line['psnr']:.2f} dB"


def test_pictures_are_of_the_scarce_task_at_a_few_n_and_of_the_others_at_the_smallest(table, tmp_path):
    more = [made(row, "PDw-FS", 0.8, n) for n in (50, 70, 90, 110) for row in (SPLIT, compare(table).baseline("stl"))]
    found = draw_slices(Comparison(read_results(store(pd.concat([table, *more], ignore_index=True), tmp_path))))
    assert list(found) == [("PDw-FS", 12), ("PDw-FS", 50), ("PDw-FS", 70), ("PDw-FS", 110), ("PDw", 12)]
    assert [axis.get_title() for axis in found["PDw", 12].axes if axis.get_title()][-1] == "MTL: I2V10 naive"


def test_figures_are_written_as_pictures_of_some_size(table, tmp_path):
    comparison = Comparison(read_results(store(table, tmp_path / "results")))
    drawn = draw_figures(comparison, tmp_path / "figures")
    assert [path.name for path in drawn.paths] == [
        "ssim.png", "differences.png", "pictures-PDw-FS-N12.png", "pictures-PDw-FS-N30.png", "pictures-PDw-N12.png",
    ]  # fmt: skip
    assert drawn.without == []
    for path in drawn.paths:
        image = matplotlib.image.imread(path)
        assert min(image.shape[:2]) > 400
        assert image[..., :3].std() > 0.05
        assert "data abc123" in PIL.Image.open(path).text["Description"]


def test_tables_alone_give_curves_and_no_pictures(table, tmp_path):
    drawn = draw_figures(
        Comparison(read_results(store(table, tmp_path / "results", images=False))), tmp_path / "figures"
    )
    assert [path.name for path in drawn.paths] == ["ssim.png", "differences.png"]
    assert drawn.without == ["PDw-FS at N = 12", "PDw-FS at N = 30", "PDw at N = 12"]


def test_the_lowest_seed_that_stl_and_mtl_share_is_shown(table, tmp_path):
    more = made(PEER, "PDw-FS", 0.69, 12, seeds=(0,))
    less = table[~((table["kind"] == "stl") & (table["seed"] == 0))]
    figure = picture(Comparison(read_results(store(pd.concat([less, more]), tmp_path))), "PDw-FS", 12)
    assert "seed 1" in figure.get_suptitle()
    # The peer has no network of that seed.
    assert [axis.get_title() for axis in figure.axes if axis.get_title()][-1] == "Transfer"


def test_an_image_of_another_shape_is_refused(table, tmp_path):
    comparison = Comparison(read_results(store(table, tmp_path)))
    path = images_path(tmp_path, "stl-I12---12-0")
    write_images(path, {name: image[1:] for name, image in read_images(path)[0].items()}, "")
    with pytest.raises(InputError, match="has another shape than the reference's"):
        draw_slices(comparison)


def test_images_of_other_weights_or_damaged_ones_are_refused(table, tmp_path):
    comparison = Comparison(read_results(store(table, tmp_path)))
    path = images_path(tmp_path, "stl-I12---12-0")
    images, _ = read_images(path)
    write_images(path, images, "others")
    with pytest.raises(InputError, match=r"was made by other weights \(others\)"):
        draw_slices(comparison)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="cannot be read as images"):
        draw_slices(comparison)


def test_a_peer_far_off_does_not_hide_the_differences_between_the_studys_own_networks():
    near, far = (compare(pd.concat([study_table(), made(PEER, "PDw-FS", base, 12)])) for base in (0.74, 0.2))
    recipe = made(SPLIT, "PDw-FS", 0.2, 12).assign(hyperparameters="the paper's", trial="other")
    recipe = compare(pd.concat([study_table(), recipe]))
    (aside,) = [row for row in recipe.rows if row.hyperparameters]
    assert "off the scale: I2V10 naive (the paper's): 0.20" in curves(recipe).axes[0].texts[0].get_text()
    assert styles(recipe)[aside].colour not in {look.colour for row, look in styles(recipe).items() if row != aside}
    for drawn, off in ((curves(near), False), (curves(far), True)):
        axis = drawn.axes[0]
        assert any("off the scale: fastMRI VarNet, STL" in text.get_text() for text in axis.texts) is off
        assert axis.get_ylim()[0] > 0.6
    axis = forest(far).axes[0]
    assert axis.get_xlim()[0] > -0.1
    (text,) = [text.get_text() for text in axis.texts]
    assert text == "◂ -0.512"
    assert not list(forest(near).axes[0].texts)
