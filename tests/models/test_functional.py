"""The waist between Flax modules and pure functions, on a detector of three layers."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from agvm_jax.structures import Batch, Predictions
from models.functional import make_detector
from models.layers import BatchNorm, Conv
from models.ops.forms import current_forms, use_forms


class Tiny(nnx.Module):
    """The least that has parameters, a list of modules and running averages."""

    outputs = frozenset({"boxes"})

    def __init__(self, norm, axis_name, rngs):
        self.backbone = nnx.List([Conv(3, 4, 1, rngs=rngs), Conv(4, 4, 1, rngs=rngs)])
        self.fpn = BatchNorm(4, mode=norm, axis_name=axis_name)
        self.head = Conv(4, 2, 1, use_bias=True, rngs=rngs)

    def run(self, batch, train):
        x = batch.image.astype(jnp.float32) / 255
        for conv in self.backbone:
            x = conv(x)
        return self.head(self.fpn(x, train=train))

    def loss(self, batch, key):
        noise = jax.random.normal(key, ())
        square = jnp.square(self.run(batch, True) - 1).mean()
        return square + noise, {"square": square, "noise": noise}

    def predict(self, batch):
        scores = jax.nn.sigmoid(self.run(batch, False)).mean((1, 2))
        blank = jnp.zeros((*scores.shape, 4))
        return Predictions(blank, scores, scores.astype(jnp.int32), scores > 0.5)


def make_tiny(norm="synced", axis_name=None):
    return make_detector(lambda rngs: Tiny(norm, axis_name, rngs))


def make_batch(size=4):
    image = np.random.default_rng(0).integers(0, 255, (size, 4, 4, 3), np.uint8)
    flags = np.zeros((size, 1), bool)
    return Batch(
        image=image,
        image_size=np.full((size, 2), 4, np.int32),
        image_id=np.arange(size),
        boxes=np.zeros((size, 1, 4), np.float32),
        classes=np.zeros((size, 1), np.int32),
        valid=flags,
        crowd=flags,
    )


def paths(tree):
    return [
        tuple(entry.key for entry in path)
        for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    ]


def test_parameters_are_plain_dicts_with_string_keys_and_modules_on_top():
    params, model_state = make_tiny().init(jax.random.key(0))
    assert set(params) == {"backbone", "fpn", "head"}
    assert set(params["backbone"]) == {"0", "1"}
    for tree in (params, model_state):
        assert all(isinstance(key, str) for path in paths(tree) for key in path)
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(tree))
    assert paths(model_state) == [("fpn", "mean"), ("fpn", "var")]


def test_init_gives_the_same_shapes_abstractly_and_other_weights_for_another_key():
    detector = make_tiny()
    first = detector.init(jax.random.key(0))
    second = detector.init(jax.random.key(1))
    shapes = jax.eval_shape(detector.init, jax.random.key(0))
    chex.assert_trees_all_equal_shapes_and_dtypes(first, second, shapes)
    kernels = [params["head"]["kernel"] for params, _ in (first, second)]
    assert not np.allclose(*kernels)


def test_loss_returns_its_parts_and_moves_the_running_averages_on():
    detector = make_tiny()
    params, model_state = detector.init(jax.random.key(0))
    loss = jax.jit(detector.loss)
    value, (new_state, parts) = loss(
        params, model_state, make_batch(), jax.random.key(3)
    )
    np.testing.assert_allclose(value, sum(parts.values()), rtol=1e-6)
    chex.assert_trees_all_equal_shapes_and_dtypes(model_state, new_state)
    assert not np.allclose(new_state["fpn"]["mean"], model_state["fpn"]["mean"])
    other, _ = loss(params, model_state, make_batch(), jax.random.key(4))
    assert float(other) != float(value)


def test_nothing_is_kept_between_calls():
    detector = make_tiny()
    params, model_state = detector.init(jax.random.key(0))
    arguments = (params, model_state, make_batch(), jax.random.key(0))
    chex.assert_trees_all_equal(detector.loss(*arguments), detector.loss(*arguments))


def test_predict_uses_the_running_averages():
    detector = make_tiny()
    params, model_state = detector.init(jax.random.key(0))
    scores = detector.predict(params, model_state, make_batch()).scores
    shifted = jax.tree.map(lambda x: x + 1.0, model_state)
    assert not np.allclose(
        detector.predict(params, shifted, make_batch()).scores, scores
    )


def test_bind_shows_the_module_with_the_values_it_was_given():
    detector = make_tiny()
    params, model_state = detector.init(jax.random.key(0))
    params["backbone"]["1"]["kernel"] = jnp.full((1, 1, 4, 4), 7.0)
    module = detector.bind(params, model_state)
    np.testing.assert_array_equal(module.backbone[1].kernel[...], 7.0)


def test_frozen_normalisation_leaves_no_parameters():
    detector = make_tiny("frozen")
    params, model_state = detector.init(jax.random.key(0))
    assert set(params) == {"backbone", "head"}
    assert set(model_state["fpn"]) == {"scale", "bias", "mean", "var"}
    _, (new_state, _) = detector.loss(
        params, model_state, make_batch(), jax.random.key(0)
    )
    chex.assert_trees_all_equal(new_state, model_state)


def test_replicas_with_synced_statistics_equal_one_large_batch():
    batch, key = make_batch(4), jax.random.key(0)
    whole = make_tiny()
    params, model_state = whole.init(key)
    expected, (expected_state, _) = jax.grad(whole.loss, has_aux=True)(
        params, model_state, batch, key
    )
    replica = make_tiny(axis_name="data")

    def step(params, model_state, batch, key):
        gradient, (state, _) = jax.grad(replica.loss, has_aux=True)(
            params, model_state, batch, key
        )
        return jax.lax.pmean(gradient, "data"), state

    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    sharded = jax.jit(
        jax.shard_map(
            step,
            mesh=mesh,
            in_specs=(P(), P(), P("data"), P()),
            out_specs=(P(), P()),
            check_vma=False,
        )
    )
    gradient, state = sharded(params, model_state, batch, key)
    chex.assert_trees_all_close(gradient, expected, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(state, expected_state, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: tree.pop("fpn"), "missing ['fpn']"),
        (lambda tree: tree["backbone"].update({"2": 0}), "unexpected ['2']"),
        (lambda tree: tree.update(head=jnp.zeros(3)), "params/head is an array"),
    ],
)
def test_parameters_of_another_detector_are_refused(change, message):
    detector = make_tiny()
    params, model_state = detector.init(jax.random.key(0))
    change(params)
    with pytest.raises(ValueError, match="params") as error:
        detector.loss(params, model_state, make_batch(), jax.random.key(0))
    assert message in str(error.value)


def test_forms_are_those_that_the_detector_was_made_with():
    """Whatever the caller's context is, and wherever the trace is made."""
    seen = []

    class Looks(Tiny):
        def loss(self, batch, key):
            seen.append(current_forms())
            return super().loss(batch, key)

        def predict(self, batch):
            seen.append(current_forms())
            return super().predict(batch)

    def forms_seen(**options):
        detector = make_detector(lambda rngs: Looks("local", None, rngs), **options)
        weights = jax.eval_shape(detector.init, jax.random.key(0))
        batch = make_batch()
        seen.clear()
        with use_forms("tpu"):
            jax.eval_shape(detector.predict, *weights, batch)
        jax.eval_shape(detector.loss, *weights, batch, jax.random.key(0))
        return list(seen)

    assert forms_seen() == ["tpu", "cpu"]
    assert forms_seen(forms="gpu") == ["gpu", "gpu"]
    assert forms_seen(forward_mode=True) == ["tpu", "gpu"]
    with pytest.raises(ValueError, match="'cuda'"):
        make_detector(lambda rngs: Looks("local", None, rngs), forms="cuda")
