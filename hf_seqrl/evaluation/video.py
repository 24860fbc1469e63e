"""Frames to a video file: mp4 where there is an encoder, else a GIF."""

import logging
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

logger = logging.getLogger(__name__)


def write_video(frames: np.ndarray, path: str | Path, frames_per_second: float) -> Path:
    """Write an mp4 (H.264) when `imageio-ffmpeg` is installed; otherwise, or for a path that ends in `.gif`, a GIF.

    Args:
        frames: `(frames, height, width, 3)` uint8.
        path: Where to write, `.mp4` or `.gif`.
        frames_per_second: How fast to show them.

    Returns:
        The file that was written.

    Raises:
        ValueError: another suffix, or frames of another form.
    """
    path = Path(path)
    if path.suffix not in (".mp4", ".gif"):
        raise ValueError(f"cannot write a video to {path}: expected a name that ends in .mp4 or .gif.")
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or len(frames) == 0:
        raise ValueError(
            f"the frames have shape {frames.shape} and dtype {frames.dtype}, expected (frames, height, width, 3) uint8."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".mp4" and find_spec("imageio_ffmpeg") is None:
        logger.warning(
            'no mp4 encoder is installed (pip install "imageio[ffmpeg]" brings one): writing a GIF instead.'
        )
        path = path.with_suffix(".gif")
    (_write_mp4 if path.suffix == ".mp4" else _write_gif)(frames, path, frames_per_second)
    return path


def _write_mp4(frames: np.ndarray, path: Path, frames_per_second: float) -> None:
    import imageio_ffmpeg  # optional

    height, width = (size - size % 2 for size in frames.shape[1:3])  # H.264 with 4:2:0 colours wants even sizes
    writer = imageio_ffmpeg.write_frames(str(path), (width, height), fps=frames_per_second, macro_block_size=2)
    writer.send(None)
    try:
        for frame in frames:
            writer.send(np.ascontiguousarray(frame[:height, :width]))
    finally:
        writer.close()


def _write_gif(frames: np.ndarray, path: Path, frames_per_second: float) -> None:
    images = [Image.fromarray(frame) for frame in frames]
    milliseconds = max(20, round(1000 / frames_per_second))  # viewers slow down what is faster than 50 a second
    images[0].save(path, save_all=True, append_images=images[1:], duration=milliseconds, loop=0)
