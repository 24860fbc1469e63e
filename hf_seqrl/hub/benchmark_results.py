"""Results in the Hub's format for the leaderboards of benchmark data sets: `.eval_results/*.yaml`.

The format is described at https://huggingface.co/docs/hub/eval-results and written by `huggingface_hub`. A result names the
task of a *benchmark*: a data set on the Hub with an `eval.yaml` that the Hub has registered. An environment is none, so a result
is written for a benchmark that the user names; the card's metadata report it in the older format, `model-index`, in any case.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from hf_seqrl.data.durable import write_whole
from hf_seqrl.evaluation.results import RolloutResult
from hf_seqrl.hub.checkpoint import BENCHMARK_RESULTS_NAME, EVALUATION_NAME

_BENCHMARK = re.compile(r"(?P<dataset>[\w-][\w.-]*/[\w-][\w.-]*):(?P<task>[\w.-]+)", re.ASCII)


def check_benchmark(benchmark: str, evaluation: RolloutResult | None) -> tuple[str, str]:
    """The id of the data set and the task of `OWNER/DATASET:TASK`.

    Raises:
        ValueError: it is of another form, or there is no evaluation to report.
    """
    found = _BENCHMARK.fullmatch(benchmark)
    if found is None:
        raise ValueError(
            f"benchmark {benchmark!r}: expected OWNER/DATASET:TASK, a benchmark on the Hub and a task of its eval.yaml."
        )
    if evaluation is None:
        raise ValueError(
            f"there are no results to report to {benchmark}: set agent.evaluation = rollout(agent, ...), or run "
            "`hf-seqrl evaluate AGENT --save`, first."
        )
    return found["dataset"], found["task"]


def benchmark_entry(
    evaluation: RolloutResult, target_returns: Sequence[float], benchmark: str, repo_id: str
) -> EvalResultEntry:
    """The mean return of an agent as a result of a benchmark.

    Args:
        evaluation: The results. Of several target returns, the agent's default counts, else the first one.
        target_returns: The agent's own targets, the default first, raw units.
        benchmark: `OWNER/DATASET:TASK`.
        repo_id: The agent's repository, whose episodes are named as the source.
    """
    dataset_id, task_id = check_benchmark(benchmark, evaluation)
    counted = evaluation.default_part(target_returns)
    statistics = counted.summary()
    notes = [f"mean return of {counted.num_episodes} episodes"]
    if evaluation.environment:
        notes.append(f"environment {evaluation.environment}")
    if statistics["seeds"]:
        notes.append("seeds {} to {}".format(*statistics["seeds"]))
    if counted.target_returns is not None:
        notes.append(f"target return {counted.target_returns[0]:g}")
    if statistics["confidence_interval"]:
        notes.append("95 % interval {:.6g} to {:.6g}".format(*statistics["confidence_interval"]))
    return EvalResultEntry(
        dataset_id=dataset_id,
        task_id=task_id,
        value=round(counted.mean_return, 6),
        date=evaluation.finished_at,
        source_url=f"https://huggingface.co/{repo_id}/blob/main/{EVALUATION_NAME}",
        source_name="All episodes",
        notes=", ".join(notes),
    )


def write_benchmark_result(
    evaluation: RolloutResult, target_returns: Sequence[float], benchmark: str, repo_id: str, folder: str | Path
) -> Path:
    """Write this entry into the folder of an agent, where the Hub reads it; arguments as for [`benchmark_entry`]."""
    entry = benchmark_entry(evaluation, target_returns, benchmark, repo_id)
    path = Path(folder, BENCHMARK_RESULTS_NAME)
    path.parent.mkdir(exist_ok=True)
    return write_whole(path, yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False))
