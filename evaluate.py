"""Judges a trained model: python evaluate.py --run runs/NAME/0

On the validation split of its data set; another one with --data.root=FOLDER and other
keys, the training split with --split train. With --split test, where nobody has the
ground truth, it writes what an evaluation server takes. Exit codes: 0 done, 2 something
in the input was wrong, and one sentence says what.
"""

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # keep start-up quiet

from ml_collections import ConfigDict
from tqdm import tqdm

from agvm_jax.data import eval_batches, open_dataset
from agvm_jax.evaluation.evaluator import evaluate
from agvm_jax.evaluation.metrics.panoptic_merge import MergeRule
from agvm_jax.evaluation.tasks import Settings, choose_task
from agvm_jax.inference.files import home_of
from agvm_jax.inference.listed import check_classes, find_list, read_list
from agvm_jax.inference.model_flags import model_flags
from agvm_jax.inference.trained import Trained
from agvm_jax.inference.writing import Writer
from agvm_jax.training.config_file import read_config
from agvm_jax.training.input_size import evaluation_size
from experiment import load
from trained import config_of


def main(arguments: list[str]) -> int:
    """Reads the command line, evaluates, reports. Returns the exit code."""
    try:
        options, overrides = parser().parse_known_args(arguments)
        config = read_config(options.config) if options.config else None
        model = load(options.run, options.weights, config, overrides)
        config = config_of(model.card)
        default = home_of(options.run) / f"evaluation_{options.split}"
        folder = Path(options.out or default)
        print(f"weights      {model.source}")
        if options.split == "test":
            listed = find_list(config.data, options.list, options.images)
            return predict_listed(model, *listed, folder)
        return judge(model, config, options.split, folder)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    flags = model_flags(__doc__)
    flags.add_argument("--split", default="val", choices=("val", "train", "test"))
    flags.add_argument("--list", help="test: a JSON file with `images`, as COCO's")
    flags.add_argument("--images", help="test: the folder that these lie in")
    flags.add_argument("--out", help="a folder; default: RUN/evaluation_SPLIT")
    return flags


def judge(model: Trained, config: ConfigDict, split: str, folder: Path) -> int:
    """Evaluates a split and writes the report. Returns the exit code."""
    task = choose_task(model.card.outputs)
    task.check_data(config.data, config.model.detector)
    dataset, size = open_dataset(config.data), evaluation_size(config)
    check_classes(model.card, dataset.class_names)
    if split == "train":
        dataset = dataclasses.replace(dataset, val=dataset.train)
    settings = Settings(
        semantic=config.data.semantic,
        max_detections=config.eval.max_detections,
        merge=MergeRule(**config.eval.panoptic),
        save_to=folder / "found",
    )
    evaluator = task.evaluator(dataset, settings)
    batches = eval_batches(dataset.val, batch_size=model.batch_size, **size._asdict())
    print(f"evaluation   {len(dataset.val)} images of {dataset.name}, at {size}")
    with tqdm(total=len(dataset.val), unit="image") as bar:
        evaluate(model.run_batch, batches, evaluator, bar.update)
    task.reports(evaluator, folder, dataset.val.image)
    print(f"\n{evaluator.table()}\n\nreport       {folder}")
    return 0


def predict_listed(model: Trained, path: Path, images: Path, folder: Path) -> int:
    """Predicts listed images and writes a results file. Returns the exit code."""
    entries = read_list(path)
    files = [images / entry["file_name"] for entry in entries]
    writer, results, lost = Writer(folder, model.card, draw=False), [], 0
    found = zip(entries, model.predict_each(files), strict=True)
    for entry, (opened, one) in tqdm(found, total=len(files), unit="image"):
        if opened is None:
            lost += 1
            tqdm.write(f"left out: {one}", file=sys.stderr)
            continue
        name = str(Path(entry["file_name"]).with_suffix(""))
        results += writer.add(one, name, image_id=entry["id"])
    writer.close()
    target = folder / f"{path.stem}_results.json"
    if "boxes" in model.card.outputs:
        target.write_text(json.dumps(results), "utf-8")
    print(f"{len(files) - lost} images, {lost} left out, {len(results)} objects")
    print(f"for a server {target if results else folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
