"""The toy's own setting: how well the GRU writes random histories back, and how fast 4,000 updates are.

    python benchmarks/seq2seq_toy.py --output results

Horizon 2, 3 states, 3 actions, hidden size 16, embeddings of 5 and 7, 256 fresh histories an epoch, batches of 32, Adam
with learning rate 5e-3, clipping at 1, 500 epochs. Trainings of these 4,000 updates are timed, in turns of `--block`
updates so that all of them meet the same load of the machine:

* `per-step loop`: encoder-decoders as tutorials write them: float64, one decoder call a step whose scores are written into
  a buffer, the truth fed at half of the steps, histories made by tensor operations epoch by epoch. Written here from that
  description.
* `plain loop`: this package's model, data and collator in a loop of ten lines.
* `Trainer`: the same under `transformers.Trainer`, whose own bookkeeping is then most of the time.
* `floor`: what is left when everything is taken away that can be: two `torch.nn.GRU` calls, two look-ups, a linear map,
  cross entropy, clipping and a fused Adam, on batches that are ready. No training in eager PyTorch that calls
  `torch.nn.GRU` is faster.
* `compiled loop` (`--compile`): the plain loop with the model under `torch.compile`; its compilation is in the seconds and
  not in the median.

The ratios are those of a model so small that an update is some hundred tiny operations, whose number counts and not their
size; `--horizon` makes histories longer, where one call instead of one a step is worth more.

CPU seconds of the process are reported beside wall-clock seconds, since they do not depend on other processes as much.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

from hf_seqrl import TrajectorySeq2SeqDataCollator, TrajectorySeq2SeqModel
from hf_seqrl.models.trajectory_seq2seq.histories import EpisodeHistories, random_histories
from hf_seqrl.models.trajectory_seq2seq.metrics import compute_metrics, format_examples
from hf_seqrl.models.trajectory_seq2seq.processing_trajectory_seq2seq import TrajectorySeq2SeqProcessor

STATES, ACTIONS, HIDDEN = 3, 3, 16
EOS, PAD, BOS, VOCABULARY = 3, 4, 5, 6
BATCH, EPOCH, RATE, CLIP = 32, 256, 5e-3, 1.0


class PerStepModel(nn.Module):
    """A GRU encoder-decoder whose decoder is called once a step."""

    def __init__(self) -> None:
        super().__init__()
        self.states = nn.Linear(STATES, 5, bias=False)
        self.actions = nn.Linear(ACTIONS, 5, bias=False)
        self.eos = nn.Linear(5, 5, bias=False)
        self.encoder = nn.GRU(5, HIDDEN, batch_first=True)
        self.symbols = nn.Embedding(VOCABULARY, 7, padding_idx=PAD)
        self.decoder = nn.GRU(7, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, VOCABULARY)

    def forward(self, states: Tensor, actions: Tensor, is_eos: Tensor, target: Tensor) -> Tensor:
        """One-hot states `(B, H + 1, 3)` and actions `(B, H, 3)`, zero on PAD, to scores `(B, n, 6)`."""
        pairs = zip(self.states(states).unbind(1), [*self.actions(actions).unbind(1), None])
        tokens = torch.stack([token for pair in pairs for token in pair if token is not None], dim=1)
        tokens = torch.cat([tokens, torch.zeros_like(tokens[:, :1])], dim=1)
        tokens = tokens + self.eos(torch.ones_like(tokens) * EOS * is_eos.unsqueeze(-1))
        _, hidden = self.encoder(tokens)
        symbol = torch.full((len(states), 1), BOS)
        scores = torch.zeros(*target.shape, VOCABULARY, dtype=torch.float64)
        for step in range(target.shape[1]):
            output, hidden = self.decoder(self.symbols(symbol), hidden)
            scores[:, step] = score = self.head(output.squeeze(1))
            is_forced = torch.rand(1).item() < 0.5
            symbol = (target[:, step] if is_forced else score.argmax(-1)).unsqueeze(1)
        return scores


def per_step_epoch(horizon: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """256 histories as one-hot vectors with their targets."""
    states = torch.randint(STATES, (EPOCH, horizon + 1))
    actions = torch.randint(ACTIONS, (EPOCH, horizon))
    num_tokens = 2 * torch.randint(horizon + 1, (EPOCH, 1)) + 1
    places = torch.arange(2 * horizon + 2)
    tokens = torch.zeros(EPOCH, 2 * horizon + 2, dtype=torch.long)
    tokens[:, 0:-1:2], tokens[:, 1:-1:2] = states, actions
    tokens[(places > num_tokens).expand_as(tokens)] = PAD
    is_eos = (places == num_tokens).expand_as(tokens)
    tokens[is_eos] = EOS
    valid = places < num_tokens
    one_hot_states = nn.functional.one_hot(states, STATES).double() * valid[:, 0:-1:2, None]
    one_hot_actions = nn.functional.one_hot(actions, ACTIONS).double() * valid[:, 1:-1:2, None]
    return one_hot_states, one_hot_actions, is_eos.double(), tokens


def per_step_updates(horizon: int) -> Iterator[None]:
    """Train as tutorials do; yields after every update."""
    model = PerStepModel().double()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    while True:
        epoch = per_step_epoch(horizon)
        for start in range(0, EPOCH, BATCH):
            states, actions, is_eos, target = (part[start : start + BATCH] for part in epoch)
            optimizer.zero_grad()
            scores = model(states, actions, is_eos, target)
            loss = nn.functional.cross_entropy(scores.view(-1, VOCABULARY), target.reshape(-1), ignore_index=PAD)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            loss.item()
            yield


def make_model(processor: TrajectorySeq2SeqProcessor) -> TrajectorySeq2SeqModel:
    """The same sizes in this package."""
    config = processor.model_config(
        backbone="gru",
        hidden_size=HIDDEN,
        embedding_size=5,
        decoder_embedding_size=7,
        num_encoder_layers=1,
        num_decoder_layers=1,
        context_feeding="start",
    )
    return TrajectorySeq2SeqModel(config)


def plain_updates(model: TrajectorySeq2SeqModel, processor: TrajectorySeq2SeqProcessor, histories) -> Iterator[None]:
    """Train the package's model without Trainer; yields after every update."""
    collator = TrajectorySeq2SeqDataCollator(processor=processor)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
    parameters = list(model.parameters())
    for first in range(0, len(histories), EPOCH):
        epoch = collator(histories.__getitems__(np.arange(first, first + EPOCH)))
        for start in range(0, EPOCH, BATCH):
            optimizer.zero_grad()
            model(**{name: values[start : start + BATCH] for name, values in epoch.items()}).loss.backward()
            nn.utils.clip_grad_norm_(parameters, CLIP, foreach=True)
            optimizer.step()
            yield


class BareModel(nn.Module):
    """A GRU encoder-decoder with nothing around it, fed with the truth."""

    def __init__(self) -> None:
        super().__init__()
        self.source_symbols, self.symbols = nn.Embedding(VOCABULARY, 5), nn.Embedding(VOCABULARY, 7)
        self.encoder, self.decoder = nn.GRU(5, HIDDEN), nn.GRU(7, HIDDEN)
        self.head = nn.Linear(HIDDEN, VOCABULARY)

    def forward(self, source: Tensor, inputs: Tensor) -> Tensor:
        """Symbols `(n, B)` and `(n, B)` to scores `(n, B, 6)`."""
        _, hidden = self.encoder(self.source_symbols(source))
        return self.head(self.decoder(self.symbols(inputs), hidden)[0])


def bare_updates(horizon: int) -> Iterator[None]:
    """Train that model on batches which are ready; yields after every update."""
    target = per_step_epoch(horizon)[3].t().contiguous()
    inputs = torch.cat([torch.full_like(target[:1], BOS), target[:-1]])
    batches = list(zip(target.split(BATCH, dim=1), inputs.split(BATCH, dim=1)))
    model = BareModel()
    optimizer, parameters = torch.optim.Adam(model.parameters(), lr=RATE, fused=True), list(model.parameters())
    while True:
        for target, inputs in batches:
            optimizer.zero_grad()
            scores = model(target, inputs).flatten(0, 1)
            nn.functional.cross_entropy(scores, target.flatten(), ignore_index=PAD).backward()
            nn.utils.clip_grad_norm_(parameters, CLIP, foreach=True)
            optimizer.step()
            yield


class Pause(TrainerCallback):
    """Lets other trainings run, in this thread, after every `block` updates of a Trainer."""

    def __init__(self, block: int, others: Callable[[], None], clock: "Clock") -> None:
        self.block, self.others, self.clock = block, others, clock

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step % self.block == 0:
            self.clock.stop("Trainer")
            self.others()
            self.clock.start()


class Clock:
    """Adds up CPU and wall-clock seconds under names."""

    def __init__(self) -> None:
        self.blocks: dict[str, list[tuple[float, float]]] = {}

    def start(self) -> None:
        """Begin a block."""
        self.began = time.process_time(), time.perf_counter()

    def stop(self, name: str) -> None:
        """End the block and count it under this name."""
        seconds = time.process_time() - self.began[0], time.perf_counter() - self.began[1]
        self.blocks.setdefault(name, []).append(seconds)

    def report(self) -> dict[str, dict[str, float]]:
        """Totals, and the median over blocks of the ratio to the per-step loop."""
        loop = np.array(self.blocks["per-step loop"])
        return {
            name: {
                "cpu_seconds": round(float(np.sum(blocks, axis=0)[0]), 2),
                "wall_seconds": round(float(np.sum(blocks, axis=0)[1]), 2),
                "median_cpu_ratio": round(float(np.median(np.array(blocks)[:, 0] / loop[: len(blocks), 0])), 3),
            }
            for name, blocks in self.blocks.items()
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/seq2seq"), help="folder for the figures")
    parser.add_argument("--horizon", type=int, default=2, help="to see how the ratio changes with the length")
    parser.add_argument("--epochs", type=int, default=500)
    parser.add_argument("--block", type=int, default=40, help="updates that are timed at a stretch")
    parser.add_argument("--compile", action="store_true", help="time the model under torch.compile as well")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    set_seed(arguments.seed)
    train = random_histories(arguments.epochs * EPOCH, arguments.horizon, STATES, ACTIONS, seed=arguments.seed + 1)
    test = random_histories(1000, arguments.horizon, STATES, ACTIONS, seed=arguments.seed + 2)
    processor = TrajectorySeq2SeqProcessor.from_dataset(train, target="history")
    histories, test_histories = EpisodeHistories(train, processor), EpisodeHistories(test, processor)
    clock, plain_model = Clock(), make_model(processor)
    loops = {
        "per-step loop": per_step_updates(arguments.horizon),
        "plain loop": plain_updates(plain_model, processor, histories),
        "floor": bare_updates(arguments.horizon),
    }
    if arguments.compile:
        loops["compiled loop"] = plain_updates(torch.compile(make_model(processor)), processor, histories)

    def run_the_others() -> None:
        for name, updates in loops.items():
            clock.start()
            for _ in range(arguments.block):
                next(updates)
            clock.stop(name)

    trainer = Trainer(
        make_model(processor),
        TrainingArguments(
            output_dir="unused",
            num_train_epochs=1,  # every history is seen once
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=500,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            max_grad_norm=CLIP,
            optim="adamw_torch_fused",
            weight_decay=0.0,
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=histories,
        eval_dataset=test_histories,
        data_collator=TrajectorySeq2SeqDataCollator(processor=processor),
        compute_metrics=compute_metrics,
        callbacks=[Pause(arguments.block, run_the_others, clock)],
    )
    clock.start()
    trainer.train()
    figures = {"seconds": clock.report(), "updates": trainer.state.global_step}
    figures["Trainer"] = {name: value for name, value in trainer.evaluate().items() if "_per_" not in name}
    trainer.model = trainer.model_wrapped = plain_model
    predicted = trainer.predict(test_histories)
    figures["plain loop"] = {name: value for name, value in predicted.metrics.items() if "_per_" not in name}
    print(*format_examples(predicted.predictions[0], predicted.label_ids, EOS), sep="\n")
    print(json.dumps(figures, indent=1))
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / f"seq2seq_toy_horizon_{arguments.horizon}.json").write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
