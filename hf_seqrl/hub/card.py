"""The card of an agent, filled by what was trained and measured."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import gymnasium as gym
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, StrictUndefined
from transformers import PreTrainedModel, ProcessorMixin

from hf_seqrl.data.spaces import space_from_dict
from hf_seqrl.evaluation.results import RolloutResult
from hf_seqrl.hub import folder as names
from hf_seqrl.hub.requirements import requirement
from hf_seqrl.hub.results import leaderboard_results
from hf_seqrl.hub.run_record import RUN_RECORD_NAME, RunRecord
from hf_seqrl.installation import install_command
from hf_seqrl.models.registry import family_of

_TEMPLATE = files("hf_seqrl.hub").joinpath("templates", "agent_card.md.jinja")
_TAGS = ["reinforcement-learning", "deep-reinforcement-learning", "offline-reinforcement-learning", "hf-seqrl"]


def build_card(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    evaluation: RolloutResult | None = None,
    run: RunRecord | None = None,
    repo_id: str = "agent",
    replay: tuple[str | None, str | None] = (None, None),
) -> ModelCard:
    """Write the card of an agent.

    Args:
        model, processor: The agent's parts.
        evaluation (`RolloutResult`, *optional*): The results to report; without, the card says that there are none.
        run (`RunRecord`, *optional*): How the weights came to be; without, the card says that it is not known.
        repo_id (`str`, *optional*, defaults to `"agent"`): By which name the example loads the agent.
        replay (`tuple`, *optional*): The name of the film of an episode, or why there is none.
    """
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    environment.filters["number"] = number
    card_data = card_metadata(model, processor, evaluation, run, repo_id)
    text = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        card_data=card_data.to_yaml(),
        **_about_agent(model, processor, repo_id),
        **_about_results(evaluation),
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
    """The metadata block, by which the Hub finds and ranks the agent."""
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


def number(value: float) -> str:
    """A figure as a person would write it.

    Example:
        >>> number(3600.0), number(0.1234567), number(1234.5678)
        ('3600', '0.1235', '1234.6')
    """
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value)}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.4g}"


def is_hub_id(name: str) -> bool:
    """Whether a data set's name is one that the Hub could have, and no path of somebody's disk.

    Example:
        >>> is_hub_id("me/hopper"), is_hub_id("./data/hopper"), is_hub_id("data/hopper.parquet")
        (True, False, False)
    """
    return (
        name.count("/") == 1
        and not name.startswith((".", "/", "~"))
        and not Path(name).suffix
        and not Path(name).exists()
    )


def describe_space(space: gym.Space) -> str:
    """A space in a few words, bounds left out.

    Example:
        >>> describe_space(gym.spaces.Box(-1, 1, (3,))), describe_space(gym.spaces.Discrete(2))
        ('Box(3,) float32', 'Discrete(2)')
    """
    return f"Box{space.shape} {space.dtype}" if isinstance(space, gym.spaces.Box) else str(space)


def _eval_results(evaluation: RolloutResult, processor: ProcessorMixin, family_name: str) -> list[EvalResult]:
    env_id = evaluation.env_id or processor.env_id or "unnamed environment"
    figures = leaderboard_results(evaluation, processor.target_returns)
    where = {"task_type": "reinforcement-learning", "task_name": "reinforcement-learning"}
    where |= {"dataset_type": env_id, "dataset_name": env_id}
    value = f"{figures['mean_reward']:.2f} +/- {figures['std_reward']:.2f}"
    return [EvalResult(**where, metric_type="mean_reward", metric_name="mean_reward", metric_value=value)]


def _about_agent(model: PreTrainedModel, processor: ProcessorMixin, repo_id: str) -> dict[str, Any]:
    family_title = family_of(model.config.model_type).name.replace("-", " ").title()
    env_id = processor.env_id
    return {
        "title": f"{family_title} for {env_id}" if env_id else family_title,
        "family_title": family_title,
        "acts": family_of(model.config.model_type).make_actor is not None,
        "num_parameters": f"{model.num_parameters():,}",
        "env_id": env_id,
        "install_command": install_command(),
        "requirement": requirement(env_id) if env_id else None,
        "env_literal": f'"{env_id}"' if env_id else "env",
        "observation_space": describe_space(space_from_dict(processor.observation_space)),
        "action_space": describe_space(space_from_dict(processor.action_space)),
        "target_returns": processor.target_returns,
        "lesser_targets": [
            number(target) for target in processor.target_returns if target < processor.target_returns[0]
        ],
        "repo_id": repo_id,
        "config_name": names.CONFIG_NAME,
        "processor_name": names.PROCESSOR_NAME,
    }


def _about_results(evaluation: RolloutResult | None) -> dict[str, Any]:
    about: dict[str, Any] = {"evaluation": evaluation, "rows": [], "scored": False, "evaluated_env": None}
    about |= {
        "plot_name": names.PLOT_NAME,
        "evaluation_name": names.EVALUATION_NAME,
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
        "evaluated_env": evaluation.env_id or "the environment",
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
    provenance = run.data.get("provenance")
    return {
        "run": run,
        "run_record_name": RUN_RECORD_NAME,
        "data_name": _data_name(run.data),
        "provenance": yaml.safe_dump(provenance, sort_keys=False, default_flow_style=None, width=120).rstrip()
        if provenance
        else None,
        "settings": _settings(run),
    }


def _settings(run: RunRecord) -> dict[str, Any]:
    """What was set: of the number of updates and of epochs, only the one that counted."""
    settings = {**run.options, **run.hyperparameters}
    unused = "num_train_epochs" if settings.get("max_steps", -1) > 0 else "max_steps"
    return {name: value for name, value in settings.items() if value is not None and name != unused}


def _data_name(data: dict[str, Any]) -> str:
    name = data.get("name")
    if not name:
        return "episodes that were given by the program"
    return f"[{name}](https://huggingface.co/datasets/{name})" if data.get("hub_id") else f"`{name}`"
