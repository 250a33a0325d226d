"""The programs whose cost is measured or estimated, and their cost as their compiler states it."""

import dataclasses
import re
import time
from collections.abc import Callable

import jax
from jax.stages import Traced

from dist_jax.cost import collectives, cycles, flops, hlo, traffic
from dist_jax.cost.chips import TpuChip
from dist_jax.cost.collectives import Collective
from dist_jax.cost.cycles import Cycles
from dist_jax.cost.fine_tuning import FineTunedModel
from dist_jax.errors import UserError
from dist_jax.model_setup import ModelSetup
from dist_jax.models.backbones.clip import ClipBackbone
from dist_jax.models.layers import matmul_precision
from dist_jax.training import memory
from dist_jax.training.compiled_step import abstract_state, batch_shapes, make_train_step, trace_step
from dist_jax.training.memory import StepMemory
from dist_jax.training.optimizer import lr_schedule

FROZEN_FORWARD, TRAIN, FULL_FINE_TUNING = PROGRAMS = ("frozen forward", "train", "full fine-tuning")


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of a compiled program."""

    flops: int  # of all devices, see cost.flops
    bytes: int  # moved in the memory of one device, see cost.traffic
    memory: StepMemory  # of one device
    collectives: list[Collective]
    cycles: Cycles  # of one device
    compile_seconds: float


def trace(name: str, setup: ModelSetup) -> Traced:
    """Traces one of PROGRAMS for the batch size of `setup`."""
    if name == FROZEN_FORWARD:
        return _trace_frozen_forward(setup)
    if name == FULL_FINE_TUNING:
        setup = fine_tuning(setup)
    train_step = make_train_step(setup, lr_schedule(setup.config.optimizer, 1.0, 1.0))
    return trace_step(train_step, setup, abstract_state(train_step, setup.mesh))


def fine_tuning(setup: ModelSetup) -> ModelSetup:
    """The setup of a training of all backbone parameters, with everything else as in `setup`.

    Raises:
        UserError: the backbone is not CLIP.
    """
    if not isinstance(setup.model.backbone, ClipBackbone):
        raise UserError(f"full fine-tuning is written for CLIP; {setup.config.backbone.weights} is another backbone")
    model = FineTunedModel(
        **{field.name: getattr(setup.model, field.name) for field in dataclasses.fields(setup.model)}
    )
    return dataclasses.replace(setup, model=model, frozen={"logit_scale": setup.frozen["logit_scale"]})


def _trace_frozen_forward(setup: ModelSetup) -> Traced:
    """The features of a batch of clips: (frozen parameters, video) -> features [L_selected, S, B, 1+N, D]."""
    model = setup.model
    train_step = make_train_step(setup, lr_schedule(setup.config.optimizer, 1.0, 1.0))
    video = batch_shapes(train_step, setup.mesh, setup.num_classes)["video"]

    def frozen_forward(frozen: dict, video: jax.Array) -> jax.Array:
        return model.features(frozen, model.normalize(video))

    with matmul_precision(model.dtype):
        return jax.jit(frozen_forward).trace(setup.frozen, video)


def module_names(name: str) -> Callable[[str], str]:
    """The function of `cycles.estimate` that names the module of an op_name, for one of PROGRAMS."""
    return _fine_tuning_module if name == FULL_FINE_TUNING else cycles.training_module


def _fine_tuning_module(op_name: str) -> str:
    if "TrainedVision" not in op_name:
        return cycles.REST
    return "backbone backward" if "transpose(" in op_name else "backbone forward"


def compile_cost(traced: Traced, chip: TpuChip, module_of: Callable[[str], str] = cycles.training_module) -> Cost:
    """Compiles a program and returns its cost.

    Args:
        traced: see `trace`.
        chip: of the devices that it is compiled for.
        module_of: see `cycles.estimate`.

    Raises:
        memory.TooLarge: the compiler reports that the program does not fit into memory.
    """
    start = time.perf_counter()
    compiled = memory.compile_program(traced)
    seconds = time.perf_counter() - start
    module = hlo.parse(compiled.as_text() or "")
    return Cost(
        flops=flops.count(traced.jaxpr),
        bytes=traffic.count(module),
        memory=memory.step_memory(compiled),
        collectives=collectives.collectives(module),
        cycles=cycles.estimate(module, module_of, chip),
        compile_seconds=seconds,
    )


def needed_memory(error: memory.TooLarge) -> str:
    """What the compiler says about the memory of a program that does not fit, e.g. "17.40G of 15.75G"."""
    text = str(error.__cause__)
    match = re.search(r"Used ([\d.]+[KMG]) of ([\d.]+[KMG])", text) or re.search(
        r"\(([\d.]+[KMG])\) exceeds available \w+ \(([\d.]+[KMG])\)", text
    )
    return f"{match[1]} of {match[2]}" if match else "more than the memory of a chip"
