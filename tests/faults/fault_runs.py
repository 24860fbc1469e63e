"""What the campaign strikes: runs that go on where they were stopped."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

from campaign import Operation, agent_at, by_weights, strike
from matplotlib.figure import Figure
from matplotlib.image import imsave


def train_operation(dataset: Any) -> Operation:
    """A run with checkpoints; what is resumed must end in the weights of a run that was left alone."""
    from transformers import TrainingArguments

    from hf_seqrl import family_of
    from hf_seqrl.training.run import Judgement, train_agent

    family = family_of("decision_transformer")

    def run(folder: Path) -> None:
        arguments = TrainingArguments(
            output_dir=str(folder / "run"), max_steps=4, save_steps=2, save_total_limit=1, use_cpu=True,
            per_device_train_batch_size=4, report_to="none", disable_tqdm=True, logging_steps=1,
        )  # fmt: skip
        options = family.options_class(context_length=2, hidden_size=8, n_layer=1)
        with _quiet():
            train_agent(family, dataset, options, arguments, judgement=Judgement(num_episodes=0), resume=True)

    return _with_expected_agent(run, "run")


def resume_operation(dataset: Any) -> Operation:
    """The continuation of a run that was killed while it saved its first checkpoint."""
    train = train_operation(dataset)

    def prepare(folder: Path) -> None:
        train.prepare(folder)
        strike(train, folder, "kill", 40)

    return train._replace(prepare=prepare)


def finetune_operation(agent: Any, dataset: Any) -> Operation:
    """Two rounds of online fine-tuning, resumed, end in the weights of a run that was left alone."""
    from hf_seqrl import Agent, OnlineOptions, finetune_online
    from hf_seqrl.training.run import Judgement

    options = OnlineOptions(rounds=2, episodes_per_round=2, updates_per_round=2, batch_size=4, num_envs=2)

    def run(folder: Path) -> None:
        tuned = Agent(deepcopy(agent.model), deepcopy(agent.processor))
        with _quiet():
            judgement = Judgement(num_episodes=0)
            finetune_online(
                tuned, folder / "tuned", dataset, options=options, judgement=judgement, resume=True, use_cpu=True
            )

    return _with_expected_agent(run, "tuned")


def compare_operation(dataset: Any) -> Operation:
    """A comparison of two methods goes on where it was stopped, and recommends the same agent."""
    from hf_seqrl import compare

    def run(folder: Path) -> None:
        methods = ["cloning", "cloning, best 10 %"]
        with _quiet():
            compare(dataset, folder / "compared", methods=methods, num_seeds=1, max_steps=2, num_episodes=2)

    return _with_expected_agent(run, "compared/agent")


def quickstart_operation() -> Operation:
    """The quickstart, with little data and few updates, goes on where it was stopped."""
    from hf_seqrl import Agent
    from hf_seqrl.cli import quickstart

    def loads_the_same(agent: Any, folder: Path) -> bool:  # here, as a new process takes seconds to start
        return quickstart.replay_fingerprint(Agent.from_pretrained(folder)) == quickstart.replay_fingerprint(agent)

    def run(folder: Path) -> None:
        arguments = ["--output_dir", str(folder / "quick"), "--num_steps", "300", "--max_steps", "2"]
        with _quiet(), patch.object(quickstart, "_acts_the_same", loads_the_same):
            if quickstart.main(arguments) != 0:
                raise RuntimeError("the saved agent acts differently")

    def state(folder: Path) -> str:
        place = folder / "quick" / "agent"
        found = agent_at(place, None)
        if found != "new":
            return found
        return "not evaluated" if Agent.from_pretrained(place).evaluation is None else "new"

    return Operation(lambda folder: None, run, state, ("none", "not evaluated", "new"))


def _with_expected_agent(run: Callable[[Path], Any], name: str) -> Operation:
    """An operation whose agent, in the folder of that name, must have the weights that it has without any fault."""
    expected: dict[int, str] = {}

    def prepare(folder: Path) -> None:
        from hf_seqrl import Agent

        with tempfile.TemporaryDirectory() as apart:
            run(Path(apart))
            expected.update(by_weights([Agent.from_pretrained(Path(apart, name))], ["new"]))

    return Operation(prepare, run, lambda folder: agent_at(folder / name, expected), ("none", "new"))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without output, and without the time that drawing takes: each plot is a file of one pixel."""

    def draw(figure: Figure, path: Any, **options: Any) -> None:
        imsave(path, [[0]])

    with redirect_stdout(StringIO()), redirect_stderr(StringIO()), patch.object(Figure, "savefig", draw):
        yield
