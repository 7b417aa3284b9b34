"""The best evaluation, and those since."""

import math

from agvm_jax.training.standing import evaluations_without_gain, is_best


def test_of_equals_the_later_is_the_best_and_nan_never_is():
    assert is_best(0.5, {}) and is_best(0.5, {1: 0.5}) and is_best(-1.0, {1: math.nan})
    assert not is_best(0.4, {1: 0.5, 2: math.nan}) and not is_best(math.nan, {})


def test_an_evaluation_that_is_as_good_is_no_gain():
    values = {2: 0.1, 4: 0.3, 6: 0.3, 8: math.nan, 10: 0.2}
    assert evaluations_without_gain(values) == 3
    assert evaluations_without_gain(values | {12: 0.31}) == 0
    assert evaluations_without_gain({2: math.nan, 4: math.nan}) == 2
    assert evaluations_without_gain({}) == 0
