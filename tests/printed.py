"""Code that is printed for readers, and how tests run it: as it stands, but with smaller numbers."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]


def first_python(markdown: str) -> str:
    """The first Python block of a Markdown text."""
    found = re.search(r"^```python\n(.*?)^```$", markdown, re.DOTALL | re.MULTILINE)
    assert found, "there is no Python block"
    return found[1]


def smaller(code: str, sizes: Mapping[str, str]) -> str:
    """The code with other sizes; each that is named has to stand in it, once."""
    for printed, other in sizes.items():
        assert code.count(printed) == 1, f"{printed!r} stands {code.count(printed)} times in the code"
        code = code.replace(printed, other)
    return code


def run_script(code: str, folder: Path, **environment: str) -> str:
    """Run code as a script in a process of its own, in a folder and without the settings of the tests' user; what it
    printed."""
    script = folder / "printed.py"
    script.write_text(code, encoding="utf-8")
    own = {name: value for name, value in os.environ.items() if not name.startswith("SPLITPOINT_")}
    own["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), own.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, script], cwd=folder, env={**own, **environment}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
