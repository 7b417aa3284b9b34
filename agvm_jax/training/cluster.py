"""Joining the other processes of a run, before anything touches a device.

JAX finds them itself where a TPU pod, Slurm or Open MPI started the processes, and by
explicit flags anywhere. Two things it leaves to us: that several tasks were started is
reason enough to join, or each would train alone into the same folder; and a process
that has a host for itself takes all its GPUs, where JAX gives it the first one.
"""

import os
from collections.abc import Mapping

import jax


def started_together(environment: Mapping[str, str] = os.environ) -> int:
    """Returns how many processes Slurm's srun or Open MPI's mpirun started, 1 if none.

    The shell of a Slurm allocation and the batch script itself have no step: there the
    number of tasks is only what is asked for.
    """
    if "SLURM_STEP_NODELIST" in environment and "SLURM_PROCID" in environment:
        return int(environment.get("SLURM_NTASKS", 1))
    return int(environment.get("OMPI_COMM_WORLD_SIZE", 1))


def has_host_alone(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether Slurm or Open MPI say that this is the only process of its host."""
    tasks = environment.get("SLURM_STEP_TASKS_PER_NODE")  # "1", "1(x2)", "2,1"
    if tasks is not None:
        return {part.split("(")[0] for part in tasks.split(",")} == {"1"}
    return environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"


def join(coordinator: str = "", processes: int = 0, process: int = -1) -> None:
    """Calls `jax.distributed.initialize`.

    Args:
      coordinator: "host:port" of process 0; "": found from the environment.
      processes: of the run; 0: found.
      process: this one's number, from 0; -1: found.

    Raises:
      ValueError: some of the three are given and some are not, or they do not fit, or
        nothing tells who the others are.
    """
    given = [bool(coordinator), processes > 0, process >= 0]
    if any(given) and not all(given):
        raise ValueError(
            "--coordinator, --num_processes and --process_id go together: give all"
            " three, or none where Slurm, Open MPI or a TPU pod started the processes."
        )
    if all(given):
        if process >= processes:
            raise ValueError(
                f"--process_id={process} is not among --num_processes={processes}:"
                " they count from 0."
            )
        jax.distributed.initialize(coordinator, processes, process)
    else:
        try:
            jax.distributed.initialize()
        except ValueError as error:
            raise ValueError(
                "--distributed: nothing here tells who the other processes are: give"
                " --coordinator=HOST:PORT, --num_processes and --process_id"
                f" ({str(error).splitlines()[0]})"
            ) from error
    if has_host_alone() and not os.environ.get("JAX_LOCAL_DEVICE_IDS"):
        for kind in ("cuda", "rocm"):
            jax.config.update(f"jax_{kind}_visible_devices", "all")
