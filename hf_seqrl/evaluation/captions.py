"""A line under every picture of a film that tells how the episode stands."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hf_seqrl.evaluation.watching import WatchedEpisode

_BACKGROUND, _INK = (31, 41, 51), (255, 255, 255)
_LINES_IN_HEIGHT = 14  # of a picture


def captioned_frames(episode: WatchedEpisode) -> np.ndarray:
    """The frames with the step, what is still asked for and the return so far written under each.

    Args:
        episode: One that was drawn.

    Returns:
        `(frames, height + strip, width, 3)` uint8.
    """
    frames = episode.frames
    # they are evenly spaced, but for the last, which shows the end
    steps = np.linspace(0, len(episode.rewards), len(frames)).round().astype(int)
    strip = max(20, frames.shape[1] // _LINES_IN_HEIGHT // 2 * 2)
    font = ImageFont.load_default(size=0.55 * strip)
    texts = _texts(episode)
    strips = np.stack([_strip(texts[step], strip, frames.shape[2], font) for step in steps])
    return np.concatenate([frames, strips], axis=1)


def _texts(episode: WatchedEpisode) -> list[str]:
    """What to write at each step `0 .. steps`; the last is the end, when nothing is asked for any more."""
    so_far = np.concatenate([[0.0], np.cumsum(episode.rewards)])
    texts = [f"step {step}    return so far {value:.4g}" for step, value in enumerate(so_far)]
    if episode.returns_to_go is None:
        return texts
    asked = [*episode.returns_to_go, episode.returns_to_go[-1] - episode.rewards[-1]]
    return [f"{text}    return-to-go {value:.4g}" for text, value in zip(texts, asked)]


def _strip(text: str, height: int, width: int, font: ImageFont.FreeTypeFont) -> np.ndarray:
    image = Image.new("RGB", (width, height), _BACKGROUND)
    ImageDraw.Draw(image).text((height // 2, height // 2), text, _INK, font, anchor="lm")
    return np.asarray(image)
