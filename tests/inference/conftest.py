"""A run that was never trained, with weights in its folder, shared by the tests."""

import pytest
from command_lines import command_line

import train
from agvm_jax.run_files import BEST, LAST


@pytest.fixture(scope="session")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("inference")


@pytest.fixture(scope="session")
def experiment(scratch):
    """What train.py builds for the tiny config, where everything is an object."""
    words = (
        f"--config.workdir={scratch / 'run'}",
        f"--config.data.cache_dir={scratch / 'cache'}",
        "--config.model.retina_head.score_threshold=0.0",
    )
    with command_line(*words) as argv:
        return train.build(train.parse(argv))


@pytest.fixture(scope="session")
def state(experiment):
    return experiment.start.state()


@pytest.fixture(scope="session")
def run_folder(experiment, state):
    for name in (LAST, BEST):
        experiment.model.write_weights(name, state, {"step": "0"})
    return experiment.folder


@pytest.fixture(scope="session")
def image_folder(experiment, scratch):
    """The validation images as files."""
    folder = scratch / "images"
    folder.mkdir()
    for i in range(len(experiment.data.dataset.val)):
        data = experiment.data.dataset.val[i]["image"]
        (folder / f"{i:02d}.png").write_bytes(data)
    return folder
