"""From a run folder to a model that can be used: ``load("runs/quickstart/0")``.

And what a run writes down for it, model.json. ``experiment`` hands `load` on.
"""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from agvm_jax.data import Dataset, open_dataset
from agvm_jax.data.anchor_sizes import (
    MEETS,
    choose_sizes,
    look,
    share_met,
    words_of,
)
from agvm_jax.inference.card import ModelCard
from agvm_jax.inference.export_program import prediction
from agvm_jax.inference.files import find_model
from agvm_jax.inference.images import bare_batch
from agvm_jax.inference.overrides import with_overrides
from agvm_jax.inference.trained import Trained, make_run_batch
from agvm_jax.training import mesh as mesh_lib
from agvm_jax.training.input_size import InputSize, evaluation_size
from agvm_jax.training.predicting import make_predict
from agvm_jax.training.resolve import compute_dtype
from configs import base
from models.build import build_detector
from models.functional import Detector
from models.ops.anchors import cell_anchors, octave_sizes
from models.ops.forms import forms_for, use_forms
from models.weights.load import load_initial_weights

MOST_TOLD = 500  # images that are looked at where anchors have sizes already
WELL_MET = 0.9  # share of boxes that anchors should meet


def load(
    run: str | Path,
    weights: str = "best",
    config: ConfigDict | None = None,
    overrides: Sequence[str] = (),
) -> Trained:
    """Loads a trained model: ``load("runs/quickstart/0").predict("cat.jpg")``.

    Args:
      run: a run folder; or a file of weights, with the model.json of its run beside it
        or a config.
      weights: of a run folder "best", the best that was evaluated; "last", those after
        the newest step; "average", of `train.ema_decay`; or the name of a file in it.
      config: for a file of weights without model.json. Class names are those of the
        data set that it names, which is opened.
      overrides: keys of the run's config, or of `config`, that are others now, such as
        "--model.test_cfg.flip=True".

    Raises:
      ValueError: there is no such run or key, it has no weights yet, or they do not
        fit.
    """
    mesh = mesh_lib.data_mesh(jax.local_devices())
    here = [mesh.devices.flat[0].platform], mesh_lib.replica_axes(mesh)
    if config is None:
        found = find_model(run, weights)
        source, card = str(found.weights), found.card
        if overrides:
            changed = with_overrides(config_of(card), overrides)
            card = dataclasses.replace(card, config=changed.to_dict())
        detector = detector_for(card, *here)
    else:
        config = with_overrides(config, overrides)
        source, dataset = str(run), open_dataset(config.data)
        evaluated = evaluation_size(config)
        config, _ = with_anchors(config, dataset, evaluated)
        card = card_of(config, dataset, evaluated, ())
        detector = detector_for(card, *here)
        card = dataclasses.replace(card, outputs=tuple(sorted(detector.outputs)))
    config = config_of(card)
    shapes = jax.eval_shape(detector.init, jax.random.key(0))
    initial = load_initial_weights(source, "all", config.train.weights_dir, *shapes)
    trees = jax.device_put(initial.put_into(*shapes), NamedSharding(mesh, P()))
    on_mesh = make_predict(detector.predict, mesh)

    def on_all(batch):
        return on_mesh(*trees, mesh_lib.put_batch(mesh, batch))

    return Trained(
        card=card,
        detector=detector,
        params=trees[0],
        model_state=trees[1],
        run_batch=make_run_batch(detector.predict, on_all, trees, mesh.size),
        batch_size=config.eval.batch_size * mesh.size,
        source=source,
    )


def config_of(card: ModelCard) -> ConfigDict:
    """Returns the config of a run, with defaults for keys that are younger than it."""
    config = base.get_config()
    with config.unlocked():
        config.update(dict(card.config))
    return config


def detector_for(
    card: ModelCard, platforms: Sequence[str], axes: Any = None
) -> Detector:
    """Returns the detector that a model.json tells of.

    Args:
      card: what it says.
      platforms: JAX's names of what it will run on.
      axes: of the replicas in the mesh, if there is one.
    """
    config = config_of(card)
    if config.model.op_forms == "auto":
        config.model.op_forms = forms_for(*platforms)
    slowest = "cpu" if "cpu" in platforms else platforms[0]
    return detector_of(
        config,
        num_classes=len(card.class_names),
        num_labels=len(card.label_names),
        dtype=compute_dtype(config.model.dtype, slowest)[0],
        platform=platforms[0],
        axes=axes,
    )


def whole_outputs(model: Trained, detector: Detector) -> tuple[Callable, list[str]]:
    """Returns a model's prediction as a function, and the names of what it gives."""
    run = prediction(detector.predict, model.params, model.model_state)
    names = []
    if "boxes" in model.card.outputs:
        names += ["boxes", "scores", "classes", "valid"]
    names += [name for name in ("masks", "semantic") if name in model.card.outputs]

    def outputs(image, image_size):
        found = run(image, image_size)
        return tuple(found[name] for name in names)

    return outputs, names


def raw_outputs(model: Trained, detector: Detector) -> tuple[Callable, list[str]]:
    """Returns what a RetinaNet's head says of every anchor; no names for others."""

    def outputs(image, image_size):
        module = detector.bind(model.params, model.model_state)
        with use_forms("gpu"):
            batch = bare_batch(image, image_size, image_size[:, 0], jnp)
            features = module.features(batch, train=False)
            logits, deltas = module.head(features.levels)
        return (*logits, *deltas)

    module = detector.bind(model.params, model.model_state)
    levels = module.fpn.levels if hasattr(module, "head") else ()
    return outputs, [f"{kind}_P{k}" for kind in ("logits", "deltas") for k in levels]


def detector_of(
    config: ConfigDict,
    *,
    num_classes: int,
    num_labels: int,
    dtype: str,
    platform: str,
    axes: Any,
    freeze_at: int = 0,
) -> Detector:
    """Returns the detector of a config.

    Args:
      config: the whole of it.
      num_classes, num_labels, freeze_at: as in `models.build.build_detector`.
      dtype: what it computes in; "auto" has been decided.
      platform: JAX's name of what it runs on, for `model.op_forms` = "auto".
      axes: of the replicas in the mesh.
    """
    settings = config.model.copy_and_resolve_references()
    settings.dtype = dtype
    if settings.op_forms == "auto":
        settings.op_forms = forms_for(platform)
    return build_detector(
        settings,
        num_classes=num_classes,
        num_labels=num_labels,
        image_size=config.image_size,
        axis_name=axes,
        freeze_at=freeze_at,
    )


def with_anchors(
    config: ConfigDict, dataset: Dataset, evaluated: InputSize, tell: bool = False
) -> tuple[ConfigDict, dict[str, str]]:
    """Returns a config whose anchors have sizes, and what is to be known of them.

    Args:
      config: the whole of it.
      dataset: whose training images are looked at where sizes are open.
      evaluated: how large images are.
      tell: look at some also where sizes are set, to say whether they suit the boxes.

    Raises:
      ValueError: sizes are to come from the training boxes, and there are none.
    """
    anchors = config.model.anchors
    no_anchors = config.model.detector == "semantic_fpn"
    if no_anchors or (anchors.sizes and not (tell and len(dataset.train))):
        return config, {}
    most = {"most": MOST_TOLD} if anchors.sizes else {}
    frame, settings = tuple(evaluated.image_size), evaluated.data_config
    seen = look(dataset.train, frame, settings, **most) if len(dataset.train) else None
    if seen is None or not len(seen.sides):
        if anchors.sizes:
            return config, {}
        raise ValueError(
            "model.anchors.sizes=() takes sizes from the boxes of the training images,"
            " and there are none: give five sizes in pixels."
        )
    first = 3 if config.model.detector == "retinanet" else 2
    strides = [2**level for level in range(first, first + 5)]
    source = "from the boxes" if not anchors.sizes else "model.anchors.sizes"
    config = config.copy_and_resolve_references()
    if not anchors.sizes:
        config.model.anchors.sizes = choose_sizes(seen.sides, strides)
    sizes = config.model.anchors.sizes
    levels = octave_sizes(sizes, anchors.scales)
    cells = np.concatenate([cell_anchors(level, anchors.ratios) for level in levels])
    met = share_met(seen.sides, cells[:, 2:] - cells[:, :2])
    words = (
        f"sizes {', '.join(f'{size:g}' for size in sizes)} px ({source}); {met:.0%} of"
        f" {len(seen.sides)} boxes have an IoU of {MEETS:g}\nwith the best anchor at"
        " their place"
    )
    if anchors.sizes and met < WELL_MET:
        words += ": --config.model.anchors.sizes='()' takes sizes from the boxes"
    return config, {"images": words_of(seen, strides[0]), "anchors": words}


def num_labels_of(config: ConfigDict, dataset: Dataset) -> int:
    """Returns how many labels pixels may have, 0 where they are not learned."""
    semantic = config.data.semantic
    return 0 if semantic == "none" else len(dataset.label_names(semantic))


def card_of(
    config: ConfigDict,
    dataset: Dataset,
    evaluated: InputSize,
    outputs: Collection[str],
) -> ModelCard:
    """Returns what model.json tells of a run whose detector has these outputs."""
    semantic, reports = config.data.semantic, (dataset.train.report, dataset.val.report)
    label_names = label_ids = ()
    if semantic != "none":
        label_names = tuple(dataset.label_names(semantic))
        things = len(label_names) - len(dataset.stuff_ids)
        label_ids = (None,) * things + tuple(dataset.stuff_ids)
    # Images that nobody annotated are turned as those of the data set were. Where none
    # had an orientation: as their owners see them.
    unturned = sum(r.unturned_images - r.turned_images for r in reports) > 0
    return ModelCard(
        outputs=tuple(sorted(outputs)),
        class_names=tuple(dataset.class_names),
        category_ids=tuple(dataset.category_ids),
        label_names=label_names,
        label_ids=label_ids,
        image_size=tuple(evaluated.image_size),
        short_side=max(evaluated.data_config.short_sides, default=0),
        long_side=evaluated.data_config.long_side,
        turned_frame=bool(config.data.orientation_group),
        exif=config.data.exif_turns != "ignored" and not unturned,
        image_mean=tuple(config.model.image_mean),
        image_std=tuple(config.model.image_std),
        config=config.to_dict(),
    )
