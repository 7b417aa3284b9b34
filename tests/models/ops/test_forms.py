"""The choice of forms: who makes it, how long it holds, and what is never done."""

import pathlib

import jax
import jax.numpy as jnp
import pytest
from jax import export

import models
from models.ops.conv import conv2d
from models.ops.forms import NAMES, current_forms, forms_for, use_forms

X, KERNEL = jnp.zeros((2, 24, 24, 64)), jnp.zeros((3, 3, 64, 64))


def test_where_nobody_chooses_it_is_the_platform_that_jax_computes_on():
    assert current_forms() == "cpu"


def test_the_inner_choice_holds_and_ends_with_its_context():
    with use_forms("gpu"):
        with use_forms("tpu"):
            assert current_forms() == "tpu"
            with use_forms(None):
                assert current_forms() == "tpu"
        assert current_forms() == "gpu"
    assert current_forms() == "cpu"


def test_a_jitted_function_is_traced_anew_for_other_forms():
    convolve = jax.jit(lambda x, kernel: conv2d(x, kernel))
    for _ in range(2):  # the second time from JAX's cache
        for name in NAMES:
            with use_forms(name):
                text = str(convolve.trace(X, KERNEL).jaxpr)
            assert ("conv_general_dilated" in text) == (name != "cpu")


@pytest.mark.parametrize(
    ("platforms", "forms"),
    [
        (("cpu",), "cpu"),
        (("gpu",), "gpu"),
        (("cuda", "rocm"), "gpu"),
        (("tpu",), "tpu"),
        (("cpu", "cuda", "tpu"), "gpu"),
    ],
)
def test_a_program_for_several_platforms_takes_no_cpu_form(platforms, forms):
    assert forms_for(*platforms) == forms


def test_a_program_is_exported_for_several_platforms_at_once():
    platforms = ("cpu", "cuda", "tpu")
    with use_forms(forms_for(*platforms)):
        program = export.export(jax.jit(conv2d), platforms=platforms)(X, KERNEL)
    assert "stablehlo.convolution" in program.mlir_module()
    assert program.call(X, KERNEL).shape == (2, 24, 24, 64)


def test_unknown_forms_are_refused():
    with pytest.raises(ValueError, match="'cuda'.*cpu.*gpu.*tpu"):
        use_forms("cuda")


def test_the_compiler_is_never_asked_to_choose():
    folder = pathlib.Path(models.__file__).parent
    found = [
        path.name
        for path in folder.rglob("*.py")
        if "platform_dependent" in path.read_text()
    ]
    assert not found
