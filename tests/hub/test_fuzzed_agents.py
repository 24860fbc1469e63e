"""Seeded mutations of an agent's files: each is refused by a sentence, or changes nothing that the agent does."""

import json
import os
import re
import shutil
import warnings
from collections import Counter

import numpy as np
import pytest
from mutations import mutated, with_another_value

from hf_seqrl import Agent, rollout
from hf_seqrl.cli.main import main
from hf_seqrl.hub.checkpoint import weights_checksum
from hf_seqrl.hub.run_record import RunRecord

FILES = (
    "config.json",
    "processor_config.json",
    "model.safetensors",
    "manifest.json",
    "evaluation.json",
    "training_run.json",
    "README.md",
)
FEW = 100
MANY = int(os.environ.get("HF_SEQRL_FUZZ_CASES", 2_000))


def _fuzz(agent, place, number, seed, with_manifest):
    """How many mutated agents were refused, and how many loaded the same; a list of what should not be."""
    rng, found, wrong = np.random.default_rng(seed), Counter(), []
    agent.run = RunRecord("decision-transformer", seed=3)
    agent.evaluation = rollout(agent, "CartPole-v1", num_episodes=2)
    agent.save_pretrained(place / "sound")
    if not with_manifest:
        (place / "sound" / "manifest.json").unlink()
    names = [name for name in FILES if (place / "sound" / name).exists()]
    expected = _contents(Agent.from_pretrained(place / "sound"))
    folder = place / "mutated"
    for case in range(number):
        name = names[rng.integers(len(names))]
        shutil.copytree(place / "sound", folder)
        before = (folder / name).read_bytes()
        change = with_another_value if name.endswith(".json") and rng.random() < 0.6 else mutated
        (folder / name).write_bytes(change(before, rng))
        try:
            same = _contents(_loaded_and_acting(folder)) == expected
            found["loaded the same" if same else "loaded another, as no manifest says what it was"] += 1
            if with_manifest and not same:
                wrong.append(f"{case}: {name} was loaded although it differs")
        except (ValueError, OSError):
            found["refused"] += 1
        except Exception as error:  # whatever it is, it is a finding
            wrong.append(f"{case}: {name}: {error!r}")
        shutil.rmtree(folder)
    return found, wrong


def _contents(agent):
    return weights_checksum(agent.model), json.dumps(agent.processor.to_dict(), default=str)


def _loaded_and_acting(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        agent = Agent.from_pretrained(folder)
        agent.reset(1, 30.0 if agent.is_conditioned else None)
        agent.act(np.zeros((1, 4), np.float32))
    return agent


@pytest.mark.parametrize("with_manifest", [True, False])
def test_a_mutated_agent_is_refused_or_the_same(tiny_agent, tmp_path, with_manifest):
    found, wrong = _fuzz(tiny_agent, tmp_path, FEW, 1, with_manifest)
    assert found["refused"] > FEW / 5 and sum(found.values()) + len(wrong) == FEW and not wrong, wrong


@pytest.mark.slow
@pytest.mark.parametrize("with_manifest", [True, False])
def test_many_mutated_agents_are_refused_or_the_same(tiny_agent, tmp_path, with_manifest):
    found, wrong = _fuzz(tiny_agent, tmp_path, MANY, 2, with_manifest)
    print(f"{dict(found)}, {len(wrong)} wrong loads")
    assert not wrong, wrong


def test_the_command_says_in_one_line_what_is_wrong_with_a_mutated_agent(tiny_agent, tmp_path, capsys):
    rng = np.random.default_rng(3)
    tiny_agent.save_pretrained(tmp_path / "agent")
    for name in ("config.json", "processor_config.json", "model.safetensors"):
        before = (tmp_path / "agent" / name).read_bytes()
        (tmp_path / "agent" / name).write_bytes(mutated(before, rng))
        assert main(["info", str(tmp_path / "agent")]) == 1
        shown = capsys.readouterr().err
        assert len(re.findall("(?m)^hf-seqrl info: ", shown)) == 1 and "Traceback" not in shown
        (tmp_path / "agent" / name).write_bytes(before)
