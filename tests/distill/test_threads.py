"""Threads of teacher and student: in proportion to their work, or all for both."""

from __future__ import annotations

import pytest
import torch

from sonodistill.errors import BundleConfigError
from sonodistill.networks.encoder import Encoder
from sonodistill_training.distill.method import Distillation
from sonodistill_training.distill.teacher import load_teacher
from sonodistill_training.distill.threads import Threads, share_threads


@pytest.mark.parametrize(
    ("student", "size", "total", "expected"),
    [
        ("resnet18", 196, 2, Threads(1, 1)),  # 9.2 GFLOP forwards; 3.1, three times
        ("resnet18", 196, 16, Threads(8, 8)),
        ("resnet18", 112, 2, Threads(2, 2)),  # maps of 4 x 4, which a student computes slowly
        ("resnet50", 196, 2, Threads(2, 2)),  # twice the teacher's work: halves would be far from even
        ("resnet50", 196, 16, Threads(5, 11)),
        ("resnet18", 196, 1, Threads(1, 1)),
    ],
)
def test_threads_follow_the_work(student, size, total, expected):
    teacher = load_teacher("vit_small_patch14_dinov2", random=True, input_size=size)
    network = Encoder(student).train()
    assert share_threads([teacher], network, size, total) == expected
    assert network.training and all(module.num_batches_tracked == 0 for module in network.modules() if _counts(module))


def test_two_teachers_are_more_work_than_one():
    teacher = load_teacher("vit_tiny_patch16_224", random=True, input_size=224)
    student = Encoder("resnet18")
    one, three = (share_threads([teacher] * count, student, 224, 32) for count in (1, 3))
    assert one.teacher < three.teacher and one.teacher + one.student == three.teacher + three.student == 32


@pytest.mark.parametrize("threads", [0, 99])
def test_more_threads_than_there_are_are_refused(threads):
    teacher = load_teacher("vit_tiny_patch16_224", random=True, input_size=64)
    method = Distillation(teacher, Encoder("resnet18"), input_size=64, teacher_threads=threads)
    with pytest.raises(BundleConfigError, match=f"teacher_threads is {threads}"):
        method.prepare(torch.device("cpu"), bf16=True)


def _counts(module):
    return hasattr(module, "num_batches_tracked")
