"""The numbers that `benchmarks.detector_ops` and its peer both work on. NumPy only."""

import numpy as np

SIDE, BATCH, CHANNELS = 256, 4, 256
STRIDES = (4, 8, 16, 32)
LEVELS = len(STRIDES)
ROIS, OBJECTS = 512, 8
ANCHORS = tuple(3 * (SIDE // stride) ** 2 for stride in (*STRIDES, 64))


def make_operands(op: str) -> dict[str, np.ndarray]:
    """Return the operands of "roi_align", "nms" or "match", features NHWC."""
    rng = np.random.default_rng(0)

    def boxes(*shape):
        corner = rng.uniform(0, SIDE - 20, (*shape, 2))
        side = np.exp(rng.uniform(np.log(8), np.log(SIDE / 2), (*shape, 2)))
        end = np.minimum(corner + side, SIDE)
        return np.concatenate([corner, end], -1).astype(np.float32)

    if op == "roi_align":
        features = {
            f"level{index}": rng.normal(
                size=(BATCH, SIDE // stride, SIDE // stride, CHANNELS)
            ).astype(np.float32)
            for index, stride in enumerate(STRIDES)
        }
        weight = rng.normal(size=(BATCH, ROIS, 7, 7, CHANNELS)).astype(np.float32)
        return {"boxes": boxes(BATCH, ROIS), "weight": weight, **features}
    if op == "nms":
        counts = [min(count, 2000) for count in ANCHORS]
        levels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
        scores = rng.normal(size=(BATCH, len(levels))).astype(np.float32)
        return {"boxes": boxes(BATCH, len(levels)), "scores": scores, "levels": levels}
    return {"anchors": boxes(sum(ANCHORS)), "boxes": boxes(BATCH, OBJECTS)}
