"""What goes wrong between here and a Hub: each gives a sentence that helps, and nothing half-pushed looks whole."""

import os
import subprocess
import sys

import pytest

from hf_seqrl import Agent


@pytest.mark.parametrize("where", [("PUT", "/lfs/"), ("POST", "/commit/"), ("POST", "/preupload/")])
def test_an_interrupted_push_leaves_what_was_there(hub, tiny_agent, impatient, where):
    hub.put("model", "tester/broken", {"notes.txt": b"before"})
    hub.interrupt(*where)
    with pytest.raises(OSError, match=r"connection to the Hub broke off .* either all of it or nothing .* Push again"):
        tiny_agent.push_to_hub("tester/broken")
    assert set(hub.repositories["model", "tester/broken"].files) == {"notes.txt"}
    with pytest.raises(ValueError, match=r"holds no agent: expected .* with a config\.json"):
        Agent.from_pretrained("tester/broken")


def test_a_push_after_an_interrupted_one_sends_no_file_twice(hub, tiny_agent, impatient):
    hub.interrupt("POST", "/commit/")
    with pytest.raises(OSError, match="files that have arrived are not sent twice"):
        tiny_agent.push_to_hub("tester/retried")
    sent = [path for method, path in hub.requests if method == "PUT"]
    assert sent
    hub.interruptions.clear()
    tiny_agent.push_to_hub("tester/retried")
    assert [path for method, path in hub.requests if method == "PUT"] == sent
    assert Agent.from_pretrained("tester/retried").env_id == "CartPole-v1"


def test_pushing_without_a_token_says_how_to_log_in(hub, tiny_agent, anonymous):
    with pytest.raises(OSError, match=r"does not let you write to tester/mine \(status 401\).*hf auth login"):
        tiny_agent.push_to_hub("tester/mine")
    assert not hub.repositories


def test_pushing_to_an_unknown_branch_says_how_to_make_it(hub, tiny_agent):
    tiny_agent.push_to_hub("tester/branched")
    with pytest.raises(OSError, match=r"no branch 'next'.*create_branch\('tester/branched', branch='next'\)"):
        tiny_agent.push_to_hub("tester/branched", revision="next")


def test_a_private_repository_needs_its_token(hub, tiny_agent, monkeypatch):
    tiny_agent.push_to_hub("tester/secret", private=True)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(OSError, match="private"):
        Agent.from_pretrained("tester/secret")
    assert Agent.from_pretrained("tester/secret", token=hub.token).env_id == "CartPole-v1"


def test_a_repository_that_does_not_exist_is_named(hub):
    with pytest.raises(OSError, match="tester/nothing"):
        Agent.from_pretrained("tester/nothing")


def test_a_wrong_revision_is_named(hub, tiny_agent):
    tiny_agent.push_to_hub("tester/versions")
    with pytest.raises(OSError, match=r"v9.*tester/versions"):
        Agent.from_pretrained("tester/versions", revision="v9")


def test_an_earlier_revision_is_still_there(hub, tiny_agent):
    first = tiny_agent.push_to_hub("tester/versions")
    tiny_agent.processor.target_returns = [77.0]
    tiny_agent.push_to_hub("tester/versions")
    assert Agent.from_pretrained("tester/versions").target_returns == [77.0]
    assert Agent.from_pretrained("tester/versions", revision=first.oid).target_returns == [120.0, 50.0]


@pytest.mark.parametrize("name", ["model.safetensors", "processor_config.json"])
def test_a_missing_file_is_named(hub, tiny_agent, name):
    tiny_agent.push_to_hub("tester/whole")
    files = dict(hub.repositories["model", "tester/whole"].files)
    del files[name]
    repo_id = f"tester/no-{name.split('.')[0]}"
    hub.put("model", repo_id, files)
    with pytest.raises((OSError, ValueError), match=name.replace(".", r"\.")):
        Agent.from_pretrained(repo_id)


_LOAD_OFFLINE = """
import sys
from hf_seqrl import Agent
for repo_id in sys.argv[1:]:
    try:
        print(Agent.from_pretrained(repo_id).env_id)
    except OSError as error:
        print(error)
from hf_seqrl.cli.main import main
main(["info", sys.argv[1]])
"""


def test_offline_the_cache_serves_and_what_it_lacks_is_said(hub, tiny_agent):
    tiny_agent.push_to_hub("tester/cached")
    tiny_agent.push_to_hub("tester/never-loaded")
    Agent.from_pretrained("tester/cached")
    hub.requests.clear()
    command = [sys.executable, "-c", _LOAD_OFFLINE, "tester/cached", "tester/never-loaded"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    lines = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    known, _, unknown = lines.partition("\n")
    assert known == "CartPole-v1"
    assert "nothing of that name from an earlier download" in unknown
    assert "family: decision-transformer" in unknown  # the command, too
    assert not hub.requests
