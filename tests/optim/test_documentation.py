"""The examples in the docstrings run, and the package's front door is what it says."""

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import agvm_jax
from agvm_jax import optim

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(module.name for module in pkgutil.iter_modules(optim.__path__))


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_the_docstrings_run(name):
    module = importlib.import_module(f"agvm_jax.optim.{name}")
    result = doctest.testmod(module)
    assert result.failed == 0


def test_every_public_function_of_the_optimizer_has_an_example():
    functions = [
        getattr(optim, name)
        for name in optim.__all__
        if callable(getattr(optim, name))
        and not hasattr(getattr(optim, name), "_fields")
    ]
    core = [f for f in functions if f.__module__ in CORE]
    assert len(core) > 8
    without = [f.__name__ for f in core if ">>>" not in (f.__doc__ or "")]
    assert not without


CORE = {
    f"agvm_jax.optim.{name}"
    for name in ("chaining", "modulation", "modules", "preconditioning", "reduction")
    + ("replicas", "stacked")
}


def test_the_front_door_is_the_optimizer_and_needs_jax_and_optax_only():
    assert set(optim.__all__) <= set(agvm_jax.__all__) | {"optim"}
    program = (
        "import sys, agvm_jax\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "print(sorted(loaded & {'flax', 'numpy', 'optax', 'jax', 'grain', 'absl_x',"
        " 'tensorflow', 'ml_collections', 'orbax', 'matplotlib', 'cv2'}))"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT
    )
    assert out.returncode == 0, out.stderr
    assert set(eval(out.stdout)) <= {"jax", "optax", "numpy"}


def test_the_algorithm_page_names_functions_that_exist():
    page = (ROOT / "docs" / "algorithm.md").read_text()
    named = re.findall(r"`optim/(\w+)\.py:(\w+)(?:\.(\w+))?`", page)
    assert len(named) > 15
    for file, function, method in named:
        module = importlib.import_module(f"agvm_jax.optim.{file}")
        found = getattr(module, function)
        assert not method or hasattr(found, method), (file, function, method)
