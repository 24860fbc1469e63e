"""Results in the Hub's format for leaderboards, read again by the parser of `huggingface_hub`."""

import numpy as np
import pytest
import yaml
from huggingface_hub import parse_eval_result_entries

from hf_seqrl import RolloutResult
from hf_seqrl.hub.benchmark_results import write_benchmark_result


def test_a_result_is_what_the_hubs_parser_reads(tmp_path):
    evaluation = RolloutResult(
        returns=np.array([210.0, 190.0, 50.0, 60.0]),
        lengths=np.array([210, 190, 50, 60]),
        seeds=np.array([7, 8, 7, 8]),
        terminated=np.array([True] * 4),
        target_returns=np.array([200.0, 200.0, 50.0, 50.0]),
        env_id="CartPole-v1",
        finished_at="2026-01-01T00:00:00+00:00",
        backend="envpool",
    )
    path = write_benchmark_result(evaluation, [50.0, 200.0], "me/control-suite:cartpole", "me/agent", tmp_path)
    assert path.relative_to(tmp_path).as_posix() == ".eval_results/hf-seqrl.yaml"
    (entry,) = parse_eval_result_entries(yaml.safe_load(path.read_text()))
    assert (entry.dataset_id, entry.task_id) == ("me/control-suite", "cartpole")
    assert entry.value == 55.0  # of the default target, and not of the best
    assert entry.date == "2026-01-01T00:00:00+00:00"
    assert entry.source_url == "https://huggingface.co/me/agent/blob/main/evaluation.json"
    for fact in ("2 episodes", "CartPole-v1 of EnvPool", "seeds 7 to 8", "target return 50", "95 % interval 50 to 60"):
        assert fact in entry.notes


@pytest.mark.parametrize("name", ["control", "me/control", "me/control:", ":task", "me/control:a b"])
def test_other_forms_of_a_benchmark_are_refused(tiny_agent, name):
    with pytest.raises(ValueError, match="expected OWNER/DATASET:TASK"):
        tiny_agent.push_to_hub("me/agent", benchmark=name)
    with pytest.raises(ValueError, match=r"there are no results to report to me/control:task: set agent\.evaluation"):
        tiny_agent.push_to_hub("me/agent", benchmark="me/control:task")
