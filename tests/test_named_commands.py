"""What pages, docstrings and messages tell people to run is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("agvm_jax", "benchmarks", "configs", "docs", "models", "tests")
TEXTS = [
    *ROOT.glob("*.py"),
    *ROOT.glob("*.md"),
    *(p for f in FOLDERS for p in (ROOT / f).rglob("*") if p.suffix in (".py", ".md")),
]


def module(name):
    """The places where a module may be."""
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py"), path / "__main__.py"


def script(name):
    return (ROOT / name,)


@pytest.mark.parametrize(
    ("pattern", "places", "least"),
    [
        (r"python -m ((?:agvm_jax|benchmarks)[\w.]*\w)", module, 10),
        (r"--config[ =](configs/\w+\.py)", script, 10),
    ],
)
def test_a_command_that_is_named_is_there(pattern, places, least):
    named = {}
    for path in TEXTS:
        for name in re.findall(pattern, path.read_text("utf-8")):
            named.setdefault(name, path.relative_to(ROOT))
    absent = {
        name: str(path)
        for name, path in named.items()
        if not any(place.is_file() for place in places(name))
    }
    absent.pop("configs/NAME.py", None)
    assert len(named) >= least and absent == {}
