"""What the simulator images: a probe, layered tissue, and at most one lesion with a smooth irregular outline."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from sonodistill_training.corpus.acoustics import Probe

LABELS = ("cyst", "hypoechoic", "hyperechoic", "none")
PROBES = ("linear", "convex")

_TISSUE_LOSS_DB_PER_MM_MHZ = 0.05  # 0.5 dB / cm / MHz, the usual figure for soft tissue
_ANECHOIC_DB = -70.0


@dataclass(frozen=True)
class Lesion:
    """A closed outline: an ellipse whose radius is scaled by 1 + sum of a_k cos(k angle) + b_k sin(k angle).

    Attributes:
        label: one of ``LABELS`` but "none".
        x_mm, z_mm: centre, from the probe's axis and from the lowest point of its surface.
        radius_mm: mean radius across.
        aspect: height over width.
        tilt: rotation, radians.
        cosines, sines: Fourier coefficients from the second harmonic on, as fractions of the radius.
        echo_db: echogenicity inside, relative to the tissue.
        loss: attenuation inside as a multiple of the tissue's: 0 in fluid.
        edge_mm: width over which the boundary blends.
    """

    label: str
    x_mm: float
    z_mm: float
    radius_mm: float
    aspect: float
    tilt: float
    cosines: tuple[float, ...]
    sines: tuple[float, ...]
    echo_db: float
    loss: float
    edge_mm: float

    def signed_distance(self, x_mm: NDArray, z_mm: NDArray) -> NDArray[np.float32]:
        """Approximate distance to the outline along the ray from the centre, mm; negative inside."""
        dx, dz = x_mm - np.float32(self.x_mm), z_mm - np.float32(self.z_mm)
        across = dx * np.float32(np.cos(self.tilt)) + dz * np.float32(np.sin(self.tilt))
        along = (dz * np.float32(np.cos(self.tilt)) - dx * np.float32(np.sin(self.tilt))) / np.float32(self.aspect)
        stretched = np.hypot(across, along)
        # cos and sin of every harmonic as powers of one unit phasor: cheaper than a cosine each.
        phasor = (across + 1j * along) / np.maximum(stretched, np.float32(1e-6))
        outline, power = np.ones_like(stretched), phasor
        for cosine, sine in zip(self.cosines, self.sines, strict=True):
            power = power * phasor
            outline += np.float32(cosine) * power.real + np.float32(sine) * power.imag
        scale = np.hypot(dx, dz) / np.maximum(stretched, np.float32(1e-6))
        return (stretched - np.float32(self.radius_mm) * outline) * scale


@dataclass(frozen=True)
class Calcification:
    """A bright reflector, ``half_width_mm`` to each side of (x, z), that casts an acoustic shadow."""

    x_mm: float
    z_mm: float
    half_width_mm: float


@dataclass(frozen=True)
class Scene:
    """Everything that is drawn, but for the random scatterers.

    Attributes:
        tissue_db: ``probe.map_shape`` echogenicity of the background, dB.
        near_field_db: ``probe.map_shape`` echogenicity of the skin and the line below it, which stay with the probe.
        loss: the tissue's attenuation as a multiple of what the scanner's gain compensation assumes.
        noise_db: electronic noise at the deepest row relative to tissue; it falls towards the probe with the gain.
        gain_db, dynamic_range_db: mean gray of 0 dB tissue below white, and the range shown.
    """

    probe: Probe
    lesion: Lesion | None
    calcifications: tuple[Calcification, ...]
    tissue_db: NDArray[np.float32]
    near_field_db: NDArray[np.float32]
    loss: float
    noise_db: float
    gain_db: float
    dynamic_range_db: float

    @property
    def compensated_db_per_mm(self) -> float:
        """Attenuation that the time gain compensation assumes, one way."""
        return _TISSUE_LOSS_DB_PER_MM_MHZ * self.probe.frequency_mhz

    def maps(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Echogenicity (dB) and one-way attenuation (dB / mm), each ``probe.map_shape``."""
        x, z = self.probe.map_mm()
        echo = np.maximum(self.tissue_db, self.near_field_db)
        loss = np.full(echo.shape, self.loss * self.compensated_db_per_mm, np.float32)
        if self.lesion is not None:
            distance = self.lesion.signed_distance(x, z)
            inside = 1 / (1 + np.exp(np.clip(distance / np.float32(self.lesion.edge_mm / 4), -30, 30)))
            texture = np.float32(0.0 if self.lesion.label == "cyst" else 0.4) * self.tissue_db
            echo += inside * (np.float32(self.lesion.echo_db) + texture - echo)
            loss += inside * np.float32((self.lesion.loss - self.loss) * self.compensated_db_per_mm)
            if self.lesion.label == "cyst":
                echo = np.maximum(echo, _wall(self.lesion, distance, x, z))
        for spot in self.calcifications:
            thickness = 0.35 * spot.half_width_mm
            shape = ((x - spot.x_mm) / spot.half_width_mm) ** 2 + ((z - spot.z_mm) / thickness) ** 2
            body = np.exp(-(shape**2)).astype(np.float32)
            echo = np.maximum(echo, 24 * body + _ANECHOIC_DB * (body < 0.2))
            # Its lower face takes out 16 dB one way whatever its thickness; the upper one is what is seen.
            lower = np.where(z > spot.z_mm, 2 * body, 0)
            loss += lower * np.float32(16 / (2 * thickness))
        return echo, loss

    def drifted(self, lines: int, rows: int) -> Scene:
        """The scene with tissue and lesion moved by whole scan lines across and map rows down; the near field stays."""
        position, depth_mm = 2 * lines / self.probe.lines, rows * self.probe.depth_mm / self.probe.map_shape[1]
        spots = tuple(replace(spot, **_moved(self.probe, spot, position, depth_mm)) for spot in self.calcifications)
        lesion = self.lesion and replace(self.lesion, **_moved(self.probe, self.lesion, position, depth_mm))
        tissue = np.roll(self.tissue_db, (lines, rows), axis=(0, 1))
        return replace(self, lesion=lesion, calcifications=spots, tissue_db=tissue)


def random_scene(
    generator: np.random.Generator, size: tuple[int, int], probe: str | None = None, label: str | None = None
) -> Scene:
    """Draw a scene; what is not given (``probe``: "linear" or "convex", ``label``: one of ``LABELS``) is drawn too."""
    drawn_probe, drawn_label = str(generator.choice(PROBES)), str(generator.choice(LABELS, p=(5 / 18,) * 3 + (1 / 6,)))
    transducer = _random_probe(generator, probe or drawn_probe, size)
    label = label or drawn_label
    lesion = None if label == "none" else _random_lesion(generator, transducer, label)
    return Scene(
        probe=transducer,
        lesion=lesion,
        calcifications=_random_calcifications(generator, transducer, lesion),
        tissue_db=_random_tissue(generator, transducer),
        near_field_db=_near_field(generator, transducer),
        loss=generator.uniform(1.0, 1.3),
        noise_db=generator.uniform(-36, -26),
        gain_db=generator.uniform(-37, -30),
        dynamic_range_db=generator.uniform(55, 65),
    )


def _random_probe(generator: np.random.Generator, kind: str, size: tuple[int, int]) -> Probe:
    height, width = size
    if kind == "linear":
        depth = generator.uniform(35, 50)
        return Probe(
            kind,
            depth_mm=depth,
            width_mm=depth * width / height,
            frequency_mhz=generator.uniform(6.5, 9.0),
            focus_mm=depth * generator.uniform(0.35, 0.65),
        )
    depth = generator.uniform(95, 140)
    return Probe(
        kind,
        depth_mm=depth,
        radius_mm=generator.uniform(40, 60),
        half_angle=np.deg2rad(generator.uniform(27, 36)),
        frequency_mhz=generator.uniform(2.8, 4.2),
        focus_mm=depth * generator.uniform(0.35, 0.65),
        f_number=2.5,
    )


def _random_lesion(generator: np.random.Generator, probe: Probe, label: str) -> Lesion:
    smooth = 0.4 if label == "cyst" else 1.0
    harmonics = np.arange(2, 7)
    size = smooth * 0.36 / harmonics**1.5
    coefficients = generator.normal(0, 1, (2, harmonics.size)) * size
    radius = probe.depth_mm * generator.uniform(0.08, 0.17)
    position = generator.uniform(-0.5, 0.5)
    x, z = probe.to_mm(position, probe.depth_mm * generator.uniform(0.32, 0.62))
    echo_db, loss, edge = {
        "cyst": (_ANECHOIC_DB, 0.0, 0.02),
        "hypoechoic": (generator.uniform(-18, -11), generator.uniform(0.8, 1.5), 0.08),
        "hyperechoic": (generator.uniform(8, 13), generator.uniform(0.9, 1.3), 0.08),
    }[label]
    return Lesion(
        label=label,
        x_mm=float(x),
        z_mm=float(z),
        radius_mm=radius,
        aspect=generator.uniform(0.6, 1.0),
        tilt=generator.uniform(-0.5, 0.5),
        cosines=tuple(coefficients[0].tolist()),
        sines=tuple(coefficients[1].tolist()),
        echo_db=echo_db,
        loss=loss,
        edge_mm=edge * radius,
    )


def _random_calcifications(
    generator: np.random.Generator, probe: Probe, lesion: Lesion | None
) -> tuple[Calcification, ...]:
    """None in most frames; else one to three, inside a hypoechoic lesion or in tissue away from the lesion."""
    count = int(generator.integers(1, 4)) if generator.random() < 0.3 else 0
    found = []
    for _ in range(count):
        half_width = probe.depth_mm * generator.uniform(0.008, 0.018)
        if lesion is not None and lesion.label == "hypoechoic":
            x = lesion.x_mm + lesion.radius_mm * generator.uniform(-0.5, 0.5)
            z = lesion.z_mm + lesion.radius_mm * generator.uniform(-0.1, 0.4)
        else:
            position = generator.uniform(-0.85, 0.85)
            x, z = (float(v) for v in probe.to_mm(position, probe.depth_mm * generator.uniform(0.25, 0.7)))
            if lesion is not None and abs(x - lesion.x_mm) < 1.8 * lesion.radius_mm:
                continue  # its shadow would hide the lesion
        found.append(Calcification(x, z, half_width))
    return tuple(found)


def _random_tissue(generator: np.random.Generator, probe: Probe) -> NDArray[np.float32]:
    """Slow changes of echogenicity, layers along the skin, and bright strands along the zeros of a wavy field."""
    shape = probe.map_shape
    linear = probe.kind == "linear"
    slow = 2.5 * _smooth_field(generator, shape, 5, 5)
    layers = generator.uniform(2.0, 4.0) * (1.0 if linear else 0.5) * _smooth_field(generator, shape, 2, 9)
    turns = generator.uniform(3.0, 6.0) if linear else generator.uniform(1.5, 3.0)
    depth = probe.depths_mm[None] * np.float32(2 * np.pi * turns / probe.depth_mm)
    strand = np.sin(depth + np.float32(1.3) * _smooth_field(generator, shape, 3, 5))
    strength = np.clip(_smooth_field(generator, shape, 6, 8) - (0.1 if linear else 0.5), 0, 1.5)
    strands = np.exp(-((strand / np.float32(0.13 * turns / 4)) ** 2)) * strength * np.float32(14 if linear else 11)
    return slow + layers + strands


def _near_field(generator: np.random.Generator, probe: Probe) -> NDArray[np.float32]:
    """Skin: a bright line at the transducer with a second one below; -100 dB (nothing) elsewhere."""
    depth = probe.depths_mm / probe.depth_mm
    thickness = generator.uniform(0.025, 0.04)
    first = 12 * np.exp(-((depth / 0.012) ** 2)) + 6 * np.exp(-(((depth - thickness) / 0.006) ** 2))
    line = np.where(depth < 1.6 * thickness, first, -100.0).astype(np.float32)
    return np.repeat(line[None], probe.map_shape[0], axis=0)


def _smooth_field(
    generator: np.random.Generator, shape: tuple[int, int], across: int, down: int
) -> NDArray[np.float32]:
    """Random field of about unit variance with some ``across`` x ``down`` independent values over ``shape``."""
    coarse = generator.standard_normal((across + 3, down + 3), dtype=np.float32)
    return 1.3 * cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)


def _wall(lesion: Lesion, distance: NDArray, x: NDArray, z: NDArray) -> NDArray[np.float32]:
    """Echo of a cyst's wall, dB: brightest where it faces the beam, at the top and the bottom."""
    facing = ((z - lesion.z_mm) / np.maximum(np.hypot(x - lesion.x_mm, z - lesion.z_mm), 1e-6)) ** 4
    near = np.exp(-((distance / (0.04 * lesion.radius_mm)) ** 2))
    return (12 * facing - 60 * (1 - near)).astype(np.float32)


def _moved(probe: Probe, item: Lesion | Calcification, position: float, depth_mm: float) -> dict[str, float]:
    """New centre after a move in beam coordinates."""
    if probe.kind == "linear":
        return {"x_mm": item.x_mm + position * probe.width_mm / 2, "z_mm": item.z_mm + depth_mm}
    radius = np.hypot(item.x_mm, item.z_mm + probe.radius_mm) + depth_mm
    angle = np.arctan2(item.x_mm, item.z_mm + probe.radius_mm) + position * probe.half_angle
    return {"x_mm": float(radius * np.sin(angle)), "z_mm": float(radius * np.cos(angle) - probe.radius_mm)}
