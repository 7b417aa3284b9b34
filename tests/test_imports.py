"""Who may import whom (docs/design.md section 2), read from the imports themselves."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("agvm_jax", "models", "configs", "benchmarks", "train")

# Folder -> what of ours it may import besides itself.
ALLOWED = {
    "agvm_jax/optim": (),
    "agvm_jax/training": ("agvm_jax.optim",),
    "agvm_jax/data": (
        "agvm_jax.structures",
        "agvm_jax.mask_pasting",
        "agvm_jax.panoptic_png",
        "agvm_jax.visualization",
    ),
    "agvm_jax/evaluation": (
        "agvm_jax.structures",
        "agvm_jax.mask_pasting",
        "agvm_jax.panoptic_png",
        "agvm_jax.visualization",
    ),
    "agvm_jax/visualization": ("agvm_jax.structures", "agvm_jax.mask_pasting"),
    "models": ("agvm_jax.structures",),
}
# Folder -> libraries that it must do without.
FORBIDDEN = {
    "agvm_jax/optim": ("flax", "chex", "numpy.testing", "ml_collections"),
    "agvm_jax/data": ("jax", "flax", "optax", "tensorflow"),
    "agvm_jax/training": ("flax",),
    "models/ops": ("flax",),
}


def imports(path):
    """Yields the absolute names that a file imports."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1])
            module = node.module or ""
            if node.level:
                module = f"{base}.{module}".strip(".")
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def is_in(name, packages):
    return any(name == p or name.startswith(p + ".") for p in packages)


@pytest.mark.parametrize("folder", ALLOWED)
def test_a_wing_imports_only_what_the_design_allows(folder):
    own = folder.replace("/", ".")
    found = []
    for path in (ROOT / folder).rglob("*.py"):
        for name in imports(path):
            if is_in(name, OURS) and name != "agvm_jax":
                if not is_in(name, (own, *ALLOWED[folder])):
                    found.append(f"{path.relative_to(ROOT)}: {name}")
    assert not found


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_a_wing_does_without_these_libraries(folder):
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in (ROOT / folder).rglob("*.py")
        for name in imports(path)
        if is_in(name, FORBIDDEN[folder])
    ]
    assert not found


def test_only_the_waist_splits_and_merges_modules():
    found = [
        str(path.relative_to(ROOT))
        for path in [
            *(ROOT / "models").rglob("*.py"),
            *(ROOT / "agvm_jax").rglob("*.py"),
        ]
        if "nnx.merge(" in path.read_text() or "nnx.split(" in path.read_text()
    ]
    assert found == ["models/functional.py"]


def test_importing_the_package_brings_jax_and_optax_only():
    code = (
        "import sys, agvm_jax;"
        "heavy = {'flax', 'orbax', 'grain', 'cv2', 'tensorflow_datasets', 'matplotlib',"
        " 'ml_collections', 'hotcoco', 'tensorboardX', 'models'};"
        "print(sorted(heavy & {name.split('.')[0] for name in sys.modules}))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "[]"


def test_the_wheel_holds_the_package_and_nothing_else(tmp_path):
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--no-build-isolation",
            "--no-deps",
            "-w",
            tmp_path,
        ]
        + [str(ROOT)],
        check=True,
        capture_output=True,
        cwd=tmp_path,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
        assert "agvm_jax/data/url_checksums.tsv" in archive.namelist()
        metadata = next(n for n in archive.namelist() if n.endswith("METADATA"))
        text = archive.read(metadata).decode()
    assert {t for t in tops if not t.endswith(".dist-info")} == {"agvm_jax"}
    needed = [
        line.split()[1]
        for line in text.splitlines()
        if line.startswith("Requires-Dist:") and "extra ==" not in line
    ]
    assert sorted(n.split(">")[0] for n in needed) == ["jax", "optax"]
