"""Exports a trained model: python export.py --run runs/NAME/0 --to stablehlo

stablehlo: one program with its weights, which runs wherever jax does, without this
code. safetensors: the weights alone, with model.json. onnx: a RetinaNet's class logits
and box deltas. Exit codes: 0 done, 2 something in the input was wrong, and one sentence
says what.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # keep start-up quiet

from agvm_jax.inference.card import write_card
from agvm_jax.inference.export_onnx import NotConvertible, export_onnx
from agvm_jax.inference.export_program import PLATFORMS, export_programs, prediction
from agvm_jax.inference.files import home_of
from agvm_jax.inference.images import frames_of
from agvm_jax.inference.model_flags import model_flags
from agvm_jax.inference.trained import Trained
from agvm_jax.training.config_file import read_config
from experiment import load
from models.functional import Detector
from models.weights.files import write_weights
from models.weights.placing import flatten
from trained import detector_for, raw_outputs, whole_outputs


def main(arguments: list[str]) -> int:
    """Reads the command line and exports. Returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        platforms = options.platforms.split(",")
        if strange := set(platforms) - set(PLATFORMS):
            known = ", ".join(PLATFORMS)
            raise ValueError(f"--platforms: {min(strange)!r} is none of {known}.")
        config = read_config(options.config) if options.config else None
        model = load(options.run, options.weights, config)
        folder = Path(options.out or home_of(options.run) / "export")
        folder.mkdir(parents=True, exist_ok=True)
        print(f"weights      {model.source}")
        if options.to == "safetensors":
            tensors = flatten(model.params, model.model_state)
            write_weights(folder / "model.safetensors", tensors)
        elif options.to == "stablehlo":
            to_stablehlo(model, detector_for(model.card, platforms), folder, platforms)
        else:
            to_onnx(model, detector_for(model.card, ["cuda", "cpu"]), folder)
        write_card(folder, model.card)
        print(f"export       {folder}")
        return 0
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    flags = model_flags(__doc__)
    kinds = ("stablehlo", "safetensors", "onnx")
    flags.add_argument("--to", required=True, choices=kinds)
    flags.add_argument("--platforms", default="cpu,cuda,tpu", help="of stablehlo")
    flags.add_argument("--out", help="a folder; default: RUN/export")
    return flags


def to_stablehlo(
    model: Trained, detector: Detector, folder: Path, platforms: list[str]
) -> None:
    """Writes model_HEIGHTxWIDTH.stablehlo, one a shape of the input."""
    run = prediction(detector.predict, model.params, model.model_state)
    for height, width in frames_of(model.card):
        programs, why = export_programs(run, (height, width), platforms)
        for program in programs:
            batch = f"_batch{program.batch}" if program.batch else ""
            path = folder / f"model_{height}x{width}{batch}.stablehlo"
            path.write_bytes(program.data)
            size = f"{len(program.data) / 1e6:.1f} MB"
            print(f"written      {path.name}, {size}, for {', '.join(platforms)}")
        if why:
            print(f"             not for any batch: {why}")


def to_onnx(model: Trained, detector: Detector, folder: Path) -> None:
    """Writes model_HEIGHTxWIDTH.onnx: predictions, or raw outputs of a RetinaNet."""
    whole, names = whole_outputs(model, detector)
    for frame in frames_of(model.card):
        path = folder / "model_{}x{}.onnx".format(*frame)
        try:
            export_onnx(whole, frame, names, path)
        except NotConvertible as error:
            raw, names = raw_outputs(model, detector)
            if not names:
                raise
            print(f"             class logits and box deltas alone: {error}")
            export_onnx(raw, frame, names, path)
        print(f"written      {path.name}, for any batch: {', '.join(names)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
