"""Which task a detector has, and what the data must carry for it."""

import pytest

from agvm_jax.evaluation.tasks import TASKS, choose_task
from configs import base

DATA = base.get_config().data


@pytest.mark.parametrize("name", TASKS)
def test_the_outputs_of_a_detector_choose_its_task(name):
    task = TASKS[name]
    assert choose_task(sorted(task.outputs, reverse=True)) is task
    assert task.metric in task.curves


@pytest.mark.parametrize("outputs", [(), ("masks",), ("boxes", "semantic")])
def test_outputs_without_a_task_are_refused_with_the_tasks_there_are(outputs):
    with pytest.raises(ValueError, match="has no task: detection: boxes; instance"):
        choose_task(outputs)


def test_what_the_data_lack_is_said_with_the_key_to_set():
    learning = base.get_config().data
    learning.update(mask_size=56, semantic="stuff")
    for task in TASKS.values():
        task.check_data(learning, "any")
    TASKS["detection"].check_data(DATA, "retinanet")
    with pytest.raises(ValueError, match="mask_rcnn .*mask_size=0.*mask_size=56"):
        TASKS["instance"].check_data(DATA, "mask_rcnn")
    for name in ("semantic", "panoptic"):
        data = base.get_config().data
        data.mask_size = 56
        with pytest.raises(
            ValueError, match="data.semantic=none: use .*=all, or stuff"
        ):
            TASKS[name].check_data(data, "some")
