"""Tests run on eight CPU devices; this is set before JAX wakes. And what complains."""

import os

import pytest
from command_lines import run

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# The files that take longest begin first, or the last one keeps a process busy while
# the others have nothing left to do.
LONGEST = ("test_train.py",)


def pytest_configure(config):
    """Most of the suite's time is compilation: it does without the compiler's polish.

    What is marked slow, and so whole detectors against torchvision, is compiled as
    users compile it.
    """
    if config.option.markexpr == "not slow":
        os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")


def pytest_collection_modifyitems(items):
    """A file stays together; the order of all others is as it was."""

    def place(item):
        name = item.path.name
        return LONGEST.index(name) if name in LONGEST else len(LONGEST)

    items.sort(key=place)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Prepared data that the tests share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def complaint(capsys, tmp_path, cache):
    """Returns a function: run with these overrides, which must fail; what it says."""

    def complain(*overrides, **options):
        code = run(
            f"--config.workdir={tmp_path / 'run'}",
            f"--config.data.cache_dir={cache}",
            "--config.train.progress=False",
            *overrides,
            **options,
        )
        err = capsys.readouterr().err
        assert code == 2, err
        assert err.startswith("error: ") and "Traceback" not in err
        assert len(err.strip().splitlines()) <= 12
        return err

    return complain
