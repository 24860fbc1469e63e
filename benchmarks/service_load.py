"""Many streams at once at `hf-seqrl serve` on loopback: latency, throughput, and whether histories mix.

    python benchmarks/service_load.py [--streams 64] [--steps 100] [--state_dir]

Every stream is a connection of its own that asks for the next action as soon as it has the last one, with the reward of the step
before. The agent is an untrained Decision Transformer of the default size (window of 20 steps, CartPole). Afterwards every
stream is played again by a controller of its own, and all actions are compared. The service is another process; clients and
service share the machine.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import torch
from devices import add_device_option

from hf_seqrl import Agent, Controller, DecisionTransformerProcessor, TrainableDT, collect


def saved_agent(folder: Path) -> Agent:
    dataset = collect("random", "CartPole-v1", num_episodes=50, seed=0)
    torch.manual_seed(0)
    processor = DecisionTransformerProcessor.from_dataset(dataset, context_length=20, target_returns=[500.0])
    agent = Agent(TrainableDT(processor.model_config(hidden_size=128, n_layer=3, n_head=1)), processor)
    agent.save_pretrained(folder)
    return agent


class Connection:
    """One HTTP/1.1 connection that is kept; as little work as possible, since it shares the cores with the service."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def post(self, path: str, body: dict) -> dict:
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        self._writer.write(head.encode() + data)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(answer.split("content-length:")[1].split("\r\n")[0])
        content = json.loads(await self._reader.readexactly(length))
        if not answer.startswith(("http/1.1 200", "http/1.1 201")):
            raise RuntimeError(f"{answer.splitlines()[0]}: {content}")
        return content


async def stream(address: str, name: str, observations: np.ndarray, milliseconds: list[float]) -> list[int]:
    """The actions of one stream; appends the latency of every step."""
    place = urlsplit(address)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    connection = Connection(reader, writer)
    await connection.post("/sessions", {"session": name, "target_return": 500.0, "seed": 0})
    actions = []
    for number, observation in enumerate(observations.tolist()):
        request = {"observation": observation} | ({"reward": 1.0} if number else {})
        began = time.perf_counter()
        actions.append((await connection.post(f"/sessions/{name}/step", request))["action"])
        milliseconds.append((time.perf_counter() - began) * 1000)
    writer.close()
    return actions


async def load(address: str, observations: np.ndarray) -> tuple[list[list[int]], list[float], float]:
    milliseconds: list[float] = []
    began = time.perf_counter()
    streams = [stream(address, f"stream-{i}", own, milliseconds) for i, own in enumerate(observations)]
    actions = await asyncio.gather(*streams)
    return actions, milliseconds, time.perf_counter() - began


def alone(agent: Agent, observations: np.ndarray) -> list[int]:
    controller = Controller(agent)
    controller.begin(500.0, seed=0)
    actions = []
    for observation in observations.tolist():
        actions.append(controller.step(observation))
        controller.observe(reward=1.0)
    return actions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--state_dir", action="store_true", help="keep every step on disk")
    add_device_option(parser)
    options = parser.parse_args()
    observations = np.random.default_rng(0).normal(size=(options.streams, options.steps, 4))
    with tempfile.TemporaryDirectory() as folder:
        agent = saved_agent(Path(folder) / "agent")
        command = [
            sys.executable,
            "-m",
            "hf_seqrl.cli.main",
            "serve",
            f"{folder}/agent",
            "--port",
            "0",
            "--device",
            options.device,
        ]
        command += ["--state_dir", f"{folder}/state"] if options.state_dir else []
        service = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert service.stdout is not None
            address = service.stdout.readline().split(" is served at ")[1].split(";")[0]
            actions, milliseconds, seconds = asyncio.run(load(address, observations))
        finally:
            service.terminate()
            service.wait()
    torch.set_num_threads(1)
    agent.model.to(options.device)
    mixed = sum(of_stream != alone(agent, own) for of_stream, own in zip(actions, observations))
    print(
        f"{options.streams} streams, {len(milliseconds)} steps in {seconds:.1f} s: {len(milliseconds) / seconds:.0f} steps/s"
    )
    print(f"a step: p50 {np.percentile(milliseconds, 50):.1f} ms, p99 {np.percentile(milliseconds, 99):.1f} ms")
    print(f"streams whose actions are not those of a controller of their own: {mixed}")
    sys.exit(bool(mixed))


if __name__ == "__main__":
    main()
