"""The cards of agents that were trained here, kept as records: results, training run and configuration, no weights.

python model_cards/render.py                  # write every card anew from its records
python model_cards/render.py runs/my-agent    # take in the records of an agent, named like its folder
"""

import argparse
import shutil
from pathlib import Path

import torch
from transformers import AutoConfig

from hf_seqrl.evaluation.offline_results import OfflineEvaluation
from hf_seqrl.evaluation.results import RolloutResult
from hf_seqrl.hub import checkpoint as names
from hf_seqrl.hub.card import build_card, sealed
from hf_seqrl.hub.replay import REPLAY_NAMES
from hf_seqrl.hub.run_record import RUN_RECORD_NAME, RunRecord
from hf_seqrl.models.registry import family_of

HERE = Path(__file__).parent
# The weights stay with the agent.
RECORDS = (
    names.CONFIG_NAME,
    names.PROCESSOR_NAME,
    names.EVALUATION_NAME,
    names.OFFLINE_EVALUATION_NAME,
    names.RESULTS_NAME,
    names.PLOT_NAME,
    RUN_RECORD_NAME,
    *REPLAY_NAMES,
)


def render(records: Path) -> str:
    """The card that the generator writes for a folder of records."""
    config = AutoConfig.from_pretrained(records)
    family = family_of(config.model_type)
    with torch.device("meta"):  # sizes are all that a card takes from the weights
        model = family.model_class(config)
    processor = family.processor_class.from_pretrained(records)
    evaluation = RolloutResult.load(records / names.EVALUATION_NAME)
    run = RunRecord.load(records / RUN_RECORD_NAME)
    estimated = records / names.OFFLINE_EVALUATION_NAME
    offline = OfflineEvaluation.load(estimated) if estimated.exists() else None
    film = next((name for name in REPLAY_NAMES if (records / name).exists()), None)
    return sealed(build_card(model, processor, evaluation, run, records.name, (film, None), offline).content)


def take_in(agent: Path) -> Path:
    """Copy the records of an agent's folder to a folder of the same name here."""
    records = HERE / agent.name
    records.mkdir(exist_ok=True)
    for name in RECORDS:
        (records / name).unlink(missing_ok=True)
        if (agent / name).exists():
            shutil.copyfile(agent / name, records / name)
    for config in agent.glob(f"*/{names.CONFIG_NAME}"):  # parts of a processor, such as a discretizer's bins
        if not config.parent.name.startswith("checkpoint"):
            shutil.copytree(config.parent, records / config.parent.name, dirs_exist_ok=True)
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("agents", nargs="*", type=Path, help="folders of agents whose records are taken in")
    agents = parser.parse_args().agents
    for records in [take_in(agent) for agent in agents] or sorted(path.parent for path in HERE.glob("*/config.json")):
        (records / names.CARD_NAME).write_text(render(records), encoding="utf-8")
        print(records / names.CARD_NAME)


if __name__ == "__main__":
    main()
