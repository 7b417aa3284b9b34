"""Machines that are not here: what their names mean, and what is wrong with others."""

import importlib.util

import pytest

from agvm_jax.compiling.chips import CHIPS
from agvm_jax.compiling.machine import Machine, find_machine


@pytest.mark.parametrize(
    "name", ["v5e:2x2", "tpu:v99:2x2", "cuda:v5e:2x2", "tpu:a100:1x8", "tpu:v5e:big"]
)
def test_an_unknown_machine_is_named_beside_those_there_are(name):
    with pytest.raises(ValueError, match="is no machine to compile for: use one of"):
        find_machine(name)


def test_gpus_come_as_hosts_times_gpus():
    with pytest.raises(ValueError, match="has a wrong shape.*hosts x GPUs"):
        find_machine("cuda:a100:2x2x2")


@pytest.mark.parametrize(
    "name, library, extra",
    [
        ("tpu:v5e:2x2", "libtpu", "train,tpu"),
        ("cuda:h100:1x8", "JAX's CUDA plugin", "train,cuda12"),
    ],
)
def test_a_compiler_that_is_missing_is_named_with_its_extra(
    name, library, extra, monkeypatch
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError) as error:
        find_machine(name)
    assert library in str(error.value) and f"'.[{extra}]'" in str(error.value)


def machine(chip, devices, host_devices, chips):
    return Machine("test", CHIPS[chip], range(devices), host_devices, chips)


def test_a_chip_of_two_devices_gives_half_of_everything_to_each():
    half, whole = machine("v4", 8, 8, 4), machine("v4", 4, 4, 4)
    for name in ("memory", "room", "flops", "bandwidth", "links"):
        assert getattr(half, name) == getattr(whole, name) / 2


def test_gpus_of_several_hosts_send_through_their_network_cards():
    chip = CHIPS["a100"]
    assert machine("a100", 8, 8, 8).links == chip.links
    assert machine("a100", 16, 8, 16).links == chip.network
