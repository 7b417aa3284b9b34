"""What a program costs, from its text: by hand, and beside loops over a convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from agvm_jax.compiling.collectives import collectives
from agvm_jax.compiling.program_cost import convolution_flops, costs, runs_of
from agvm_jax.compiling.program_text import arrays_of, parse

# One device's program: a map of 4x8x8x128 is read by a convolution, five times a window
# of one row is read and added up, and a loop of unknown length negates 128 numbers.
PROGRAM = """\
HloModule jit_step, is_scheduled=true

FileNames
1 "/home/someone/models/ops/conv.py"
2 "/home/someone/models/ops/roi_align.py"
3 "/somewhere/lax.py"

FunctionNames
1 "f"

FileLocations
1 {file_name_id=1 function_name_id=1 line=7 end_line=7 column=1 end_column=2}
2 {file_name_id=2 function_name_id=1 line=9 end_line=9 column=1 end_column=2}
3 {file_name_id=3 function_name_id=1 line=3 end_line=3 column=1 end_column=2}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=2}

%fused_conv (p: f32[4,8,8,128], k: f32[3,3,128,128]) -> f32[4,8,8,128] {
  %p = f32[4,8,8,128]{3,2,1,0} parameter(0)
  %k = f32[3,3,128,128]{3,2,1,0} parameter(1)
  ROOT %conv = f32[4,8,8,128]{3,2,1,0} convolution(%p, %k), \
window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f
}

%fused_row (q: f32[4,8,8,128], i: s32[]) -> f32[8,128] {
  %q = f32[4,8,8,128]{3,2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  %row = f32[1,1,8,128]{3,2,1,0} dynamic-slice(%q, %i, %zero, %zero, %zero), \
dynamic_slice_sizes={1,1,8,128}
  ROOT %flat = f32[8,128]{1,0} bitcast(%row)
}

%body (t: (s32[], f32[4,8,8,128], f32[8,128])) -> (s32[], f32[4,8,8,128], f32[8,128]) {
  %t = (s32[], f32[4,8,8,128]{3,2,1,0}, f32[8,128]{1,0:T(8,128)S(1)}) parameter(0)
  %n = s32[] get-tuple-element(%t), index=0
  %map = f32[4,8,8,128]{3,2,1,0} get-tuple-element(%t), index=1
  %sum = f32[8,128]{1,0:T(8,128)S(1)} get-tuple-element(%t), index=2
  %one = f32[8,128]{1,0:T(8,128)S(1)} fusion(%map, %n), kind=kLoop, \
calls=%fused_row, metadata={stack_frame_id=3}, \
backend_config={"estimated_cycles":"100"}
  %more = f32[8,128]{1,0:T(8,128)S(1)} add(%sum, %one), \
metadata={stack_frame_id=3}
  ROOT %next = (s32[], f32[4,8,8,128]{3,2,1,0}, f32[8,128]{1,0}) tuple(%n, %map, %more)
}

%condition (t: (s32[], f32[4,8,8,128], f32[8,128])) -> pred[] {
  %bound = s32[] constant(5)
  %t = (s32[], f32[4,8,8,128]{3,2,1,0}, f32[8,128]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%t), index=0
  ROOT %less = pred[] compare(%n, %bound), direction=LT
}

%open_body (t: (s32[], f32[128])) -> (s32[], f32[128]) {
  %t = (s32[], f32[128]{0}) parameter(0)
  %n = s32[] get-tuple-element(%t), index=0
  %v = f32[128]{0} get-tuple-element(%t), index=1
  %w = f32[128]{0} negate(%v), metadata={stack_frame_id=2}
  ROOT %next = (s32[], f32[128]{0}) tuple(%n, %w)
}

%open_condition (t: (s32[], f32[128])) -> pred[] {
  %t = (s32[], f32[128]{0}) parameter(0)
  %n = s32[] get-tuple-element(%t), index=0
  ROOT %less = pred[] compare(%n, %n), direction=LT
}

ENTRY %main (x: f32[4,8,8,128], k: f32[3,3,128,128]) -> f32[4,8,8,128] {
  %x = f32[4,8,8,128]{3,2,1,0} parameter(0)
  %k = f32[3,3,128,128]{3,2,1,0} parameter(1)
  %y = f32[4,8,8,128]{3,2,1,0} fusion(%x, %k), kind=kOutput, calls=%fused_conv, \
metadata={stack_frame_id=1}, backend_config={"estimated_cycles":"4000"}
  %tuple.1 = (s32[], f32[4,8,8,128]{3,2,1,0}, f32[8,128]{1,0}) tuple(%x, %y, %k)
  %while.1 = (s32[], f32[4,8,8,128]{3,2,1,0}, f32[8,128]{1,0}) while(%tuple.1), \
condition=%condition, body=%body
  %tuple.2 = (s32[], f32[128]{0}) tuple(%x, %y)
  %while.2 = (s32[], f32[128]{0}) while(%tuple.2), condition=%open_condition, \
body=%open_body, metadata={stack_frame_id=2}
  ROOT %z = f32[4,8,8,128]{3,2,1,0} copy(%y)
}
"""


def test_costs_are_added_up_by_file_and_by_turns():
    found, guessed = costs(PROGRAM, {"models/ops/roi_align.py": 3})
    assert guessed == {"models/ops/roi_align.py"}
    whole, kernel, row = 4 * 4 * 8 * 8 * 128, 4 * 9 * 128 * 128, 4 * 8 * 128
    product = found.pop((True, "models/ops/conv.py"))
    assert product.bytes == 2 * whole + kernel
    assert product.cycles == 4000
    taps = (2 * 2 + 6 * 3) ** 2  # places of 3x3 that lie inside 8x8
    assert product.flops == 2 * 4 * taps * 128 * 128
    # Five rows are read; what stays on the chip moves nothing. Three times 128 numbers
    # are read and written.
    other = found.pop((False, "models/ops/roi_align.py"))
    assert other.bytes == 5 * (row + 4) + 3 * 2 * 4 * 128
    assert other.flops == 5 * 8 * 128 + 3 * 128
    assert other.cycles == 500
    copy = found.pop((False, "the compiler's own"))
    assert (copy.bytes, copy.flops) == (2 * whole, 0) and not found


def test_seconds_are_the_longer_of_operating_and_moving_for_each_instruction():
    plain, _ = costs(PROGRAM)
    product = plain[True, "models/ops/conv.py"]
    rates = product.flops, product.bytes / 3  # its bytes take three seconds
    timed, _ = costs(PROGRAM, rates=rates)
    assert timed[True, "models/ops/conv.py"].seconds == 3
    assert product.seconds == 0
    rows = plain[False, "models/ops/roi_align.py"]
    slow = timed[False, "models/ops/roi_align.py"].seconds
    # Rows take their bytes, their sum on the chip its operations.
    assert slow > max(rows.flops / rates[0], rows.bytes / rates[1])


def test_what_a_loop_sends_is_sent_each_turn():
    text = PROGRAM.replace(
        "  %more = f32[8,128]",
        "  %sum_of_all = f32[8,128]{1,0} all-reduce(%one), replica_groups={{0,1}}\n"
        "  %more = f32[8,128]",
    )
    runs = runs_of(text)
    assert runs["main"] == 1 and runs["body"] == 5 and runs["open_body"] == 1
    assert runs_of(text, {"models/ops/roi_align.py": 3})["open_body"] == 3
    (one,) = collectives(text, 2)
    (five,) = collectives(text, 2, runs)
    assert one.moved == 4 * 8 * 128 and five.moved == 5 * one.moved


@pytest.mark.parametrize(
    ("text", "size", "on_chip"),
    [
        ("f32[2,3]{1,0}", 24, False),
        ("bf16[4,209664,4]{2,1,0:T(8,128)(2,1)}", 4 * 209664 * 128 * 2, False),
        ("bf16[4,209664,4]{1,2,0:T(4,128)(2,1)S(1)}", 4 * 4 * 209664 * 2, True),
        ("f32[100]{0:T(128)}", 512, False),
        ("pred[]{:T(512)}", 1, False),
    ],
)
def test_arrays_take_whole_tiles(text, size, on_chip):
    (array,) = arrays_of(text)
    assert (array.bytes, array.on_chip) == (size, on_chip)


def slow_flops(side, size, stride, low, hole, spread):
    """Multiply and add, place by place, wherever a tap meets a number."""
    out = (hole * (side - 1) + 1 + 2 * low - spread * (size - 1) - 1) // stride + 1
    met = [
        (place, tap)
        for place in range(out)
        for tap in range(size)
        if 0 <= (at := place * stride - low + tap * spread) <= hole * (side - 1)
        and at % hole == 0
    ]
    return out, 2 * len(met)


@pytest.mark.parametrize(
    ("size", "stride", "low", "hole", "spread"),
    [
        (3, 1, 1, 1, 1),
        (3, 2, 1, 1, 1),
        (7, 2, 3, 1, 1),
        (3, 1, 1, 2, 1),
        (2, 1, 3, 1, 4),
    ],
)
def test_the_operations_of_a_convolution_leave_padding_out(
    size, stride, low, hole, spread
):
    side = 11
    out, expected = slow_flops(side, size, stride, low, hole, spread)
    attributes = (
        f"window={{size={size} stride={stride} pad={low}_{low} lhs_dilate={hole}"
        f" rhs_dilate={spread}}}, dim_labels=b0f_0io->b0f"
    )
    found = convolution_flops((5, side, 3), (size, 3, 4), (5, out, 4), attributes)
    assert found == expected * 5 * 3 * 4


def test_a_compiled_program_has_the_operations_of_its_loop():
    def run(x):
        return lax.fori_loop(0, 5, lambda _, y: jnp.tanh(y @ y), x)

    text = jax.jit(run).lower(jnp.zeros((64, 64))).compile().as_text()
    found, guessed = costs(text)
    flops = sum(cost.flops for (product, _), cost in found.items() if product)
    assert flops == pytest.approx(5 * 2 * 64**3, rel=0.05)
    assert not guessed


def test_a_text_without_a_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        parse("HloModule nothing\n")


def test_shapes_are_those_of_the_program():
    program = parse(PROGRAM)
    y = next(i for i in program.computations["main"] if i.name == "y")
    assert y.arrays[0].shape == (4, 8, 8, 128)
    assert y.operands == ["x", "k"] and y.attribute("calls") == "fused_conv"
    assert np.prod(y.arrays[0].shape) * 4 == y.arrays[0].bytes
