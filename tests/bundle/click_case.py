"""Bright ellipses of which the clicks say which is meant, and a network that learns that in seconds."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from sonodistill.networks.click import ClickSegmenter
from sonodistill.weights import WeightsInfo, save_weights
from sonodistill_training.finetune.clicks import SimulatedClicks

SIDE = 64
ENCODER = "test_convnext"


def ellipse(centre: tuple[float, float], axes: tuple[float, float], side: int = SIDE) -> NDArray[np.bool_]:
    """(side, side): a filled one, centre (x, y) and half axes in pixels."""
    mask = np.zeros((side, side), np.uint8)
    cv2.ellipse(mask, (tuple(map(float, centre)), (2.0 * axes[0], 2.0 * axes[1]), 0.0), 1, -1)
    return mask.astype(bool)


def picture(masks: list[NDArray[np.bool_]], seed: int = 0) -> NDArray[np.uint8]:
    """The structures, bright and all alike, on dark speckle."""
    rng = np.random.default_rng(seed)
    image = np.where(np.any(masks, axis=0), 150.0, 50.0) + rng.normal(0, 12, masks[0].shape)
    return np.clip(cv2.GaussianBlur(image, (0, 0), 1), 0, 255).astype(np.uint8)


def scene(rng: np.random.Generator) -> tuple[NDArray[np.uint8], list[NDArray[np.bool_]]]:
    """An image and its two or three ellipses, which do not touch."""
    masks: list[NDArray[np.bool_]] = []
    wanted = int(rng.integers(2, 4))
    while len(masks) < wanted:
        new = ellipse(tuple(rng.uniform(10, SIDE - 10, 2)), tuple(rng.uniform(5, 10, 2)))
        if not any((cv2.dilate(new.astype(np.uint8), np.ones((5, 5))) > 0)[mask].any() for mask in masks):
            masks.append(new)
    return picture(masks, int(rng.integers(1 << 30))), masks


def trained_network(path: Path, steps: int = 130, batch: int = 8) -> Path:
    """Weights of an interactive segmenter of such ellipses: one is meant, or all of them."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = ClickSegmenter(ENCODER, width=16).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    clicks = SimulatedClicks(rounds=3, precision="fp32")
    for _ in range(steps):
        images, truths = [], []
        for _ in range(batch):
            image, masks = scene(rng)
            images.append(image)
            truths.append(np.any(masks, axis=0) if rng.random() < 0.25 else masks[0])
        x = torch.from_numpy(np.stack(images)[:, None]).float() / 255
        truth = torch.from_numpy(np.stack(truths)[:, None]).float()
        logits = clicks(x, network, truth)
        probability = torch.sigmoid(logits)
        overlap = 2 * (probability * truth).sum() / (probability.sum() + truth.sum())
        loss = 1 - overlap + torch.nn.functional.binary_cross_entropy_with_logits(logits, truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    info = WeightsInfo("interactive", ENCODER, network.encoder.input.normalisation, (SIDE, SIDE), ("ellipse",))
    save_weights(path, network.state_dict(), info)
    return path
