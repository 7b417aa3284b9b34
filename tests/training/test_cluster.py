"""Which processes join: what Slurm and Open MPI say, what flags say."""

import jax
import pytest

from agvm_jax.training import cluster

SRUN = {
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_PROCID": "1",
    "SLURM_NTASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
}


@pytest.fixture
def joined(monkeypatch):
    """Returns the arguments of each call of `jax.distributed.initialize`."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a: calls.append(a))
    return calls


def test_only_a_step_of_slurm_has_started_several():
    assert cluster.started_together(SRUN) == 2
    assert cluster.started_together({"SLURM_NTASKS": "2", "SLURM_PROCID": "0"}) == 1
    assert cluster.started_together({"OMPI_COMM_WORLD_SIZE": "4"}) == 4
    assert cluster.started_together({}) == 1


@pytest.mark.parametrize(
    "tasks, alone", [("1", True), ("1(x2)", True), ("2,1", False), ("8(x2)", False)]
)
def test_a_process_that_has_its_host_alone(tasks, alone):
    assert cluster.has_host_alone({"SLURM_STEP_TASKS_PER_NODE": tasks}) == alone
    local = {"OMPI_COMM_WORLD_LOCAL_SIZE": tasks}
    assert cluster.has_host_alone(local) == (tasks == "1")


def test_it_takes_all_gpus_of_the_host(joined, monkeypatch):
    for name, value in SRUN.items():
        monkeypatch.setenv(name, value)
    set_to = {}
    monkeypatch.setattr(jax.config, "update", set_to.__setitem__)
    cluster.join()
    assert joined == [()]
    assert set_to["jax_cuda_visible_devices"] == "all"
    set_to.clear()
    monkeypatch.setenv("JAX_LOCAL_DEVICE_IDS", "0,1")
    cluster.join()
    monkeypatch.delenv("JAX_LOCAL_DEVICE_IDS")
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "2")
    cluster.join()
    assert not set_to


def test_flags_name_all_or_nothing(joined):
    cluster.join("here:1234", 2, 1)
    assert joined == [("here:1234", 2, 1)]
    with pytest.raises(ValueError, match="go together"):
        cluster.join("here:1234", 2)
    with pytest.raises(ValueError, match="process_id=2 is not among"):
        cluster.join("here:1234", 2, 2)


def test_nobody_to_join_is_one_sentence(monkeypatch):
    def fail():
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(ValueError, match=r"--coordinator=HOST:PORT"):
        cluster.join()
