"""Time, input rate and cost of a training run, from the cost of its training step."""

import dataclasses
from collections import Counter

import ml_collections

from dist_jax.cost.chips import TpuSlice
from dist_jax.cost.collectives import Collective
from dist_jax.cost.cycles import REST, Cycles
from dist_jax.training.step_plan import StepPlan


@dataclasses.dataclass(frozen=True)
class RunEstimate:
    """The estimates for one configuration on one TPU slice. Times are those of the compiler's cost model."""

    config: ml_collections.FrozenConfigDict
    tpu_slice: TpuSlice
    cycles: Cycles  # of the training step on one chip

    @property
    def step_seconds(self) -> float:
        """Time of a training step, without collectives and waiting for input."""
        return self.cycles.total / self.tpu_slice.chip.clock

    @property
    def clips_per_second(self) -> float:
        """Training clips per second of the whole slice."""
        return self.config.batch_size / self.step_seconds

    @property
    def frames_per_host(self) -> float:
        """JPEG frames per second that each host must decode while it trains."""
        return self.clips_per_second * self.config.model.num_frames / self.tpu_slice.num_hosts

    @property
    def forward_seconds(self) -> float:
        """Time of the forward passes of a training step: as long as an evaluation of the same clips."""
        cycles = sum(row.cycles for row in self.cycles.instructions if row.module != REST and not row.is_backward)
        return cycles / self.tpu_slice.chip.clock

    def training_hours(self, train_videos: int) -> float:
        """Hours of all training steps. Raises UserError if the warm-up is as long as the run."""
        return StepPlan(self.config, train_videos).num_steps * self.step_seconds / 3600

    def evaluation_hours(self, train_videos: int, val_videos: int) -> float:
        """Hours of all evaluations: all views of all validation videos, after every `eval.every_epochs`."""
        plan, options = StepPlan(self.config, train_videos), self.config.eval
        clips = plan.num_evals * val_videos * options.num_views * options.num_crops
        return clips / self.config.batch_size * self.forward_seconds / 3600


def collective_summary(found: list[Collective]) -> str:
    """E.g. "17 all-reduce (105.2 MB)"; executions and bytes, per step and device."""
    executions, sizes = Counter[str](), Counter[str]()
    for collective in found:
        executions[collective.kind] += collective.num_executions
        sizes[collective.kind] += collective.bytes
    parts = [f"{executions[kind]} {kind} ({size / 1e6:.1f} MB)" for kind, size in sizes.most_common()]
    return ", ".join(parts) or "none"


def collective_seconds(found: list[Collective], tpu_slice: TpuSlice) -> float:
    """Time of the collectives if the links between the chips are fully used and nothing else runs."""
    sizes = (collective.bytes * (2 if collective.kind == "all-reduce" else 1) for collective in found)
    return sum(sizes) / tpu_slice.chip.link_bandwidth
