"""One training step of every detector on the chip against the CPU's.

Losses and the gradient of each module are compared, in float32, with equal weights,
images and random numbers. An op that decides (which proposals stay) may decide
otherwise where two scores are closer than rounding, so the bounds are wider than those
of the ops.
"""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.on_gpu.comparing import distance, on_both
from benchmarks.on_gpu.lines import Lines, arguments
from benchmarks.train_step import make_batch
from configs import base
from models.build import OF_PIXELS, build_detector

SIDE, IMAGES, CLASSES = 128, 2, 20
OF_LOSS, OF_GRADIENT = 1e-3, 2e-2
CASES = {
    "retinanet": {},
    "faster_rcnn": {},
    "mask_rcnn": {},
    "semantic_fpn": {},
    "panoptic_fpn": {},
    "cascade_mask_rcnn": {},
    "faster_rcnn swin_t": {"backbone": "swin_t"},
    "retinanet uninet_b0": {"backbone": "uninet_b0"},
}
DRY = ("retinanet", "semantic_fpn")


def build(name: str, changes: dict):
    """Return a small detector."""
    config = base.get_config().model
    detector = name.split()[0]
    config.update(backbone="resnet18", width=0.25, fpn_channels=64, norm="local")
    config.update(detector=detector, **changes)
    config.anchors.scales = 3 if detector == "retinanet" else 1
    labels = {"num_labels": CLASSES} if detector in OF_PIXELS else {}
    return build_detector(
        config, num_classes=CLASSES, image_size=(SIDE, SIDE), **labels
    )


def random_weights(shapes):
    """Return weights of the usual size; compiling `init` would take longer."""
    rng = np.random.default_rng(0)

    def random(path, leaf):
        name = jax.tree_util.keystr(path)
        if "var" in name or "scale" in name:
            return np.ones(leaf.shape, leaf.dtype)
        spread = 0.0 if leaf.ndim < 2 else np.sqrt(1.0 / np.prod(leaf.shape[:-1]))
        return rng.normal(0.0, spread, leaf.shape).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(random, shapes)


def compare(name: str, changes: dict, lines: Lines) -> None:
    """Compare one detector's step."""
    detector = build(name, changes)
    params, model_state = jax.eval_shape(detector.init, jax.random.key(0))
    params, model_state = random_weights(params), random_weights(model_state)
    batch = make_batch(IMAGES, SIDE)
    classes = batch.classes % CLASSES
    rng = np.random.default_rng(1)
    semantic = rng.integers(-1, CLASSES, (IMAGES, SIDE, SIDE), np.int32)
    batch = dataclasses.replace(batch, classes=classes, semantic=semantic)

    def step(params, model_state, batch):
        key = jax.random.key(2)
        gradient = jax.value_and_grad(detector.loss, has_aux=True)
        (_, (_, parts)), slopes = gradient(params, model_state, batch, key)
        return parts, {
            module: [leaf.astype(jnp.float32) for leaf in jax.tree.leaves(inner)]
            for module, inner in slopes.items()
        }

    start = time.perf_counter()
    (parts, slopes), (known, known_slopes) = on_both(step, params, model_state, batch)
    of_loss = distance(parts, known)
    of_modules = {
        module: distance(joined(slopes[module]), joined(known_slopes[module]))
        for module in slopes
    }
    worst = max(of_modules, key=of_modules.get)
    lines.add(
        name,
        ok=bool(of_loss < OF_LOSS and of_modules[worst] < OF_GRADIENT),
        loss_error=of_loss,
        gradient_error=of_modules[worst],
        of=worst,
        seconds=time.perf_counter() - start,
    )


def joined(leaves) -> np.ndarray:
    """Return one vector of a module's gradient."""
    return np.concatenate([np.ravel(leaf) for leaf in leaves])


def main() -> None:
    args = arguments(__doc__)
    lines = Lines("detectors", args)
    for name, changes in CASES.items():
        if args.dry_run and name not in DRY:
            continue
        if not lines.room_for(10, name):
            continue
        try:
            compare(name, changes, lines)
        except Exception as error:  # a compiler's refusal is a result too
            lines.add(name, ok=False, error=f"{type(error).__name__}: {error}"[:200])
    lines.finish()


if __name__ == "__main__":
    main()
