"""The page where an exported agent plays without Python."""

import json
import os
import shutil
import subprocess
import sys
from importlib.resources import files

import gymnasium
import numpy as np
import pytest

from hf_seqrl.deploy.browser import RUNTIME_VERSION, check_browser, write_page

_PATIENCE = 300  # seconds, for machines that do other things too


def page_file(name):
    return str(files("hf_seqrl.deploy") / "page" / name)


def test_the_dynamics_are_gymnasium_s():
    if shutil.which("node") is None:
        pytest.skip("needs node")
    rng = np.random.default_rng(0)
    env = gymnasium.make("CartPole-v1")
    episodes = []
    for seed in range(4):
        env.reset(seed=seed)
        start, steps = env.unwrapped.state, []
        for _ in range(500):
            # a controller that balances for a while, and pushes at random
            action = (
                int(env.unwrapped.state[2] + env.unwrapped.state[3] > 0)
                if rng.random() < 0.9
                else int(rng.integers(2))
            )
            observation, reward, terminated, truncated, _ = env.step(action)
            steps.append([action, observation.tolist(), reward, terminated, truncated])
            if terminated or truncated:
                break
        episodes.append({"start": list(map(float, start)), "steps": steps})
    code = f"""
        import {{ CartPole }} from {json.dumps("file://" + page_file("cartpole.mjs"))};
        const episodes = JSON.parse(await new Response(process.stdin).text());
        console.log(JSON.stringify(episodes.map(({{ start, steps }}) => {{
          const pole = new CartPole(start);
          return steps.map(([action]) => {{
            const {{ reward, terminated, truncated }} = pole.step(action);
            return [pole.observation, reward, terminated, truncated];
          }});
        }})));"""
    command = ["node", "--input-type=module", "--eval", code]
    run = subprocess.run(command, input=json.dumps(episodes), capture_output=True, text=True, check=True)
    played = json.loads(run.stdout)
    assert len({len(episode["steps"]) for episode in episodes}) > 1
    for episode, found in zip(episodes, played, strict=True):
        assert [step[1:] for step in found] == [step[2:] for step in episode["steps"]]
        np.testing.assert_allclose(
            [step[0] for step in found], [step[1] for step in episode["steps"]], rtol=1e-5, atol=1e-6
        )


def test_the_page_names_a_fixed_runtime_with_its_checksum(tmp_path):
    write_page(tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert f"onnxruntime-web@{RUNTIME_VERSION}/dist/ort.wasm.min.js" in page and 'integrity="sha384-' in page
    assert "{{" not in page
    assert {path.name for path in tmp_path.iterdir()} == {"index.html", "agent.mjs", "cartpole.mjs", "page.mjs"}


def test_there_is_a_page_for_cartpole_alone(tmp_path):
    with pytest.raises(ValueError, match="environment is Hopper-v5: the page draws CartPole-v1 alone"):
        check_browser("Hopper-v5", True, None)
    with pytest.raises(FileNotFoundError, match=r"has no ort.wasm.min.js: expected the folder dist/"):
        check_browser("CartPole-v1", True, tmp_path)


@pytest.fixture
def runtime(tmp_path):
    """The folder `dist/` of onnxruntime-web."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm, to install onnxruntime-web")
    command = ["npm", "install", "--silent", "--prefix", str(tmp_path), f"onnxruntime-web@{RUNTIME_VERSION}"]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("onnxruntime-web cannot be installed here")
    return tmp_path / "node_modules" / "onnxruntime-web" / "dist"


@pytest.fixture
def browser(tmp_path):
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("needs Debian's chromium: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for option in ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--window-size=900,900"):
        options.add_argument(option)
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    browser.set_script_timeout(_PATIENCE)
    yield browser
    browser.quit()


_PLAY = """
const [start, target, done] = arguments;
(async () => {
  const { Agent } = await import("./agent.mjs"), { CartPole } = await import("./cartpole.mjs");
  const about = await (await fetch("agent.json")).json();
  const agent = new Agent(ort, about, await ort.InferenceSession.create(about.graph, { executionProviders: ["wasm"] }));
  const pole = new CartPole(start), actions = [];
  agent.begin(target);
  for (let over = false; !over;) {
    const [action] = await agent.step(pole.observation);
    const { reward, terminated, truncated } = pole.step(action);
    agent.observe(reward);
    actions.push(action);
    over = terminated || truncated;
  }
  return actions;
})().then(done, (error) => done(String(error)));
"""


@pytest.mark.slow
def test_it_plays_in_a_browser_what_the_agent_plays(browser, runtime, tiny_agent, tmp_path):
    import torch
    from selenium.webdriver.support.ui import WebDriverWait

    with torch.no_grad():
        for parameter in tiny_agent.model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.3)
    folder = tiny_agent.export(tmp_path / "page", browser=True, browser_runtime=runtime)
    env = gymnasium.make("CartPole-v1")
    observation, _ = env.reset(seed=1)
    start, expected, over = list(map(float, env.unwrapped.state)), [], False
    tiny_agent.reset(1, 120.0)
    while not over:
        expected.append(int(tiny_agent.act(observation[None])[0]))
        observation, reward, terminated, truncated, _ = env.step(expected[-1])
        tiny_agent.observe(np.array([reward]), np.array([False]))
        over = terminated or truncated

    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
    server = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        browser.get(f"http://127.0.0.1:{server.stdout.readline().split('port ')[1].split()[0]}/index.html")
        wait = WebDriverWait(browser, _PATIENCE)
        wait.until(lambda browser: browser.find_element("id", "outcome").text == "Press Play.")
        assert browser.execute_async_script(_PLAY, start, 120.0) == expected
        browser.find_element("id", "play").click()
        wait.until(
            lambda browser: (
                f"Asked for {tiny_agent.target_returns[0]:g}, reached" in browser.find_element("id", "outcome").text
            )
        )
        if shot := os.environ.get("HF_SEQRL_SCREENSHOT"):
            browser.save_screenshot(shot)
    finally:
        server.terminate()
        server.wait()
