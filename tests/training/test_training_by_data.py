"""Training arguments follow from the data where nobody gave them."""

from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset

from hf_seqrl import Agent
from hf_seqrl.training.run import Judgement, train_agent


@pytest.mark.parametrize(
    ("left", "updates", "rate", "note"),
    [
        ((), 6, 1e-3, None),
        ({"max_steps"}, 3, 1e-3, "max_steps 3: there is little to learn."),
        ({"max_steps", "learning_rate"}, 3, 5e-4, "max_steps 3, learning_rate 0.0005: there is little to learn."),
    ],
)
def test_a_family_chooses_what_is_left_to_the_data(
    family, options, arguments, cartpole_dataset, left, updates, rate, note
):
    def prepare(dataset, options):
        chosen = {"max_steps": 3, "learning_rate": 5e-4}
        return replace(family.prepare(dataset, options), training=chosen, training_because="there is little to learn")

    training = arguments(learning_rate=1e-3)
    train_agent(
        replace(family, prepare=prepare),
        cartpole_dataset,
        options,
        training,
        judgement=Judgement(num_episodes=0),
        left_to_data=left,
    )
    record = Agent.from_pretrained(training.output_dir).run
    assert (record.updates, record.hyperparameters["learning_rate"]) == (updates, rate)
    assert [chosen for chosen in record.chosen if "little" in chosen] == ([note] if note else [])


def _episodes(count):
    generator = np.random.default_rng(0)
    return Dataset.from_dict(
        {
            "observations": [generator.normal(size=(5, 2)).tolist() for _ in range(count)],
            "actions": [generator.normal(size=(5, 1)).tolist() for _ in range(count)],
            "rewards": [generator.normal(size=5).tolist() for _ in range(count)],
            "dones": [[False] * 4 + [True]] * count,
        }
    )


@pytest.mark.parametrize(
    ("count", "changes", "gentle"),
    [(40, {}, True), (400, {}, False), (40, {"recipe": "paper"}, False), (400, {"best_fraction": 0.1}, True)],
)
def test_few_episodes_are_trained_on_gently(family, count, changes, gentle):
    options = family.options_class(**{"return_temperature": 0.0, **changes})
    prepared = family.prepare(_episodes(count), options)
    assert prepared.training == ({"max_steps": 2_500, "learning_rate": 1e-3} if gentle else {})
    if gentle:
        assert prepared.training_because == "steps come as from 40 episodes"
