"""A step of a whole detector with sharded state, against replicated state.

Each detector runs in both modes on two shapes of the mesh, all of which come up;
SHARD_SHAPES=all runs every detector on every shape, and a UniNet besides.
"""

import os

import chex
import jax
from test_step import make_recipe

from agvm_jax.optim.modules import label_tree
from agvm_jax.optim.noise import noise_init
from agvm_jax.training import mesh as mesh_lib
from agvm_jax.training.batching import plan_batches
from agvm_jax.training.partition import Partition
from agvm_jax.training.sharded_step import make_step
from agvm_jax.training.state import create_state
from benchmarks.train_step import make_batch
from configs import base
from models.build import build_detector
from models.stack import has_layer_axis

SIDE, DEVICES, ROWS = 64, 8, 8
SMALL = {"width": 0.125, "fpn_channels": 16, "retina_head.num_convs": 1}
MODELS = {
    "retinanet": SMALL,
    "frozen": SMALL | {"norm": "frozen"},
    "mask_rcnn": {
        "detector": "mask_rcnn",
        "anchors.scales": 1,
        "width": 0.125,
        "fpn_channels": 16,
    },
    "swin": SMALL | {"backbone": "swin_t", "drop_path": 0.0},
}
# Mode and devices along the axis fsdp. "full" over one of them shares nothing out.
EVERY = [(mode, n) for mode in ("full", "optimizer") for n in (1, 2, 4, 8)][1:]
RUNS = {
    "retinanet": [("full", 2), ("optimizer", 1)],
    "frozen": [("full", 4), ("optimizer", 8)],
    "mask_rcnn": [("full", 8), ("optimizer", 2)],
    "swin": [("full", 2), ("optimizer", 4)],
}
if os.environ.get("SHARD_SHAPES") == "all":
    MODELS["uninet"] = SMALL | {"backbone": "uninet_b0", "drop_path": 0.0}
    RUNS = dict.fromkeys(MODELS, EVERY)


def one_step(mode, fsdp, model, estimator):
    """Returns state and metrics after a step of SGD, clipped."""
    recipe = make_recipe(
        ROWS,
        **{
            "optim.clip_norm": 1.0,
            "agvm.estimator": estimator,
            "agvm.tau": 1,
        },
    )
    mesh = mesh_lib.data_mesh(jax.devices()[:DEVICES], fsdp)
    partition = Partition(mesh, mode, least_size=128, layered=has_layer_axis)
    config = base.get_config().model
    config.update_from_flattened_dict(MODELS[model])
    detector = build_detector(
        config,
        num_classes=91,
        image_size=(SIDE, SIDE),
        axis_name=mesh_lib.replica_axes(mesh),
        freeze_at=2 if model == "frozen" else 0,
    )
    params, model_state = detector.init(jax.random.key(0))
    labels = label_tree(params)
    state = create_state(
        params, model_state, recipe.tx.init(params), noise_init(params), seed=0
    )
    plan = plan_batches(ROWS, DEVICES, estimator=estimator)
    step = make_step(detector.loss, recipe, plan, partition, labels, 64)
    batch = mesh_lib.put_batch(mesh, make_batch(ROWS, SIDE))
    state = partition.put(state)
    return jax.device_get(step(state, iter([batch]), 0))


def check_step(model):
    """Compares the runs of a detector of `MODELS` with one of replicated state."""
    replicated = one_step("none", None, model, "norms")
    for mode, fsdp in RUNS[model]:
        state, metrics = one_step(mode, fsdp, model, "norms")
        chex.assert_trees_all_close(metrics, replicated[1], rtol=2e-3, atol=1e-5)
        chex.assert_trees_all_close(
            state.params, replicated[0].params, rtol=1e-3, atol=2e-5
        )
        chex.assert_trees_all_close(
            state.model_state, replicated[0].model_state, rtol=1e-3, atol=1e-5
        )
