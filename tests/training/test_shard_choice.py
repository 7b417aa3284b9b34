"""What `train.shard` and `train.fsdp_size` come to; pure, so nothing is compiled."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P
from test_step import make_recipe

from agvm_jax.training.mesh import data_mesh
from agvm_jax.training.partition import Partition
from agvm_jax.training.shard_choice import choose_sharding, takes_taps


def choose(shard, fsdp_size=0, devices=8, host=4, **settings):
    config = SimpleNamespace(shard=shard, fsdp_size=fsdp_size)
    return choose_sharding(config, make_recipe(**settings), devices, host)


def test_by_default_parameters_are_shared_among_the_devices_of_a_process():
    assert choose("none").fsdp_size is None and choose("none").reason == ""
    assert choose("full").fsdp_size == 4
    assert choose("full", 2).fsdp_size == 2
    assert choose("optimizer", 1).fsdp_size == 1


def test_one_device_shards_nothing_and_says_so():
    chosen = choose("full", devices=1, host=1)
    assert chosen.mode == "none" and "on one device" in chosen.reason


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("all",), "choose one of none, optimizer, full"),
        (("full", 3), "does not divide the 8 devices"),
        (("full", -1), "does not divide the 8 devices"),
        (("full", 1), "that is 1 here"),
        (("optimizer", 0, 8, 3), "say train.fsdp_size"),
    ],
)
def test_what_does_not_fit_is_one_sentence(arguments, words):
    with pytest.raises(ValueError, match=words):
        choose(*arguments)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"agvm.estimator": "norms"}, ""),
        ({"agvm.enabled": False}, ""),
        ({"agvm.estimator": "halves"}, "norms does not"),
        ({"optim.name": "sam", "agvm.enabled": False}, "SAM follows"),
    ],
)
def test_whoever_looks_at_whole_gradients_is_told(settings, words):
    reason = choose("full", **settings).reason
    assert ("whole gradient" in reason) == bool(words) and words in reason
    assert takes_taps(make_recipe(**settings), "full") == (not words)
    assert not takes_taps(make_recipe(**settings), "optimizer")


@pytest.mark.parametrize(
    "mode, shape, expected",
    [
        ("optimizer", (64, 3), P(("data", "fsdp"), None)),
        ("optimizer", (6, 4), P("data", "fsdp")),  # no dimension divides by 8
        ("optimizer", (5, 4), P(None, "fsdp")),
        ("optimizer", (5, 3), P()),
        ("optimizer", (2,), P()),  # too small
        ("full", (64, 3), P("fsdp", None)),
        ("full", (6, 4), P(None, "fsdp")),
        ("none", (64, 3), P()),
    ],
)
def test_an_array_is_cut_where_it_divides(mode, shape, expected):
    mesh = data_mesh(jax.devices()[:8], 4)
    leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
    assert Partition(mesh, mode, least_size=4).grad_specs(leaf) == expected
