"""Rendering of the bicycle: text for a terminal, an image for a video. `y` points up."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_PICTURE_SIZE = 480  # pixels along the grid's side, about
_SCALE = 2  # drawn larger, then downsampled for smooth edges
_SMOOTH, _BUMPY, _LINES = "#e9edf0", "#d9c3a0", "#ffffff"
_BUMP, _PATH, _RIDER, _WHEEL, _INK = "#a9855a", "#2f6fb5", "#c8372d", "#20242a", "#20242a"

Path = list[tuple[int, int]]


def draw_text(bumps: np.ndarray, path: Path, speed: int) -> str:
    """`B` is the agent, `G` the goal, `*` the path, `~` bumps, `.` smooth ground; the last line has step and speed."""
    size = len(bumps)
    cells = np.where(bumps, "~", ".")
    for x, y in path:
        cells[y, x] = "*"
    cells[size - 1, size - 1] = "G"
    cells[path[-1][1], path[-1][0]] = "B"
    rows = [" ".join(row) for row in cells[::-1]]
    return "\n".join([*rows, f"step {len(path) - 1}, speed {speed}"]) + "\n"


def paint(bumps: np.ndarray, path: Path, speed: int) -> np.ndarray:
    """An image `(height, width, 3)` uint8 with ground, bumps, goal flag, path so far, the agent, and a caption."""
    size = len(bumps)
    cell = max(8, _PICTURE_SIZE // size // 2 * 2) * _SCALE  # even, as video encoders require
    caption = 32 * _SCALE
    image = Image.new("RGB", (size * cell, size * cell + caption), "white")
    draw = ImageDraw.Draw(image)
    for y in range(size):
        for x in range(size):
            _paint_ground(draw, x * cell, (size - 1 - y) * cell, cell, bool(bumps[y, x]))
    _paint_flag(draw, (size - 1) * cell, 0, cell)
    centers = [((x + 0.5) * cell, (size - 0.5 - y) * cell) for x, y in path]
    _paint_path(draw, centers, cell)
    _paint_rider(draw, *centers[-1], cell)
    font = ImageFont.load_default(size=18 * _SCALE)
    text = f"step {len(path) - 1}    speed {speed}    cell ({path[-1][0]}, {path[-1][1]})"
    draw.text((8 * _SCALE, size * cell + 5 * _SCALE), text, fill=_INK, font=font)
    return np.asarray(image.resize((image.width // _SCALE, image.height // _SCALE), Image.Resampling.LANCZOS))


def _paint_ground(draw: ImageDraw.ImageDraw, left: float, top: float, cell: float, bumpy: bool) -> None:
    draw.rectangle((left, top, left + cell, top + cell), fill=_BUMPY if bumpy else _SMOOTH, outline=_LINES, width=3)
    if not bumpy:
        return
    for row, column in ((0.3, 0.12), (0.3, 0.62), (0.62, 0.37), (0.94, 0.12), (0.94, 0.62)):
        x, y, radius = left + column * cell, top + row * cell, 0.13 * cell
        draw.arc((x, y - radius, x + 2 * radius, y + radius), 180, 360, fill=_BUMP, width=max(2, int(cell / 28)))


def _paint_flag(draw: ImageDraw.ImageDraw, left: float, top: float, cell: float) -> None:
    """A checkered flag on a pole."""
    pole, square = left + 0.3 * cell, 0.11 * cell
    draw.line((pole, top + 0.12 * cell, pole, top + 0.92 * cell), fill=_INK, width=max(2, int(cell / 24)))
    for row in range(3):
        for column in range(4):
            x, y = pole + column * square, top + 0.12 * cell + row * square
            draw.rectangle((x, y, x + square, y + square), fill=_INK if (row + column) % 2 == 0 else "white")


def _paint_path(draw: ImageDraw.ImageDraw, centers: list[tuple[float, float]], cell: float) -> None:
    if len(centers) > 1:
        draw.line(centers, fill=_PATH, width=max(2, int(cell / 16)), joint="curve")
    for x, y in centers:
        radius = cell / 14
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_PATH)


def _paint_rider(draw: ImageDraw.ImageDraw, x: float, y: float, cell: float) -> None:
    """A cyclist, seen from the side."""

    def point(right: float, down: float) -> tuple[float, float]:
        return x + right * cell, y + down * cell

    thick, thin = max(2, int(cell / 16)), max(2, int(cell / 28))
    for right in (-0.2, 0.2):
        (left, top), (far, bottom) = point(right - 0.14, 0.08), point(right + 0.14, 0.36)
        draw.ellipse((left, top, far, bottom), fill="white", outline=_WHEEL, width=thin)
    crank, saddle, bar = point(-0.02, 0.22), point(-0.1, 0.0), point(0.14, -0.04)
    frame = [point(-0.2, 0.22), saddle, crank, point(-0.2, 0.22), crank, bar, saddle]
    draw.line(frame, fill=_WHEEL, width=thin, joint="curve")
    draw.line([bar, point(0.2, 0.22)], fill=_WHEEL, width=thin)
    shoulder = point(0.0, -0.24)
    draw.line([point(0.0, 0.2), point(0.06, 0.04), saddle, shoulder, bar], fill=_RIDER, width=thick, joint="curve")
    (left, top), (far, bottom) = point(-0.05, -0.42), point(0.11, -0.26)
    draw.ellipse((left, top, far, bottom), fill=_RIDER)
