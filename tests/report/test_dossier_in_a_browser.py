"""The dossier in a real browser, from a file, as its readers open it."""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dossier_fixtures import make_material, renamed
from matplotlib import image as mpl_image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from nnunet_ima.evidence.findings import Findings
from nnunet_ima.report.dossier import dossier
from nnunet_ima.report.html import html
from nnunet_ima.segmentation.settings import Settings

BROWSER, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
pytestmark = pytest.mark.skipif(
    BROWSER is None or DRIVER is None, reason="no Chromium with its driver is there: bash scripts/browser.sh"
)
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--use-angle=swiftshader",  # WebGL without a graphics card
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--window-size=1280,900",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for option in OPTIONS:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait until something is true, and return it."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            raise AssertionError("nothing happened in time")
        time.sleep(0.1)
    return found


def drawn(browser: Any) -> str:
    """What the viewer shows: case, level and image."""
    found: str = browser.find_element(By.CLASS_NAME, "viewer").get_attribute("data-drawn") or ""
    return found


def picture(browser: Any) -> np.ndarray:
    canvas = browser.find_element(By.TAG_NAME, "canvas")
    return mpl_image.imread(io.BytesIO(canvas.screenshot_as_png))[..., :3]


@pytest.fixture
def opened(browser: Any, make_findings: Callable[..., Findings], settings: Settings, tmp_path: Path) -> Any:
    """A dossier of two models and three cases, whose first case is drawn."""
    mpl_image.imsave(tmp_path / "dice.png", np.eye(8))
    open_page(browser, make_findings(), settings, tmp_path)
    return browser


def open_page(browser: Any, findings: Findings, settings: Settings, folder: Path) -> None:
    file = folder / "dossier.html"
    file.write_text(html(dossier(make_material(findings, settings, folder))), encoding="utf-8")
    for log in ("browser", "performance"):
        browser.get_log(log)  # those of earlier pages
    browser.get(file.as_uri())
    wait_for(lambda: drawn(browser))


def test_it_opens_without_an_error_and_asks_for_nothing(opened: Any) -> None:
    assert drawn(opened) == "0:2:noisy"
    assert opened.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = [it["params"]["request"]["url"] for it in events if it["method"] == "Network.requestWillBeSent"]
    assert asked
    assert all(url.startswith(("file:///", "data:", "blob:")) for url in asked)
    assert sum(url.startswith("file:///") for url in asked) == 1


def test_volumes_are_drawn_and_follow_the_controls(opened: Any) -> None:
    largest = picture(opened)
    assert largest.std() > 0.05
    slider = opened.find_element(By.CSS_SELECTOR, "input[name=level]")
    slider.send_keys(Keys.HOME)
    wait_for(lambda: drawn(opened) == "0:0:noisy")
    clean = picture(opened)
    assert np.abs(clean - largest).mean() > 0.01
    told = opened.find_element(By.CLASS_NAME, "told").text
    assert told == "weak, case_0: Dice 0.900 without noise"
    opened.find_element(By.CSS_SELECTOR, "input[name=label]").click()
    assert np.abs(picture(opened) - clean).mean() > 0.001
    slider.send_keys(Keys.END)
    opened.find_element(By.CSS_SELECTOR, "select[name=base] option[value=noise]").click()
    wait_for(lambda: drawn(opened) == "0:2:noise")
    assert "noise from -" in opened.find_element(By.CLASS_NAME, "told").text
    opened.find_element(By.CSS_SELECTOR, "input[name=fragility]").click()
    assert opened.get_log("browser") == []


def test_the_table_opens_a_case(opened: Any) -> None:
    row = opened.find_elements(By.CSS_SELECTOR, "table[data-key=cases] tr.opens")[0]
    assert row.text.startswith("weak case_2")
    row.send_keys(Keys.ENTER)
    wait_for(lambda: drawn(opened).startswith("2:"))
    assert opened.find_element(By.CLASS_NAME, "told").text.startswith("weak, case_2: ")


def test_curves_are_drawn(opened: Any) -> None:
    names = [label.text for label in opened.find_elements(By.CSS_SELECTOR, ".plot .legendtext")]
    assert names[:2] == ["weak: pgd", "hard: pgd"]


def test_hostile_names_do_nothing(
    browser: Any, make_findings: Callable[..., Findings], settings: Settings, tmp_path: Path
) -> None:
    evil = '"><img src=x onerror="document.title=1"></script><script>document.title=2</script>'
    open_page(browser, renamed(make_findings(), lambda name: name + evil), settings, tmp_path)
    assert browser.title == "Robustness dossier"
    assert browser.get_log("browser") == []
    assert f"weak{evil}" in browser.find_element(By.TAG_NAME, "h1").find_element(By.XPATH, "..").text


@pytest.mark.parametrize("width", [1280, 820, 400])
def test_it_fits_screens_of_any_width(opened: Any, width: int) -> None:
    opened.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    try:
        wait_for(lambda: opened.execute_script("return document.documentElement.scrollWidth") <= width)
        assert opened.find_element(By.TAG_NAME, "canvas").size["width"] > 0.6 * min(width, 900)
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_on_paper_pictures_take_the_place_of_what_moves(opened: Any) -> None:
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert not opened.find_element(By.CLASS_NAME, "viewer").is_displayed()
        assert not opened.find_element(By.TAG_NAME, "nav").is_displayed()
        assert opened.find_element(By.CLASS_NAME, "still").is_displayed()
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
