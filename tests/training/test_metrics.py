"""What a run tells at its end about the batch it used."""

import json
import math

from agvm_jax.training.metrics import typical_noise_scales


def test_the_noise_scale_told_is_the_median_over_the_run(tmp_path):
    values = [10.0, 30.0, 20.0, None, 1000.0]
    lines = [
        {"step": i, "noise_scale/all": v, "noise_scale/fpn": None}
        for i, v in enumerate(values)
    ]
    lines.append({"step": 9, "eval/AP": 0.5})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text)
    scales = typical_noise_scales(tmp_path)
    assert scales == {"all": 30.0, "fpn": math.inf}


def test_a_run_that_measured_nothing_tells_nothing(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    assert typical_noise_scales(tmp_path) == {}
