"""python -m dist_jax.plan: invalid commands end with one line; with libtpu, a small run is planned."""

import re

import pytest
from helpers import training_run
from helpers.small_step import CONFIG, HAS_LIBTPU, assert_one_line, small_run

# Name -> (flags, expected part of the message).
INVALID = {
    "no topology": ([CONFIG], "--topology is missing; for example --config="),
    "no configuration": (["--topology=v5e-8"], "--config is missing"),
    "unknown topology": ([CONFIG, "--topology=v7-8"], "--topology=v7-8: unknown; the known TPU slices are v4-8, 16"),
    "unknown size": ([CONFIG, "--topology=v5e-9"], "there is no such slice; the known v5e slices are v5e-1, 4, 8"),
    "negative price": ([CONFIG, "--topology=v5e-8", "--price=-1"], "--price=-1: must be USD per chip-hour"),
    "price without number": ([CONFIG, "--topology=v5e-8", "--price=nan"], "--price=nan: must be USD per chip-hour"),
    "no videos": ([CONFIG, "--topology=v5e-8", "--train-videos=0"], "--train_videos=0: must be at least 1"),
    "stray argument": ([CONFIG, "v5e-8"], "unexpected arguments v5e-8"),
    "unknown quantisation": (
        [CONFIG, "--topology=v5e-8", "--config.backbone.quantize=int4"],
        "backbone.quantize='int4': must be one of '', 'int8', 'fp8'",
    ),
    "price of backbones": (
        [CONFIG, "--topology=v5e-8", "--price=1", "--backbones=openai/clip-vit-base-patch16"],
        "--price has no effect with --backbones; remove one of them",
    ),
    "unknown field": ([CONFIG, "--topology=v5e-8", "--config.bach_size=8"], "no field 'bach_size'"),
}
# As above; only the TPU compiler knows the devices.
INVALID_WITH_DEVICES = {
    "mesh": (["--config.mesh.fsdp=3"], "mesh.data=-1, mesh.fsdp=3, mesh.tensor=1 do not fill 8 devices"),
    "batch": (["--config.batch_size=20", "--config.mix.group_size=2"], "batch_size=20 is not divisible by 8 devices"),
    "evaluation batch": (["--config.eval.batch_size=3"], "eval.batch_size=3 is not divisible by 8 devices"),
    "unknown weights": (
        ["--config.backbone.weights=some/clip"],
        "some/clip: its sizes are not known; use a local copy",
    ),
    "missing weights": (["--config.backbone.weights=no/such/folder"], "no/such/folder: no such file or directory"),
    "block": (["--config.backbone.layers=(0,12)"], "openai/clip-vit-base-patch16 has blocks 0 to 11"),
    "tensor": (["--config.mesh.tensor=8"], "is not divisible by mesh.tensor=8"),
    "backbones and mesh": (["--config.mesh.fsdp=3", "--backbones=a,b"], "mesh.fsdp=3, mesh.tensor=1 do not fill 8"),
    "unknown backbone": (["--backbones=openai/clip-vit-base-patch16,some/clip"], "some/clip: its sizes are not known"),
    "backbone given twice": (["--backbones=a,b,a"], "--backbones: a is given several times; remove all but one"),
    "no backbone": (["--backbones="], "--backbones=: must be names of backbones, separated by commas"),
    "warm-up": (["--config.epochs=2"], "optimizer.warmup_epochs=6 is not less than the 2 epochs"),
}


@pytest.fixture(scope="module")
def outcomes():
    """Name -> exit status and output."""
    lines = {name: flags for name, (flags, _) in INVALID.items()}
    if HAS_LIBTPU:
        common = [CONFIG, "--topology=v5e-8"]
        lines |= {name: [*common, *flags] for name, (flags, _) in INVALID_WITH_DEVICES.items()}
    results = training_run.run_mains(list(lines.values()), module="dist_jax.plan")
    return dict(zip(lines, results, strict=True))


@pytest.mark.xdist_group("plan")  # one process runs the commands of the fixture
@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_command_is_refused_with_one_line(name, outcomes):
    assert_one_line(outcomes[name], INVALID[name][1])


@pytest.mark.xdist_group("plan")
@pytest.mark.skipif(not HAS_LIBTPU, reason="needs libtpu")
@pytest.mark.parametrize("name", INVALID_WITH_DEVICES)
def test_settings_that_do_not_fit_the_slice_are_refused_with_one_line(name, outcomes):
    assert_one_line(outcomes[name], INVALID_WITH_DEVICES[name][1])


@pytest.mark.slow
@pytest.mark.skipif(not HAS_LIBTPU, reason="needs libtpu")
def test_a_small_run_is_planned_with_the_tpu_compiler(tmp_path):
    flags = [*small_run(tmp_path), "--price=2", "--nolargest_batch"]
    ((status, output),) = training_run.run_mains([flags], module="dist_jax.plan")
    assert status == 0, output
    assert "on v5e-4 (2x2, 4 chips, 1 host), mesh data 4 x fsdp 1 x tensor 1" in output
    assert re.search(r"^memory       fits: 0\.\d\d GiB per device .* of 15.75 GiB", output, re.M)
    assert re.search(r"^collectives  per step: \d+ all-reduce", output, re.M)
    assert re.search(r"estimated by the compiler, not measured \(\d+ M cycles at 1.5 GHz\)", output)
    assert "168913 training records, 760108 steps of 8 clips (36 epochs)" in output
    cost = re.search(
        r"^cost         ([\d.]+) hours, ([\d,]+) chip-hours: ([\d,]+) USD at 2 per chip-hour", output, re.M
    )
    assert float(cost[2]) == pytest.approx(4 * float(cost[1]), abs=1)
    assert float(cost[3]) == pytest.approx(8 * float(cost[1]), abs=2)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_LIBTPU, reason="needs libtpu")
def test_backbones_are_the_rows_of_a_table(tmp_path):
    flags = small_run(tmp_path / "a")
    small_run(tmp_path / "b")
    names = [str(tmp_path / "a"), str(tmp_path / "b")]
    ((status, output),) = training_run.run_mains([[*flags, f"--backbones={','.join(names)}"]], module="dist_jax.plan")
    assert status == 0, output
    assert "\n2+4 frames, batch_size=8 (2 clips per chip and step), on v5e-4" in f"\n{output}"
    rows = [re.split(r" *\| *", line)[1:-1] for line in output.splitlines() if line.startswith("|")][2:]
    assert [row[0] for row in rows] == names
    assert rows[0][1:] == rows[1][1:]  # the same sizes
    pixels, tokens, _, _, memory, _, clips_per_second = rows[0][1:]
    assert (pixels, tokens) == ("8", "5")
    assert 0 < float(memory) < 1
    assert float(clips_per_second) > 0
