// The page: loads the agent, plays episodes, and draws them.

import { Agent } from "./agent.mjs";
import { CartPole } from "./cartpole.mjs";

const FRAME = 20; // milliseconds of a step
const element = (id) => document.getElementById(id);
const [scene, plot, target, outcome, play] = ["scene", "plot", "target", "outcome", "play"].map(element);

async function load() {
  const ort = globalThis.ort;
  ort.env.wasm.wasmPaths = new URL(document.body.dataset.runtime, document.baseURI).href;
  ort.env.wasm.numThreads = 1; // more need headers that a static page cannot send
  const about = await (await fetch("agent.json")).json();
  return new Agent(ort, about, await ort.InferenceSession.create(about.graph, { executionProviders: ["wasm"] }));
}

function drawReturns(points, asked) {
  const context = plot.getContext("2d"), { width, height } = plot;
  const all = points.flatMap((point) => [point.asked, point.reached]), most = Math.max(...all, asked, 1), least = Math.min(...all, 0);
  const at = (step, value) => [(step / 500) * width, height - 6 - ((value - least) / (most - least)) * (height - 12)];
  context.clearRect(0, 0, width, height);
  context.lineWidth = 2;
  for (const [name, color] of [["asked", "#4f7cd0"], ["reached", "#ca9865"]]) {
    context.strokeStyle = color;
    context.beginPath();
    points.forEach((point, step) => context.lineTo(...at(step, point[name])));
    context.stroke();
  }
}

async function episode(agent) {
  const asked = agent.about.conditioned ? Number(target.value) : null;
  const pole = new CartPole(), points = [];
  let reached = 0, end = null, thinking = 0;
  agent.begin(asked);
  while (end === null) {
    const began = performance.now();
    const [action] = await agent.step(pole.observation);
    const thought = performance.now() - began;
    const { reward, terminated, truncated } = pole.step(action);
    agent.observe(reward);
    reached += reward;
    thinking += thought;
    points.push({ asked: agent.returnToGo, reached });
    pole.draw(scene);
    drawReturns(asked === null ? points.map((point) => ({ ...point, asked: 0 })) : points, asked ?? 0);
    outcome.textContent = `step ${pole.steps}`;
    end = terminated ? "it fell" : truncated ? "the time limit" : null;
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, FRAME - thought)));
  }
  const question = asked === null ? "Reached" : `Asked for ${asked}, reached`;
  outcome.textContent = `${question} ${reached} (${end}); ${(thinking / pole.steps).toFixed(2)} ms a step.`;
}

async function main() {
  new CartPole([0, 0, 0, 0]).draw(scene);
  let agent;
  try {
    agent = await load();
  } catch (error) {
    outcome.textContent = `The agent cannot be loaded: ${error.message ?? error}`;
    throw error;
  }
  const { about } = agent, targets = about.target_returns;
  element("about").textContent =
    `${about.family}, ${about.parameters.toLocaleString("en")} parameters; it remembers ${about.memory}.`;
  element("asking").hidden = !about.conditioned;
  target.value = targets[0] ?? 500;
  play.disabled = false;
  outcome.textContent = "Press Play.";
  play.addEventListener("click", async () => {
    play.disabled = true;
    await episode(agent).finally(() => { play.disabled = false; });
  });
}

main();
