"""The command line of train.py: its flags, the config they make, what it says."""

import difflib
import os
import sys
from collections.abc import Mapping

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from agvm_jax.training import cluster
from agvm_jax.training.config_file import read_config
from agvm_jax.training.exit_code import ExitCode
from agvm_jax.training.run_folder import check_places

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file("config", lock_config=True)
flags.DEFINE_bool("traceback", False, "Show the traceback of an input error.")
flags.DEFINE_bool(
    "distributed",
    None,
    "Join the other processes of the run, found from the cluster's environment (TPU"
    " pods, Slurm, Open MPI). By default so where srun or mpirun started several.",
)
flags.DEFINE_string(
    "coordinator", "", "HOST:PORT of process 0, where nothing finds it."
)
flags.DEFINE_integer("num_processes", 0, "Of the run; goes with --coordinator.")
flags.DEFINE_integer("process_id", -1, "This one's, from 0; goes with --coordinator.")
flags.DEFINE_string(
    "compile_for",
    "",
    "Do not train: compile the step for this machine, such as tpu:v5e:16x16 or"
    " cuda:a100:96x8 (hosts x GPUs), and say what it takes. Needs no such machine.",
)


def parse(arguments: list[str]) -> ConfigDict:
    """Returns the final config.

    Raises:
      ValueError: an unknown key or an unusable value; the message names it.
    """
    try:
        FLAGS(arguments)
        if FLAGS.config is None:
            raise ValueError(
                "there is no config: python train.py --config configs/quickstart.py"
            )
        config = FLAGS.config.copy_and_resolve_references()
    except (AttributeError, KeyError) as error:
        # ml_collections tells of an unknown key by its last part alone.
        raise ValueError(_unknown_key(arguments) or str(error).strip("'\"")) from error
    except (TypeError, flags.Error) as error:
        sentence = _wrong_variant(arguments) or str(error).strip("'\"")
        raise ValueError(sentence) from error
    except OSError as error:
        # ml_collections tells of a file that is not there when it is first asked for.
        name = _config_file(arguments).partition(":")[0]
        reason = "there is no such file" if not os.path.exists(name) else error
        raise ValueError(f"the config {name} cannot be read: {reason}") from error
    if len(config.image_size) == 1:
        config.image_size = (config.image_size[0], config.image_size[0])
    check_places(config)
    return config


def _unknown_key(arguments: list[str]) -> str:
    """Returns a sentence about the first key that the config file does not have."""
    options = [a.lstrip("-").partition("=") for a in arguments if a.startswith("--")]
    known = _keys(read_config(_config_file(arguments)))
    for name, _, _ in options:
        key = name.removeprefix("config.")
        if key != name and key not in known:
            near = difflib.get_close_matches(key, known, n=3, cutoff=0.75)
            hint = f": did you mean {' or '.join(near)}?" if near else ""
            return f"--config.{key}: there is no such key{hint}"
    return ""


def _wrong_variant(arguments: list[str]) -> str:
    """Returns a sentence about FILE:VARIANT where the file does not have that."""
    path = _config_file(arguments)
    if ":" in path:
        try:
            read_config(path)
        except ValueError as error:
            return str(error)
    return ""


def _config_file(arguments: list[str]) -> str:
    """What --config says, "" where it is not there."""
    if "--config" in arguments[:-1]:
        return arguments[arguments.index("--config") + 1]
    options = [a.lstrip("-").partition("=") for a in arguments if a.startswith("--")]
    files = [value for name, _, value in options if name == "config" and value]
    return files[-1] if files else ""


def _keys(config: ConfigDict, prefix: str = "") -> list[str]:
    found = []
    for name, value in config.items(preserve_field_references=True):
        found.append(f"{prefix}{name}")
        if isinstance(value, ConfigDict):
            found += _keys(value, f"{prefix}{name}.")
    return found


def machine_to_compile_for() -> str:
    """Returns what --compile_for says, "" where a run is to be trained."""
    return FLAGS.compile_for


def join() -> None:
    """Joins the other processes of a run, if there are any.

    Raises:
      ValueError: they cannot be found, or the flags about them do not fit.
    """
    by_hand = FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id
    wanted = FLAGS.distributed
    if wanted is None:
        wanted = by_hand != ("", 0, -1) or cluster.started_together() > 1
    if wanted:
        cluster.join(*by_hand)


def introduce(facts: Mapping[str, str]) -> None:
    """Prints what was derived from the config, so that nobody has to guess it.

    Args:
      facts: topic -> what is to be known of it; "" is left out. The first process says
        it for all.
    """
    if jax.process_index() == 0:
        for topic, fact in facts.items():
            if fact:
                print(f"{topic:<12}" + fact.replace("\n", "\n" + " " * 12))
        sys.stdout.flush()


def leave(code: ExitCode) -> int:
    """Ends all processes together; the first to go alone would take others along."""
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()
    return code


def complain(error: Exception) -> int:
    """Says in one sentence what was wrong with the input."""
    if FLAGS.is_parsed() and FLAGS.traceback:
        raise error
    print(f"error: {error}", file=sys.stderr)
    return ExitCode.INPUT
