"""What a chip has, as its maker tells it: the yardsticks of every estimate.

TPUs: Google's Cloud TPU documentation (pages v4, v5e, v5p, v6e, tpu7x, November 2026).
GPUs: NVIDIA's data sheets of the SXM5 H100 and the 80 GB SXM4 A100, and of the DGX
machines they come in.
"""

import dataclasses

GB, GIB = 1e9, 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip. Rates are a second, and the most that there is.

    Attributes:
      kind: "tpu" or "cuda", as JAX calls the compiler.
      memory: bytes.
      kept: bytes of them that a program does not get: what the TPU's runtime takes, by
        its compiler; of a GPU the quarter that JAX leaves alone unless
        XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.
      flops: operations of matrix products of bfloat16.
      bandwidth: bytes between the chip and its memory.
      links: bytes that it sends to other chips of the machine, all links together.
      network: the same where the machine is several hosts; None: its links reach all.
      description: what a CUDA compiler asks about it, in text; "" for a TPU, whose
        compiler knows.
    """

    kind: str
    memory: float
    kept: float
    flops: float
    bandwidth: float
    links: float
    network: float | None = None
    description: str = ""


# CUDA's properties of the devices, as XLA writes them down.
_GPU = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: {shared_core}
  shared_memory_per_block_optin: {shared_block}
  threads_per_core_limit: 2048 core_count: {cores} fpus_per_core: {fpus}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  memory_bandwidth: {bandwidth} l2_cache_size: {l2} clock_rate_ghz: {clock}
  device_memory_size: {memory}
  cuda_compute_capability {{ major: {major} minor: 0 feature_extension: NONE }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 patch: 0 }}
device_description_str: "{name}"
"""
_A100 = _GPU.format(
    shared_core=167936,
    shared_block=166912,
    cores=108,
    fpus=64,
    bandwidth=2039040000000,
    l2=41943040,
    clock=1.41,
    memory=85100068864,
    major=8,
    name="NVIDIA A100-SXM4-80GB",
)
_H100 = _GPU.format(
    shared_core=233472,
    shared_block=232448,
    cores=132,
    fpus=128,
    bandwidth=3352320000000,
    l2=52428800,
    clock=1.98,
    memory=84978434048,
    major=9,
    name="NVIDIA H100 80GB HBM3",
)

# Links in one direction: a ring uses each in both at once, and sends half of what the
# documentation counts as bidirectional. v4: its all-reduce, 1.1 PB/s over 4,096 chips.
CHIPS = {
    "v4": Chip("tpu", 32 * GIB, 1.5 * GIB, 275e12, 1200 * GB, 268 * GB),
    "v5e": Chip("tpu", 16 * GIB, 0.25 * GIB, 197e12, 819 * GB, 200 * GB),
    "v5p": Chip("tpu", 95.74 * GIB, 0, 459e12, 2765 * GB, 600 * GB),
    "v6e": Chip("tpu", 32 * GIB, 0.75 * GIB, 918e12, 1638 * GB, 400 * GB),
    "tpu7x": Chip("tpu", 192 * GIB, 2.5 * GIB, 2307e12, 7380 * GB, 600 * GB),
    # NVLink within a host; a network card of 200 or 400 Gbit/s for each GPU between.
    "a100": Chip("cuda", 80 * GB, 20 * GB, 312e12, 2039 * GB, 300 * GB, 25 * GB, _A100),
    "h100": Chip("cuda", 80 * GB, 20 * GB, 989e12, 3352 * GB, 450 * GB, 50 * GB, _H100),
}
