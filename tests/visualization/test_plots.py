"""Reading metrics.jsonl however it was left, and drawing it."""

import dataclasses
import json

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from agvm_jax.visualization.charts import new_figure
from agvm_jax.visualization.plots import (
    PANELS,
    SHORT,
    Series,
    draw_panel,
    plot_run,
    read_metrics,
    smooth,
)


def write_run(path, steps=40):
    with open(path, "w", encoding="utf-8") as file:
        for step in range(steps):
            line = {"step": step, "loss": 1 / (step + 1), "loss/box": 0.5, "lr": 0.1}
            line |= {"phi/backbone": 0.3, "phi/fpn": 0.1, "mu/backbone": 1.0}
            line |= {"mu/fpn": 1.0 + step / 100, "images_per_second": 80.0}
            line |= {"grad_norm": 2.0, "grad_norm/fpn": 1.0, "noise_scale/all": 64.0}
            file.write(json.dumps(line) + "\n")
            if step % 10 == 9:
                file.write(json.dumps({"step": step, "eval/AP": step / 100}) + "\n")
    return path


def test_metrics_become_series_by_name(tmp_path):
    metrics = read_metrics(write_run(tmp_path / "metrics.jsonl"))
    np.testing.assert_array_equal(metrics["loss"].steps, np.arange(40))
    np.testing.assert_allclose(metrics["loss"].values, 1 / np.arange(1, 41))
    np.testing.assert_array_equal(metrics["eval/AP"].steps, [9, 19, 29, 39])
    assert "step" not in metrics


def test_nan_null_text_and_broken_lines_are_survived(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 0, "loss": NaN, "note": "hi", "done": true}\n'
        "\n"
        '{"step": 1, "loss": null, "lr": 0.5}\n'
        "[1, 2]\n"
        '{"loss": 9.0}\n'
        '{"step": NaN, "loss": 9.0}\n'
        '{"step": "three", "loss": 9.0}\n'
        '{"step": 2, "loss": 0.25}\n'
        '{"step": 3, "lo',
        encoding="utf-8",
    )
    metrics = read_metrics(path)
    assert set(metrics) == {"loss", "lr"}
    np.testing.assert_array_equal(metrics["loss"].steps, [0, 1, 2])
    np.testing.assert_array_equal(metrics["loss"].values, [np.nan, np.nan, 0.25])
    np.testing.assert_array_equal(metrics["lr"].values, [0.5])


def test_a_resumed_run_replaces_the_steps_that_it_repeats(tmp_path):
    path = tmp_path / "metrics.jsonl"
    before = [{"step": s, "loss": 1.0} for s in (0, 10, 20, 30)]
    after = [{"step": s, "loss": 2.0} for s in (15, 25)]
    path.write_text("\n".join(map(json.dumps, before + after)), encoding="utf-8")
    series = read_metrics(path)["loss"]
    np.testing.assert_array_equal(series.steps, [0, 10, 15, 25])
    np.testing.assert_array_equal(series.values, [1.0, 1.0, 2.0, 2.0])


def slow_smooth(values, width):
    kept = [v for v in values if np.isfinite(v)]
    mirrored = kept[2:0:-1] + kept + kept[-2:-4:-1]
    medians = [sorted(mirrored[i : i + 5])[2] for i in range(len(kept))]
    half = width // 2
    means = iter(
        np.mean(medians[max(i - half, 0) : i + half + 1]) for i in range(len(medians))
    )
    return [next(means) if np.isfinite(v) else np.nan for v in values]


@pytest.mark.parametrize("width", [1, 5, 8])
def test_smoothing_equals_its_definition_written_slowly(width):
    values = np.random.default_rng(width).normal(size=30)
    values[[3, 17]] = np.nan, np.inf
    np.testing.assert_allclose(smooth(values, width), slow_smooth(values, width))


def test_smoothing_ignores_one_wild_step_and_leaves_a_straight_line_alone():
    line = np.linspace(1, 0, 50)
    # A median of five mirrored values shifts only the two entries at each end.
    np.testing.assert_allclose(smooth(line, 5)[4:-4], line[4:-4], atol=1e-12)
    wild = line.copy()
    wild[[0, 25]] = 1e6
    assert smooth(wild, 5).max() < 1.1
    assert np.isnan(smooth(np.full(9, np.nan), 5)).all()


def test_every_panel_and_the_overview_are_drawn_as_png(tmp_path):
    paths = plot_run(
        write_run(tmp_path / "metrics.jsonl"), tmp_path / "plots", ["AP", "AP50"]
    )
    names = [
        "loss",
        "lr",
        "phi",
        "mu",
        "validation",
        "noise_scale",
        "grad_norm",
        "speed",
    ]
    names.append("overview")
    assert paths == [tmp_path / "plots" / f"{name}.png" for name in names]
    for path in paths:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L"))
        assert image.format == "PNG"
        assert min(pixels.shape) > 300
        assert (pixels < 128).any()
    with Image.open(paths[-1]) as overview, Image.open(paths[0]) as first:
        assert overview.size == (4 * first.width, 2 * first.height)
        corner = overview.crop((0, 0, *first.size))
        assert corner.tobytes() == first.tobytes()


def test_panels_without_a_number_are_not_drawn(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 0, "loss": 1.0, "phi/fpn": null}\n{"step": 0, "eval/AP": -1.0}\n',
        encoding="utf-8",
    )
    assert plot_run(path, tmp_path, ["AP"]) == [tmp_path / "loss.png"]
    path.write_text("", encoding="utf-8")
    assert plot_run(path, tmp_path, ["AP"]) == []


def test_a_panel_shows_its_metrics_in_its_unit_with_gaps_where_nothing_is_defined():
    steps = np.arange(3)
    metrics = {
        "loss": Series(steps, np.array([3.0, np.nan, 1.0])),
        "loss/b": Series(steps, np.array([1.0, 1.0, np.inf])),
        "loss/a": Series(steps, np.full(3, np.nan)),
        "eval/AP": Series(steps, np.array([-1.0, 0.0, 0.5])),
        "noise_scale/fpn": Series(steps, np.array([-4.0, 0.0, 8.0])),
    }
    loss = PANELS["loss"].labels(metrics)
    assert list(loss) == ["loss", "b"]
    np.testing.assert_array_equal(loss["b"].values, [1.0, 1.0, np.nan])
    panel = dataclasses.replace(PANELS["validation"], names=("eval/AP",))
    ap = panel.labels(metrics)["AP"].values
    np.testing.assert_array_equal(ap, [np.nan, 0.0, 50.0])
    noise = PANELS["noise_scale"].labels(metrics)["fpn"].values
    np.testing.assert_array_equal(noise, [np.nan, np.nan, 8.0])
    assert PANELS["mu"].labels(metrics) == {}


def test_mu_has_its_reference_line_at_one_inside_the_image():
    axes = new_figure(4, 3).add_subplot()
    metrics = {"mu/fpn": Series(np.arange(30), np.linspace(2, 3, 30))}
    draw_panel(axes, PANELS["mu"], metrics, last_step=29)
    dashed = [line for line in axes.lines if set(line.get_ydata()) == {1.0}]
    assert len(dashed) == 1
    low, high = axes.get_ylim()
    assert low < 1 < 3 <= high


def test_long_curves_are_smoothed_over_the_raw_ones_and_short_ones_are_not():
    values = np.random.default_rng(0).normal(5, 1, 200)
    for count, lines in ((SHORT, 1), (200, 2)):
        axes = new_figure(4, 3).add_subplot()
        series = Series(np.arange(count), values[:count])
        draw_panel(axes, PANELS["speed"], {"images_per_second": series}, count)
        assert len(axes.lines) == lines
        np.testing.assert_array_equal(axes.lines[0].get_ydata(), series.values)
    assert np.std(axes.lines[1].get_ydata()) < 0.5


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300, 9e37, 1e-38, 0.0, -1.0])
def test_strange_values_draw_without_a_warning(tmp_path, value):
    figure = new_figure(9, 3)
    steps = np.arange(70.0)
    strange = np.full(70, value)
    metrics = {
        "loss": Series(steps, np.where(steps > 0, value, 1.0)),
        "lr": Series(steps, strange),
        "grad_norm": Series(steps, strange),
    }
    for k, name in enumerate(("loss", "lr", "grad_norm"), 1):
        draw_panel(figure.add_subplot(1, 3, k), PANELS[name], metrics, last_step=69)
    FigureCanvasAgg(figure).draw()


def test_all_panels_have_the_same_steps_below_them():
    axes = new_figure(4, 3).add_subplot()
    metrics = {"lr": Series(np.arange(3), np.ones(3))}
    draw_panel(axes, PANELS["lr"], metrics, last_step=500)
    assert axes.get_xlim() == (0, 510)


def test_a_long_run_is_smoothed_over_a_fortieth_of_it():
    values = np.random.default_rng(0).normal(5, 1, 4000)
    axes = new_figure(4, 3).add_subplot()
    series = Series(np.arange(4000), values)
    draw_panel(axes, PANELS["speed"], {"images_per_second": series}, 3999)
    np.testing.assert_array_equal(axes.lines[1].get_ydata(), smooth(values, 100))
