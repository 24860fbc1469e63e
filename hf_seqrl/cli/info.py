"""`hf-seqrl info`: describe a data set or an agent."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from hf_seqrl.cli.columns import add_column_options, column_arguments


def main(arguments: Sequence[str]) -> int:
    parser = ArgumentParser(prog="hf-seqrl info", description="Describe a data set or an agent.")
    parser.add_argument("source", help="a folder, a file, or a Hub id")
    parser.add_argument("--data", action="store_true", help="a Hub id is a data set, not a model")
    parser.add_argument("--trust_remote_code", action="store_true", help="let the files name code that is run")
    add_column_options(parser)
    options = parser.parse_args(arguments)
    if not options.data and _is_agent(options.source):
        facts = agent_facts(options.source, options.trust_remote_code)
    elif _is_open_table(options):
        facts = table_facts(options.source, options)
    else:
        facts = data_facts(options.source, trust_remote_code=options.trust_remote_code, **column_arguments(options))
    print(yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, width=110).rstrip())
    return 0


def _is_agent(source: str) -> bool:
    if Path(source).exists():
        return Path(source, "config.json").is_file()
    from transformers.utils import cached_file

    try:
        return cached_file(source, "config.json", _raise_exceptions_for_missing_entries=False) is not None
    except OSError:  # there is no such model; it may be a data set
        return False


def _is_open_table(options: Namespace) -> bool:
    """Whether the source is a table with one row a step of which no column is named."""
    named = set(column_arguments(options)) - {"separator", "decimal", "encoding", "sheet"}
    if named or not Path(options.source).exists():
        return False
    from hf_seqrl.data.table_description import is_step_table

    return is_step_table(Path(options.source))


def table_facts(source: str, options: Namespace) -> dict[str, Any]:
    """What a table looks like of which no column is named, and the command that is proposed."""
    from hf_seqrl.data.table_description import describe_table
    from hf_seqrl.data.table_files import TableFormat

    return describe_table(
        source, TableFormat(options.separator, options.decimal, options.encoding, options.sheet)
    ).facts()


def data_facts(source: str, **columns: Any) -> dict[str, Any]:
    """The facts about a data set, in plain values; returns in raw units.

    Args:
        source: A folder, a file, or a Hub id.
        columns: Arguments of `load_trajectories`.
    """
    from hf_seqrl.data.description import describe
    from hf_seqrl.data.loading import load_trajectories
    from hf_seqrl.data.metadata import metadata_of

    dataset = load_trajectories(source, **columns)
    facts, metadata = describe(dataset), metadata_of(dataset)
    lengths, returns = facts["lengths"], facts["returns"]
    return {
        "data set": source,
        "environment": facts["env_id"] or "not recorded",
        "observations": _step_shape(facts["observations"]),
        "actions": _step_shape(facts["actions"]),
        "action space": _space(metadata, "actions"),
        "observation space": _space(metadata, "observations"),
        "episodes": facts["episodes"],
        "steps": facts["steps"],
        "episode length": {"mean": lengths["mean"], "min": int(lengths["min"]), "max": int(lengths["max"])},
        "return": {name: round(returns[name], 3) for name in ("mean", "std", "min", "max")},
        "reference returns (random, expert)": facts["reference_returns"] or "not recorded",
        "time limit": facts["max_episode_steps"] or "not recorded",
        "guessed": facts["guesses"] or "nothing",
        "content fingerprint": facts["fingerprint"],
        "provenance": facts["provenance"] or "not recorded",
    }


def agent_facts(source: str, trust_remote_code: bool = False) -> dict[str, Any]:
    """The facts about an agent, in plain values; returns in raw units."""
    from hf_seqrl.hub.agent import Agent

    agent = Agent.from_pretrained(source, trust_remote_code=trust_remote_code)
    facts = {
        "agent": source,
        "family": agent.family.name,
        "parameters": agent.model.num_parameters(),
        "environment": agent.env_id or "not recorded",
        "observation space": _space(agent.processor.task, "observations"),
        "action space": _space(agent.processor.task, "actions"),
        "target returns": list(agent.target_returns),
        "trained": _training(agent),
    }
    if agent.evaluation is not None:
        facts["evaluated"] = agent.evaluation.table().splitlines()
    return facts


def _training(agent: Any) -> dict[str, Any] | str:
    if agent.run is None:
        return "not recorded"
    known = {"command": agent.run.command, "updates": agent.run.updates, "seconds": agent.run.seconds}
    return {**known, "seed": agent.run.seed, "data": agent.run.data.get("name"), "versions": agent.run.versions}


def _step_shape(kind: dict[str, Any]) -> str:
    return f"{kind['dtype']}, shape {tuple(kind['shape'])}"


def _space(task: Any, column: str) -> str:
    from hf_seqrl.hub.card import describe_entries

    if getattr(task, f"{column[:-1]}_space"):
        return describe_entries(task, column)
    entries = task.entries_in_words(column)
    return f"not recorded; {entries}" if entries else "not recorded"
