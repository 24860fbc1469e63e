"""The option `--device` of the benchmarks, and the clock that goes with a device."""

import argparse
import time
from collections.abc import Callable

import torch


def add_device_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", help="of the models, such as cuda (default: cpu)")


def clock_of(device: str, cpu_clock: Callable[[], float] = time.process_time) -> Callable[[], float]:
    """Seconds: on the CPU those of `cpu_clock`; else those on the wall, when the device has done all work that was given to it."""
    if torch.device(device).type == "cpu":
        return cpu_clock

    def wall() -> float:
        torch.accelerator.synchronize(device)
        return time.perf_counter()

    return wall
