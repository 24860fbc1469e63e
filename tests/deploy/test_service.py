"""The service answers every stream as a controller of its own would, and refuses what it cannot use."""

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("prometheus_client", reason="the extra `serve` is not installed")
httpx = pytest.importorskip("httpx", reason="the service is tried with httpx")

from hf_seqrl import Constrained, Controller, Forbidden  # noqa: E402
from hf_seqrl.deploy.service import make_service  # noqa: E402
from hf_seqrl.deploy.sessions import Sessions  # noqa: E402
from hf_seqrl.models.actor import Actor  # noqa: E402

RNG = np.random.default_rng(0)
STREAMS, STEPS = 64, 6
OBSERVATIONS = RNG.normal(size=(STREAMS, STEPS, 4)).tolist()
TARGETS = RNG.uniform(13, 78, STREAMS).tolist()


def ask(service, *requests, host="testserver"):
    """The answers to requests (method, path, body) one after the other, over ASGI."""

    async def all_of_them():
        async with client(service, host) as session:
            return [await session.request(method, path, json=body) for method, path, body in requests]

    return asyncio.run(all_of_them())


def client(service, host="testserver"):
    transport = httpx.ASGITransport(service, raise_app_exceptions=True)
    return httpx.AsyncClient(transport=transport, base_url=f"http://{host}", timeout=60)


def begin(name="a", **arguments):
    return ("POST", "/sessions", {"session": name, "target_return": 50.0, "seed": 0} | arguments)


def step(name="a", at=0, **arguments):
    return ("POST", f"/sessions/{name}/step", {"observation": OBSERVATIONS[0][at]} | arguments)


def alone(agent, stream):
    """The actions of a controller that has one stream to itself."""
    controller = Controller(agent)
    controller.begin(TARGETS[stream], seed=stream)
    actions = []
    for observation in OBSERVATIONS[stream]:
        actions.append(controller.step(observation))
        controller.observe(reward=1.0)
    return actions


async def _stream(session, stream):
    name = f"stream-{stream}"
    begun = await session.post("/sessions", json={"session": name, "target_return": TARGETS[stream], "seed": stream})
    assert begun.status_code == 201
    actions, told = [], {}
    for observation in OBSERVATIONS[stream]:
        answer = await session.post(f"/sessions/{name}/step", json={"observation": observation} | told)
        assert answer.status_code == 200, answer.text
        actions.append(answer.json()["action"])
        told = {"reward": 1.0}
    return actions


def test_many_streams_at_once_do_not_mix_their_histories(tiny_agent):
    async def together():
        async with client(make_service(tiny_agent)) as session:
            return await asyncio.gather(*[_stream(session, stream) for stream in range(STREAMS)])

    answers = asyncio.run(together())
    assert answers == [alone(tiny_agent, stream) for stream in range(STREAMS)]
    assert len(set(map(tuple, answers))) > 10


def test_steps_that_came_together_are_one_batch_and_what_is_wrong_in_it_is_refused_alone(tiny_agent, monkeypatch):
    """Of eight streams one sends nonsense, one is told nothing of, and one sends its next two steps, and word between them, at once."""
    sizes, original = [], Actor.act_together
    monkeypatch.setattr(
        Actor, "act_together", lambda actors, seen: sizes.append(len(actors)) or original(actors, seen)
    )

    async def together():
        async with client(make_service(tiny_agent)) as session:
            for stream in range(8):
                begun = {"session": f"stream-{stream}", "target_return": TARGETS[stream], "seed": stream}
                await session.post("/sessions", json=begun)
            said = [{"observation": OBSERVATIONS[stream][0]} for stream in range(8)]
            said[3] = {"observation": ["nonsense"]}
            asked = [session.post(f"/sessions/stream-{stream}/step", json=said[stream]) for stream in range(8)]
            asked.append(session.post("/sessions/nobody/step", json=said[0]))
            asked.append(session.post("/sessions/stream-0/observe", json={"reward": 1.0}))
            asked.append(session.post("/sessions/stream-0/step", json={"observation": OBSERVATIONS[0][1]}))
            return await asyncio.gather(*asked)

    answers = asyncio.run(together())
    assert sizes == [7, 1]  # one batch; then the second step of one stream
    assert [answer.status_code for answer in answers] == [200] * 3 + [422] + [200] * 4 + [404, 200, 200]
    expected = [alone(tiny_agent, stream)[:2] for stream in range(8)]
    right = [stream for stream in range(8) if stream != 3]
    assert [answers[stream].json()["action"] for stream in right] == [expected[stream][0] for stream in right]
    assert answers[-1].json()["action"] == expected[0][1]


def test_a_session_from_its_beginning_to_its_end(tiny_agent):
    service = make_service(Constrained(tiny_agent, Forbidden([1], 0)))
    begun, first, told, watched, drove, status, ended, gone = ask(
        service,
        begin(),
        step(),
        ("POST", "/sessions/a/observe", {"reward": 2.0}),
        ("POST", "/sessions/a/watch", {"observation": OBSERVATIONS[0][1]}),
        ("POST", "/sessions/a/observe", {"reward": 1.0, "action": 1}),
        ("GET", "/sessions/a", None),
        ("DELETE", "/sessions/a", None),
        ("GET", "/sessions/a", None),
    )
    assert begun.status_code == 201
    assert begun.json() == {"session": "a", "timestep": 0, "unknown_rewards": 0, "return_to_go": 50.0}
    assert first.json()["action"] == 0 and first.json()["timestep"] == 1
    assert told.json()["return_to_go"] == 48.0 and watched.json()["timestep"] == 2
    assert drove.json() == status.json() == {"session": "a", "timestep": 2, "unknown_rewards": 0, "return_to_go": 47.0}
    assert (ended.status_code, gone.status_code) == (204, 404)


def test_a_session_may_ask_for_what_the_data_support(tiny_agent):
    with pytest.warns(UserWarning, match="target_return is 'auto'"):
        begun, acted = ask(make_service(tiny_agent), begin(target_return="auto"), step())
    assert begun.status_code == 201 and "return_to_go" not in begun.json()
    assert acted.json()["return_to_go"] == tiny_agent.actor.high_return


def test_a_request_whose_answer_was_lost_can_be_repeated(tiny_agent):
    service = make_service(tiny_agent)
    _, first, again, second, too_late = ask(
        service, begin(), step(timestep=0), step(timestep=0), step(at=1, timestep=1, reward=1.0), step(timestep=0)
    )
    assert again.json()["action"] == first.json()["action"] and again.json()["timestep"] == 1
    assert second.json()["timestep"] == 2
    assert too_late.status_code == 409 and "the session is at 2" in too_late.json()["error"]


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        (step(observation=[1, 2]), 422, "expected \\(4,\\)"),
        (step(observation=[1, 2, 3, None]), 422, "is nan: expected a finite number"),
        (step(observation=None), 422, "expected an array of numbers|expected"),
        (step(observation={"x": 1}), 422, "no names"),
        (step(reward="much"), 422, "the reward is 'much'"),
        (step(action=7), 422, "expected an action of Discrete"),
        (step(observe=1), 422, "step does not know 'observe': expected observation, reward, action, timestep"),
        (step("nobody"), 404, "there is no session 'nobody'"),
        (begin(), 409, "there is a session 'a' already"),
        (begin("../a"), 422, "expected up to 64 of the characters"),
        (begin("c", seed=-1), 422, "seed is -1"),
        (begin("c", target_return="all"), 422, "target_return is 'all': expected a finite number"),
        (begin("c", target_return=[1.0]), 422, "target_return is \\[1.0\\]"),
        (begin("c", target_return=10**400), 422, "target_return is 1000"),
        (
            begin("c", history={"observations": 1, "actions": [], "rewards": []}),
            422,
            "observations of the history are 1",
        ),
        (begin("c", history=[5]), 422, "row 0 of the history"),
        (step(observation=[10**400, 0, 0, 0]), 422, "expected an array of numbers"),
        (("POST", "/sessions/a/observe", {"reward": 1.0, "timestep": "x"}), 422, "step is 'x'"),
        (begin("c", history=[{"reward": 1}]), 422, "row 0 of the history"),
        (begin("c", history={"observations": [], "actions": [1], "rewards": []}), 422, "one of each for every step"),
        (begin("c"), 503, "2 sessions are open, the most that there may be"),
        (("POST", "/sessions", [1]), 400, "no JSON object"),
        (("POST", "/sessions", {"session": "x" * 3000}), 413, "more than 2000 bytes"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_sentence(tiny_agent, request_, status, message):
    service = make_service(tiny_agent, max_sessions=2 if status == 503 else 3, max_body_bytes=2000)
    asked = [begin(), begin("b"), step(), request_, ("GET", "/sessions/a", None)]
    *_, refused, after = ask(service, *asked)
    assert refused.status_code == status
    assert re.search(message, refused.json()["error"])
    assert after.json()["timestep"] == 1


def test_bodies_that_are_not_json_are_refused(tiny_agent):
    async def answers():
        async with client(make_service(tiny_agent)) as session:
            json_type = {"content-type": "application/json"}
            yield await session.post("/sessions", content=b"{", headers=json_type)
            yield await session.post("/sessions", content=b'{"target_return": NaN}', headers=json_type)
            yield await session.post("/sessions", content=b"[" * 100_000, headers=json_type)
            yield await session.post("/sessions", content=b"target_return=1")

    async def gathered():
        return [answer async for answer in answers()]

    found = [(answer.status_code, answer.json()["error"]) for answer in asyncio.run(gathered())]
    assert [status for status, _ in found] == [400, 400, 400, 415]
    assert "NaN is no number of JSON" in found[1][1]


def test_other_hosts_are_not_answered(tiny_agent):
    service = make_service(tiny_agent, allowed_hosts=("localhost",))
    request = ("GET", "/health", None)
    assert ask(service, request, host="localhost")[0].status_code == 200
    assert ask(service, request, host="evil.example")[0].status_code == 400


def test_health_metrics_and_description(tiny_agent):
    service = make_service(Constrained(tiny_agent, Forbidden([1], 0)))
    steps = [step(at=at) for at in range(5)]
    *_, refused, health, metrics, description = ask(
        service,
        begin(),
        *steps,
        step("nobody"),
        ("GET", "/health", None),
        ("GET", "/metrics", None),
        ("GET", "/", None),
    )
    assert refused.status_code == 404 and health.json() == {"status": "ok", "sessions": 1}
    lines = metrics.text.splitlines()
    assert 'hf_seqrl_requests_total{call="step",status="200"} 5.0' in lines
    assert 'hf_seqrl_requests_total{call="step",status="404"} 1.0' in lines
    assert "hf_seqrl_step_seconds_count 5.0" in lines and "hf_seqrl_sessions 1.0" in lines
    interventions = [line for line in lines if line.startswith("hf_seqrl_interventions_total")]
    controller = Controller(Constrained(tiny_agent, Forbidden([1], 0)))
    controller.begin(50.0, seed=0)
    for at in range(5):
        controller.step(OBSERVATIONS[0][at])
    assert interventions == [
        f'hf_seqrl_interventions_total{{rule="Forbidden"}} {controller.interventions["Forbidden"]}.0'
    ]
    described = description.json()
    assert described["conditioned"] and described["constraints"] == ["Forbidden"]
    assert described["action_space"]["n"] == 2 and described["env_id"] == "CartPole-v1"


def test_sessions_that_nobody_uses_make_room(tiny_agent, tmp_path):
    now = [0.0]
    sessions = Sessions(tiny_agent, most=2, seconds_to_live=10, folder=tmp_path, clock=lambda: now[0])
    sessions.begin("a", 50.0)
    now[0] = 6.0
    sessions.begin("b", 50.0)
    now[0] = 12.0
    with pytest.raises(LookupError, match="there is no session 'a'"):
        sessions.step("a", OBSERVATIONS[0][0])
    sessions.begin("c", 50.0)
    assert len(sessions) == 2 and sessions.expired == 1
    assert sorted(path.stem for path in tmp_path.glob("[!.]*.safetensors")) == ["b", "c"]


def test_another_process_goes_on_with_the_sessions(tiny_agent, tmp_path):
    stream = 3
    expected, actions = alone(tiny_agent, stream), []
    for at, observation in enumerate(OBSERVATIONS[stream]):
        sessions = Sessions(tiny_agent, folder=tmp_path)  # a new process for every step
        if at == 0:
            sessions.begin("a", TARGETS[stream], seed=stream)
        actions.append(sessions.step("a", observation, timestep=at)["action"])
        assert Sessions(tiny_agent, folder=tmp_path).step("a", observation, timestep=at)["action"] == actions[-1]
        sessions.observe("a", reward=1.0)
    assert actions == expected


def test_a_damaged_state_is_an_error_of_its_session_alone(tiny_agent, tmp_path):
    service = make_service(tiny_agent, state_folder=str(tmp_path))
    ask(service, begin("a"), begin("b"))
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    damaged, sound, ended = ask(
        make_service(tiny_agent, state_folder=str(tmp_path)), step("a"), step("b"), ("DELETE", "/sessions/a", None)
    )
    assert damaged.status_code == 422 and "damaged" in damaged.json()["error"]
    assert sound.status_code == 200 and ended.status_code == 204


def _served(arguments):
    process = subprocess.Popen(
        [sys.executable, "-m", "hf_seqrl.cli.main", "serve", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    line = process.stdout.readline()
    assert "is served at http://127.0.0.1:" in line, process.stderr.read()
    return process, line.split(" is served at ")[1].split(";")[0]


@pytest.mark.slow
def test_the_command_serves_stops_in_peace_and_survives_a_kill(tiny_agent, tmp_path):
    tiny_agent.save_pretrained(tmp_path / "agent")
    (tmp_path / "rules.yaml").write_text("- forbidden: {actions: [1], instead: 0}\n")
    arguments = [str(tmp_path / "agent"), "--port", "0", "--state_dir", str(tmp_path / "state")]
    arguments += ["--rules", str(tmp_path / "rules.yaml")]
    process, address = _served(arguments)
    with httpx.Client(base_url=address, trust_env=False) as session:
        assert session.post("/sessions", json={"session": "a", "target_return": 50}).status_code == 201
        answer = session.post("/sessions/a/step", json={"observation": OBSERVATIONS[0][0]}).json()
    assert answer["action"] == 0
    process.kill()
    process.wait()
    process, address = _served(arguments)
    with httpx.Client(base_url=address, trust_env=False) as session:
        assert session.get("/sessions/a").json()["timestep"] == 1
        repeated = session.post("/sessions/a/step", json={"observation": OBSERVATIONS[0][0], "timestep": 0}).json()
        assert repeated["action"] == answer["action"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
    assert "every request that was accepted has been answered" in process.stderr.read()


def test_a_taken_port_and_a_missing_extra_are_named_before_anything_is_loaded(monkeypatch, capsys):
    from hf_seqrl.cli import serve
    from hf_seqrl.cli.main import main

    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", "nowhere", "--port", str(taken.getsockname()[1])]) == 1
        assert "in use" in capsys.readouterr().err.lower()
    monkeypatch.setattr(serve, "find_spec", lambda name: None)
    assert main(["serve", "nowhere"]) == 1
    assert "hf-seqrl[serve]" in capsys.readouterr().err


def test_answers_are_json_for_every_kind_of_action():
    from hf_seqrl.deploy.sessions import plain

    values = {"a": np.float32(0.5), "b": (np.int64(1), [np.array([1, 2])]), "c": "word", "d": np.array([[0.5]])}
    assert json.loads(json.dumps(plain(values))) == {"a": 0.5, "b": [1, [[1, 2]]], "c": "word", "d": [[0.5]]}
