"""The front door: its names are there, cost nothing until they are used, and the doors behind it say the same."""

import importlib
import subprocess
import sys

import pytest

import splitpoint as sp

HEAVY = {"torch", "ray", "optuna", "pandas", "numpy", "matplotlib", "sigpy"}


def modules_after(code: str) -> set[str]:
    """The heavy packages that a fresh process has imported after some lines of code."""
    program = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return HEAVY & set(done.stdout.splitlines()[-1].split())


def test_importing_it_imports_nothing_heavy():
    assert modules_after("import splitpoint, recon, spaces, search; dir(splitpoint); splitpoint.__version__") == set()


def test_help_imports_nothing_heavy():
    call = "sys.argv = ['splitpoint', '--help']\nfrom search.cli import main\ntry: main()\nexcept SystemExit: pass"
    assert modules_after(call) == set()
    call = call.replace("'--help'", "'train', '--help'")
    assert modules_after(call) == set()


@pytest.mark.parametrize("door", ["splitpoint", "recon", "spaces", "search"])
def test_every_name_of_a_door_is_there_and_documented(door):
    module = importlib.import_module(door)
    assert module.__all__ == sorted(module.__all__)
    for name in module.__all__:
        found = getattr(module, name)
        assert isinstance(found, str | dict) or found.__doc__, name
    assert dir(module) == [name for name in module.__all__ if name != "__version__"]
    with pytest.raises(AttributeError, match=f"module '{door}' has no attribute 'load_spac'; "):
        module.load_spac  # noqa: B018


def test_the_front_door_opens_the_rooms_behind_it():
    assert str(sp.Layout.parse("IIVV")) == "I2V2"
    assert isinstance(sp.load_space("quickstart"), sp.Space)
    with pytest.raises(sp.InputError, match="is not a folder"):
        sp.open_data("nowhere")
    with pytest.raises(AttributeError, match="did you mean load_space"):
        sp.load_spac  # noqa: B018


@pytest.mark.parametrize("module", ["splitpoint", "search.cli"])
def test_each_way_in_is_the_command_line(module):
    done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.split()[:2] == ["splitpoint", sp.__version__]
