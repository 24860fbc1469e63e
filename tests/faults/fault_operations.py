"""What the campaign strikes: everything of the package that writes into folders or to the Hub."""

import atexit
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from campaign import REQUEST, TEMPORARY, Operation, agent_at, by_weights
from fault_runs import compare_operation, finetune_operation, quickstart_operation, resume_operation, train_operation


def all_operations() -> dict[str, Callable[[], Operation]]:
    """By name; each is made when it is its turn."""
    hub = _loopback_hub()
    import torch

    from hf_seqrl import collect

    torch.set_num_threads(1)
    dataset = collect("random", "CartPole-v1", num_episodes=6, seed=0)
    agents = agents_of(dataset)
    return {
        "save": lambda: save_operation(agents),
        "save critic": lambda: save_operation(with_critics(agents, dataset)),
        "complete": lambda: complete_operation(agents),
        "convert": lambda: convert_operation(agents),
        "replace": lambda: convert_operation(agents, former=agents[0]),
        "collect": collect_operation,
        "results": lambda: results_operation(agents, dataset),
        "push": lambda: push_agent_operation(agents, hub),
        "push data": lambda: push_data_operation(hub),
        "export": lambda: export_operation(agents),
        "train": lambda: train_operation(dataset),
        "resume": lambda: resume_operation(dataset),
        "finetune": lambda: finetune_operation(agents[0], dataset),
        "compare": lambda: compare_operation(dataset),
        "quickstart": quickstart_operation,
    }


def agents_of(dataset: Any) -> tuple[Any, Any]:
    """Two untrained agents with different weights."""
    import torch

    from hf_seqrl import Agent, DecisionTransformerProcessor, TrainableDT
    from hf_seqrl.hub.run_record import RunRecord

    processor = DecisionTransformerProcessor.from_dataset(dataset, context_length=2)
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = TrainableDT(processor.model_config(hidden_size=8, n_layer=1, n_head=1))
        made.append(Agent(model, processor))
        made[-1].run = RunRecord("decision-transformer", seed=seed)
    return made[0], made[1]


def save_operation(agents: tuple[Any, Any]) -> Operation:
    """An agent is saved over another one, beside a file of the user's."""
    names = by_weights(agents)

    def prepare(folder: Path) -> None:
        agents[0].save_pretrained(folder / "agent")
        (folder / "agent" / "notes.txt").write_text("mine")

    def state(folder: Path) -> str:
        found = agent_at(folder / "agent", names)
        return found if (folder / "agent" / "notes.txt").read_text() == "mine" else "the user's file is gone"

    return Operation(prepare, lambda folder: agents[1].save_pretrained(folder / "agent"), state, ("old", "new"))


def with_critics(agents: tuple[Any, Any], dataset: Any) -> tuple[Any, Any]:
    """The agents with a critic that chooses among candidates, in a folder of its own."""
    from hf_seqrl import Agent
    from hf_seqrl.models.critic import CriticOptions, prepare

    made = prepare(dataset, CriticOptions(hidden_size=8))
    critic = Agent(made.model, made.processor)
    first, second = (
        Agent(agent.model, agent.processor, critic=critic, candidate_targets=[10.0, 20.0]) for agent in agents
    )
    return first, second


def complete_operation(agents: tuple[Any, Any]) -> Operation:
    """Loading completes a save that was killed before its last step."""
    from hf_seqrl import Agent
    from hf_seqrl.hub import checkpoint

    names = by_weights(agents)

    def prepare(folder: Path) -> None:
        agents[0].save_pretrained(folder / "agent")
        with patch.object(checkpoint, "_move_into", lambda target: None):
            agents[1].save_pretrained(folder / "agent")

    return Operation(
        prepare,
        lambda folder: Agent.from_pretrained(folder / "agent"),
        lambda folder: agent_at(folder / "agent", names),
        ("new",),
    )


def convert_operation(agents: tuple[Any, Any], former: Any = None) -> Operation:
    """A checkpoint becomes an agent in a folder that is not there yet, or that holds a former one."""
    from hf_seqrl import Agent

    def prepare(folder: Path) -> None:
        agents[1].save_pretrained(folder / "source")
        if former is not None:
            former.save_pretrained(folder / "agent")

    def run(folder: Path) -> None:
        Agent.from_pretrained(folder / "source").save_pretrained(folder / "agent")

    names = by_weights(agents)
    before = "none" if former is None else "old"
    return Operation(prepare, run, lambda folder: agent_at(folder / "agent", names), (before, "new"))


def collect_operation() -> Operation:
    """Data are collected in the place of others."""
    from hf_seqrl import collect, load_trajectories, save_trajectories

    datasets = {seed: collect("random", "CartPole-v1", num_episodes=2, seed=seed) for seed in (0, 1)}
    names = {str(dataset["rewards"][:]): name for dataset, name in zip(datasets.values(), ("old", "new"))}

    def state(folder: Path) -> str:
        try:
            return names[str(load_trajectories(str(folder / "data"))["rewards"][:])]
        except (ValueError, OSError, KeyError) as error:
            return f"{type(error).__name__}: {error}"

    return Operation(
        lambda folder: save_trajectories(datasets[0], folder / "data"),
        lambda folder: save_trajectories(datasets[1], folder / "data", overwrite=True),
        state,
        ("old", "new"),
    )


def results_operation(agents: tuple[Any, Any], dataset: Any) -> Operation:
    """The files of evaluations, in an environment and by recorded episodes, and of a live stream take the place of others."""
    from hf_seqrl import Controller, judge_offline, rollout
    from hf_seqrl.evaluation.results import RolloutResult

    results = [rollout(agents[0], "CartPole-v1", num_episodes=2, target_return=30, seed=seed) for seed in (0, 1)]
    judgement = judge_offline(agents[0], dataset, num_steps=20)
    judgements = [replace(judgement, uninformed_loss=loss) for loss in (0.0, 1.0)]

    def write(folder: Path, which: int) -> None:
        results[which].save(folder / "results.json")
        results[which].plot(folder / "plot.png")
        judgements[which].save(folder / "judgement.json")
        controller = Controller(agents[0])
        controller.begin(target_return=30.0 + which)
        controller.step([0.0, 0.0, 0.0, 0.0])
        controller.save(folder / "stream.safetensors")

    def state(folder: Path) -> str:
        try:
            seed = RolloutResult.load(folder / "results.json").seeds[0]
            judged = json.loads((folder / "judgement.json").read_text())["uninformed_loss"]
            controller = Controller(agents[0])
            controller.load(folder / "stream.safetensors")
            target = controller.target_return
        except (ValueError, OSError, KeyError) as error:
            return f"{type(error).__name__}: {error}"
        if not (folder / "plot.png").read_bytes().endswith(b"IEND\xaeB`\x82"):
            return "the plot is cut off"
        found = {(1, 1.0, 31.0): "new", (0, 0.0, 30.0): "old"}
        return found.get((seed, judged, target), "both, each file whole")

    return Operation(
        lambda folder: write(folder, 0),
        lambda folder: write(folder, 1),
        state,
        ("old", "new", "both, each file whole"),
    )


def push_agent_operation(agents: tuple[Any, Any], hub: Any) -> Operation:
    """An agent is pushed over another one."""
    names = by_weights(agents)
    return _push_operation(
        hub,
        "model",
        lambda name, which: agents[which].push_to_hub(name),
        lambda folder: agent_at(folder, names),
    )


def push_data_operation(hub: Any) -> Operation:
    """A data set is pushed over another one."""
    from hf_seqrl import collect, load_trajectories, push_trajectories

    datasets = [collect("random", "CartPole-v1", num_episodes=2, seed=seed) for seed in (0, 1)]
    names = {str(dataset["rewards"][:]): name for dataset, name in zip(datasets, ("old", "new"))}
    return _push_operation(
        hub,
        "dataset",
        lambda name, which: push_trajectories(datasets[which], name),
        lambda folder: names.get(str(load_trajectories(str(folder))["rewards"][:]), "other data"),
    )


def _push_operation(hub: Any, kind: str, push: Callable[[str, int], Any], state: Callable[[Path], str]) -> Operation:
    """The Hub is a double in this process, which the strikes do not touch."""
    import httpx

    send = httpx.Client.send
    place: list[Path] = []
    before: dict[Any, Any] = {}

    def announced(*arguments: Any, **options: Any) -> Any:
        sys.audit(REQUEST, str(place[-1]))
        answer = send(*arguments, **options)
        sys.audit(REQUEST, str(place[-1]))
        return answer

    def run(folder: Path, which: int = 1) -> None:
        place.append(folder.resolve())
        with patch.object(tempfile, "tempdir", str(folder / TEMPORARY)), patch.object(httpx.Client, "send", announced):
            push("tester/it", which)

    def prepare(folder: Path) -> None:
        hub.reset()
        (folder / TEMPORARY).mkdir()
        run(folder, 0)
        before.update(deepcopy(hub.repositories))

    def restore() -> None:
        hub.reset()
        hub.repositories.update(deepcopy(before))

    def on_the_hub(folder: Path) -> str:
        with tempfile.TemporaryDirectory() as fresh:
            for name, blob in hub.repositories[kind, "tester/it"].at("main").files.items():
                Path(fresh, name).parent.mkdir(parents=True, exist_ok=True)
                Path(fresh, name).write_bytes(blob.data)
            return state(Path(fresh))

    return Operation(prepare, run, on_the_hub, ("old", "new"), restore)


def export_operation(agents: tuple[Any, Any]) -> Operation:
    """An exported agent takes the place of another one."""
    from hf_seqrl.deploy.runner import Runner

    digests: dict[str, str] = {}

    def run(folder: Path, which: int = 1) -> None:
        agents[which].export(folder / "exported", overwrite=True, num_episodes=1)

    def prepare(folder: Path) -> None:
        for name, which in (("new", 1), ("old", 0)):
            run(folder, which)
            digests[Runner(folder / "exported").description["digest"]] = name

    def state(folder: Path) -> str:
        try:
            runner = Runner(folder / "exported")
            runner.begin(target_return=30.0)
            runner.step([0.0, 0.0, 0.0, 0.0])
            return digests[runner.description["digest"]]
        except Exception as error:  # onnxruntime has errors of its own
            return f"{type(error).__name__}: {error}"

    return Operation(prepare, run, state, ("old", "new"))


def _loopback_hub() -> Any:
    """The Hub that is pushed to; it must be there before the client of the Hub is imported."""
    sys.path.append(str(Path(__file__).parents[1] / "hub" / "over_http"))
    from loopback_hub import Hub

    hub = Hub().__enter__()
    home = tempfile.mkdtemp(prefix="hf-home-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    os.environ |= {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": home,
        "HF_TOKEN": hub.token,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    return hub
