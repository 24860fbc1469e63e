// gymnasium's CartPole-v1: the dynamics, the end of an episode, and a drawing.

const GRAVITY = 9.8, POLE_MASS = 0.1, TOTAL_MASS = 1.1, HALF_LENGTH = 0.5, FORCE = 10, SECONDS = 0.02;
const MOST_ANGLE = 12 * 2 * Math.PI / 360, MOST_PLACE = 2.4, MOST_STEPS = 500;

export class CartPole {
  // `state`: [place, speed, angle, angular speed]; drawn as gymnasium does where it is left out.
  constructor(state) {
    this.state = state ?? Array.from({ length: 4 }, () => 0.1 * Math.random() - 0.05);
    this.steps = 0;
  }

  // As the agent sees it: gymnasium gives float32.
  get observation() {
    return Array.from(Float32Array.from(this.state));
  }

  // Push to the left (0) or to the right (1); returns { reward, terminated, truncated }.
  step(action) {
    const [place, speed, angle, turning] = this.state;
    const cosine = Math.cos(angle), sine = Math.sin(angle);
    const force = action === 1 ? FORCE : -FORCE;
    const push = (force + POLE_MASS * HALF_LENGTH * turning ** 2 * sine) / TOTAL_MASS;
    const inertia = HALF_LENGTH * (4 / 3 - POLE_MASS * cosine ** 2 / TOTAL_MASS);
    const angular = (GRAVITY * sine - cosine * push) / inertia;
    const linear = push - POLE_MASS * HALF_LENGTH * angular * cosine / TOTAL_MASS;
    this.state = [
      place + SECONDS * speed, speed + SECONDS * linear, angle + SECONDS * turning, turning + SECONDS * angular,
    ];
    this.steps += 1;
    const terminated = Math.abs(this.state[0]) > MOST_PLACE || Math.abs(this.state[2]) > MOST_ANGLE;
    return { reward: 1, terminated, truncated: this.steps >= MOST_STEPS };
  }

  draw(canvas) {
    const context = canvas.getContext("2d"), { width, height } = canvas;
    const scale = width / (2 * MOST_PLACE), ground = 0.75 * height;
    const [place, , angle] = this.state, middle = width / 2 + place * scale;
    context.clearRect(0, 0, width, height);
    context.strokeStyle = "#888";
    context.lineWidth = 1;
    line(context, 0, ground, width, ground);
    context.fillStyle = getComputedStyle(canvas).color;
    context.fillRect(middle - 25, ground - 15, 50, 30);
    context.strokeStyle = "#ca9865";
    context.lineWidth = 10;
    context.lineCap = "round";
    const length = 2 * HALF_LENGTH * scale;
    line(context, middle, ground - 10, middle + length * Math.sin(angle), ground - 10 - length * Math.cos(angle));
  }
}

function line(context, fromX, fromY, toX, toY) {
  context.beginPath();
  context.moveTo(fromX, fromY);
  context.lineTo(toX, toY);
  context.stroke();
}
