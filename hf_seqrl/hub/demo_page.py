"""The demo page: choose an agent and a target return, watch an episode, and see its return-to-go."""

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from hf_seqrl.evaluation.plots import plot_episode
from hf_seqrl.evaluation.video import RecordedEpisode, captioned_frames, record_episode, write_video
from hf_seqrl.hub.markdown import number, plain
from hf_seqrl.hub.space import Player, load_players
from hf_seqrl.installation import install_command

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # gradio reads it when it is imported
try:
    import gradio
    import imageio_ffmpeg  # noqa: F401 - browsers show no GIF as a film
except ImportError as error:
    raise ImportError(f"the page needs gradio and an mp4 encoder ({error}): {install_command('demo')}") from error

LOOKS: dict[str, Any] = {
    "theme": gradio.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
    "footer_links": [],
    "css": "#about table, #about td, #about th { word-break: normal; overflow-wrap: normal; hyphens: none; }",
}  # for `launch`; fonts of the system, so that nobody else is asked for any

_FILM_NAME = "episode.mp4"
_STEPS_OF_SLIDER = 200
_SEEDS, _HIGHEST_TARGET = 2**31, 1e12
_WAITING = 20  # visitors who may wait for an episode; more are rejected
_FILMS_ARE_KEPT = 600  # seconds


def build_page(sources: Sequence[str], env_id: str | None = None) -> gradio.Blocks:
    """The page for these agents; `build_page(...).launch(**LOOKS)` opens it.

    Args:
        sources: Folders and Hub ids of agents.
        env_id (`str`, *optional*): The environment; defaults to the one that each agent was trained for.

    Raises:
        ImportError: gradio is not installed.
        ValueError: As for `load_players`.
    """
    return page_of(load_players(sources, env_id))


def page_of(players: Sequence[Player]) -> gradio.Blocks:
    """The page for agents that are loaded."""
    by_name = {player.name: player for player in players}
    films = TemporaryDirectory(prefix="hf-seqrl-demo-")
    first = players[0]
    with gradio.Blocks(
        title="hf-seqrl: watch agents play",
        analytics_enabled=False,
        fill_width=True,
        delete_cache=(_FILMS_ARE_KEPT, _FILMS_ARE_KEPT),
    ) as page:
        page.films = films  # they live as long as the page
        gradio.Markdown("# Watch agents play\nAsk for a return, and see what is still asked for run down.")
        with gradio.Row():
            with gradio.Column(scale=1, min_width=280):
                name = gradio.Dropdown([*by_name], value=first.name, label="Agent", interactive=True)
                target = gradio.Slider(**target_range(first), label="Target return", elem_id="target")
                seed = gradio.Number(0, label="Seed of the episode", precision=0, minimum=0)
                button = gradio.Button("Play", variant="primary", elem_id="play")
                about = gradio.Markdown(describe_player(first), elem_id="about")
            with gradio.Column(scale=3):
                outcome = gradio.Markdown("Press Play.", elem_id="outcome")
                with gradio.Row():
                    film = gradio.Video(
                        label="Episode", show_label=False, autoplay=True, elem_id="film", min_width=320
                    )
                    plot = gradio.Plot(show_label=False, elem_id="plot", min_width=320)
        name.change(_chooser(by_name), name, [target, about], api_name="choose")
        # one at a time: the film of the one before has been copied by then
        play = _player_of_episodes(by_name, Path(films.name, _FILM_NAME))
        button.click(play, [name, target, seed], [film, plot, outcome], api_name="play", concurrency_limit=1)
    page.queue(max_size=_WAITING)
    return page


def describe_player(player: Player) -> str:
    """The description of an agent in Markdown: family, environment, results."""
    agent = player.agent
    lines = [
        f"**{plain(player.name)}**: {_title(agent.family.name)} ({agent.model.num_parameters():,} parameters) in "
        f"{plain(player.env_id)}."
    ]
    if not agent.is_conditioned:
        lines.append(
            "It is asked for no return: it does what it takes for the best. The plot shows the return so far."
        )
    if agent.data_returns is not None:
        lines.append("Its data hold returns from {} to {}.".format(*map(number, agent.data_returns)))
    if agent.evaluation is not None:
        lines += ["| target | mean return | episodes |\n| ---: | ---: | ---: |\n" + _achieved(agent.evaluation)]
    return "\n\n".join(lines)


def target_range(player: Player) -> dict[str, Any]:
    """Bounds, value and step of the slider: the returns of the data and the agent's targets, and a quarter beyond,
    but not across 0 where all of them have the same sign. An agent that is not conditioned on a return has no slider.
    """
    targets = player.agent.target_returns
    known = [*(player.agent.data_returns or ()), *targets]
    if not known or not player.agent.is_conditioned:
        return {"minimum": 0.0, "maximum": 1000.0, "value": 0.0, "visible": player.agent.is_conditioned}
    low, high = min(known), max(known)
    margin = 0.25 * (high - low or abs(high) or 1.0)
    step = 10.0 ** np.floor(np.log10((high - low + 2 * margin) / _STEPS_OF_SLIDER))
    lowest = 0.0 if low >= 0 else np.floor((low - margin) / step) * step
    highest = 0.0 if high <= 0 else np.ceil((high + margin) / step) * step
    value = targets[0] if targets else float(np.mean(known))
    return {"minimum": float(lowest), "maximum": float(highest), "value": value, "step": float(step), "visible": True}


def play_episode(player: Player, target_return: float, seed: int, film: Path) -> tuple[str | None, Figure, str]:
    """Run an episode.

    Args:
        player: The agent and its environment.
        target_return: What to ask for, raw units; an agent that is asked for nothing is not told.
        seed: Of the episode.
        film: Where to write it, `.mp4`.

    Returns:
        The film, `None` where the environment cannot be drawn; the plot; what happened, in Markdown.
    """
    conditioned = player.agent.is_conditioned
    episode = record_episode(player.agent, player.env_id, target_return if conditioned else None, seed)
    written = None
    if episode.frames is not None:
        written = str(write_video(captioned_frames(episode), film, episode.frames_per_second))
    notes = [_outcome(episode, target_return), _target_note(player, target_return), episode.not_drawn_because]
    return written, plot_episode(episode, player.agent.data_returns), "\n\n".join(note for note in notes if note)


def _player_of_episodes(by_name: dict[str, Player], film: Path) -> Callable[..., tuple[str | None, Figure, str]]:
    def play(name: str, target_return: float, seed: float) -> tuple[str | None, Figure, str]:
        try:
            return play_episode(*_checked(by_name, name, target_return, seed), film)
        except (ValueError, TypeError) as error:
            raise gradio.Error(str(error)) from error

    return play


def _checked(by_name: dict[str, Player], name: Any, target_return: Any, seed: Any) -> tuple[Player, float, int]:
    """Check the input of a request, which may be anything."""
    if name not in by_name:
        raise ValueError(f"there is no such agent here: expected one of {', '.join(by_name)}.")
    for what, value in (("target return", target_return), ("seed", seed)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"the {what} is no number.")
    if not 0 <= seed < _SEEDS or int(seed) != seed:
        raise ValueError(f"the seed is {seed}: expected a whole number from 0 to {_SEEDS - 1}.")
    if abs(target_return) > _HIGHEST_TARGET:
        raise ValueError(f"the target return is {target_return}: expected at most {_HIGHEST_TARGET:g}.")
    return by_name[name], float(target_return), int(seed)


def _chooser(by_name: dict[str, Player]) -> Callable[[str], tuple[dict[str, Any], str]]:
    def choose(name: str) -> tuple[dict[str, Any], str]:
        if name not in by_name:
            raise gradio.Error(f"there is no such agent here: expected one of {', '.join(by_name)}.")
        return gradio.update(**target_range(by_name[name])), describe_player(by_name[name])

    return choose


def _outcome(episode: RecordedEpisode, target_return: float) -> str:
    steps, ended = len(episode.rewards), "ended by itself" if episode.terminated else "was cut by the time limit"
    asked = f"Asked for **{number(target_return)}**, reached" if episode.returns_to_go is not None else "Reached"
    return f"{asked} **{number(episode.total_return)}** in {steps} steps (seed {episode.seed}); the episode {ended}."


def _target_note(player: Player, target_return: float) -> str | None:
    data_returns = player.agent.data_returns
    if not player.agent.is_conditioned or data_returns is None or data_returns[0] <= target_return <= data_returns[1]:
        return None
    low, high = map(number, data_returns)
    return (
        f"Note: the data hold returns from {low} to {high}, and {number(target_return)} lies outside: the agent has never seen "
        "what it takes."
    )


def _title(family_name: str) -> str:
    return family_name.replace("-", " ").title()


def _achieved(evaluation: Any) -> str:
    return "\n".join(
        f"| {number(target) if target is not None else '-'} | {part.mean_return:.1f} | {part.num_episodes} |"
        for target, part in evaluation.by_target().items()
    )
