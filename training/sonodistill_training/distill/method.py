"""Distillation step of paper A: one augmented view, mixed, through a frozen teacher and the student (Eq. 1-7)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sonodistill import __version__
from sonodistill.errors import BundleConfigError
from sonodistill.networks.encoder import Encoder, plain_state_dict
from sonodistill.weights import WeightsInfo, save_weights
from sonodistill_training.distill.augment import finish, mixup
from sonodistill_training.distill.engine import Engine, OpenVinoEngine, TorchEngine, make_engine, prepare_student
from sonodistill_training.distill.objective import ChannelStatistics, Objective
from sonodistill_training.distill.teacher import Teacher, check_grids, combined_notice
from sonodistill_training.distill.threads import Threads, share_threads

HIDDEN = 2048
MIXUPS = ("batch", "sample", "off")


class Projector(nn.Sequential):
    """``g_phi`` of Eq. 3, per location: one linear layer (sections 3.2, 3.3), or two (section 3.5).

    (B, C_S, H_S, W_S) -> (B, dim, H_S, W_S).
    """

    def __init__(self, channels: int, dim: int, layers: int = 1) -> None:
        if layers not in (1, 2):
            raise ValueError(f"a projector has 1 or 2 layers, not {layers}")
        hidden = [nn.Conv2d(channels, HIDDEN, 1), _ChannelNorm(HIDDEN), nn.GELU()] if layers == 2 else []
        super().__init__(*hidden, nn.Conv2d(HIDDEN if layers == 2 else channels, dim, 1))
        for module in self:
            if isinstance(module, nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]


class _ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of a (B, C, H, W) map."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class StudentWithProjectors(nn.Module):
    """Eq. 2 and 3: encoder and projectors, one for each teacher and supervised map.

    What Eq. 3 does after it, resizing to the teacher's grid, is the objective's. Projecting first gives the same
    numbers as resizing first (a linear layer commutes with interpolation) at a fraction of the cost.

    Args:
        dims: channels of each teacher.
        levels: how many of the student's last maps are supervised; the paper's is the last alone.
    """

    def __init__(self, student: Encoder, dims: Sequence[int], projector_layers: int = 1, levels: int = 1) -> None:
        super().__init__()
        if not 1 <= levels <= len(student.channels):
            raise BundleConfigError(
                f"levels is {levels}, but {student.name} has {len(student.channels)} maps", remedy="give 1 to that many"
            )
        self.student = student
        self.levels = levels
        self.projectors = nn.ModuleList(
            Projector(channels, dim, projector_layers) for dim in dims for channels in student.channels[-levels:]
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 1, H, W) in [0, 1] -> (B, dim, H_S, W_S) for each teacher's levels, the coarsest last."""
        maps = self.student.pyramid(images)[-self.levels :]
        return [projector(maps[number % self.levels]) for number, projector in enumerate(self.projectors)]


class Distillation:
    """The method the training loop runs.

    Args:
        teacher: frozen, one or several; neither trained nor saved. The losses of several are averaged.
        student: any encoder.
        projector_layers: 1, or 2 for the "two-layer MLP" of section 3.5.
        mixup: Eq. 7 with one lambda for a "batch" (the paper), for each "sample", or "off".
        objective: by default the paper's.
        levels: how many of the student's last maps are supervised.
        grid: the teacher's tokens are averaged to this many a side; None keeps them.
        seed: of mixup's draws, which depend on nothing else but the step.
        corpus_sha256: of the frames, written into the student's file.
        teacher_engine: what computes the teacher, see :func:`make_engine`.
        student_engine: what computes the student, see :func:`prepare_student`.
        teacher_threads: of those that torch has, for OpenVINO; None: see :func:`share_threads`.
    """

    def __init__(
        self,
        teacher: Teacher | Sequence[Teacher],
        student: Encoder,
        projector_layers: int = 1,
        mixup: str = "batch",
        objective: Objective | None = None,
        levels: int = 1,
        grid: int | None = None,
        seed: int = 0,
        corpus_sha256: str = "",
        input_size: int = 224,
        teacher_engine: str = "auto",
        student_engine: str = "auto",
        teacher_threads: int | None = None,
    ) -> None:
        if mixup not in MIXUPS:
            raise BundleConfigError(f"unknown mixup {mixup}", remedy=f"choose one of {', '.join(MIXUPS)}")
        self.teachers = [teacher] if isinstance(teacher, Teacher) else list(teacher)
        check_grids(self.teachers, input_size, student.reductions[-1])
        self.network = StudentWithProjectors(student, [t.dim for t in self.teachers], projector_layers, levels)
        self.objective = objective or Objective()
        if self.objective.normalisation == "standardize":
            self.network.statistics = nn.ModuleList(ChannelStatistics(t.dim) for t in self.teachers)
        self.mixup = mixup
        self.grid = grid
        self.seed = seed
        self.corpus_sha256 = corpus_sha256
        self.input_size = input_size
        self.teacher_engine = teacher_engine
        self.student_engine = student_engine
        self.teacher_threads = teacher_threads
        self._engines: list[Engine] = [TorchEngine(teacher, bf16=False) for teacher in self.teachers]

    def prepare(self, device: torch.device, bf16: bool) -> None:
        """Move the networks. Convolutions of the student run channels-last, which is faster on CPU and GPU.

        Where OpenVINO computes the teacher, torch is left the threads that the student is to have.
        """
        for teacher in self.teachers:
            teacher.to(device)
        self.network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        threads = self.threads_of(torch.get_num_threads()) if bf16 and device.type == "cpu" else None
        of_teacher = threads.teacher if threads else None
        self._engines = [
            make_engine(teacher, device, bf16, self.input_size, self.teacher_engine, of_teacher)
            for teacher in self.teachers
        ]
        if threads and all(isinstance(engine, OpenVinoEngine) for engine in self._engines):
            torch.set_num_threads(threads.student)
        prepare_student(self.network.student, device, bf16, self.student_engine, self.network.levels)

    def threads_of(self, total: int) -> Threads:
        """How the cores are shared by teacher and student, which work at the same time."""
        if self.teacher_threads is None:
            return share_threads(self.teachers, self.network.student, self.input_size, total)
        if not 1 <= self.teacher_threads <= total:
            raise BundleConfigError(
                f"teacher_threads is {self.teacher_threads}, and there are {total}", remedy=f"give 1 to {total}"
            )
        return Threads(self.teacher_threads, max(1, total - self.teacher_threads))

    def begin(self, batch: Mapping[str, Tensor], step: int) -> dict[str, Any]:
        """The mixed views of a batch, and its targets, which are computed meanwhile where the engine can.

        Args:
            batch: ``image`` (B, 1, H, W) uint8 and what the device is to do to it (see :func:`finish`).
        """
        images = finish(batch)
        if self.mixup != "off":
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
            images = mixup(images, generator, per_sample=self.mixup == "sample")
        return {"images": images, "targets": self.start_targets(images)}

    def step(self, network: nn.Module, batch: Mapping[str, Any], step: int) -> dict[str, Tensor]:
        """Losses of what :meth:`begin` makes of a batch, or of the batch itself.

        ``loss`` is the mean over teachers and supervised maps; the other values are those of the last teacher and map.
        """
        if "targets" not in batch:
            batch = self.begin(batch, step)
        images, targets = batch["images"], batch["targets"]()  # Eq. 4: (B, n * d_T, h, w) each
        predictions = network(images.contiguous(memory_format=torch.channels_last))  # Eq. 5: the same view
        levels = len(predictions) // len(targets)
        values: dict[str, Tensor] = {}
        losses = []
        for number, target in enumerate(targets):
            statistics = self._statistics(number, target)
            for prediction in predictions[number * levels : (number + 1) * levels]:
                values = self.objective(prediction, target, statistics)
                losses.append(values["loss"])
        return values | {"loss": torch.stack(losses).mean()}

    def start_targets(self, images: Tensor) -> Callable[[], list[Tensor]]:
        """Begin to compute the (B, D, h, w) tokens of each teacher; the result's call waits for them."""
        waiting = [engine.start(images) for engine in self._engines]

        def targets() -> list[Tensor]:
            found = [tokens() for tokens in waiting]
            return (
                found if self.grid is None else [functional.adaptive_avg_pool2d(tokens, self.grid) for tokens in found]
            )

        return targets

    def targets(self, images: Tensor) -> list[Tensor]:
        """(B, D, h, w) tokens of each teacher."""
        return self.start_targets(images)()

    def _statistics(self, number: int, target: Tensor) -> ChannelStatistics | None:
        if self.objective.normalisation != "standardize":
            return None
        statistics: ChannelStatistics = self.network.statistics[number]  # type: ignore[index,assignment]
        statistics.update(target)
        return statistics

    @staticmethod
    def encoder(network: nn.Module) -> nn.Module:
        """The part of ``network`` (or of a copy of it) that is the product."""
        return network.student  # type: ignore[return-value]

    def identity(self) -> dict[str, Any]:
        """What makes it this distillation and no other."""
        return {
            "teacher": "+".join(teacher.name for teacher in self.teachers),
            "student": self.network.student.name,
            "projector": [type(layer).__name__ for layer in self.network.projectors[0]],  # type: ignore[union-attr]
            "levels": self.network.levels,
            "objective": repr(self.objective),
            "mixup": self.mixup,
            "grid": self.grid,
            "input_size": self.input_size,
            "corpus_sha256": self.corpus_sha256,
        }

    def export(self, path: Path, network: nn.Module | None = None, record: Mapping[str, Any] | None = None) -> None:
        """Write the student of ``network`` (an average of it, say) alone: no projector, no teacher.

        Args:
            record: further fields of the header: recipe, metrics, licences of the corpus, version of the code.
        """
        student: Any = self.encoder(network or self.network)
        info = WeightsInfo(
            kind="encoder",
            architecture=student.name,
            normalisation=student.input.normalisation,
            input_size=(self.input_size, self.input_size),
            teacher=self.identity()["teacher"],
            corpus_hash=self.corpus_sha256,
            licence_notice=combined_notice(self.teachers),
            version=__version__,
            **(record or {}),
        )
        save_weights(path, plain_state_dict(student), info)
