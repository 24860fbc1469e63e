import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard

from hf_seqrl import RolloutResult
from hf_seqrl.hub.card import build_card
from hf_seqrl.hub.run_record import RunRecord
from hf_seqrl.installation import install_command

RUN = RunRecord(
    "decision-transformer",
    command="hf-seqrl train decision-transformer --dataset me/cartpole --max_steps 10",
    seed=3,
    updates=10,
    seconds=1.5,
    final_loss=0.25,
    data={
        "name": "me/cartpole",
        "hub_id": "me/cartpole",
        "fingerprint": "0123abcd",
        "episodes": 30,
        "steps": 700,
        "return_mean": 22.5,
        "return_std": 9.0,
        "return_min": 9.0,
        "return_max": 71.0,
        "provenance": {"made_by": "hf_seqrl.collect"},
    },
    hyperparameters={"learning_rate": 1e-3, "adam_epsilon": None},
    versions={"python": "3.11", "torch": "2.13"},
    machine="2 cores",
    finished_at="2026-01-01T00:00:00+00:00",
)


@pytest.fixture
def evaluation():
    return RolloutResult(
        returns=np.array([210.0, 190.0, 50.0, 60.0]),
        lengths=np.array([210, 190, 50, 60]),
        seeds=np.array([7, 8, 7, 8]),
        terminated=np.array([True, True, True, True]),
        target_returns=np.array([200.0, 200.0, 50.0, 50.0]),
        env_id="CartPole-v1",
        seconds=1.0,
    )


def test_metadata_is_what_the_hub_reads(tiny_agent, evaluation):
    card = ModelCard(str(build_card(tiny_agent.model, tiny_agent.processor, evaluation, RUN, "me/agent")))
    assert card.data.pipeline_tag == "reinforcement-learning"
    assert card.data.library_name == "hf-seqrl"
    assert {"reinforcement-learning", "decision-transformer", "CartPole-v1"} <= set(card.data.tags)
    assert card.data.datasets == ["me/cartpole"]
    (result,) = card.data.eval_results
    assert (result.dataset_name, result.metric_type, result.metric_value) == (
        "CartPole-v1",
        "mean_reward",
        "200.00 +/- 10.00",
    )
    index = yaml.safe_load(str(card).split("---")[1])["model-index"]
    assert index[0]["name"] == "agent"


@pytest.mark.parametrize(
    "fact",
    [
        "hf-seqrl train decision-transformer --dataset me/cartpole --max_steps 10",
        "| 200 | 200.0 | 190.0 .. 210.0 | 10.0 | 190.0 | 210.0 | 200.0 |",
        "seeds 7-8",
        "2 episodes for each target return",
        "30 episodes, 700 steps, returns 22.5000".replace("22.5000", "22.5"),
        "`0123abcd`",
        "made_by: hf_seqrl.collect",
        "| `learning_rate` | 0.001 |",
        "torch 2.13",
        "seed 3",
        "10 updates in 1.5 seconds on 2 cores",
        "The highest return in the training data is 71.",
        "https://huggingface.co/datasets/me/cartpole",
    ],
)
def test_card_states(tiny_agent, evaluation, fact):
    assert fact in str(build_card(tiny_agent.model, tiny_agent.processor, evaluation, RUN, "me/agent"))


@pytest.mark.parametrize("env_id", ["CartPole-v1", None])  # of a pool that was passed in, the id is not known
def test_results_in_envpool_are_named_as_such(tiny_agent, evaluation, env_id):
    evaluation = replace(evaluation, backend="envpool", env_id=env_id, seeds=np.array([7, -1, 7, -1]))
    card = build_card(tiny_agent.model, tiny_agent.processor, evaluation, RUN, "me/agent")
    assert card.data.eval_results[0].dataset_name == "CartPole-v1 of EnvPool"
    for fact in (
        install_command("envpool"),
        'rollout(agent, "CartPole-v1", num_episodes=10, seed=0, backend="envpool", target_return=',
        "in CartPole-v1 of EnvPool." if env_id else "in an environment of EnvPool.",
        "Every episode, with its seed (-1 if it began without one), is in `evaluation.json`.",
    ):
        assert fact in str(card)


def test_the_example_plays_in_gymnasium_unless_the_agents_environment_was_played_in_envpool(tiny_agent, evaluation):
    elsewhere = replace(evaluation, backend="envpool", env_id="CartPole-v0")
    for results in (None, evaluation, elsewhere):
        text = str(build_card(tiny_agent.model, tiny_agent.processor, results, RUN, "me/agent"))
        assert install_command() in text and "backend=" not in text and "began without" not in text


def test_card_without_results_or_record_says_so(tiny_agent):
    text = str(build_card(tiny_agent.model, tiny_agent.processor))
    assert "These weights have not been evaluated." in text
    assert "How these weights were trained is not recorded." in text
    assert "model-index" not in text


def test_card_leaves_nothing_to_fill_in(tiny_agent, evaluation):
    for text in (
        str(build_card(tiny_agent.model, tiny_agent.processor)),
        str(build_card(tiny_agent.model, tiny_agent.processor, evaluation, RUN, "me/agent")),
    ):
        assert not re.search(r"TO" + r"DO|None|\{\{|\[More", text)
        assert "\n\n\n" not in text


def test_a_folder_is_not_linked_as_a_data_set_of_the_hub_wherever_the_card_is_written(tiny_agent):
    run = RunRecord("decision-transformer", data={**RUN.data, "name": "data/cartpole", "hub_id": None})
    card = build_card(tiny_agent.model, tiny_agent.processor, run=run)
    assert card.data.datasets is None
    assert "huggingface.co/datasets" not in str(card)


def test_the_example_runs_as_printed(tiny_agent, tmp_path):
    tiny_agent.save_pretrained(tmp_path / "my-agent")
    text = (tmp_path / "my-agent" / "README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len([line for line in example.splitlines() if line]) <= 5
    ran = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120
    )
    assert "mean return" in ran.stdout


def test_the_example_for_an_environment_without_id_names_nothing_undefined(tiny_agent, tmp_path, monkeypatch):
    tiny_agent.processor.task = replace(tiny_agent.processor.task, env_id=None)
    tiny_agent.save_pretrained(tmp_path / "my-agent")
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", Path("my-agent", "README.md").read_text(), flags=re.DOTALL)
    names = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["actions"].shape == (1,)


def _card(tiny_agent, **data):
    command = "hf-seqrl train decision-transformer --dataset data/cartpole"
    run = replace(RUN, command=command, data={**RUN.data, "name": "data/cartpole", "hub_id": None, **data})
    return str(build_card(tiny_agent.model, tiny_agent.processor, run=run))


def test_the_commands_begin_with_the_collection_of_the_data(tiny_agent):
    collected = {"command": "hf-seqrl collect CartPole-v1 --policy random --output data/cartpole"}
    block = f"{collected['command']}\nhf-seqrl train decision-transformer --dataset data/cartpole\n```"
    assert f"```bash\n{block}" in _card(tiny_agent, provenance=collected)
    assert block not in _card(tiny_agent, provenance=collected, hub_id="me/cartpole")
    assert "It is not on the Hub" in _card(tiny_agent)


def test_a_recorded_command_of_others_is_quoted(tiny_agent):
    text = _card(tiny_agent, provenance={"command": "hf-seqrl collect CartPole-v1 ; rm -rf ~\nls"})
    assert "hf-seqrl collect CartPole-v1 ';' rm -rf '~' ls\n" in text
    assert "```bash\nrm" not in _card(tiny_agent, provenance={"command": "rm -rf ~"})


def test_it_says_what_to_install_and_that_nothing_was_filmed(tiny_agent, tmp_path):
    tiny_agent.save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert f"\n{install_command()}\n" in text
    assert "There is no replay: none was recorded." in text


def test_it_says_what_was_chosen_for_the_data_and_whether_the_target_matters(tiny_agent, evaluation):
    run = replace(RUN, chosen=["timesteps none: rewards differ from step to step."])
    text = str(build_card(tiny_agent.model, tiny_agent.processor, evaluation, run, "me/agent"))
    assert "Chosen for these data:" in text and "- timesteps none: rewards differ" in text
    assert "little effect" not in text
    deaf = replace(evaluation, returns=np.array([210.0, 190.0, 199.0, 198.0]))
    assert "asked for 200 and 50, the agent achieves 200.0 and 198.5" in str(
        build_card(tiny_agent.model, tiny_agent.processor, deaf, RUN, "me/agent")
    )


@pytest.mark.parametrize("missing", ["episodes", "steps", "return_mean", "return_max", "fingerprint"])
def test_a_record_that_lacks_figures_of_the_data_leaves_them_out(tiny_agent, missing):
    data = {name: value for name, value in RUN.data.items() if name != missing}
    whole, partial = (
        build_card(tiny_agent.model, tiny_agent.processor, run=replace(RUN, data=one)).text for one in (RUN.data, data)
    )
    assert "30 episodes, 700 steps, returns 22.5 +- 9 (from 9 to 71), content fingerprint `0123abcd`." in whole
    shown = {
        "episodes": "30 episodes",
        "steps": "700 steps",
        "return_mean": "22.5",
        "return_max": "71",
        "fingerprint": "0123abcd",
    }
    assert shown[missing] not in partial
    assert "Undefined" not in partial
