"""What is no folder here is told apart from an id of the Hub without waiting for the network."""

import socket

import pytest
from huggingface_hub import constants

from hf_seqrl.data import lookup
from hf_seqrl.data.lookup import hub_is_reachable, look_up, nearest, offline


@pytest.mark.parametrize(
    "name", ["agnet", "./me/agent", "me/agent/deeper", "me/", "/me/agent", "me/a b", "me/agent.", ""]
)
def test_what_can_be_no_id_is_refused_at_once(monkeypatch, name):
    monkeypatch.setattr(lookup, "hub_is_reachable", lambda: pytest.fail("the Hub was asked"))
    with pytest.raises(FileNotFoundError, match=r"there is no agent at .*looks like user/name"):
        look_up(name, "agent")


@pytest.mark.parametrize("reachable", [True, False])
def test_an_id_may_be_loaded_where_the_hub_answers(monkeypatch, reachable):
    monkeypatch.setattr(lookup, "hub_is_reachable", lambda: reachable)
    assert look_up("me/decision-transformer.v2", "agent") is reachable


def test_the_nearest_name_is_looked_for_where_the_path_leads(tmp_path, monkeypatch):
    (tmp_path / "runs" / "cartpole").mkdir(parents=True)
    (tmp_path / ".cartpols").mkdir()
    monkeypatch.chdir(tmp_path)
    assert nearest("runs/cartpol") == " Did you mean 'runs/cartpole'?"
    assert nearest("rums/cartpole") == " Did you mean 'runs'?"
    assert nearest(str(tmp_path / "runs" / "cartpol")) == f" Did you mean {str(tmp_path / 'runs' / 'cartpole')!r}?"
    assert nearest("something-else") == nearest(".cartpol") == ""


@pytest.fixture
def online(monkeypatch):
    """No switch and no proxy keep the Hub from being asked."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(lookup, "getproxies", dict)


def test_whether_the_hub_is_there_is_asked_of_its_own_address(monkeypatch, online):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        assert hub_is_reachable()
    assert not hub_is_reachable()  # nobody listens any more


def test_a_proxy_is_trusted_to_know_the_way(monkeypatch, online):
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.invalid")
    monkeypatch.setattr(lookup, "getproxies", lambda: {"https": "http://proxy.invalid:3128"})
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("went past the proxy"))
    assert hub_is_reachable()


def test_the_switch_of_the_hubs_client_is_obeyed_and_put_back(monkeypatch, online):
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    with pytest.raises(KeyError), offline():
        assert constants.HF_HUB_OFFLINE and datasets.config.HF_HUB_OFFLINE and not hub_is_reachable()
        raise KeyError
    assert (False, before) == (constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE)
