"""Training on several hosts: `torchrun --nnodes 2` over two network namespaces, which share the file system and a cable."""

import json
import re
import secrets
import tempfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from simulated_hosts import finish, two_hosts, wait_for

from hf_seqrl import RolloutResult
from hf_seqrl.training.checkpoints import checkpoints, is_complete

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"
UPDATES = 200
MODEL = ["--context_length", 4, "--hidden_size", 16, "--n_layer", 1, "--dropout", 0]
RUN = ["--max_steps", UPDATES, "--save_steps", 5, "--save_total_limit", 3, "--logging_steps", 1]
# without it, accelerate fills the last batch of an epoch, so that the processes have equal shares
EVEN = ["--learning_rate", 1e-2, "--dataloader_drop_last", "True"]
SOON = "keep_alive_interval=1,keep_alive_max_attempt=3"  # a host that is silent for 3 s is gone; by default 15 s
QUIET = ["--use_cpu", "--eval_episodes", 0, "--disable_tqdm", "True", "--report_to", "none", "--seed", 1]


@pytest.fixture(scope="module")
def hosts():
    yield from two_hosts()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, cartpole_dataset):
    folder = tmp_path_factory.mktemp("cluster")
    cartpole_dataset.save_to_disk(folder / "data")
    return folder


def _train(folder, name, batch_size):
    output = ["--dataset", folder / "data", "--output_dir", folder / name, "--resume"]
    batches = ["--per_device_train_batch_size", batch_size]
    return ["hf-seqrl", "train", "decision-transformer", *output, *MODEL, *RUN, *EVEN, *QUIET, *batches]


def _torchrun(host, hosts):
    """As in docs/scaling.md; who is who is told in addition, as both hosts have the name of the machine."""
    rendezvous = ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"{hosts[0].address}:29400", "--rdzv_id", "run"]
    return [
        *("torchrun", "--nnodes", 2, "--nproc_per_node", 1, "--max_restarts", 3, "--local_addr", host.address),
        *rendezvous,
        *("--rdzv_conf", f"is_host={int(host is hosts[0])},{SOON}"),
        "--no_python",
    ]


def _start(host, hosts, folder, name):
    command = [*_torchrun(host, hosts), *_train(folder, name, batch_size=4)]
    # torch 2.13 does not tell the shared store's address to a host that joins a later round
    return host.run(command, _log(folder, name, host), TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")


def _log(folder, name, host):
    return folder / f"{name}-{host.number}.log"


@pytest.fixture(scope="module")
def trained_by_two(hosts, folder):
    """The folder of a run of two hosts, each with half of every batch, that was not disturbed."""
    finish([_start(host, hosts, folder, "two") for host in hosts], [_log(folder, "two", host) for host in hosts])
    return folder / "two"


def _losses(output):
    history = json.loads((checkpoints(output)[-1] / "trainer_state.json").read_text())["log_history"]
    return np.array([entry["loss"] for entry in history if "loss" in entry])


def test_two_hosts_learn_as_one_process_with_the_whole_batch(hosts, folder, trained_by_two):
    finish([hosts[0].run(_train(folder, "one", batch_size=8), folder / "one.log")], [folder / "one.log"])
    one, two = _losses(folder / "one"), _losses(trained_by_two)
    assert len(one) == len(two) == UPDATES and one[-20:].mean() < 0.9 * one[:20].mean()
    np.testing.assert_allclose(two, one, rtol=1e-4)  # the gradients are summed in another order
    logs = [_log(folder, "two", host).read_text() for host in hosts]
    assert "the agent is in" in logs[0] + logs[1]


def test_a_host_that_died_and_came_back_resumes_to_the_same_weights(hosts, folder, trained_by_two):
    output, logs = folder / "killed", [_log(folder, "killed", host) for host in hosts]
    survivor, victim = (_start(host, hosts, folder, "killed") for host in hosts)

    def three_checkpoints():
        assert survivor.poll() is None and victim.poll() is None, logs[0].read_text()[-3000:]
        return len([path for path in checkpoints(output) if is_complete(path)]) == 3

    wait_for(three_checkpoints, what="a checkpoint")
    hosts[1].kill()
    assert victim.wait(30) != 0
    assert not (output / "config.json").exists(), "the run had ended before the host was killed"
    back = _start(hosts[1], hosts, folder, "killed")
    finish([survivor, back], logs)
    whole, resumed = (load_file(path / "model.safetensors") for path in (trained_by_two, output))
    assert whole.keys() == resumed.keys()
    for name, values in whole.items():
        np.testing.assert_array_equal(resumed[name], values, err_msg=name)
    np.testing.assert_array_equal(_losses(output), _losses(trained_by_two))


def test_a_finished_run_that_is_started_again_ends_well(hosts, folder, trained_by_two):
    before = {path: path.stat().st_mtime_ns for path in trained_by_two.rglob("*")}
    logs = [_log(folder, "two", host) for host in hosts]
    finish([_start(host, hosts, folder, "two") for host in hosts], logs)
    assert sum("is finished: there is nothing to resume" in log.read_text() for log in logs) == 1
    assert {path: path.stat().st_mtime_ns for path in trained_by_two.rglob("*")} == before


def test_accelerate_launches_the_same_training_on_two_hosts(hosts, folder, trained_by_two):
    config = ["accelerate", "launch", "--config_file", EXAMPLES / "accelerate" / "ddp.yaml"]
    of_a_cpu = ["--num_processes", 2, "--main_process_ip", hosts[0].address, "--no_python"]
    logs = [_log(folder, "accelerate", host) for host in hosts]
    command = _train(folder, "accelerate", batch_size=4)
    launch = [
        host.run([*config, "--machine_rank", host.number, *of_a_cpu, *command], log)
        for host, log in zip(hosts, logs, strict=True)
    ]
    finish(launch, logs)
    np.testing.assert_array_equal(_losses(folder / "accelerate"), _losses(trained_by_two))


def test_two_hosts_play_the_episodes_of_one(hosts, folder):
    play = [EXAMPLES / "evaluate_distributed.py", "--num_episodes", 5, "--target_return", 30, 20, "--output"]
    logs = [_log(folder, "rollout", host) for host in hosts]
    finish(
        [
            host.run([*_torchrun(host, hosts)[:-1], *play, folder / "two.json"], log)
            for host, log in zip(hosts, logs, strict=True)
        ],
        logs,
    )
    finish([hosts[0].run(["python", *play, folder / "one.json"], folder / "alone.log")], [folder / "alone.log"])
    assert "process 1 of 2 has played 2 episodes" in logs[0].read_text() + logs[1].read_text()
    one, two = (RolloutResult.load(folder / f"{name}.json") for name in ("one", "two"))
    for name in ("returns", "lengths", "seeds", "target_returns"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


# by default, Ray's workers have a niceness of 15, and get nothing done beside other work
RAY = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_worker_niceness": "0"}


@pytest.fixture(scope="module")
def ray_cluster(hosts, folder):
    """The address of a Ray cluster of both hosts, with a core each."""
    pytest.importorskip("ray", reason="needs the extra `ray`")
    address, logs = f"{hosts[0].address}:6379", [_log(folder, "ray", host) for host in hosts]
    with tempfile.TemporaryDirectory(prefix="ray-") as session:  # the paths of its sockets must be short
        of_a_host = ["--num-cpus", 1, "--object-store-memory", 100_000_000, "--disable-usage-stats", "--block"]
        first = ["--head", "--port", 6379, "--include-dashboard", "false", "--temp-dir", session]
        started = []
        for host, role, log in zip(hosts, (first, ["--address", address]), logs, strict=True):
            command = ["ray", "start", "--node-ip-address", host.address, *role, *of_a_host]
            started.append(host.run(command, log, **RAY))
            wait_for(lambda: _has_started(started[-1], log), what=f"Ray on host {host.number}", seconds=600)  # noqa: B023
        yield address
        for host in hosts:
            host.kill()
        for process in started:
            process.wait(30)


def _has_started(process, log):
    said = log.read_text()
    assert process.poll() is None, said[-3000:]
    return "Ray runtime started" in said


def test_ray_plays_the_episodes_of_one_process_though_a_host_dies(hosts, folder, ray_cluster):
    episodes = ["--num_episodes", 300, "--target_return", 30, 20, "--output"]
    alone = [EXAMPLES / "evaluate_distributed.py", *episodes, folder / "alone.json"]
    finish([hosts[0].run(["python", *alone], folder / "alone.log")], [folder / "alone.log"])
    log = folder / "play.log"
    play = [EXAMPLES / "evaluate_ray.py", "--address", ray_cluster, "--num_envs", 2, *episodes, folder / "ray.json"]
    playing = hosts[0].run(["python", *play], log, **RAY)

    def both_have_played():
        assert playing.poll() is None, log.read_text()[-3000:]
        return all(f"{host.address}=" in log.read_text() for host in hosts)

    wait_for(both_have_played, seconds=600, what="an episode of each host")
    hosts[1].kill()
    assert playing.poll() is None, "all episodes had been played before the host was killed"
    finish([playing], [log], seconds=600)
    counts = {
        int(number): int(count) for number, count in re.findall(r"10.77.0.(\d) has played (\d+)", log.read_text())
    }
    assert counts.keys() == {1, 2} and sum(counts.values()) == 600
    one, both = (RolloutResult.load(folder / f"{name}.json") for name in ("alone", "ray"))
    for name in ("returns", "lengths", "seeds", "target_returns"):
        np.testing.assert_array_equal(getattr(one, name), getattr(both, name))


def test_two_hosts_share_out_a_comparison(hosts, folder):
    methods = ["--methods", "cloning", "cloning, best 10 %", "--seeds", 2, "--max_steps", 20, "--num_episodes", 2]
    command = ["hf-seqrl", "compare", folder / "data", "--output_dir", folder / "compared", *methods]
    logs = [_log(folder, "compared", host) for host in hosts]
    finish([host.run(command, log) for host, log in zip(hosts, logs, strict=True)], logs)
    said = [log.read_text() for log in logs]
    trained = [[line for line in text.splitlines() if ", trained in " in line] for text in said]
    assert trained[0] and trained[1] and len(trained[0]) + len(trained[1]) == 4
    tables = [text.partition("method  ")[2].partition("the recommended agent")[0] for text in said]
    assert tables[0] == tables[1] and "Use cloning" in tables[0]
    assert (folder / "compared" / "agent" / "model.safetensors").exists()
