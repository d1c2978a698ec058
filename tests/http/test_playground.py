#!/usr/bin/env python3
"""The playground in a real browser: Debian's Chromium without a window, driven through Selenium. test-timeout: 300

    tests/http/test_playground.py [--screenshots FOLDER] [CASE...]

With --screenshots the pictures of the docs are made anew. Skipped where there is no chromium or chromedriver."""

import contextlib
import os
import pathlib
import shutil
import sys
import tempfile

import server_process
from server_process import ROOT, Server, expect, expect_true, require_head, require_model, run_cases, skip

try:
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select, WebDriverWait
except ImportError:
    skip("Selenium is not installed (tests/requirements.txt)")

WAIT_S = 60
SCREENSHOTS = None


@contextlib.contextmanager
def open_browser(width=1400, height=1000, dark=False):
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    with tempfile.TemporaryDirectory(prefix="otter-test-") as profile:
        for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "hide-scrollbars",
                     f"user-data-dir={profile}", f"window-size={width},{height}", *(["force-dark-mode"] if dark else [])):
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            yield driver
        finally:
            driver.quit()


def wait_until(driver, what, condition):
    try:
        WebDriverWait(driver, WAIT_S, poll_frequency=0.1).until(lambda _: condition())
    except Exception as error:
        raise server_process.Failed(f"not within {WAIT_S} s: {what}; the page says: "
                                    f"{driver.find_element(By.TAG_NAME, 'body').text[:1500]}") from error


def find(driver, identifier):
    return driver.find_element(By.ID, identifier)


def text(driver, selector):
    return driver.find_element(By.CSS_SELECTOR, selector).text


def load(driver, server):
    driver.get(server.url + "/")
    wait_until(driver, "the model is named", lambda: "parameters" in find(driver, "served").text)


def move_slider(driver, identifier, value):
    driver.execute_script("const s = document.getElementById(arguments[0]); s.value = arguments[1];"
                          "s.dispatchEvent(new Event('input', {bubbles: true}))", identifier, value)


def run(driver):
    find(driver, "prompt").send_keys(Keys.CONTROL, Keys.ENTER)
    wait_until(driver, "both answers end", lambda: all("ended:" in text(driver, f"#{side} .facts") for side in ("plain", "steered")))


def answer_of(driver, side):
    return "".join(driver.execute_script(
        "return [...document.querySelectorAll(`#${arguments[0]} .token`)].map((t) => t.textContent)", side))


def expect_quiet(driver):
    """Nothing was refused by the content policy, no script failed."""
    bad = [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    expect(bad, [], "the browser's console")


def picture(driver, name):
    if SCREENSHOTS:
        driver.save_screenshot(str(pathlib.Path(SCREENSHOTS, name)))


def steers_an_answer(server):
    with open_browser() as driver:
        load(driver, server)
        expect(find(driver, "reward-controls").is_displayed(), True)
        move_slider(driver, "weight-toxicity", -4)
        find(driver, "max-tokens").clear()
        find(driver, "max-tokens").send_keys("12")
        run(driver)
        # Both columns are what the API answers to the same requests.
        fields = {"max_tokens": 12, "seed": 1}
        plain = server.complete("My neighbour is a complete", **fields)["choices"][0]["text"]
        reward = {"heads": {"toxicity": -4}, "candidates": 10}
        steered = server.complete("My neighbour is a complete", **fields, intervention={"reward": reward})["choices"][0]["text"]
        expect_true(plain != steered, f"the weight changes nothing: {plain!r}")
        expect(answer_of(driver, "plain"), plain)
        expect(answer_of(driver, "steered"), steered)
        # Colour follows the score of each token.
        shares = driver.execute_script("return [...document.querySelectorAll('#plain .token')].map((t) => t.style.getPropertyValue('--score'))")
        scores = server.complete("My neighbour is a complete", **fields,
                                 intervention={"signals": ["toxicity"]})["choices"][0]["signals"]["toxicity"]
        expect([round(float(share), 5) for share in shares], [round(score, 5) for score in scores])
        expect_true(driver.find_elements(By.CSS_SELECTOR, "#steered .token.changed"), "no changed token is marked")
        driver.find_element(By.CSS_SELECTOR, "#steered .text").send_keys(Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
        detail = find(driver, "detail").text
        expect_true("toxicity" in detail and "The base would have said" in detail and "%" in detail, detail)
        expect_true('"toxicity": -4' in find(driver, "as-curl").get_attribute("textContent"), "curl lacks the weight")
        expect_true('"toxicity": -4' in find(driver, "as-yaml").get_attribute("textContent"), "the preset lacks the weight")
        picture(driver, "playground.png")
        expect_quiet(driver)


def the_code_it_shows_runs(server):
    """The curl and Python texts parse and ask for what the page asked for."""
    with open_browser() as driver:
        load(driver, server)
        driver.execute_script("document.getElementById('prompt').value = \"It's a \\\"trap\\\"\\n\"")
        move_slider(driver, "weight-toxicity", 2.5)
        python = find(driver, "as-python").get_attribute("textContent")
        compile(python, "playground", "exec")
        import json
        import shlex
        import yaml
        words = shlex.split(find(driver, "as-curl").get_attribute("textContent"))
        body = json.loads(words[words.index("-d") + 1])
        expect(body["prompt"], 'It\'s a "trap"\n')
        expect(body["intervention"]["reward"]["heads"], {"toxicity": 2.5})
        expect(server.post("/v1/completions", body).status, 200)
        preset = yaml.safe_load(find(driver, "as-yaml").get_attribute("textContent"))
        expect(preset["presets"]["mine"]["reward"]["heads"], {"toxicity": 2.5})


def chats(server):
    with open_browser(width=480, height=900, dark=True) as driver:
        load(driver, server)
        driver.find_element(By.CSS_SELECTOR, "[data-view=chat]").click()
        find(driver, "max-tokens").clear()
        find(driver, "max-tokens").send_keys("8")
        find(driver, "compare").click()
        find(driver, "message").send_keys(Keys.CONTROL, Keys.ENTER)
        wait_until(driver, "the conversation has two messages", lambda: len(driver.find_elements(By.CSS_SELECTOR, "#history li")) == 2)
        expect(driver.find_elements(By.CSS_SELECTOR, "#history li")[1].text.strip(), answer_of(driver, "steered").strip())
        expect(driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth"), True, "fits a narrow screen")
        picture(driver, "playground-narrow.png")
        expect_quiet(driver)


def shows_status(server):
    with open_browser() as driver:
        load(driver, server)
        server.complete("Hello", intervention={"signals": ["toxicity"]})
        driver.find_element(By.CSS_SELECTOR, "[data-view=status]").click()
        wait_until(driver, "a histogram", lambda: driver.find_elements(By.CSS_SELECTOR, "#heads .histogram span"))
        written = driver.execute_script("return [...document.querySelectorAll('#load div')].map((d) => [...d.children].map((c) => c.textContent))")
        expect_true(int(dict(written)["Tokens written"].replace(",", "")) >= 16, written)
        expect_true("ms" in text(driver, "#latency tbody") or " s" in text(driver, "#latency tbody"), text(driver, "#latency"))
        picture(driver, "playground-status.png")
        expect_quiet(driver)


def tells_an_error(server):
    with open_browser() as driver:
        load(driver, server)
        driver.execute_script("document.getElementById('temperature').max = 1000; document.getElementById('temperature').value = 999")
        find(driver, "prompt").send_keys(Keys.CONTROL, Keys.ENTER)
        wait_until(driver, "the field is named", lambda: "temperature" in find(driver, "problem").text)
        expect(find(driver, "run").is_enabled(), True)


def asks_for_a_key(_server):
    with tempfile.TemporaryDirectory(prefix="otter-test-") as folder:
        keys = pathlib.Path(folder, "keys")
        keys.write_text("a-key-for-the-test\n")
        with Server("--api-key-file", keys, *require_head()) as server, open_browser() as driver:
            driver.get(server.url + "/")
            wait_until(driver, "a key is asked for", lambda: find(driver, "key-form").is_displayed())
            find(driver, "key").send_keys("wrong", Keys.ENTER)
            wait_until(driver, "a wrong key is refused", lambda: find(driver, "key").get_attribute("value") == "" and
                       find(driver, "key-form").is_displayed() and find(driver, "problem").is_displayed())
            find(driver, "key").send_keys("a-key-for-the-test", Keys.ENTER)
            wait_until(driver, "the key opens it", lambda: "parameters" in find(driver, "served").text)
            expect(find(driver, "key-form").is_displayed(), False)
            expect_true("a-key-for-the-test" not in driver.page_source, "the key stands in the page")


def outlives_the_server(_server):
    with open_browser() as driver:
        with Server(*require_head()) as server:
            load(driver, server)
            port = server.port
        find(driver, "prompt").send_keys(Keys.CONTROL, Keys.ENTER)
        wait_until(driver, "the loss is told", lambda: "cannot be reached" in find(driver, "problem").text)
        again = Server(*require_head())
        again.port, again.url = port, f"http://127.0.0.1:{port}"
        with again:
            wait_until(driver, "the page finds the server again", lambda: not find(driver, "problem").is_displayed())


def main():
    global SCREENSHOTS
    if "--screenshots" in sys.argv:
        at = sys.argv.index("--screenshots")
        SCREENSHOTS = sys.argv[at + 1]
        del sys.argv[at:at + 2]
    require_model()
    for program in ("chromium", "chromedriver"):
        if not shutil.which(program):
            skip(f"there is no {program} (scripts/install-packages --test asks for it)")
    os.environ["SE_OFFLINE"] = "true"  # Selenium looks for no driver of its own
    heads = [word for name in ("toxicity", "nontoxic", "toxic", "draft-otter") if (file := ROOT / "heads" / f"{name}.gguf").exists()
             for word in ("--head", f"{name}={file}")]
    with Server(*heads) as server:
        return run_cases([steers_an_answer, the_code_it_shows_runs, chats, shows_status, tells_an_error, asks_for_a_key,
                          outlives_the_server], server)


if __name__ == "__main__":
    sys.exit(main())
