"""The model card of an agent and the files of its evaluation."""

import json
import re
import shlex
import warnings
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any

import gymnasium as gym
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from markupsafe import Markup
from transformers import PreTrainedModel, ProcessorMixin

from hf_seqrl.data.durable import write_whole
from hf_seqrl.data.environment_ids import requirement
from hf_seqrl.data.task import Task
from hf_seqrl.evaluation.offline_results import OfflineEvaluation
from hf_seqrl.evaluation.results import RolloutResult
from hf_seqrl.hub import checkpoint as names
from hf_seqrl.hub.checkpoint import CARD_NAME, EVALUATION_NAME, GENERATED_CARD_NAME, PLOT_NAME, RESULTS_NAME
from hf_seqrl.hub.markdown import code, number, plain, render
from hf_seqrl.hub.offline_section import about_offline
from hf_seqrl.hub.run_record import RUN_RECORD_NAME, RunRecord
from hf_seqrl.installation import install_command
from hf_seqrl.models.registry import family_of

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_TAGS = ["reinforcement-learning", "deep-reinforcement-learning", "offline-reinforcement-learning", "hf-seqrl"]


def build_card(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    evaluation: RolloutResult | None = None,
    run: RunRecord | None = None,
    repo_id: str = "agent",
    replay: tuple[str | None, str | None] = (None, None),
    offline: OfflineEvaluation | None = None,
) -> ModelCard:
    """Write the card of an agent.

    Args:
        model, processor: The agent's parts.
        evaluation (`RolloutResult`, *optional*): The results to report; without them, the card says so.
        run (`RunRecord`, *optional*): The record of the training; without it, the card says so.
        repo_id (`str`, *optional*, defaults to `"agent"`): The name by which the example loads the agent.
        replay (`tuple`, *optional*): The file name of the video, and the reason if there is none.
        offline (`OfflineEvaluation`, *optional*): The estimate to report beside the results.
    """
    card_data = card_metadata(model, processor, evaluation, run, repo_id)
    text = render(
        "agent_card.md.jinja",
        card_data=Markup(card_data.to_yaml()),
        **_about_agent(model, processor, repo_id, _example_backend(evaluation, processor.env_id)),
        **_about_results(evaluation),
        **about_offline(offline, evaluation),
        **_about_training(run),
        replay_name=replay[0],
        no_replay=replay[1],
    )
    return ModelCard(text)


def card_metadata(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    evaluation: RolloutResult | None,
    run: RunRecord | None,
    repo_id: str,
) -> ModelCardData:
    """The metadata block that the Hub reads for search and leaderboards."""
    family, env_id = family_of(model.config.model_type), processor.env_id
    results = _eval_results(evaluation, processor, family.name) if evaluation is not None else None
    data_id = run.data.get("hub_id") if run is not None else None
    return ModelCardData(
        library_name="hf-seqrl",
        pipeline_tag="reinforcement-learning",
        tags=[*_TAGS, family.name, *([env_id] if env_id else [])],
        model_name=repo_id.split("/")[-1] if results else None,
        eval_results=results,
        datasets=[data_id] if data_id else None,
    )


def is_hub_id(name: str) -> bool:
    """Whether the name of a data set is a valid Hub id and not a local path.

    Example:
        >>> is_hub_id("me/hopper"), is_hub_id("./data/hopper"), is_hub_id("data/hopper.parquet")
        (True, False, False)
    """
    return bool(_HUB_ID.fullmatch(name)) and not Path(name).suffix and not Path(name).exists()


def describe_space(space: gym.Space) -> str:
    """A short description of a space, without its bounds.

    Example:
        >>> describe_space(gym.spaces.Box(-1, 1, (3,))), describe_space(gym.spaces.Discrete(2))
        ('Box(3,) float32', 'Discrete(2)')
    """
    return f"Box{space.shape} {space.dtype}" if isinstance(space, gym.spaces.Box) else str(space)


def describe_entries(task: Task, column: str) -> str:
    """The space of the `"observations"` or `"actions"` of a task with the names, units and words of its entries.

    Example:
        >>> describe_entries(Task(action_space=gym.spaces.Discrete(2), action_names=["order"]), "actions")
        'Discrete(2): order'
    """
    space, entries = describe_space(getattr(task, column)), task.entries_in_words(column)
    return space if entries is None else f"{space}: {entries}"


def _eval_results(evaluation: RolloutResult, processor: ProcessorMixin, family_name: str) -> list[EvalResult]:
    env_id = evaluation.env_id or processor.env_id or "unnamed environment"
    figures = leaderboard_results(evaluation, processor.target_returns)
    where = {"task_type": "reinforcement-learning", "task_name": "reinforcement-learning"}
    where |= {"dataset_type": env_id, "dataset_name": replace(evaluation, env_id=env_id).environment}
    value = f"{figures['mean_reward']:.2f} +/- {figures['std_reward']:.2f}"
    return [EvalResult(**where, metric_type="mean_reward", metric_name="mean_reward", metric_value=value)]


def _example_backend(evaluation: RolloutResult | None, env_id: str | None) -> str | None:
    """The backend that the example names: that of the results, if they are of the agent's environment and not of gymnasium."""
    if evaluation is None or evaluation.backend == "gymnasium" or evaluation.env_id not in (None, env_id):
        return None
    return evaluation.backend


def _about_agent(
    model: PreTrainedModel, processor: ProcessorMixin, repo_id: str, backend: str | None
) -> dict[str, Any]:
    family_title = family_of(model.config.model_type).name.replace("-", " ").title()
    env_id = processor.env_id
    observation_space = processor.task.observations
    return {
        "title": Markup("{} for {}").format(family_title, plain(env_id)) if env_id else family_title,
        "family_title": family_title,
        "acts": family_of(model.config.model_type).make_actor is not None,
        "num_parameters": f"{model.num_parameters():,}",
        "env_id": env_id,
        "backend": backend,
        "install_command": install_command(*([backend] if backend else [])),
        "requirement": requirement(env_id) if env_id and backend is None else None,
        "observation_space": describe_entries(processor.task, "observations"),
        "observation_shape": (1, *observation_space.shape),
        "observation_dtype": str(observation_space.dtype),
        "action_space": describe_entries(processor.task, "actions"),
        "target_returns": processor.target_returns,
        "lesser_targets": ", ".join(
            number(target) for target in processor.target_returns if target < processor.target_returns[0]
        ),
        "repo_id": repo_id,
        "config_name": names.CONFIG_NAME,
        "processor_name": names.PROCESSOR_NAME,
    }


def _about_results(evaluation: RolloutResult | None) -> dict[str, Any]:
    about: dict[str, Any] = {"evaluation": evaluation, "rows": [], "scored": False, "evaluated_env": None}
    about["target_effect"] = evaluation.target_effect() if evaluation is not None else None
    about |= {
        "plot_name": names.PLOT_NAME,
        "evaluation_name": names.EVALUATION_NAME,
        "offline_name": names.OFFLINE_EVALUATION_NAME,
        "results_name": names.RESULTS_NAME,
    }
    if evaluation is None:
        return about
    summary = evaluation.summary()
    return about | {
        "rows": [_row(part) for part in summary["by_target"]],
        "scored": summary["normalized_score"] is not None,
        "reference_returns": summary["reference_returns"],
        "episodes": " and ".join(str(n) for n in sorted({part["num_episodes"] for part in summary["by_target"]})),
        "evaluated_env": evaluation.environment or "the environment",
        "seeds": "{}-{}".format(*summary["seeds"]) if summary["seeds"] else None,
    }


def _row(statistics: dict[str, Any]) -> dict[str, Any]:
    interval, score = statistics["confidence_interval"], statistics["normalized_score"]
    return {
        "target": statistics["target_return"],
        "mean": f"{statistics['mean_return']:.1f}",
        "interval": f"{interval[0]:.1f} .. {interval[1]:.1f}" if interval else "-",
        "std": f"{statistics['std_return']:.1f}",
        "min": f"{statistics['min_return']:.1f}",
        "max": f"{statistics['max_return']:.1f}",
        "score": f"{score:.1f}" if score is not None else "-",
        "length": f"{statistics['mean_length']:.1f}",
    }


def _about_training(run: RunRecord | None) -> dict[str, Any]:
    if run is None:
        return {"run": None, "run_record_name": RUN_RECORD_NAME}
    provenance, data_command = run.data.get("provenance"), _data_command(run.data)
    return {
        "run": run,
        "run_record_name": RUN_RECORD_NAME,
        "commands": "\n".join(command for command in (data_command, run.command) if command),
        "data_command": data_command,
        "local_data": run.data.get("name") if _names_local_data(run) else None,
        "data_name": _data_name(run.data),
        "provenance": yaml.safe_dump(provenance, sort_keys=False, default_flow_style=None, width=120).rstrip()
        if provenance
        else None,
        "settings": _settings(run),
    }


def _data_command(data: dict[str, Any]) -> str | None:
    """The call of `hf-seqrl collect` that made a data set which is not on the Hub, quoted again: it may come from others."""
    provenance = data.get("provenance")
    command = provenance.get("command") if isinstance(provenance, dict) and not data.get("hub_id") else None
    words = shlex.split(command, comments=True) if isinstance(command, str) else []
    return shlex.join(words) if words[:2] == ["hf-seqrl", "collect"] else None


def _names_local_data(run: RunRecord) -> bool:
    return not run.data.get("hub_id") and run.data.get("name") in (run.command or "").split()


def _settings(run: RunRecord) -> dict[str, Any]:
    """The options and hyperparameters that were set; of `max_steps` and `num_train_epochs`, the one in effect."""
    settings = {**run.options, **run.hyperparameters}
    unused = "num_train_epochs" if settings.get("max_steps", -1) > 0 else "max_steps"
    return {name: value for name, value in settings.items() if value is not None and name != unused}


def _data_name(data: dict[str, Any]) -> str:
    name = data.get("name")
    if not name:
        return "episodes passed by the program"
    if data.get("hub_id") and is_hub_id(str(name)):
        return Markup("[{0}](https://huggingface.co/datasets/{0})").format(name)
    return code(name)


_SEAL = "<!-- Written by hf-seqrl ({digest}). An edited card is kept when the repository is written again. -->"
_SEAL_PATTERN = re.compile(re.escape(_SEAL).replace(re.escape("{digest}"), r"([0-9a-f]{16})") + r"\s*\Z")


def sealed(text: str) -> str:
    """The text of a card with a final line that holds its digest, for `was_edited`.

    Example:
        >>> was_edited(sealed("# An agent")), was_edited(sealed("# An agent").replace("An", "My")), was_edited("# Mine")
        (False, True, True)
    """
    text = _plain(text)
    return f"{text}\n\n{_SEAL.format(digest=_digest(text))}\n"


def was_edited(text: str) -> bool:
    """Whether a card was edited by hand: its digest is missing or does not match the text."""
    seal = _SEAL_PATTERN.search(text)
    return seal is None or seal[1] != _digest(_plain(text[: seal.start()]))


def keep_edited(folder: Path, former: str | None, place: str) -> None:
    """Keep an edited card: the new one in `folder` is renamed, with a warning.

    A card without text, as the Hub creates it for a new repository, is replaced; its metadata are kept.

    Args:
        folder: The folder of the new card.
        former: The text of the existing card, or `None`.
        place: Its location, for the warning.
    """
    if former is None or not was_edited(former):
        return
    card = folder / CARD_NAME
    if not ModelCard(former, ignore_metadata_errors=True).text.strip():
        _adopt_metadata(card, ModelCard(former))
        return
    card.replace(folder / GENERATED_CARD_NAME)
    write_whole(card, former)
    warnings.warn(
        f"the card of {place} was edited by hand, so it stays as it is; the new one is in {GENERATED_CARD_NAME} beside it. "
        f"Take over what you want from there, or delete {CARD_NAME} and write again to have the new card.",
        stacklevel=3,
    )


def _adopt_metadata(card: Path, former: ModelCard) -> None:
    ours = ModelCard.load(card)
    for name, value in former.data.to_dict().items():
        if ours.data.get(name) is None:
            ours.data[name] = value
    text = _SEAL_PATTERN.sub("", ours.content)
    write_whole(card, sealed(text))


def _plain(text: str) -> str:
    """Normalize line endings and trailing whitespace, which do not count as edits."""
    return "\n".join(line.rstrip() for line in text.splitlines()).rstrip()


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]


def write_results(
    evaluation: RolloutResult,
    folder: str | Path,
    target_returns: Sequence[float] = (),
    data_returns: tuple[float, float] | None = None,
    *,
    deterministic: bool,
) -> None:
    """Write all episodes (`evaluation.json`), the figures for leaderboards (`results.json`) and the plot.

    Args:
        evaluation: The results of the agent.
        folder: The folder of the agent.
        target_returns: The agent's own targets, the default first, raw units.
        data_returns: The lowest and the highest raw return of the training data, shown in the plot.
        deterministic: Whether the agent acts without random numbers.
    """
    folder = Path(folder)
    evaluation.save(folder / EVALUATION_NAME)
    figures = leaderboard_results(evaluation, target_returns) | {"is_deterministic": deterministic}
    write_whole(folder / RESULTS_NAME, json.dumps(figures, indent=2) + "\n")
    evaluation.plot(folder / PLOT_NAME, data_returns=data_returns)


def leaderboard_results(evaluation: RolloutResult, target_returns: Sequence[float] = ()) -> dict[str, Any]:
    """The keys that `huggingface_sb3` writes, so that its leaderboards read the file, and `environment`, which names the
    library that it is from where that is not gymnasium; `is_deterministic` is the agent's.

    If several targets were evaluated, the agent's default is reported, else the first one. The standard deviation is the
    population's, divided by n, as there.

    Args:
        evaluation: The results of the agent.
        target_returns: The agent's own targets, the default first, raw units.
    """
    counted = evaluation.default_part(target_returns)
    return {
        "mean_reward": counted.mean_return,
        "std_reward": float(counted.returns.std()),
        "n_eval_episodes": counted.num_episodes,
        "environment": evaluation.environment,
        "eval_datetime": evaluation.finished_at or datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
