"""All four tasks on the generated set, through `evaluate`: the truth is perfect."""

import itertools
import json

import numpy as np
import pytest

from agvm_jax.data.annotations.segments import load_segments
from agvm_jax.data.dataset import open_dataset
from agvm_jax.data.pipeline import eval_batches
from agvm_jax.evaluation.evaluator import evaluate
from agvm_jax.evaluation.metrics.panoptic_merge import MergeRule
from agvm_jax.evaluation.tasks import TASKS, Settings
from agvm_jax.structures import Predictions
from configs import base

SIDE = 64
BEST = {name: task.metric for name, task in TASKS.items()}


class Shapes:
    """Five pictures of the generated set, their batches, and who judges each task."""

    def __init__(self, folder):
        self.config = base.get_config().data
        self.config.update(
            cache_dir=str(folder), semantic="stuff", semantic_stride=1, num_threads=1
        )
        self.config.shapes.update(
            train_images=1, val_images=5, image_size=(SIDE, SIDE), stuff=True
        )
        self.dataset = open_dataset(self.config)

    def batches(self):
        return eval_batches(
            self.dataset.val, image_size=SIDE, batch_size=2, data_config=self.config
        )

    def evaluator(self, task, save_to=None):
        # Images so small have less stuff than the default rule asks for.
        merge = MergeRule(stuff_area_limit=1)
        settings = Settings("stuff", merge=merge, save_to=save_to)
        return TASKS[task].evaluator(self.dataset, settings)

    def perfect(self, task):
        """A `predict` that gives the ground truth back."""
        bitmaps = {}
        for index in range(len(self.dataset.val)):
            example = self.dataset.val[index]
            segments = load_segments(example)
            # The shapes stand behind the stuff, in the order of their boxes.
            things = np.flatnonzero(segments.classes < 3) + 1
            bitmaps[example["image_id"]] = segments.numbers == things[:, None, None]

        def predict(batch):
            boxes = batch.boxes
            masks = None
            if task in ("instance", "panoptic"):
                # Over the whole picture, a cell a pixel: pasting is then exact.
                shape = boxes.shape[:2]
                masks = np.zeros((*shape, SIDE, SIDE), np.float32)
                for row, image_id in enumerate(batch.image_id.tolist()):
                    if image_id >= 0:
                        masks[row, : len(bitmaps[image_id])] = bitmaps[image_id]
                boxes = np.broadcast_to(np.float32([0, 0, SIDE, SIDE]), boxes.shape)
            return Predictions(
                boxes=boxes,
                scores=np.where(batch.valid, 0.9, 0).astype(np.float32),
                classes=np.where(batch.valid, batch.classes, -1),
                valid=batch.valid,
                masks=masks,
                semantic=batch.semantic,
            )

        return predict


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return Shapes(tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("task", TASKS)
def test_the_ground_truth_as_prediction_is_perfect(task, shapes):
    evaluator = shapes.evaluator(task)
    seen = []
    numbers = evaluate(
        shapes.perfect(task), shapes.batches(), evaluator, progress=seen.append
    )
    assert numbers == evaluator.compute()
    assert numbers[BEST[task]] == pytest.approx(1.0, abs=1e-12)
    if task in ("semantic", "panoptic"):  # no interpolation: not a bit is missing
        assert set(numbers.values()) == {1.0}
    # The sixth row only fills the last batch up.
    assert (evaluator.num_images, seen) == (5, [2, 2, 1])
    assert BEST[task].removeprefix("mask_") in evaluator.table()


@pytest.mark.parametrize("task", TASKS)
def test_nothing_found_is_worth_nothing_and_a_second_pass_starts_anew(task, shapes):
    evaluator = shapes.evaluator(task)
    perfect = shapes.perfect(task)

    def nothing(batch):
        found = perfect(batch)
        masks = None if found.masks is None else np.zeros_like(found.masks)
        none = np.zeros_like(found.valid)
        return Predictions(
            found.boxes, found.scores, found.classes, none, masks,
            np.full_like(found.semantic, -1),
        )  # fmt: skip

    assert evaluate(nothing, shapes.batches(), evaluator)[BEST[task]] == 0.0
    assert evaluate(perfect, shapes.batches(), evaluator)[BEST[task]] > 0.999


@pytest.mark.parametrize("task", TASKS)
def test_shares_of_a_split_merge_to_the_numbers_of_the_whole(task, shapes):
    """What `evaluate` does where there are several processes, bit for bit."""
    perfect = shapes.perfect(task)

    def guess(batch):  # some right, some wrong
        found = perfect(batch)
        wrong = batch.image_id % 2 == 0
        classes = np.where(wrong[:, None] & found.valid, 0, found.classes)
        semantic = np.where(wrong[:, None, None], 1, found.semantic)
        return Predictions(
            found.boxes, found.scores, classes, found.valid, found.masks, semantic
        )

    whole, *shares = (shapes.evaluator(task) for _ in range(3))
    expected = evaluate(guess, shapes.batches(), whole)
    assert 0 < expected[BEST[task]] < 1
    for batch, share in zip(shapes.batches(), itertools.cycle(shares), strict=False):
        share.add(batch, guess(batch))
    states = [share.state() for share in shares]
    for share in shares:
        share.merge(reversed(states))
        assert share.compute() == expected
        assert share.table() == whole.table()
        if task in ("semantic", "panoptic"):
            assert share.image_scores() == whole.image_scores()


def test_the_panoptic_task_judges_things_and_stuff_by_the_papers_rule(shapes):
    evaluator = TASKS["panoptic"].evaluator(shapes.dataset, Settings("stuff"))
    numbers = evaluate(shapes.perfect("panoptic"), shapes.batches(), evaluator)
    assert numbers["PQ_things"] == 1.0
    assert numbers["PQ_stuff"] == 0.0  # 64 x 64 is less than 4096 pixels of each


@pytest.mark.parametrize("task", ["instance", "semantic", "panoptic"])
def test_a_task_reports_what_it_measured(task, shapes, tmp_path):
    evaluator = shapes.evaluator(task, tmp_path / "found")
    numbers = evaluate(shapes.perfect(task), shapes.batches(), evaluator)
    paths = TASKS[task].reports(evaluator, tmp_path, shapes.dataset.val.image)
    assert {p.name for p in paths} >= {"results.json", "best.png", "worst.png"}
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["numbers"] == numbers
