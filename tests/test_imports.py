"""Who may import whom (docs/design.md section 2), read from the imports themselves."""

import ast
import collections
import contextlib
import functools
import graphlib
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = [path.stem for path in ROOT.glob("*.py")]
OURS = ("agvm_jax", "models", "configs", "benchmarks", *SCRIPTS)

# Folder -> what of ours it may need besides itself, by whatever way.
SHARED = ("agvm_jax.structures", "agvm_jax.mask_pasting", "agvm_jax.panoptic_png")
ALLOWED = {
    "agvm_jax/optim": (),
    "agvm_jax/training": ("agvm_jax.optim", "agvm_jax.run_files"),
    "agvm_jax/compiling": (
        "agvm_jax.optim",
        "agvm_jax.training",
        "agvm_jax.run_files",
    ),
    "agvm_jax/inference": (
        *SHARED,
        "agvm_jax.run_files",
        "agvm_jax.data",
        "agvm_jax.visualization",
        "agvm_jax.evaluation.metrics",
    ),
    "agvm_jax/data": (*SHARED, "agvm_jax.visualization"),
    "agvm_jax/data/annotations": (),
    "agvm_jax/data/augment": ("agvm_jax.data.annotations",),
    "agvm_jax/data/storage": (
        "agvm_jax.data.annotations",
        "agvm_jax.data.augment",
        "agvm_jax.panoptic_png",
    ),
    "agvm_jax/data/formats": (
        "agvm_jax.data.annotations",
        "agvm_jax.data.augment",
        "agvm_jax.data.storage",
        "agvm_jax.panoptic_png",
    ),
    "agvm_jax/evaluation": (*SHARED, "agvm_jax.visualization"),
    "agvm_jax/evaluation/metrics": SHARED,
    "agvm_jax/evaluation/reports": (
        *SHARED,
        "agvm_jax.visualization",
        "agvm_jax.evaluation.metrics",
    ),
    "agvm_jax/visualization": ("agvm_jax.mask_pasting",),
    "models": ("agvm_jax.structures",),
}
# Folder -> libraries that it must do without, by whatever way, but for those that
# `structures` brings along.
FORBIDDEN = {
    "agvm_jax/optim": ("flax", "chex", "numpy.testing", "ml_collections"),
    "agvm_jax/data": ("jax", "flax", "optax", "tensorflow"),
    "agvm_jax/visualization": ("jax", "flax", "optax"),
    "agvm_jax/evaluation/metrics": ("jax", "flax", "optax"),
    "agvm_jax/training": ("flax",),
    "agvm_jax/compiling": ("flax",),
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


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def all_imports():
    """Module of ours -> what it imports: modules of ours, and names of libraries.

    That a module's package is imported with it is left out: `agvm_jax` brings `optim`.
    """
    files = [ROOT / f"{name}.py" for name in SCRIPTS]
    for folder in ("agvm_jax", "models", "configs", "benchmarks"):
        files += (ROOT / folder).rglob("*.py")
    names = {module_name(path): [*imports(path)] for path in files}
    return {
        module: {
            name
            for name in found
            if name in names or not is_in(name, OURS) or name.split(".")[0] == name
        }
        for module, found in names.items()
    }


def needed_by(folder, passing=()):
    """Yields (way, name) for everything that a folder's modules import, at last."""
    own = folder.replace("/", ".")
    table = all_imports()
    waiting = [(module,) for module in table if is_in(module, (own,))]
    seen = set()
    while waiting:
        way = waiting.pop()
        if way[-1] in seen or is_in(way[-1], passing):
            continue
        seen.add(way[-1])
        for name in table[way[-1]]:
            yield (*way, name), name
            if name in table:
                waiting.append((*way, name))


@pytest.mark.parametrize("folder", ALLOWED)
def test_a_wing_needs_only_what_the_design_allows(folder):
    allowed = (folder.replace("/", "."), *ALLOWED[folder])
    found = [
        " -> ".join(way)
        for way, name in needed_by(folder)
        if is_in(name, OURS) and name != "agvm_jax" and not is_in(name, allowed)
    ]
    assert not found


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_a_wing_does_without_these_libraries(folder):
    found = [
        " -> ".join(way)
        for way, name in needed_by(folder, passing=("agvm_jax.structures",))
        if is_in(name, FORBIDDEN[folder])
    ]
    assert not found


def test_no_folder_of_the_package_imports_from_one_that_imports_it():
    folders = collections.defaultdict(set)
    table = all_imports()

    def folder(module):
        is_package = (ROOT / module.replace(".", "/")).is_dir()
        return module if is_package else module.rpartition(".")[0]

    for module, names in table.items():
        # The package itself only hands names of `optim` on.
        if is_in(module, ("agvm_jax",)) and module != "agvm_jax":
            inner = {folder(name) for name in names if name in table}
            folders[folder(module)] |= inner - {folder(module)}
    with contextlib.suppress(graphlib.CycleError):
        assert [*graphlib.TopologicalSorter(folders).static_order()]
        return
    pytest.fail(str({name: sorted(found) for name, found in folders.items()}))


def test_only_the_waist_and_the_stack_split_and_merge_modules():
    found = [
        str(path.relative_to(ROOT))
        for path in [
            *(ROOT / "models").rglob("*.py"),
            *(ROOT / "agvm_jax").rglob("*.py"),
        ]
        if "nnx.merge(" in path.read_text() or "nnx.split(" in path.read_text()
    ]
    assert sorted(found) == ["models/functional.py", "models/stack.py"]


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


def test_the_data_wing_is_imported_when_it_is_asked_for():
    code = (
        "import sys, agvm_jax.data as data;"
        "heavy = {'grain', 'cv2', 'tensorflow_datasets', 'matplotlib', 'hotcoco'};"
        "found = heavy & {name.split('.')[0] for name in sys.modules};"
        "print(sorted(found), data.DataError.__name__, data.open_dataset.__name__,"
        " data.train_batches.__name__, data.eval_batches.__name__)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    expected = "[] DataError open_dataset train_batches eval_batches"
    assert run.stdout.strip() == expected


def test_the_wheel_of_the_sdist_holds_the_package_and_nothing_else(tmp_path):
    build = "import sys, setuptools.build_meta as b; b.build_sdist(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)],
        check=True,
        capture_output=True,
        cwd=ROOT,
    )
    (sdist,) = tmp_path.glob("*.tar.gz")
    # From the sdist alone, as whoever installs it has it.
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    source = tmp_path / sdist.name.removesuffix(".tar.gz")
    options = ["--no-build-isolation", "--no-deps", "--no-index", "-w", tmp_path]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, source],
        check=True,
        capture_output=True,
        cwd=tmp_path,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
        assert "agvm_jax/data/tools/url_checksums.tsv" in archive.namelist()
        modules = {n for n in archive.namelist() if n.endswith(".py")}
        metadata = next(n for n in archive.namelist() if n.endswith("METADATA"))
        text = archive.read(metadata).decode()
    assert {t for t in tops if not t.endswith(".dist-info")} == {"agvm_jax"}
    files = (ROOT / "agvm_jax").rglob("*.py")
    assert modules == {path.relative_to(ROOT).as_posix() for path in files}
    needed = [
        line.split()[1]
        for line in text.splitlines()
        if line.startswith("Requires-Dist:") and "extra ==" not in line
    ]
    assert sorted(n.split(">")[0] for n in needed) == ["jax", "optax"]
