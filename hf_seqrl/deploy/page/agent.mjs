// Runs an exported agent: one stream of observations, what the agent remembers is handed from step to step.

export class Agent {
  // `ort`: onnxruntime-web. `about`: the contents of agent.json. `session`: an InferenceSession of its graph.
  constructor(ort, about, session) {
    Object.assign(this, { ort, about, session });
    this.begin(null);
  }

  // `target`: the raw return to reach, where the agent takes one.
  begin(target) {
    this.timestep = 0;
    this.returnToGo = target ?? 0;
    this.lastAction = new Float64Array(this.about.action.lowest.length);
    this.chosen = null;
    this.memory = Object.fromEntries(Object.entries(this.about.memory_shapes).map(
      ([name, shape]) => [name, new this.ort.Tensor("float32", new Float32Array(size(shape)), shape)],
    ));
  }

  // `observation`: raw numbers. Returns the entries of the action.
  async step(observation) {
    if (this.chosen !== null) {
      this.lastAction = this.chosen;
      this.timestep += 1;
    }
    const { Tensor } = this.ort;
    const world = {
      observation: new Tensor("float64", Float64Array.from(observation), [1, ...this.about.observation.shape]),
      last_action: new Tensor("float64", this.lastAction, [1, this.lastAction.length]),
      return_to_go: new Tensor("float64", Float64Array.of(this.returnToGo), [1]),
      timestep: new Tensor("int64", BigInt64Array.of(BigInt(this.timestep)), [1]),
      ...this.memory,
    };
    const outputs = await this.session.run(
      Object.fromEntries(this.session.inputNames.map((name) => [name, world[name]])),
    );
    this.memory = Object.fromEntries(Object.keys(this.memory).map((name) => [name, outputs[`next_${name}`]]));
    this.chosen = Float64Array.from(outputs.action.data);
    return this.chosen;
  }

  // The raw reward of the last step.
  observe(reward) {
    this.returnToGo = (this.returnToGo - reward) / this.about.discount;
  }
}

const size = (shape) => shape.reduce((product, length) => product * length, 1);
