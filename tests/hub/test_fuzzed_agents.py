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
from hf_seqrl.models.registry import family_named

FILES = (
    "config.json",
    "processor_config.json",
    "model.safetensors",
    "manifest.json",
    "evaluation.json",
    "training_run.json",
    "README.md",
    *(f"critic/{name}" for name in ("config.json", "processor_config.json", "candidates_config.json")),
)
KINDS = {
    "decision transformer": ("decision-transformer", {"context_length": 4, "hidden_size": 16, "n_layer": 1}),
    "trajectory transformer": (
        "trajectory-transformer",
        {
            "sequence_transitions": 3,
            "n_embd": 16,
            "n_layer": 1,
            "n_head": 1,
            "num_bins": 8,
            "horizon": 2,
            "beam_width": 2,
        },
    ),
    "encoder-decoder": ("trajectory-seq2seq", {"backbone": "gru", "context_length": 4, "hidden_size": 16}),
    "policy": ("cloning", {"hidden_size": 16}),
    "critic": ("critic", {"hidden_size": 16}),
    "guided": ("decision-transformer", {"context_length": 2, "hidden_size": 16, "n_layer": 1}),
}
SAYS_WHAT_TO_GIVE = r"space is not known: give|give the return to reach"  # what a processor may lack
FEW = 100
MANY = int(os.environ.get("HF_SEQRL_FUZZ_CASES", 2_000))


@pytest.fixture
def made(cartpole_dataset):
    """`made(kind)`: an untrained agent."""

    def make(kind):
        name, options = KINDS[kind]
        family = family_named(name)
        prepared = family.prepare(cartpole_dataset, family.options_class(**options))
        guide = {"critic": make("critic"), "candidate_targets": [10.0, 20.0]} if kind == "guided" else {}
        return Agent(prepared.model, prepared.processor, **guide)

    return make


def _fuzz(agent, place, number, seed, with_manifest):
    """How many mutated agents were refused, and how many loaded the same; a list of what should not be."""
    rng, found, wrong = np.random.default_rng(seed), Counter(), []
    agent.run = RunRecord("decision-transformer", seed=3)
    if agent.family.make_actor is not None:
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
            loaded = _loaded(folder)
            _act(loaded)
            same = _contents(loaded) == expected
            found["loaded the same" if same else "loaded another, as no manifest says what it was"] += 1
            if with_manifest and not same:
                wrong.append(f"{case}: {name} was loaded although it differs")
        except (ValueError, OSError) as error:
            found["refused"] += 1
            if str(folder) not in str(error) and not re.search(SAYS_WHAT_TO_GIVE, str(error)):
                wrong.append(f"{case}: {name}: the message names no folder: {error}")
        except Exception as error:  # whatever it is, it is a finding
            wrong.append(f"{case}: {name}: {error!r}")
        shutil.rmtree(folder)
    return found, wrong


def _contents(agent):
    parts = [agent] if agent.critic is None else [agent, agent.critic]
    return [(weights_checksum(one.model), json.dumps(one.processor.to_dict(), default=str)) for one in parts]


def _loaded(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Agent.from_pretrained(folder)


def _act(agent):
    if agent.family.make_values is not None:
        agent.values.action_values(np.zeros((1, 4), np.float32), np.zeros(1, np.int64))
        return
    agent.reset(1, 30.0 if agent.is_conditioned else None)
    agent.act(np.zeros((1, 4), np.float32))


@pytest.mark.parametrize("with_manifest", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_mutated_agent_is_refused_or_the_same(made, tmp_path, kind, with_manifest):
    number = FEW if kind == "decision transformer" else FEW // 8
    found, wrong = _fuzz(made(kind), tmp_path, number, 1, with_manifest)
    assert found["refused"] and sum(found.values()) == number and not wrong, (found, wrong)


@pytest.mark.slow
@pytest.mark.parametrize("with_manifest", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_many_mutated_agents_are_refused_or_the_same(made, tmp_path, kind, with_manifest):
    found, wrong = _fuzz(made(kind), tmp_path, MANY // len(KINDS), 2, with_manifest)
    print(f"{kind}: {dict(found)}, {len(wrong)} wrong loads")
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
