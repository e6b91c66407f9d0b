"""The orrery's textures, computed: planets from waves on a sphere, wood from bent rings, saved as small PNG files."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float64]

_WIDTH, _HEIGHT = 288, 144


def write_all(folder: Path) -> None:
    """Write every texture into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_png(folder / "sun.png", ramp(sphere_noise(1, 5, 5), [(0, "e8590c"), (0.5, "ffb347"), (1, "fff1b8")]))
    write_png(folder / "ember.png", ramp(sphere_noise(2, 4, 6), [(0, "3a2a26"), (0.55, "8a6a58"), (1, "d9b99b")]))
    write_png(folder / "moon.png", ramp(sphere_noise(6, 5, 6), [(0, "55585e"), (0.5, "9a9da3"), (1, "e3e4e6")]))
    write_png(folder / "rust.png", ramp(sphere_noise(3, 3, 6), [(0, "5c1f12"), (0.5, "b5482a"), (1, "eda26b")]))
    write_png(folder / "terra.png", terra())
    write_png(folder / "giant.png", giant())
    write_png(folder / "rings.png", ring_bands())
    write_png(folder / "wood.png", wood())


def sphere_noise(seed: int, frequency: float, octaves: int) -> Field:
    """Return waves on a sphere, shape (height, width), 0 to 1, without a seam."""
    random = np.random.RandomState(seed)
    longitude = np.linspace(-np.pi, np.pi, _WIDTH, endpoint=False)
    latitude = np.linspace(np.pi / 2, -np.pi / 2, _HEIGHT)[:, None]
    point = np.stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude) + 0 * longitude]
    )
    total = np.zeros((_HEIGHT, _WIDTH))
    for octave in range(octaves):
        scale = frequency * 1.8**octave
        for _ in range(6):
            direction = random.normal(size=3)
            direction /= np.linalg.norm(direction)
            bend = np.tensordot(random.normal(size=3), point, axes=1)
            wave = np.tensordot(direction, point, axes=1) * scale + 1.3 * bend + random.uniform(0, 2 * np.pi)
            total += np.sin(wave) / 1.7**octave
    low, high = np.percentile(total, [1, 99])
    return np.clip((total - low) / (high - low), 0, 1)


def terra() -> Field:
    """Return seas, land, ice and clouds."""
    height = sphere_noise(4, 2.6, 6)
    colour = ramp(
        height,
        [(0, "06204f"), (0.48, "1560a8"), (0.53, "3f9bd1"), (0.55, "d9c58b"), (0.6, "4f8f3a"), (0.8, "2e5d2c"),
         (1, "8c7a5a")],
    )  # fmt: skip
    poles = np.abs(np.linspace(-1, 1, _HEIGHT))[:, None] + 0.12 * (sphere_noise(8, 6, 4) - 0.5)
    white = np.maximum(np.clip((poles - 0.86) * 14, 0, 1), np.clip((sphere_noise(9, 5, 5) - 0.74) * 3.0, 0, 0.75))
    return colour + (1 - colour) * white[..., None]


def giant() -> Field:
    """Return bands that swirl where they meet."""
    latitude = np.linspace(-1, 1, _HEIGHT)[:, None]
    bent = latitude + 0.035 * (sphere_noise(5, 5, 4) - 0.5) + 0.01 * (sphere_noise(7, 14, 3) - 0.5)
    bands = 0.5 + 0.28 * np.sin(bent * 19) + 0.16 * np.sin(bent * 43 + 1) + 0.08 * np.sin(bent * 9 + 2)
    return ramp(np.clip(bands, 0, 1), [(0, "8a4f2d"), (0.35, "c98d5a"), (0.6, "ecd2a4"), (1, "fff3dc")])


def ring_bands() -> Field:
    """Return colour and opacity along the radius of the rings, shape (4, 256, 4)."""
    across = np.linspace(0, 1, 256)
    density = 0.62 + 0.25 * np.sin(across * 31) + 0.2 * np.sin(across * 77 + 2)
    density[(across > 0.62) & (across < 0.69)] = 0.03
    opacity = np.clip(density * np.clip(across * 9, 0, 1) * np.clip((1 - across) * 9, 0, 1), 0, 1)
    colour = ramp(np.clip(0.5 + 0.5 * np.sin(across * 23), 0, 1), [(0, "b08d62"), (1, "f3e2c0")])
    return np.tile(np.concatenate([colour, opacity[:, None]], axis=1), (4, 1, 1))


def wood() -> Field:
    """Return dark planks, shape (256, 256, 3), that continue at every edge."""
    y, x = np.mgrid[0:256, 0:256] / 256
    plank = np.floor(y * 4)
    shift = np.array([0.13, 0.61, 0.37, 0.86])[plank.astype(int)]
    turn = 2 * np.pi
    bend = 0.16 * np.sin(turn * (x + shift)) + 0.08 * np.sin(turn * (2 * x + 3 * shift))
    grain = 0.5 + 0.5 * np.sin(turn * (10 * y + bend + 7 * shift))
    fine = 0.5 + 0.5 * np.sin(turn * (61 * y + 0.6 * bend + shift) + 2 * np.sin(turn * (3 * x + shift)))
    shade = np.clip(0.30 * grain + 0.18 * fine + 0.6 * shift, 0, 1)
    colour = ramp(shade, [(0, "2c170e"), (1, "5c3420")])
    gap = np.minimum(np.abs(y * 4 - np.round(y * 4)), 1) < 0.02
    return np.where(gap[..., None], colour * 0.25, colour)


def ramp(values: Field, stops: list[tuple[float, str]]) -> Field:
    """Return colours (… , 3), 0 to 1, for values 0 to 1 between `stops` of (value, "rrggbb")."""
    places = [place for place, _ in stops]
    colours = np.array([[int(text[i : i + 2], 16) / 255 for i in (0, 2, 4)] for _, text in stops])
    return np.stack([np.interp(values, places, colours[:, channel]) for channel in range(3)], axis=-1)


def write_png(path: Path, picture: Field) -> None:
    """Write RGB or RGBA, 0 to 1. Steps of 8 in 255, unseen on a small ball, halve the file."""
    levels = np.clip(np.rint(picture * 255 / 8) * 8, 0, 255).astype(np.uint8)
    height, width, channels = levels.shape
    # Filter 2, "up": each byte less the one above it.
    above = np.concatenate([np.zeros((1, width, channels), np.uint8), levels[:-1]])
    rows = (levels - above).reshape(height, -1)
    raw = np.concatenate([np.full((height, 1), 2, np.uint8), rows], axis=1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 6, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(raw, 9)), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
            for kind, body in parts
        )
    )
