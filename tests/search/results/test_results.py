"""Folders of results: what is written comes back, further tables join in, and what does not fit is one sentence."""

import gzip
import json
import sys

import numpy as np
import pandas as pd
import pytest

from recon.errors import InputError
from search import cli
from search.results.folder import ABOUT, COLUMNS, TABLE, images_path, read_images, read_results, write_table
from tests.search.report.made import PEER, about, made, store, study_table


@pytest.fixture
def folder(tmp_path):
    return store(study_table(), tmp_path / "results")


def peer(slices=None):
    table = made(PEER, "PDw-FS", 0.69, 12)
    return table if slices is None else table[table["slice"].isin(slices)]


def test_what_is_written_comes_back(folder):
    found = read_results(folder)
    assert found.about == about()
    pd.testing.assert_frame_equal(found.table[COLUMNS[:8]], study_table()[COLUMNS[:8]], check_dtype=False)
    np.testing.assert_allclose(found.table["ssim"], study_table()["ssim"], atol=1e-6)
    assert found.images("reference")["PDw/v0"].dtype == np.float16
    assert found.images("none of that name") is None


def test_equal_results_are_equal_bytes(folder, tmp_path):
    other = store(study_table(), tmp_path / "other")
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert len(files) > 5
    assert [one for one in files if (folder / one).read_bytes() != (other / one).read_bytes()] == []


def test_a_peers_table_joins_in(folder):
    write_table(peer(), folder / "peer.csv.gz")
    found = read_results(folder).table
    assert len(found) == len(study_table()) + len(peer())
    assert set(found["kind"]) == {"zero-filled", "stl", "transfer", "mtl", "fastmri"}


def test_what_does_not_belong_together_is_said(folder):
    write_table(peer(slices=[0, 1]), folder / "peer.csv.gz")
    with pytest.raises(InputError, match=r"fastmri was tested on 12 slices of PDw-FS .* where trials\.json says 18"):
        read_results(folder)
    write_table(peer().assign(volume="another"), folder / "peer.csv.gz")
    with pytest.raises(InputError, match="tables cannot tell them apart"):
        read_results(folder)
    write_table(peer().replace({"volume": {"v0": "another"}}), folder / "peer.csv.gz")
    with pytest.raises(InputError, match=r"on 18 slices of PDw-FS \(21 in all tables together\)"):
        read_results(folder)
    write_table(peer().assign(task="T2"), folder / "peer.csv.gz")
    with pytest.raises(InputError, match=r"fastmri was tested on 18 slices of T2 .* says 0"):
        read_results(folder)
    write_table(study_table(), folder / "peer.csv.gz")
    with pytest.raises(InputError, match=r"two tested networks are alike \(kind zero-filled\)"):
        read_results(folder)


def test_damaged_files_are_one_sentence(folder):
    path = folder / TABLE
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], b"nonsense", gzip.compress(b"a,b\n1,2\n"), whole[:200] + b"x" * 50 + whole[250:]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"trials\.csv\.gz (cannot be read|has other columns)"):
            read_results(folder)
    path.write_bytes(gzip.compress((",".join(COLUMNS) + "\n" + "x," * 14 + "x\n").encode()))
    with pytest.raises(InputError, match=r"trials\.csv\.gz cannot be read"):
        read_results(folder)
    path.write_bytes(whole)
    pictures = images_path(folder, "reference")
    content = pictures.read_bytes()
    for damaged in (b"", content[:200], b"nonsense", content[:100] + bytes(100) + content[200:]):
        pictures.write_bytes(damaged)
        with pytest.raises(InputError, match=r"reference\.npz cannot be read as images"):
            read_images(pictures)
    stored = json.loads((folder / ABOUT).read_text())
    for content, said in (
        ("{", "is not JSON"),
        (json.dumps({**stored, "test": 3}), "does not say .*: test must hold"),
    ):
        (folder / ABOUT).write_text(content)
        with pytest.raises(InputError, match=said):
            read_results(folder)


def test_no_pickle_is_loaded(folder):
    path = images_path(folder, "reference")
    with path.open("wb") as file:
        np.savez(file, weights=np.array(""), evil=np.array([{}], dtype=object))
    with pytest.raises(InputError, match="cannot be read as images"):
        read_images(path)


def splitpoint(monkeypatch, capsys, *arguments: object):
    monkeypatch.setattr(sys, "argv", ["splitpoint", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code, *capsys.readouterr()


def test_a_folder_is_reported_without_a_study(folder, tmp_path, monkeypatch, capsys):
    write_table(peer(), folder / "peer.csv.gz")
    out = tmp_path / "figures"
    code, printed, err = splitpoint(monkeypatch, capsys, "report", folder, "--tables", "--figures", out)
    assert (code, err) == (0, "")
    assert "Table 2, minus fastMRI VarNet, STL: SSIM of PDw-FS" in printed
    assert printed.splitlines()[-5:] == [str(path) for path in (out / name for name in (
        "ssim.png", "differences.png", "pictures-PDw-FS-N12.png", "pictures-PDw-FS-N30.png", "pictures-PDw-N12.png"
    ))]  # fmt: skip
    assert {str(path) for path in out.iterdir()} == set(printed.splitlines()[-5:])


def test_a_folder_of_tables_alone_says_what_pictures_need(tmp_path, monkeypatch, capsys):
    folder = store(study_table(), tmp_path / "results", images=False)
    code, printed, err = splitpoint(monkeypatch, capsys, "report", folder, "--figures", tmp_path / "out")
    assert code == 0
    assert len(printed.splitlines()) == 2
    assert err.startswith("no pictures of PDw-FS at N = 12, PDw-FS at N = 30, PDw at N = 12: they need the images of")
    assert err.endswith(f" in {folder / 'images'}\n")


def test_a_users_mistakes_are_one_sentence(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for arguments, said in (
        ([folder], "say what to report: give --tables, --figures DIR, or both"),
        ([tmp_path, "--tables"], "is no folder of results: it holds no trials.json"),
        (["nowhere/at/all", "--tables"], "is no folder of results: it holds no trials.json"),
        ([".", "--tables"], "is no folder of results: it holds no trials.json"),
        (["unknown", "--tables"], "there is no study file"),
    ):
        code, printed, err = splitpoint(monkeypatch, capsys, "report", *arguments)
        assert (code, printed) == (2, "")
        assert said in err
        assert err.count("\n") == 1
    (folder / TABLE).unlink()
    code, printed, err = splitpoint(monkeypatch, capsys, "report", folder, "--tables")
    assert (code, err) == (2, f"splitpoint: {folder} holds no tested networks yet\n")
