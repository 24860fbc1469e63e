"""Videos: frames to mp4 or GIF, recording of single episodes, and captions."""

import logging
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import gymnasium
import imageio.v3 as imageio
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hf_seqrl.data.durable import whole_file
from hf_seqrl.evaluation.environments import EnvironmentSource, open_lanes
from hf_seqrl.evaluation.episode_loop import Episode, EpisodeLoop, FrameRecorder, Step, check_fit
from hf_seqrl.evaluation.lanes import Lanes
from hf_seqrl.evaluation.policies import Policy, as_actor, default_target, reads_vectors, time_limit_of
from hf_seqrl.models.actor import Actor

logger = logging.getLogger(__name__)

# What simulators raise where there is no display, no OpenGL or no drawing library: they have no error in common.
CANNOT_RENDER = (gymnasium.error.Error, ImportError, AttributeError, RuntimeError, OSError)
_BACKGROUND, _INK = (31, 41, 51), (255, 255, 255)
_LINES_IN_HEIGHT = 14  # of a frame


def write_video(frames: np.ndarray, path: str | Path, frames_per_second: float) -> Path:
    """Write an mp4 (H.264) when `imageio-ffmpeg` is installed; otherwise, or for a path that ends in `.gif`, a GIF.

    Args:
        frames: `(frames, height, width, 3)` uint8.
        path: Where to write, `.mp4` or `.gif`.
        frames_per_second: Frame rate of the video.

    Returns:
        The file that was written.

    Raises:
        ValueError: another suffix, or frames of another shape.
    """
    path = Path(path)
    if path.suffix not in (".mp4", ".gif"):
        raise ValueError(f"cannot write a video to {path}: expected a name that ends in .mp4 or .gif.")
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or len(frames) == 0:
        raise ValueError(
            f"the frames have shape {frames.shape} and dtype {frames.dtype}, expected (frames, height, width, 3) uint8."
        )
    if path.suffix == ".mp4" and find_spec("imageio_ffmpeg") is None:
        logger.warning(
            'no mp4 encoder is installed (pip install "imageio[ffmpeg]" brings one): writing a GIF instead.'
        )
        path = path.with_suffix(".gif")
    with whole_file(path) as aside:
        (_write_mp4 if path.suffix == ".mp4" else _write_gif)(frames, aside, frames_per_second)
    return path


def _write_mp4(frames: np.ndarray, path: Path, frames_per_second: float) -> None:
    height, width = (size - size % 2 for size in frames.shape[1:3])  # H.264 with 4:2:0 colors needs even sizes
    even = frames[:, :height, :width]
    imageio.imwrite(path, even, plugin="FFMPEG", fps=frames_per_second, macro_block_size=2)


def _write_gif(frames: np.ndarray, path: Path, frames_per_second: float) -> None:
    milliseconds = max(20, round(1000 / frames_per_second))  # viewers slow down more than 50 frames per second
    imageio.imwrite(path, frames, plugin="pillow", duration=milliseconds, loop=0)


@dataclass(frozen=True, eq=False)
class RecordedEpisode:
    """A recorded episode of an agent.

    Attributes:
        rewards: `(steps,)`, raw.
        returns_to_go: `(steps,)`, raw: the returns-to-go when each action was chosen; `None` for an agent that is not
            conditioned on a return.
        seed: Of the environment and of the agent.
        terminated: Whether it ended in a terminal state; otherwise it was truncated.
        frames: `(frames, height, width, 3)` uint8; `None` where the environment cannot be rendered here.
        frames_per_second: Of the environment's own time.
        not_drawn_because: Why there are no frames.
    """

    rewards: np.ndarray
    returns_to_go: np.ndarray | None
    seed: int
    terminated: bool
    frames: np.ndarray | None = None
    frames_per_second: float = 30.0
    not_drawn_because: str | None = None

    @property
    def total_return(self) -> float:
        """The sum of the raw rewards."""
        return float(self.rewards.sum())


def record_episode(
    policy: Policy, env: EnvironmentSource, target_return: float | None = None, seed: int = 0
) -> RecordedEpisode:
    """Run one episode and record every step, and frames if the environment can be rendered.

    Args:
        policy (`Agent`): The agent.
        env: As `rollout` takes it.
        target_return (`float`, *optional*): Raw; defaults to the agent's own.
        seed (`int`, *optional*, defaults to `0`): Of the environment and of the agent.

    Raises:
        ValueError: as for `rollout`.
    """
    try:
        return _recorded(policy, env, target_return, seed, render=True)
    except CANNOT_RENDER as error:
        return _recorded(policy, env, target_return, seed, render=False, not_drawn_because=cannot_render(error))


def cannot_render(error: Exception) -> str:
    """Why there are no frames, in words."""
    return f"the environment could not be drawn ({type(error).__name__}: {error})"


def _recorded(
    policy: Policy,
    env: EnvironmentSource,
    target_return: float | None,
    seed: int,
    render: bool,
    not_drawn_because: str | None = None,
) -> RecordedEpisode:
    with open_lanes(
        env, 1, render=render, default_limit=time_limit_of(policy), flat_observations=reads_vectors(policy)
    ) as lanes:
        actor = as_actor(policy, lanes.action_space)
        check_fit(actor.task, lanes.observation_space, lanes.action_space)
        target = default_target(actor) if target_return is None else target_return
        recorder = _StepRecorder(lanes, actor, num_episodes=int(render))
        (finished,) = EpisodeLoop(actor, lanes, [Episode(0, seed, target)], recorder).play()
        return RecordedEpisode(
            rewards=np.array(recorder.rewards),
            returns_to_go=np.array(recorder.returns_to_go) if actor.is_conditioned else None,
            seed=seed,
            terminated=finished.terminated,
            frames=np.stack(recorder.frames[0]) if recorder.frames else None,
            frames_per_second=recorder.frames_per_second,
            not_drawn_because=not_drawn_because,
        )


class _StepRecorder(FrameRecorder):
    """Keeps the rewards and the returns-to-go of a single lane too."""

    def __init__(self, lanes: Lanes, actor: Actor, num_episodes: int) -> None:
        super().__init__(lanes, num_episodes)
        self._actor = actor
        self.rewards: list[float] = []
        self.returns_to_go: list[float] = []

    def before_step(self) -> None:
        super().before_step()
        if self._actor.is_conditioned:
            self.returns_to_go.append(float(self._actor.returns_to_go[0]))

    def record(self, step: Step) -> None:
        super().record(step)
        self.rewards.append(float(step.outcome.rewards[0]))


def captioned_frames(episode: RecordedEpisode) -> np.ndarray:
    """The frames with captions: the step, the return so far and the return-to-go.

    Args:
        episode: One that has frames.

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


def _texts(episode: RecordedEpisode) -> list[str]:
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
