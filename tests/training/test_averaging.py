"""The average of the weights, and a run that ends when it gains no more."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_loop import run
from toy_run import comparable, make_experiment, replaced

from agvm_jax.training.averaging import check_decay, moved
from agvm_jax.training.loop import train_and_evaluate
from agvm_jax.training.mesh import data_mesh
from agvm_jax.training.partition import Partition
from agvm_jax.training.restoring import saved_steps
from models.weights.files import read_notes, read_weights

AVERAGED = {"train.ema_decay": 0.5}


def weights(folder, name="weights"):
    return read_weights(folder / f"{name}.safetensors")


def test_the_average_is_that_of_numpy(tmp_path):
    """One run a step, so that the weights after each are known; step 3 is skipped."""
    bad, settings = (2,), AVERAGED | {"optim.lr": 0.05}
    steps = []
    for count in range(1, 7):
        folder = tmp_path / str(count)
        run(folder, stop_at=count, bad=bad, settings=settings)
        steps.append(weights(folder))
    start = make_experiment(tmp_path / "start").start.state().params
    average = {name: np.float64(value) for name, value in start.items()}
    for step, after in enumerate(steps):
        if step in bad:
            continue
        decay = min(0.5, (1 + step) / (10 + step))
        for name, value in after.items():
            average[name] = decay * average[name] + (1 - decay) * value
    found = weights(tmp_path / "6", "weights_average")
    for name, value in average.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5)
        assert not np.allclose(found[name], steps[-1][name], rtol=1e-4)


def test_statistics_move_along_and_what_is_no_number_is_taken():
    average = {"params": {"a": jnp.zeros(2)}, "model_state": {"n": jnp.int32(3)}}
    new = moved(average, {"a": jnp.ones(2)}, {"n": jnp.int32(7)}, jnp.int32(90), 0.9)
    np.testing.assert_allclose(new["params"]["a"], 0.1, rtol=1e-5)
    assert new["model_state"]["n"] == 7


def test_training_is_the_same_with_an_average(tmp_path):
    with_it, without = tmp_path / "with", tmp_path / "without"
    run(with_it, settings=AVERAGED)
    run(without)
    lines = comparable(with_it)
    assert [line["eval/average_score"] for line in lines if "eval/score" in line]
    assert not (without / "weights_average.safetensors").exists()
    for name, value in weights(without).items():
        np.testing.assert_array_equal(weights(with_it)[name], value)


@pytest.mark.parametrize("stop_at", [3, 4])
def test_a_run_with_an_average_goes_on_exactly(tmp_path, stop_at):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    run(straight, settings=AVERAGED)
    run(broken, stop_at=stop_at, settings=AVERAGED)
    assert run(broken, settings=AVERAGED).status == "finished"
    assert comparable(broken) == comparable(straight)
    for name in ("weights", "weights_average", "weights_best"):
        for path, value in weights(straight, name).items():
            np.testing.assert_array_equal(weights(broken, name)[path], value)


def test_the_better_of_the_two_is_the_best(tmp_path):
    """The score is of the weights themselves: of the raw ones it falls with steps."""
    settings = AVERAGED | {"train.keep_checkpoints": 1}
    experiment = make_experiment(tmp_path, settings=settings)
    scores = {2: (0.3, 0.1), 4: (0.2, 0.9), 6: (0.4, 0.5)}

    def evaluate(state):
        raw = np.array_equal(state.params["head"], now[int(state.step)])
        return {"score": scores[int(state.step)][0 if raw else 1]}

    now = {}
    step = experiment.model.step

    def remembering(state, feed, index):
        state, scalars = step(state, feed, index)
        now[index + 1] = np.array(state.params["head"])
        return state, scalars

    experiment = replaced(experiment, "evaluation", run=evaluate)
    experiment = replaced(experiment, "model", step=remembering)
    outcome = train_and_evaluate(experiment)
    assert outcome.results == {"score": 0.4, "average_score": 0.5}
    assert saved_steps(tmp_path / "checkpoints") == [4, 6]
    path = tmp_path / "weights_best.safetensors"
    assert read_notes(path) == {"step": "4", "score": "0.9"}
    assert not np.array_equal(weights(tmp_path, "weights_best")["head"], now[4])


def test_a_run_ends_when_it_gains_no_more(tmp_path, capsys):
    scores = {2: 0.3, 4: 0.5, 6: 0.5, 8: 0.4, 10: 0.9}
    settings = {"train.stop_after_evaluations_without_gain": 2}
    options = dict(steps=10, scores=scores)
    outcome = run(tmp_path, settings=settings, **options)
    assert (outcome.status, outcome.step) == ("finished", 8)
    assert outcome.results == {"score": 0.4}
    assert "score did not rise in 2 evaluations" in capsys.readouterr().out
    assert saved_steps(tmp_path / "checkpoints")[-1] == 8
    # The same command knows that it was finished; with more patience it goes on.
    again = run(tmp_path, settings=settings, **options)
    assert (again.status, again.step) == ("was finished", 8)
    more = {"train.stop_after_evaluations_without_gain": 3}
    assert run(tmp_path, settings=more, **options).step == 10
    assert [line["step"] for line in comparable(tmp_path) if "loss" in line] == [
        *range(1, 11)
    ]


def test_a_signal_before_the_last_evaluation_does_not_lose_the_end(tmp_path):
    scores = {2: 0.5, 4: 0.3, 6: 0.9}
    settings = {"train.stop_after_evaluations_without_gain": 1}
    options = dict(settings=settings, scores=scores)
    assert run(tmp_path, stop_at=4, **options).status == "interrupted"
    outcome = run(tmp_path, **options)
    assert (outcome.status, outcome.step) == ("finished", 4)


def test_a_decay_that_is_none_is_refused():
    assert check_decay(0.0) == "" and "0.99" in check_decay(0.99)
    for decay in (1.0, -0.1, 9.0):
        with pytest.raises(ValueError, match="below 1, such as 0.999"):
            check_decay(decay)


def test_an_average_belongs_to_a_sharded_state(tmp_path):
    state = make_experiment(tmp_path, settings=AVERAGED).start.state()
    partition = Partition(data_mesh(jax.devices()[:2], fsdp_size=2), "full", 1)
    specs = partition.state_specs(state)
    assert specs.average["params"] == specs.params
    assert any(spec != jax.P() for spec in jax.tree.leaves(specs.params))
    laid = partition.put(state)
    assert not laid.average["params"]["backbone"].is_fully_replicated
