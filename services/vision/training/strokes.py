"""Digits as a pen draws them, generated: thinner, cleaner and in more forms than scikit-learn's 8x8 pixels can show."""

import numpy as np
from PIL import Image, ImageDraw

from services.kit.inference.bundle import Array

Random = np.random.Generator
Stroke = list[tuple[float, float]]  # points (x, y) in a box of 1x1, y downwards

OVERSAMPLED = 4  # pixels drawn for each pixel of the result


def _arc(x: float, y: float, across: float, down: float, start: float, end: float) -> Stroke:
    """Part of an ellipse around (x, y), from angle to angle in degrees; 0 points right and 90 down."""
    angles = np.radians(np.linspace(start, end, 24))
    return [(x + across * float(np.cos(angle)), y + down * float(np.sin(angle))) for angle in angles]


def _turned(strokes: list[Stroke]) -> list[Stroke]:
    return [[(1 - x, 1 - y) for x, y in stroke] for stroke in strokes]


def _forms() -> dict[int, list[list[Stroke]]]:
    """The ways in which each digit is commonly written, each a list of strokes."""
    six = [
        [[(0.75, 0.0), (0.3, 0.4), *_arc(0.5, 0.7, 0.38, 0.3, 200, 560)]],
        [[*_arc(0.85, 0.65, 0.72, 0.65, 280, 180), *_arc(0.5, 0.7, 0.38, 0.3, 180, 540)]],
        [[*_arc(0.5, 0.5, 0.42, 0.5, 310, 180), *_arc(0.5, 0.68, 0.4, 0.32, 180, 540)]],
    ]
    return {
        0: [[_arc(0.5, 0.5, 0.38, 0.5, -90, 270)], [_arc(0.5, 0.5, 0.28, 0.5, -60, 300)]],
        1: [
            [[(0.5, 0.0), (0.5, 1.0)]],
            [[(0.25, 0.25), (0.55, 0.0), (0.55, 1.0)]],
            [[(0.3, 0.15), (0.52, 0.0), (0.52, 1.0)], [(0.25, 1.0), (0.8, 1.0)]],
        ],
        2: [
            [[*_arc(0.5, 0.29, 0.38, 0.29, 180, 390), (0.1, 1.0), (0.92, 1.0)]],
            [[*_arc(0.48, 0.25, 0.36, 0.25, 200, 405), *_arc(0.3, 0.9, 0.2, 0.1, 180, 330), (0.95, 0.95)]],
        ],
        3: [
            [[*_arc(0.45, 0.25, 0.37, 0.25, 200, 450), *_arc(0.45, 0.75, 0.42, 0.25, -90, 155)]],
            [[(0.12, 0.0), (0.85, 0.0), (0.42, 0.4), *_arc(0.43, 0.7, 0.42, 0.3, -90, 150)]],
        ],
        4: [
            [[(0.65, 1.0), (0.65, 0.0), (0.08, 0.68), (0.95, 0.68)]],
            [[(0.25, 0.0), (0.12, 0.58), (0.92, 0.58)], [(0.7, 0.2), (0.66, 1.0)]],
        ],
        5: [
            [[(0.85, 0.0), (0.25, 0.0), (0.2, 0.45), *_arc(0.47, 0.68, 0.4, 0.32, 225, 505)]],
            [[(0.3, 0.0), (0.24, 0.42), *_arc(0.44, 0.7, 0.42, 0.3, 250, 480)], [(0.28, 0.02), (0.88, 0.0)]],
        ],
        6: six,
        7: [
            [[(0.1, 0.0), (0.9, 0.0), (0.4, 1.0)]],
            [[(0.1, 0.0), (0.9, 0.0), (0.4, 1.0)], [(0.3, 0.5), (0.82, 0.5)]],
            [[(0.12, 0.14), (0.12, 0.0), (0.88, 0.0), (0.55, 0.5), (0.42, 1.0)]],
        ],
        8: [
            [_arc(0.5, 0.25, 0.32, 0.25, 90, 450), _arc(0.5, 0.75, 0.4, 0.25, -90, 270)],
            [[*_arc(0.5, 0.25, 0.32, 0.25, -30, -240), *_arc(0.5, 0.74, 0.38, 0.26, -60, 240), (0.8, 0.12)]],
        ],
        9: [
            *(_turned(form) for form in six),
            [[*_arc(0.48, 0.29, 0.36, 0.29, 0, 360), (0.82, 0.4), (0.78, 0.75), (0.68, 1.0)]],
        ],
    }


def glyphs(count: int, size: int, seed: int) -> tuple[Array, Array]:
    """Ink, float32 [samples, size, size] in [0, 1], and labels, int64 [samples]; `count` samples of each digit."""
    random = np.random.default_rng(seed)
    drawn = [
        (_drawn(forms[index % len(forms)], size, random), label)
        for label, forms in _forms().items()
        for index in range(count)
    ]
    return np.stack([ink for ink, _ in drawn]), np.array([label for _, label in drawn], np.int64)


def _drawn(form: list[Stroke], size: int, random: Random) -> Array:
    side = size * OVERSAMPLED
    width = side * float(random.uniform(0.04, 0.2))
    canvas = Image.new("L", (side, side))
    pen = ImageDraw.Draw(canvas)
    stretch = random.normal(1, 0.1)
    for stroke in form:
        shift, bow = random.normal(0, 0.03, 2), random.normal(0, 0.05)
        points = np.array(stroke) - 0.5
        points[:, 0] = points[:, 0] * 0.75 * stretch + bow * np.sin(np.pi * points[:, 1])
        path = [tuple(point) for point in (points + shift) * (side - 1.5 * width) + side / 2]
        pen.line(path, fill=255, width=round(width), joint="curve")
        for x, y in (path[0], path[-1]):
            pen.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=255)
    small = canvas.resize((size, size), Image.Resampling.BOX)
    return np.asarray(small, np.float32) / 255
