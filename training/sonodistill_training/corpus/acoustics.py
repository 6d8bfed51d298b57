"""A thin acoustic model of a B-mode scanner: scatterers in, envelope lines out, and their scan conversion.

Beam data are arrays (lines, samples): one row per scan line, depth along it. The model is the classical linear one
(Bamber and Dickinson, Phys. Med. Biol. 25:463, 1980): the echo of a line is the scatterer field weighted by
echogenicity and attenuation, convolved with a pulse along the beam and with the beam profile across it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

SPEED_OF_SOUND_MM_PER_US = 1.54
_SAMPLES_PER_PERIOD = 4
_FRACTIONAL_BANDWIDTH = 0.6
_MARGIN_LINES = 16  # beyond each edge: the lateral convolution is circular, and its wrap falls in here
MAP_STEP = 4  # RF samples per row of an echogenicity map: maps are smooth, scatterers are not
_FWHM = 2.3548


@dataclass(frozen=True)
class Probe:
    """Transducer and image geometry.

    Attributes:
        kind: "linear" or "convex".
        depth_mm: imaged depth below the transducer surface.
        width_mm: footprint of a linear probe; unused by a convex one.
        radius_mm: radius of a convex probe's surface; 0 for a linear one.
        half_angle: half of a convex probe's sector, radians; 0 for a linear one.
        frequency_mhz: centre frequency of the pulse.
        focus_mm: depth of the (single) transmit focus.
        f_number: focal depth over aperture; the lateral width at the focus is wavelength x f_number (FWHM).
        lines: scan lines in the image.
    """

    kind: str
    depth_mm: float
    frequency_mhz: float
    focus_mm: float
    width_mm: float = 0.0
    radius_mm: float = 0.0
    half_angle: float = 0.0
    f_number: float = 2.0
    lines: int = 192

    @cached_property
    def wavelength_mm(self) -> float:
        """Wavelength at the centre frequency."""
        return SPEED_OF_SOUND_MM_PER_US / self.frequency_mhz

    @cached_property
    def samples(self) -> int:
        """RF samples along a line, a multiple of 16: four per period of the echo (half a wavelength of depth)."""
        return int(np.ceil(self.depth_mm / (self.wavelength_mm / 2 / _SAMPLES_PER_PERIOD) / 16)) * 16

    @property
    def map_shape(self) -> tuple[int, int]:
        """Shape of echogenicity and attenuation maps: (lines with both margins, depth rows)."""
        return self.lines + 2 * _MARGIN_LINES, self.samples // MAP_STEP

    @property
    def depths_mm(self) -> NDArray[np.float32]:
        """(rows,) depth of each row of a map."""
        rows = self.map_shape[1]
        return ((np.arange(rows) + 0.5) * (self.depth_mm / rows)).astype(np.float32)

    @property
    def line_positions(self) -> NDArray[np.float32]:
        """(lines with margins,) position of each line from -1 (left edge of the image) to 1 (right edge)."""
        index = np.arange(self.map_shape[0]) - _MARGIN_LINES + 0.5
        return (2 * index / self.lines - 1).astype(np.float32)

    def to_mm(self, position: NDArray | float, depth: NDArray | float) -> tuple[NDArray, NDArray]:
        """Beam coordinates to millimetres: (x from the axis, z below the surface's lowest point).

        Args:
            position: across the lines, -1 to 1.
            depth: along a line, mm from the surface.
        """
        if self.kind == "linear":
            return np.broadcast_arrays(np.asarray(position) * (self.width_mm / 2), depth)
        angle, radius = np.asarray(position) * self.half_angle, self.radius_mm + np.asarray(depth)
        return radius * np.sin(angle), radius * np.cos(angle) - self.radius_mm

    def map_mm(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(x, z) in millimetres of every element of a map, each of shape ``map_shape``."""
        return self.to_mm(self.line_positions[:, None], self.depths_mm[None, :])

    def lateral_sigma_lines(self, depth_mm: NDArray) -> NDArray:
        """Standard deviation of the beam profile in lines: narrowest at the focus, hyperbolic away from it.

        FWHM(z) = wavelength x F x sqrt(1 + ((z - focus) / z0)^2) with the depth of field z0 = 7 x wavelength x F^2.
        """
        depth_of_field = 7 * self.wavelength_mm * self.f_number**2
        fwhm_mm = self.wavelength_mm * self.f_number * np.sqrt(1 + ((depth_mm - self.focus_mm) / depth_of_field) ** 2)
        if self.kind == "linear":
            pitch_mm = self.width_mm / self.lines
        else:
            pitch_mm = 2 * self.half_angle * (self.radius_mm + depth_mm) / self.lines
        return fwhm_mm / _FWHM / pitch_mm


def beam_envelope(
    probe: Probe, scatterers: NDArray[np.float32], echo_db: NDArray[np.float32], loss_db: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Envelope of the beam-formed lines, before compression.

    Args:
        probe: the transducer.
        scatterers: ``(map_shape[0], probe.samples)`` independent standard normal strengths: the limit of many
            scatterers per resolution cell, so that uniform tissue gives fully developed (Rayleigh) speckle.
        echo_db: ``map_shape`` echogenicity, dB.
        loss_db: ``map_shape`` loss along the way there and back, after the scanner's gain compensation, dB.

    Returns:
        ``(lines, samples / 2)`` float32, mean square 1 for 0 dB tissue without loss.
    """
    gain = np.power(10.0, (echo_db - loss_db) / 20, dtype=np.float32)
    echo = scatterers * cv2.resize(gain, (probe.samples, gain.shape[0]), interpolation=cv2.INTER_LINEAR)

    # The one-sided Gaussian spectrum is pulse and Hilbert transform in one; read as the full spectrum of a signal of
    # half the length it is the analytic signal at every second sample, which is enough for its bandwidth.
    half = probe.samples // 2
    frequency = np.arange(half) / probe.samples * _SAMPLES_PER_PERIOD  # in units of the centre frequency
    pulse = np.exp(-0.5 * ((frequency - 1) / (_FRACTIONAL_BANDWIDTH / _FWHM)) ** 2).astype(np.float32)
    pulse *= np.sqrt(half / np.sum(pulse**2, dtype=np.float64)).astype(np.float32)
    analytic = np.fft.ifft(np.fft.rfft(echo, axis=1)[:, :half] * pulse, axis=1) / np.sqrt(2.0)

    depths = (np.arange(half) + 0.5) * (probe.depth_mm / half)
    beam = _beam_spectrum(echo.shape[0], probe.lateral_sigma_lines(depths))
    beamed = np.fft.ifft(np.fft.fft(analytic, axis=0) * beam, axis=0)[_MARGIN_LINES:-_MARGIN_LINES]
    return np.abs(beamed).astype(np.float32, copy=False)


def _beam_spectrum(lines: int, sigma_lines: NDArray) -> NDArray[np.float32]:
    """(lines, depths) Fourier transform of the Gaussian beam profile, scaled to unit energy at each depth."""
    frequency = np.fft.fftfreq(lines).astype(np.float32)
    exponent = (-2 * np.pi**2) * frequency[:, None] ** 2 * (sigma_lines.astype(np.float32) ** 2)[None, :]
    spectrum = np.exp(exponent)
    return spectrum / np.sqrt(np.mean(spectrum**2, axis=0, keepdims=True))


def round_trip_loss(probe: Probe, attenuation: NDArray[np.float32], compensated: float) -> NDArray[np.float32]:
    """Loss in dB at each element of a map: attenuation summed there and back along the beam, less the compensation.

    Tissue that attenuates less than the scanner assumes (fluid) comes out as enhancement behind it, tissue that
    attenuates more as a shadow. The result is smoothed across the lines because a beam is wider than a line.

    Args:
        probe: the transducer.
        attenuation: ``map_shape``, dB / mm at the centre frequency, one way.
        compensated: what the time gain compensation assumes, dB / mm, one way.
    """
    step_mm = probe.depth_mm / probe.map_shape[1]
    loss = np.cumsum(attenuation - np.float32(compensated), axis=1, dtype=np.float32) * np.float32(2 * step_mm)
    return cv2.blur(loss, (1, 5))  # width 1 along the depth, height 5 across the lines


def scan_convert(
    probe: Probe, beam_data: NDArray[np.float32], size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Beam data (lines, samples) to an (H, W) image with square pixels, and the (H, W) mask of the scanned region."""
    x_mm, z_mm = pixel_mm(probe, size)
    if probe.kind == "linear":
        position, depth = x_mm / (probe.width_mm / 2), z_mm
    else:
        radial = z_mm + probe.radius_mm
        position = np.arctan2(x_mm, radial) / probe.half_angle
        depth = np.hypot(x_mm, radial) - probe.radius_mm
    lines, samples = beam_data.shape
    sector = (np.abs(position) <= 1) & (depth >= 0) & (depth <= probe.depth_mm)
    column = (depth * (samples / probe.depth_mm) - 0.5).astype(np.float32)
    row = ((position + 1) * (lines / 2) - 0.5).astype(np.float32)
    image = cv2.remap(beam_data, column, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return image, sector


def mm_per_pixel(probe: Probe, size: tuple[int, int]) -> float:
    """Side of the image's square pixels, mm: the whole of the scanned region fits into ``size`` = (H, W)."""
    height, width = size
    if probe.kind == "linear":
        return max(probe.depth_mm / height, probe.width_mm / width)
    reach = probe.radius_mm + probe.depth_mm
    tall = reach - probe.radius_mm * np.cos(probe.half_angle)
    return float(1.02 * max(tall / height, 2 * reach * np.sin(probe.half_angle) / width))


def pixel_mm(probe: Probe, size: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(x, z) in millimetres of every pixel centre of an (H, W) image; the scanned region is centred in it."""
    height, width = size
    pitch = mm_per_pixel(probe, size)
    top = 0.0 if probe.kind == "linear" else -probe.radius_mm * (1 - np.cos(probe.half_angle))
    slack = (height * pitch - (probe.depth_mm - top)) / 2
    x = (np.arange(width) + 0.5 - width / 2) * pitch
    z = (np.arange(height) + 0.5) * pitch + top - slack
    return np.meshgrid(x.astype(np.float32), z.astype(np.float32))
