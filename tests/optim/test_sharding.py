"""phi of fully sharded parameters is that of replicated ones, by the same groups."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from agvm_jax.optim import label_tree, mean_and_phi_of_groups
from agvm_jax.optim.sharding import ShardPlan, shard_dims

DEPTH, WIDTH, OUT, ROWS = 3, 16, 8, 32
RNG = np.random.default_rng(0)
PARAMS = {
    "backbone": {
        "blocks": jnp.asarray(RNG.normal(size=(DEPTH, WIDTH, WIDTH)) / 4, jnp.float32),
        "bias": jnp.zeros(WIDTH),  # too small to shard
    },
    "head": {"w": jnp.asarray(RNG.normal(size=(WIDTH, OUT)) / 4, jnp.float32)},
}
X = jnp.asarray(RNG.normal(size=(ROWS, WIDTH)), jnp.float32)
Y = jnp.asarray(RNG.normal(size=(ROWS, OUT)), jnp.float32)
LABELS = label_tree(PARAMS)
DIMS = {"backbone": {"blocks": 1, "bias": -1}, "head": {"w": 0}}
SPECS = {"backbone": {"blocks": P(None, "fsdp"), "bias": P()}, "head": {"w": P("fsdp")}}


def plan_of(dtype=None, axis_name="data"):
    return ShardPlan(LABELS, DIMS, "fsdp", axis_name, dtype)


def forward(blocks, bias, head, x, y, get=lambda w: w):
    """A stack under scan and remat, and a head that is used twice."""

    @jax.checkpoint
    def block(h, w):
        return jnp.tanh(h @ get(w) + bias).astype(h.dtype), None

    h, _ = lax.scan(block, x.astype(bias.dtype), blocks)
    out = h @ head + jnp.tanh(0.5 * h) @ head
    return ((out.astype(jnp.float32) - y) ** 2).mean()


def loss(plan):
    dtype = plan.dtype or jnp.float32  # what a network computes in

    def function(params, taps, x, y):
        backbone, tap = params["backbone"], taps["backbone"]
        return forward(
            backbone["blocks"],
            plan.gather_leaf(backbone["bias"], -1, tap).astype(dtype),
            plan.gather_leaf(params["head"]["w"], 0, taps["head"]).astype(dtype),
            x,
            y,
            # Inside the scan a block has 2 dimensions.
            lambda w: plan.gather_leaf(w, 0, tap).astype(dtype),
        )

    return function


def sharded(mesh_shape, micro_batches=1, dtype=None, loss_of=loss, **options):
    mesh = Mesh(np.array(jax.devices()).reshape(mesh_shape), ("data", "fsdp"))
    plan = plan_of(dtype)

    def local(params, x, y):
        step = plan.value_and_grad(loss_of(plan), has_aux=False)
        total = None
        for rows in zip(
            jnp.split(x, micro_batches), jnp.split(y, micro_batches), strict=True
        ):
            _, measured = step(params, *rows)
            total = (
                measured if total is None else jax.tree.map(jnp.add, total, measured)
            )
        mean, stats = plan.finish(*total, micro_batches)
        return mean, stats.phi

    rows = P(("data", "fsdp"))
    return jax.jit(
        jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(SPECS, rows, rows),
            out_specs=(SPECS, P()),
            check_vma=options.get("check_vma", False),
        )
    )


def replicated(num_groups, dtype=jnp.float32):
    def one(params, x, y):
        params = jax.tree.map(lambda w: w.astype(dtype), params)
        backbone = params["backbone"]
        return forward(backbone["blocks"], backbone["bias"], params["head"]["w"], x, y)

    def groups(a):
        return a.reshape(num_groups, -1, a.shape[1])

    stacked = jax.vmap(jax.grad(one), (None, 0, 0))(PARAMS, groups(X), groups(Y))
    return mean_and_phi_of_groups(stacked, LABELS, "norms")


@pytest.mark.parametrize("mesh_shape", [(2, 4), (8, 1), (1, 8)])
def test_mean_and_phi_are_those_of_replicated_parameters(mesh_shape):
    mean, phi = sharded(mesh_shape)(PARAMS, X, Y)
    expected, stats = replicated(8)
    for module, value in stats.phi.items():
        np.testing.assert_allclose(phi[module], value, rtol=2e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7),
        mean,
        expected,
    )


def test_micro_batches_are_groups_too():
    _, phi = sharded((2, 4), micro_batches=2)(PARAMS, X, Y)
    for module, value in replicated(16)[1].phi.items():
        np.testing.assert_allclose(phi[module], value, rtol=2e-5)


def test_bfloat16_is_squared_and_summed_in_float32():
    """The same bfloat16 gradients, so what differs is where they are rounded again."""
    _, phi = sharded((2, 4), dtype=jnp.bfloat16)(PARAMS, X, Y)
    exact = replicated(8)[1].phi
    rough = replicated(8, jnp.bfloat16)[1].phi
    for module in phi:
        np.testing.assert_allclose(phi[module], rough[module], rtol=2e-3)
        np.testing.assert_allclose(phi[module], exact[module], rtol=0.05)


def test_between_measurements_no_norm_is_summed():
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "fsdp"))
    plan = plan_of()

    def local(params, measure):
        zeros = {"backbone": jnp.float32(0), "head": jnp.float32(0)}
        mean, stats = plan.finish(params, zeros, measure=measure)
        return (mean, stats.phi) if measure else mean

    def text(measure):
        out = (SPECS, P()) if measure else SPECS
        mapped = jax.shard_map(
            lambda p: local(p, measure),
            mesh=mesh, in_specs=(SPECS,), out_specs=out, check_vma=False,
        )  # fmt: skip
        return jax.jit(mapped).lower(PARAMS).as_text()

    gradients = len(jax.tree.leaves(PARAMS))
    assert text(False).count("all_reduce") == gradients
    assert text(True).count("all_reduce") == gradients + 2


def test_a_leaf_that_is_gathered_twice_is_refused():
    """Each part would be squared by itself: 0.790 for 0.798 in a small example."""

    def twice(plan):
        def function(params, taps, x, y):
            head = params["head"]["w"]
            first, second = (plan.gather_leaf(head, 0, taps["head"]) for _ in range(2))
            blocks = plan.gather_leaf(params["backbone"]["blocks"], 1, taps["backbone"])
            out = x @ blocks[0] @ first + x @ second + params["backbone"]["bias"][:OUT]
            return ((out - y) ** 2).mean()

        return function

    with pytest.raises(ValueError, match="gathers 3 times over 'fsdp' but 2 param"):
        sharded((2, 4), loss_of=twice)(PARAMS, X, Y)


def test_check_vma_is_refused_since_it_sums_by_itself():
    with pytest.raises(ValueError, match="check_vma=False"):
        sharded((2, 4), check_vma=True)(PARAMS, X, Y)


def test_one_group_is_refused():
    plan = ShardPlan({"w": "w"}, {"w": -1}, "fsdp")
    grads, squares = {"w": jnp.ones((1, 2))}, {"w": jnp.ones(1)}
    with pytest.raises(ValueError, match="one group"):
        jax.vmap(plan.finish, axis_name="fsdp")(grads, squares)


def test_a_gather_of_the_whole_tree_is_one_gather_a_leaf():
    def whole(plan):
        def function(params, taps, x, y):
            params = plan.gather(params, taps)
            backbone = params["backbone"]
            return forward(
                backbone["blocks"], backbone["bias"], params["head"]["w"], x, y
            )

        return function

    _, phi = sharded((2, 4), loss_of=whole)(PARAMS, X, Y)
    for module, value in replicated(8)[1].phi.items():
        np.testing.assert_allclose(phi[module], value, rtol=2e-5)


def test_what_is_sharded_is_the_largest_dimension_that_divides():
    shapes = {
        "kernel": jax.ShapeDtypeStruct((3, 3, 256, 512), jnp.float32),
        "odd": jax.ShapeDtypeStruct((1023, 255), jnp.float32),
        "bias": jax.ShapeDtypeStruct((512,), jnp.float32),
    }
    assert shard_dims(shapes, 8) == {"kernel": 3, "odd": -1, "bias": -1}
    assert shard_dims(shapes, 8, least_size=0)["bias"] == 0
