"""Devices that are not here: compilers need to know them, not to have them."""

import os

from jax.experimental import topologies

# What the compiler asks about an A100 with 80 GB (NVIDIA's data sheet and CUDA's
# properties of the device).
_A100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: 167936
  shared_memory_per_block_optin: 166912
  threads_per_core_limit: 2048 core_count: 108 fpus_per_core: 64
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  memory_bandwidth: 2039040000000 l2_cache_size: 41943040 clock_rate_ghz: 1.41
  device_memory_size: 85100068864
  cuda_compute_capability { major: 8 minor: 0 feature_extension: NONE }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 patch: 0 }
device_description_str: "NVIDIA A100-SXM4-80GB"
"""

# Bytes of memory a device has. A TPU's compiler refuses what does not fit; a GPU's does
# not look.
MEMORY = {"a100": 80e9, "v5e": 16 * 2**30}


def devices_of(pod: str) -> list:
    """Return the devices of a pod: "v5e:2x2" (a TPU topology's name) or "a100:4".

    Raises:
      ValueError: no such pod, or the compiler for it is not installed.
    """
    kind, _, size = pod.partition(":")
    try:
        if kind == "a100":
            topology = topologies.get_topology_desc(
                platform="cuda",
                topology_name="",
                target_config=_A100,
                topology=f"1x{int(size)}x1",
            )
        else:
            os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
            topology = topologies.get_topology_desc(platform="tpu", topology_name=pod)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"no compiler for {pod!r}: TPU names look like v5e:2x2 and need libtpu, "
            f"a100:4 needs jax[cuda12] ({str(error).splitlines()[0]})"
        ) from error
    return list(topology.devices)
