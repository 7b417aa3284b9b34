"""Uses a trained model: python predict.py --run runs/NAME/0 --images FILE_OR_FOLDER

Writes predictions.json (COCO) and drawn images; label maps and panoptic maps where the
model gives them. Exit codes: 0 done, 2 something in the input was wrong, and one
sentence says what.
"""

import argparse
import functools
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # keep start-up quiet

from tqdm import tqdm

from agvm_jax.inference.files import home_of
from agvm_jax.inference.images import find_images
from agvm_jax.inference.model_flags import model_flags
from agvm_jax.inference.overrides import check_overrides
from agvm_jax.inference.tiles import check_tiles, each_by_tiles
from agvm_jax.inference.trained import Trained
from agvm_jax.inference.video import Video, VideoWriter
from agvm_jax.inference.writing import Writer, output_names
from agvm_jax.training.config_file import read_config
from experiment import load


def main(arguments: list[str]) -> int:
    """Reads the command line, predicts, writes. Returns the exit code."""
    try:
        options, overrides = parser().parse_known_args(arguments)
        config = read_config(options.config) if options.config else None
        if config is None:
            check_overrides(overrides, "model")
        if bool(options.images) == bool(options.video):
            raise ValueError("name what to look at: either --images or --video.")
        if not 0 <= options.score <= 1:
            raise ValueError(f"--score={options.score} must lie in 0 .. 1.")
        source = find_images(options.images) if options.images else None
        video = Video(options.video) if options.video else None
        model = load(options.run, options.weights, config, overrides)
        folder = Path(options.out or home_of(options.run) / "predictions")
        classes = model.class_names or model.card.label_names  # of boxes, or pixels
        print(f"{model.source}, {len(classes)} classes", file=sys.stderr)
        look = functools.partial(look_by, model, options.score, options.tile)
        if video is not None:
            return look_at_video(model, look, video, folder)
        return look_at(model, look, source, folder, not options.no_draw)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    flags = model_flags(__doc__)
    flags.add_argument("--images", help="an image, or a folder of images and folders")
    flags.add_argument("--video", help="a video file")
    flags.add_argument("--out", help="a folder; default: RUN/predictions")
    flags.add_argument("--score", type=float, default=0.3, help="lowest score, 0 .. 1")
    flags.add_argument("--tile", type=int, help="also look at tiles of so many pixels")
    flags.add_argument("--no-draw", action="store_true", help="only the JSON and maps")
    return flags


def look_by(model: Trained, score: float, tile: int | None, images: Iterable):
    """Yields what `Trained.predict_each` does, by tiles where they are asked for."""
    if tile is None:
        return model.predict_each(images, score)
    check_tiles(model, tile)
    return each_by_tiles(model, images, tile, score)


def look_at(
    model: Trained, look: Callable, paths: list[Path], folder: Path, draw: bool
) -> int:
    """Predicts images and writes what was found. Returns the exit code."""
    writer, lost = Writer(folder, model.card, draw), 0
    pairs = zip(output_names(paths), look(paths), strict=True)
    for name, (opened, found) in tqdm(pairs, total=len(paths), unit="image"):
        if opened is None:
            lost += 1
            tqdm.write(f"left out: {found}", file=sys.stderr)
        else:
            writer.add(found, name, opened.image() if draw else None)
    writer.close()
    print(f"{len(paths) - lost} images, {lost} left out: {folder}")
    if lost == len(paths):
        raise ValueError("none of the images can be read.")
    return 0


def look_at_video(model: Trained, look: Callable, video: Video, folder: Path) -> int:
    """Predicts every frame of a video. Returns the exit code."""
    writer = Writer(folder, model.card, draw=False)
    drawn = VideoWriter(folder / f"{video.path.stem}.mp4", video.frames_a_second)
    frames = tqdm(look(iter(video)), total=video.expected, unit="frame")
    for number, (opened, found) in enumerate(frames):
        writer.add(found, f"{video.path.stem}_{number:06d}", None)
        drawn.add(found.draw(opened.image(), min_side=0))
    drawn.close()
    writer.close()
    print(f"{drawn.path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
