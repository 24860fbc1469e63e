"""`hf-seqrl demo`: a web page to watch agents, on this machine or as a Hugging Face Space."""

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hf_seqrl.hub.space import Player


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)

    print("hf-seqrl: loading the libraries and the agents ...", file=sys.stderr)

    from hf_seqrl.hub.demo_page import LOOKS, page_of
    from hf_seqrl.hub.space import load_players

    players = load_players(options.agents, options.env, options.trust_remote_code)
    page = page_of(players)
    if options.space is not None or options.push is not None:
        return _make_space(players, options)
    launching = {"server_name": options.host, "server_port": options.port, "quiet": True, "prevent_thread_lock": True}
    _reach_this_machine_directly()
    _, address, _ = page.launch(**launching, **LOOKS)
    print(f"the page is at {address}; Ctrl-C ends it", flush=True)
    page.block_thread()
    return 0


def _reach_this_machine_directly() -> None:
    """gradio asks its own server whether it is there, which no proxy of the user's could answer."""
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join(dict.fromkeys([*hosts, "localhost", "127.0.0.1", "::1"]))


def _make_space(players: "Sequence[Player]", options: Namespace) -> int:
    from hf_seqrl.hub.space import push_space, write_space

    if options.space is not None:
        folder = write_space(players, options.space)
        print(f"{folder} holds the page as a Space: try it with (cd {folder} && python app.py)")
    if options.push is not None:
        commit = push_space(players, options.push, private=options.private or None)
        print(f"{options.push} is at {commit.repo_url}")
    return 0


def _parser() -> ArgumentParser:
    description = (
        "Open a web page to choose an agent and a target return and to watch the episode with its return-to-go, or create "
        "it as a Hugging Face Space."
    )
    parser = ArgumentParser(prog="hf-seqrl demo", description=description)
    parser.add_argument("agents", nargs="+", metavar="AGENT", help="a folder or a Hub id")
    parser.add_argument("--env", help="gymnasium id (default: the one of each agent's training data)")
    parser.add_argument(
        "--trust_remote_code", action="store_true", help="let the files of the agents name code that is run"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address of the server (default: 127.0.0.1, this machine only)"
    )
    parser.add_argument("--port", type=int, help="default: the first free port from 7860")
    parser.add_argument(
        "--space", metavar="FOLDER", help="write the page as a Space into this folder instead of opening it"
    )
    parser.add_argument(
        "--push", metavar="REPO_ID", help="upload the page to the Hub as a Space, for instance me/watch-them"
    )
    parser.add_argument("--private", action="store_true", help="make a new Space private")
    return parser
