"""The page in a real browser: Debian's chromium (`apt-get install chromium chromium-driver`)."""

import json
import os
import shutil
import subprocess
import sys

import pytest

_OPTIONS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1400,900"),
]
_PATIENCE = 300  # seconds, for machines that do other things too


@pytest.fixture
def browser(tmp_path):
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("needs Debian's chromium: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for option in (*_OPTIONS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


@pytest.fixture
def address(tiny_agent, tmp_path):
    """Where `hf-seqrl demo` listens."""
    tiny_agent.save_pretrained(tmp_path / "falls-over")
    command = [sys.executable, "-m", "hf_seqrl.cli.main", "demo", str(tmp_path / "falls-over")]
    environment = os.environ | {"GRADIO_TEMP_DIR": str(tmp_path / "cache")}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    yield server.stdout.readline().split()[4].rstrip(";")  # the page is at ADDRESS; ...
    server.terminate()
    server.wait()


@pytest.mark.slow
def test_one_asks_for_a_return_and_watches(browser, address):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    def see(selector):
        return WebDriverWait(browser, _PATIENCE).until(
            lambda browser: browser.find_elements(By.CSS_SELECTOR, selector)
        )[0]

    browser.get(address)
    number = see("#target input[type=number]")
    assert not browser.find_elements(By.CSS_SELECTOR, "#film video, #plot img")
    number.send_keys(Keys.CONTROL, "a")
    number.send_keys("55", Keys.TAB)
    see("#play").click()
    film, plot = see("#film video"), see("#plot img")
    wait = WebDriverWait(browser, _PATIENCE)
    wait.until(lambda browser: "Asked for 55, reached" in see("#outcome").text)
    wait.until(lambda browser: browser.execute_script("return arguments[0].currentTime > 0", film))  # it plays
    assert browser.execute_script("return arguments[0].videoWidth", film) == 600
    assert browser.execute_script("return arguments[0].naturalWidth", plot) > 500
    assert _asked_elsewhere(browser, address) == []


def _asked_elsewhere(browser, address):
    """Addresses that the page asked for on other machines."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    return [url for url in asked if url.startswith("http") and not url.startswith(address.rstrip("/"))]
