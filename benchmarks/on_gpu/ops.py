"""Every op in the chip's form against the CPU's, forward and backward.

The two sum in another order, so floats agree to rounding and not bit by bit; what an
op decides (which boxes stay, which object is whose) has to be equal.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.on_gpu.comparing import distance, on_both
from benchmarks.on_gpu.lines import Lines, arguments
from benchmarks.operands import ANCHORS, LEVELS, STRIDES, make_operands
from models.ops.batch_norm import batch_norm
from models.ops.conv import conv2d
from models.ops.depthwise import dense_max_pool, depthwise_conv
from models.ops.losses import sigmoid_focal_loss
from models.ops.masks import mask_targets
from models.ops.matching import inside_crowd, match
from models.ops.nms import nms
from models.ops.object_chunks import sum_over_objects
from models.ops.pixel_classes import pixel_classes, pixel_cross_entropy
from models.ops.pooling import max_pool
from models.ops.repetition import repeat_labels, upsample
from models.ops.roi_align import roi_align
from models.ops.topk import top_k

TOLERANCE = 1e-4  # of floats: sums of up to a million products in float32
BATCH, SIDE, CHANNELS = 4, 32, 64


def with_slopes(function, floats: int):
    """Return value and gradients, by the first `floats` operands, of a weighed sum."""

    def run(weight, *operands):
        def total(*inner):
            out = function(*inner, *operands[floats:])
            return (out * weight).sum(), out

        return jax.value_and_grad(total, tuple(range(floats)), has_aux=True)(
            *operands[:floats]
        )

    return run


def cases(rng: np.random.Generator, rois: int | None = None):
    """Yield name, function and operands of each op; `rois`: boxes an image at most."""

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    x = normal(BATCH, SIDE, SIDE, CHANNELS)
    half = normal(BATCH, SIDE // 2, SIDE // 2, CHANNELS)
    for k, stride in ((1, 1), (3, 1), (3, 2), (7, 2)):
        kernel = normal(k, k, CHANNELS, CHANNELS) / np.float32(k * CHANNELS**0.5)
        weight = half if stride == 2 else x
        run = with_slopes(lambda x, w, s=stride: conv2d(x, w, s), 2)
        yield f"conv2d {k}x{k} stride {stride}", run, (weight, x, kernel)
    for stride in (1, 2):
        run = with_slopes(lambda x, w, s=stride: depthwise_conv(x, w, s), 2)
        weight = half if stride == 2 else x
        operands = weight, x, normal(3, 3, 1, CHANNELS)
        yield f"depthwise_conv stride {stride}", run, operands
    yield "max_pool", with_slopes(max_pool, 1), (half, x)
    yield "dense_max_pool", with_slopes(dense_max_pool, 1), (x, x[..., ::-1].copy())

    def normalise(x, scale, bias):
        return batch_norm(x, scale, bias, 1e-5, None)[0]

    operands = normal(*x.shape), x, normal(CHANNELS), normal(CHANNELS)
    yield "batch_norm", with_slopes(normalise, 3), operands
    run = with_slopes(lambda x: upsample(x, (2 * SIDE, 2 * SIDE - 1)), 1)
    yield "upsample", run, (normal(BATCH, 2 * SIDE, 2 * SIDE - 1, CHANNELS), x)
    labels = rng.integers(-1, 80, (BATCH, 500, 9), np.int32)
    yield "repeat_labels", lambda labels: repeat_labels(labels, 80), (labels,)
    logits = 4 * normal(BATCH, 500, 80)
    present = rng.random(logits.shape) < 0.05
    run = with_slopes(sigmoid_focal_loss, 1)
    yield "sigmoid_focal_loss", run, (normal(*logits.shape), logits, present)
    scores = rng.permutation(200_000).astype(np.float32)  # no ties
    yield "top_k", lambda scores: top_k(scores, 1000), (scores,)
    yield from of_boxes(rng, rois)
    yield from of_pixels(rng)


def of_boxes(rng, rois):
    """Yield RoIAlign, NMS and matching at the sizes of Faster R-CNN at 256 px."""
    pooled = make_operands("roi_align")
    levels = [pooled[f"level{index}"] for index in range(LEVELS)]

    def pool(*operands):
        return roi_align(operands[:-1], operands[-1], strides=STRIDES, output_size=7)

    operands = pooled["weight"][:, :rois], *levels, pooled["boxes"][:, :rois]
    yield "roi_align", with_slopes(pool, LEVELS), operands

    found = make_operands("nms")
    for threshold in (0.3, 0.7):  # below a half, known tiled forms are wrong

        def suppress(boxes, scores, classes, threshold=threshold):
            def one(boxes, scores):
                valid = jnp.ones(scores.shape, bool)
                return nms(
                    boxes,
                    scores,
                    classes,
                    valid,
                    iou_threshold=threshold,
                    max_outputs=1000,
                )

            return jax.vmap(one)(boxes, scores)

        operands = found["boxes"], found["scores"], found["levels"]
        yield f"nms at {threshold}", suppress, operands

    placed = make_operands("match")
    assert len(placed["anchors"]) == sum(ANCHORS)

    def assign(anchors, boxes):
        def one(boxes):
            return match(
                anchors,
                boxes,
                jnp.ones(len(boxes), bool),
                foreground_iou=0.7,
                background_iou=0.3,
                low_quality=True,
            )

        return jax.vmap(one)(boxes)

    yield "match", assign, (placed["anchors"], placed["boxes"])
    crowd = rng.random(placed["boxes"].shape[:2]) < 0.5

    def crowded(anchors, boxes, crowd):
        return jax.vmap(lambda b, c: inside_crowd(anchors, b, c))(boxes, crowd)

    yield "inside_crowd", crowded, (placed["anchors"], placed["boxes"], crowd)


def of_pixels(rng):
    """Yield what masks and label maps ask for."""
    masks = rng.integers(0, 2, (64, 56, 56), np.uint8)
    corner = rng.uniform(0, 100, (2, 64, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 90, (2, 64, 2))], -1)
    boxes, rois = boxes.astype(np.float32)
    run = lambda masks, boxes, rois: mask_targets(masks, boxes, rois, 28)  # noqa: E731
    yield "mask_targets", run, (masks, boxes, rois)

    features = rng.normal(size=(BATCH, 128, 14, 14, 32)).astype(np.float32)
    is_object = np.arange(128) < rng.integers(0, 128, (BATCH, 1))

    def of_objects(features, is_object):
        def some(rows, real):
            return (jnp.tanh(rows).sum((1, 2, 3)) * real).sum()

        return sum_over_objects(some, features, is_object)

    run = with_slopes(of_objects, 1)
    yield "sum_over_objects", run, (np.float32(1), features, is_object)

    logits = rng.normal(size=(BATCH, 32, 48, 20)).astype(np.float32)
    labels = rng.integers(-1, 20, (BATCH, 128, 192), np.int32)
    run = with_slopes(lambda logits, labels: pixel_cross_entropy(logits, labels, 4), 1)
    yield "pixel_cross_entropy", run, (np.float32(1), logits, labels)
    yield "pixel_classes", lambda x: pixel_classes(x, (128, 192), 4), (logits,)


def main() -> None:
    args = arguments(__doc__)
    lines = Lines("ops", args)
    rois = 8 if args.dry_run else None
    for name, function, operands in cases(np.random.default_rng(0), rois):
        if not lines.room_for(3, name):
            continue
        start = time.perf_counter()
        try:
            far = distance(*on_both(function, *operands))
        except Exception as error:  # a compiler's refusal is a result too
            lines.add(name, ok=False, error=f"{type(error).__name__}: {error}"[:200])
            continue
        seconds = time.perf_counter() - start
        lines.add(name, ok=far < TOLERANCE, error=far, seconds=seconds)
    lines.finish()


if __name__ == "__main__":
    main()
