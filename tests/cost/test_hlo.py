"""The text of compiled programs: instructions, loops, cycles, source lines. The stored text is libtpu's."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from dist_jax.cost import collectives, cycles, hlo, loops, traffic
from dist_jax.cost.chips import TPU_CHIPS

# Compiled for v5e:2x2: x [3 chunks, 512 rows (sharded over 4 chips), 256], bfloat16; five layers; per layer a loop over
# the chunks that computes tanh(x @ w) in a scope "ClipVision"; then their sum in a scope "DistNetwork".
NESTED = (Path(__file__).parent / "nested_loops.hlo").read_text()
CHIP = TPU_CHIPS["v5e"]


def times(text: str, opcode: str) -> list[int]:
    """Executions of all instructions with this opcode."""
    return [e.times for e in loops.executions(hlo.parse(text)) if e.instruction.opcode == opcode]


def test_an_instruction_has_its_parts():
    line = (
        "  ROOT %fusion.7 = (f32[4,2]{1,0:T(2,128)S(1)}, /*index=1*/bf16[]) fusion(%copy.1, %p.2), kind=kLoop, "
        'calls=%fused.3, metadata={op_name="jit(f)/add" stack_frame_id=2}, backend_config={"estimated_cycles":"123"}'
    )
    text = f"HloModule m\n\n%fused.3 () -> f32[] {{\n}}\n\nENTRY %main (a: f32[]) -> f32[] {{\n{line}\n}}\n"
    instruction = hlo.parse(text).computations["main"].root
    assert (instruction.name, instruction.opcode, instruction.operands) == ("fusion.7", "fusion", ("copy.1", "p.2"))
    assert [(a.dtype, a.sizes, a.on_chip, a.bytes) for a in instruction.arrays] == [
        ("f32", (4, 2), True, 32),
        ("bf16", (), False, 2),
    ]
    assert (instruction.op_name, instruction.estimated_cycles) == ("jit(f)/add", 123)
    assert instruction.called == {"calls": "fused.3"}


def test_a_text_without_entry_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.parse("HloModule nothing\n")


def test_loops_of_a_tpu_program_are_counted_from_their_conditions():
    assert "known_trip_count" not in NESTED
    trips = {e.times for e in loops.executions(hlo.parse(NESTED)) if e.instruction.estimated_cycles}
    assert trips == {1, 5, 15}


def nested_scans(outer: int, inner: int, reverse: bool):
    """A function with `outer` x `inner` executions of a matrix product."""

    def layer(x, w):
        return jax.lax.scan(lambda _, chunk: (None, jnp.sin(chunk @ w)), None, x, reverse=reverse)[1], None

    return lambda x: jax.lax.scan(layer, x, jnp.ones((outer, 4, 4)), reverse=reverse)[0]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("outer", "inner"), [(7, 3), (2, 11)])
def test_trip_counts_from_the_condition_equal_the_known_ones(outer, inner, reverse):
    text = jax.jit(nested_scans(outer, inner, reverse)).lower(jnp.ones((inner, 4, 4))).compile().as_text()
    assert f'"n":"{outer}"' in text
    without = re.sub(r'"known_trip_count":\{[^}]*\},?', "", text)
    assert "known_trip_count" not in without
    assert max(e.times for e in loops.executions(hlo.parse(text))) == outer * inner
    assert max(e.times for e in loops.executions(hlo.parse(without))) == outer * inner


def test_a_loop_may_take_its_trip_count_from_the_constants_of_the_loop_around_it():
    text = """HloModule m

%inner_body (p: (s32[], s32[])) -> (s32[], s32[]) {
  %p = (s32[], s32[]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %one = s32[] constant(1)
  %n = s32[] get-tuple-element(%p), index=1
  %next = s32[] add(%i, %one)
  ROOT %t = (s32[], s32[]) tuple(%next, %n)
}

%less (p: (s32[], s32[])) -> pred[] {
  %p = (s32[], s32[]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %n = s32[] get-tuple-element(%p), index=1
  ROOT %c = pred[] compare(%i, %n), direction=LT
}

%outer_body (p: (s32[], s32[])) -> (s32[], s32[]) {
  %p = (s32[], s32[]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %n = s32[] get-tuple-element(%p), index=1
  %zero = s32[] constant(0)
  %start = (s32[], s32[]) tuple(%zero, INNER)
  %inner = (s32[], s32[]) while(%start), condition=%less, body=%inner_body
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  ROOT %t = (s32[], s32[]) tuple(%next, %n)
}

ENTRY %main () -> (s32[], s32[]) {
  %zero = s32[] constant(0)
  %four = s32[] constant(4)
  %start = (s32[], s32[]) tuple(%zero, %four)
  ROOT %outer = (s32[], s32[]) while(%start), condition=%less, body=%outer_body
}
"""
    assert times(text.replace("INNER", "%n"), "add") == [16, 4]
    with pytest.raises(ValueError, match="trip count of the loop inner"):  # it changes with the outer counter
        times(text.replace("INNER", "%i"), "add")


def test_a_loop_with_an_unknown_trip_count_is_named():
    def until_small(x):
        with jax.named_scope("halving"):
            return jax.lax.while_loop(lambda x: jnp.sum(x) > 1.0, lambda x: x / 2, x)

    text = jax.jit(until_small).lower(jnp.ones(3)).compile().as_text()
    with pytest.raises(ValueError, match=r"trip count of the loop while.*halving.* is unknown"):
        list(loops.executions(hlo.parse(text)))


def test_the_loop_of_a_rejection_sampler_counts_once():
    text = jax.jit(lambda key: jax.random.beta(key, 0.8, 0.8)).lower(jax.random.key(0)).compile().as_text()
    assert times(text, "while")
    list(loops.executions(hlo.parse(text)))


def test_cycles_are_the_estimates_times_the_executions_by_module():
    module = hlo.parse(NESTED)
    result = cycles.estimate(module, cycles.training_module, CHIP)
    expected = sum(e.times * (e.instruction.estimated_cycles or 0) for e in loops.executions(module))
    assert result.total == expected == sum(row.cycles for row in result.instructions)
    assert result.by_module[cycles.TOWER] > 0
    assert result.by_module[cycles.DIST_FORWARD] > 0
    assert result.uncounted == {}
    row = max((row for row in result.instructions if row.module == cycles.TOWER), key=lambda row: row.cycles)
    assert (row.times, row.source) == (15, "/project/step.py:14")
    assert row.op_name.endswith("ClipVision/dot_general")


@pytest.mark.parametrize(
    ("op_name", "module"),
    [
        ("jit(step)/jvp(ClipVision.features)/while/body/blocks/mlp/dot_general", cycles.TOWER),
        ("jit(step)/jvp(DistNetwork)/while/body/layers/ffn/dot_general", cycles.DIST_FORWARD),
        ("jit(step)/transpose(jvp(DistNetwork))/while/body/layers/ffn/dot_general", cycles.DIST_BACKWARD),
        ("jit(step)/jvp(DistNetwork)/DistNetwork._pool/while/body/pooling/spatial/dot_general", cycles.POOLING),
        ("jit(step)/jvp(DistNetwork)/while/body/ClipVision.block/dot_general", cycles.TOWER),  # the innermost counts
        ("jit(step)/jvp()/mul", cycles.REST),
        ("", cycles.REST),
    ],
)
def test_the_module_of_an_instruction_is_the_innermost_scope(op_name, module):
    assert cycles.training_module(op_name) == module


def custom_call(config: str) -> hlo.Module:
    line = f'  ROOT %k = f32[4] custom-call(), custom_call_target="tpu_custom_call", backend_config={{{config}}}'
    return hlo.parse(f"HloModule m\n\nENTRY %main () -> f32[4] {{\n{line}\n}}\n")


def test_a_kernel_counts_by_its_own_operations_and_bytes():
    config = '"custom_call_config":{"cost_estimate":{"flops":"1970000000000","bytes_accessed":"1024"}}'
    assert cycles.estimate(custom_call(config), cycles.training_module, CHIP).total == 15_000_000  # 10 ms
    result = cycles.estimate(custom_call('"other":1'), cycles.training_module, CHIP)
    assert (result.total, result.uncounted) == (0, {"tpu_custom_call": 1})


def test_bytes_moved_are_operands_and_results_of_every_execution():
    x = jax.ShapeDtypeStruct((256, 256), jnp.float32)
    size = 4 * 256 * 256
    text = jax.jit(lambda x: x + 1.0).lower(x).compile().as_text()
    assert traffic.count(hlo.parse(text)) == 2 * size

    def rows(x):  # each iteration reads one row and writes one row
        return jax.lax.scan(lambda _, row: (None, jnp.sin(row)), None, x)[1]

    text = jax.jit(rows).lower(x).compile().as_text()
    assert 2 * size <= traffic.count(hlo.parse(text)) <= 6 * size


def test_arrays_on_chip_move_no_bytes():
    line = "  ROOT %a.1 = f32[256]{0:T(256)S(1)} add(%b.1, %c.1)"
    operands = "  %b.1 = f32[256]{0} parameter(0)\n  %c.1 = f32[256]{0:S(1)} parameter(1)"
    text = f"HloModule m\n\nENTRY %main () -> f32[256] {{\n{operands}\n{line}\n}}\n"
    assert traffic.count(hlo.parse(text)) == 1024


def test_collectives_in_loops_and_fusions_are_counted():
    (reduction,) = collectives.collectives(hlo.parse(NESTED))
    assert (reduction.kind, reduction.num_executions, reduction.bytes) == ("all-reduce", 1, 4)
    assert reduction.op_name == "jit(step)/DistNetwork/reduce_sum"
    text = (
        "HloModule m\n\n%f (p: f32[8]) -> f32[2] {\n  %p = f32[8] parameter(0)\n"
        "  ROOT %r = f32[2] reduce-scatter(%p), to_apply=%add\n}\n\n"
        "ENTRY %main (a: f32[8]) -> f32[2] {\n  %a = f32[8] parameter(0)\n"
        "  %g = (f32[8], f32[32], u32[], u32[]) all-gather-start(%a), dimensions={0}\n"
        "  %h = f32[32] all-gather-done(%g)\n  ROOT %s = f32[2] fusion(%a), kind=kCustom, calls=%f\n}\n"
    )
    found = collectives.collectives(hlo.parse(text))
    assert [(c.kind, c.bytes) for c in found] == [("all-gather", 128), ("reduce-scatter", 32)]
