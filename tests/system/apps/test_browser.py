"""The console in Chromium: with the keyboard alone, by axe, on a phone, without the rest of the world."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from edgeslm.cli.demo.material import load_sms
from edgeslm.console.host import ConsoleHost
from edgeslm.storage.feedback_store import FeedbackStore
from tests.support.apps import WAIT_S, App
from tests.support.brokers import Mosquitto, free_port
from tests.support.consoles import TOKEN, console_node, visitor_of
from tests.support.ingress import ingress
from tests.support.nodes import BASE, Node, NodeProcess, real_configuration
from tests.support.teaching import TEXTS, teaching_node

VIEWS = ("live", "try", "teach", "models", "collections")
MOST_BYTES = 150_000
"""On the wire, from the sign-in page to the first figures."""

LONG_LABELS = """() => {
  for (const cell of document.querySelectorAll("#view-teach th")) cell.textContent = "a-machine-at-a-stop";
  document.querySelector("#teach-thresholds").hidden = false;
  return document.documentElement.scrollWidth;
}"""
"""Gives long names to labels. :return: the page's width."""

SLOW_NODE = """() => {
  const fetch = window.fetch;
  window.fetch = async (...asked) => {
    await new Promise((done) => setTimeout(done, 400));
    return fetch(...asked);
  };
}"""

expect.set_options(timeout=WAIT_S * 1000)
BACKGROUND_MS = 12 * WAIT_S * 1000
"""For what teaching computes: it takes the processor time that other tests leave."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        assert "ID=debian" not in Path("/etc/os-release").read_text().split(), "run scripts/setup test"
        pytest.skip("Chromium isn't here, and scripts/setup can bring it on Debian alone")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def app_and_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[App, Node]]:
    broker = Mosquitto(tmp_path_factory.mktemp("broker"))
    broker.start()
    folder = tmp_path_factory.mktemp("node")
    (folder / "triage.txt").write_text("\n".join(TEXTS))
    with (
        pytest.MonkeyPatch.context() as patch,
        teaching_node(
            folder, broker.url, patch, teach={"messages": str(folder)}, console={"texts": True}
        ) as (node, teacher, export),
        App(broker.port, f"{BASE}/res/#") as app,
    ):
        export.doubted = [{"text": TEXTS[0], "label": "normal", "guess": "critical"}]
        teacher.label_all(8)
        teacher.trained()
        app.publish(f"{BASE}/req/triage", {"input": "Spindle 3 smells of burnt oil", "id": "7"})
        app.take(f"{BASE}/res/triage")
        app.publish(f"{BASE}/req/nothing", "?")
        yield app, node
    broker.stop()


@pytest.fixture
def open_page(browser: Browser, app_and_node: tuple[App, Node]) -> Iterator[Callable[..., Page]]:
    """A page of a fresh browser at the console; nothing that a page logs or fails with goes unseen."""
    said: list[str] = []
    contexts = []

    def open_page(signed_in: bool = True, size: tuple[int, int] = (1280, 860), **options: Any) -> Page:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
        contexts.append(context)
        context.set_default_timeout(WAIT_S * 1000)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(f"http://{visitor_of(app_and_node[1]).host}/")
        # Autofocus comes with the first frame: whoever types before it has Chromium complain.
        expect(page.locator("#token")).to_be_focused()
        if signed_in:
            page.fill("#token", TOKEN)
            page.press("#token", "Enter")
            expect(page.locator("#requests tbody tr").first).to_be_visible()
            expect(page.locator("#node")).to_have_text("hall")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [one for one in said if "status of 403" not in one] == [], "a wrong token is one"


def show(page: Page, view: str) -> None:
    page.click(f'nav a[href="#{view}"]')
    expect(page.locator(f"#view-{view}")).to_be_visible()


def focus(page: Page, selector: str) -> None:
    """By the tab key alone."""
    for _ in range(80):
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{selector} can't be reached with the keyboard")


def test_all_of_it_with_the_keyboard(open_page: Callable[..., Page]) -> None:
    page = open_page(signed_in=False)
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("This is not the token.")
    page.wait_for_load_state()
    expect(page.locator("#token")).to_be_focused()
    page.keyboard.type(TOKEN)
    expect(page.locator("#token")).to_have_value(TOKEN)
    page.keyboard.press("Enter")
    expect(page.locator("#requests tbody tr").first).to_be_visible()
    focus(page, "#pause")
    page.keyboard.press("Space")
    expect(page.locator("#pause")).to_have_attribute("aria-pressed", "true")
    focus(page, "td.texts button")
    page.keyboard.press("Enter")
    expect(page.locator("#text-input")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#text-input")).to_be_hidden()
    focus(page, 'nav a[href="#try"]')
    page.keyboard.press("Enter")
    expect(page.locator("#h-try")).to_be_focused()
    focus(page, "#ask-task")
    page.keyboard.type("manual")
    focus(page, "#ask-text")
    page.keyboard.type("What does E42 mean?")
    focus(page, "#ask-context")
    page.keyboard.type("E42: the coolant is low.")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#answer .badge")).to_have_text(re.compile("ok|abstained"))
    focus(page, "#leave")
    page.keyboard.press("Enter")
    expect(page.locator("#token")).to_be_focused()


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 860), (390, 844)], ids=["desk", "phone"])
def test_axe_finds_nothing(open_page: Callable[..., Page], colours: str, size: tuple[int, int]) -> None:
    options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
    found = {}
    page = open_page(signed_in=False, size=size, color_scheme=colours)
    found["login"] = Axe().run(page, options=options)
    page = open_page(size=size, color_scheme=colours)
    for view in VIEWS:
        show(page, view)
        found[view] = Axe().run(page, options=options)
    page.evaluate("document.querySelector('#text').showModal()")
    found["text"] = Axe().run(page, options=options)
    faults = {view: axe.generate_report() for view, axe in found.items() if axe.violations_count}
    assert not faults, "\n".join(f"{view}: {report}" for view, report in faults.items())


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_is_wider_than_the_screen(open_page: Callable[..., Page], width: int) -> None:
    page = open_page(size=(width, 800))
    for view in VIEWS:
        show(page, view)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view
    show(page, "teach")
    expect(page.locator("#teach-confusion")).to_be_visible()
    assert page.evaluate(LONG_LABELS) <= width


def test_it_is_small_and_needs_nobody_else(browser: Browser, app_and_node: tuple[App, Node]) -> None:
    host = visitor_of(app_and_node[1]).host
    with browser.new_context() as context:
        page = context.new_page()
        network = context.new_cdp_session(page)
        network.send("Network.enable")
        counted: list[float] = []
        network.on("Network.dataReceived", lambda event: counted.append(event["encodedDataLength"]))
        network.on("Network.responseReceived", lambda event: counted.append(len(str(event["response"]))))
        addresses: list[str] = []
        page.on("request", lambda request: addresses.append(request.url))
        page.goto(f"http://{host}/")
        page.fill("#token", TOKEN)
        page.press("#token", "Enter")
        expect(page.locator("#requests tbody tr").first).to_be_visible()
        assert all(address.startswith(f"http://{host}/") for address in addresses)
        assert 10_000 < sum(counted) < MOST_BYTES


def test_what_senders_choose_is_text_and_no_markup(
    open_page: Callable[..., Page], app_and_node: tuple[App, Node]
) -> None:
    app, _ = app_and_node
    evil = f"{BASE}/res/triage/<img src=x onerror=alert(1)>"
    app.publish(f"{BASE}/req/triage", {"input": "<b>x</b>", "id": "8", "reply_to": evil})
    app.take(f"{BASE}/res/triage/+")
    page = open_page()
    row = page.locator("#requests tr", has_text="onerror")
    expect(row.locator("td.topic")).to_have_text(evil)
    row.locator("button").click()
    expect(page.locator("#text-input")).to_have_text("<b>x</b>")
    assert page.locator("main img, #text b").count() == 0


def test_requests_can_be_chosen(open_page: Callable[..., Page]) -> None:
    page = open_page()
    page.check("#only-errors")
    expect(page.locator("#requests tbody tr")).to_have_count(1)
    expect(page.locator("#requests tbody tr")).to_contain_text("unknown task")
    page.select_option("#only-task", "say")
    expect(page.locator("#no-requests")).to_have_text("None of the last requests fits.")


@pytest.mark.timeout(1500)
def test_a_task_is_taught_with_the_keyboard(
    browser: Browser, broker: Mosquitto, starter: Path, tmp_path: Path
) -> None:
    """60 real messages with the starter's models: labelled, taught, used, and taken back."""
    taught, held = load_sms(starter / "data")
    keys = {row.text: "2" if row.label == "spam" else "1" for row in (*taught, *held)}
    (tmp_path / "spam.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in list(keys)[:400])
    )
    (tmp_path / "token").write_text(TOKEN)
    listen = f"127.0.0.1:{free_port()}"
    section = {"listen": listen, "token_file": str(tmp_path / "token"), "teach": {"messages": str(tmp_path)}}
    tasks = {"spam": {"kind": "classify", "model": "small", "labels": ["ham", "spam"]}}
    configuration = real_configuration(broker.url, starter, tmp_path, tasks=tasks, console=section)
    said: list[str] = []
    with (
        App(broker.port, f"{BASE}/state", f"{BASE}/res/#") as app,
        NodeProcess(tmp_path, configuration) as node,
        browser.new_context(viewport={"width": 1280, "height": 860}) as context,
    ):
        node.wait_online(app)
        context.set_default_timeout(BACKGROUND_MS)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(f"http://{listen}/#teach")  # a bookmark: after the sign-in it is this view
        page.fill("#token", TOKEN)
        page.press("#token", "Enter")
        progress = page.locator("#teach-progress")
        shown = page.locator("#teach-text:not(.none)")
        for number in range(1, 61):
            page.keyboard.press(keys[shown.text_content() or ""])
            expect(progress).to_have_text(re.compile(rf"^{number} labelled"))
        page.keyboard.press("u")
        expect(progress).to_have_text(re.compile("^59 labelled"))
        page.keyboard.press(keys[shown.text_content() or ""])
        expect(progress).to_have_text(re.compile("^60 labelled"))
        page.keyboard.press("s")
        expect(page.locator("#teach-curve path.line")).to_be_visible(timeout=BACKGROUND_MS)
        expect(page.locator("#teach-confusion")).to_be_visible(timeout=BACKGROUND_MS)
        focus(page, "#teach-train")
        page.keyboard.press("Enter")
        use = page.locator("#teach-use")
        expect(use).to_be_enabled(timeout=BACKGROUND_MS)
        expect(page.locator("#teach-said")).to_have_text(
            re.compile(r"right on \d+ of 100 .* right on \d+ of \d+")
        )
        focus(page, "#teach-use")
        page.keyboard.press("Enter")
        expect(page.locator("#teach-said")).to_contain_text("The taught head is at work, on trial")
        app.publish(f"{BASE}/req/spam", {"input": "WINNER! Claim your free prize now, call 09061701461"})
        result = app.take(f"{BASE}/res/spam").json["result"]
        assert (result["label"], result["stage"]) == ("spam", "learned")
        focus(page, "#teach-back")
        page.keyboard.press("Enter")
        expect(page.locator("#teach-said")).to_contain_text("No head is at work.")
        app.publish(f"{BASE}/req/spam", {"input": "See you at noon"})
        assert app.take(f"{BASE}/res/spam").json["result"]["taught"] is False
        assert not said
        assert node.terminate() == 0
    rows = [json.loads(row) for row in (tmp_path / "state/feedback/spam.jsonl").read_text().splitlines()]
    assert len(rows) == 60 and all(keys[row["text"]] == "12"[row["label"] == "spam"] for row in rows)


def test_proposals_are_taken_by_enter_or_all_at_once(
    browser: Browser, broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "triage.txt").write_text("\n".join(reversed(TEXTS[:8])))
    with (
        teaching_node(tmp_path, broker.url, monkeypatch, teach={"messages": str(tmp_path)}) as (
            node,
            _,
            export,
        ),
        browser.new_context(viewport={"width": 1280, "height": 860}) as context,
    ):
        export.guesses = False
        context.set_default_timeout(WAIT_S * 1000)
        page = context.new_page()
        said: list[str] = []
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(f"http://{visitor_of(node).host}/")
        page.fill("#token", TOKEN)
        page.press("#token", "Enter")
        page.click('nav a[href="#teach"]')
        progress, guess = page.locator("#teach-progress"), page.locator("#teach-guess")
        expect(guess).to_have_text("small, untaught, proposes normal (90 % sure)")
        expect(progress).to_have_text(re.compile("^0 labelled"))
        page.keyboard.press("Enter")
        expect(progress).to_have_text(re.compile("^1 labelled"))
        page.keyboard.press("2")
        expect(progress).to_have_text(re.compile("^2 labelled"))
        page.click("#teach-confirm")
        expect(progress).to_have_text(re.compile("^3 labelled"))
        expect(page.locator("#teach-proposed li")).to_have_count(5)
        page.click("text=Take all 5")
        expect(progress).to_have_text(re.compile("^8 labelled"))
        expect(page.locator("#teach-proposals")).to_be_hidden()
        expect(page.locator("#teach-confirm")).to_be_hidden()
        assert not said
    rows = FeedbackStore(tmp_path / "state").rows("triage")
    assert [row["label"] for row in rows] == ["normal", "critical", *["normal"] * 6]
    assert [row.get("proposed") for row in rows] == [None] * 3 + ["small"] * 5


def test_keys_are_not_lost_while_the_node_is_slow(
    browser: Browser, broker: Mosquitto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two keys before the first answer; then training, and a change of a label, leave the keys at work."""
    (tmp_path / "triage.txt").write_text("\n".join(reversed(TEXTS)))
    with (
        teaching_node(tmp_path, broker.url, monkeypatch, teach={"messages": str(tmp_path)}) as (
            node,
            teacher,
            export,
        ),
        browser.new_context(viewport={"width": 1280, "height": 860}) as context,
    ):
        context.set_default_timeout(WAIT_S * 1000)
        page = context.new_page()
        said: list[str] = []
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(f"http://{visitor_of(node).host}/")
        page.fill("#token", TOKEN)
        page.press("#token", "Enter")
        page.click('nav a[href="#teach"]')
        text, progress = page.locator("#teach-text:not(.none)"), page.locator("#teach-progress")
        expect(text).to_have_text(TEXTS[0])
        page.evaluate(SLOW_NODE)
        page.keyboard.press("1")
        expect(text).to_have_text(TEXTS[1])
        page.keyboard.press("2")
        expect(text).to_have_text(TEXTS[2])
        expect(progress).to_have_text(re.compile("^2 labelled"))
        rows = FeedbackStore(tmp_path / "state").rows("triage")
        assert [(row["text"], row["label"]) for row in rows] == [(TEXTS[0], "normal"), (TEXTS[1], "critical")]
        export.doubted = [{"text": TEXTS[0], "label": "normal", "guess": "critical"}]
        teacher.label_all(6)
        expect(page.get_by_role("button", name="Change to critical")).to_be_visible()
        for button, count in (("Teach", 9), ("Change to critical", 10)):
            page.get_by_role("button", name=button, exact=True).click()
            expect(page.locator("#teach-box")).to_be_focused()
            expect(text).to_be_visible()
            page.keyboard.press("2")
            expect(progress).to_have_text(re.compile(f"^{count} labelled"))
        for button, sentence in (
            ("Use it", "The taught head is at work, on trial"),
            ("Teach", "Another head is at work, on trial"),
            ("Back to what was before", "No head is at work."),
        ):
            page.get_by_role("button", name=button, exact=True).click()
            expect(page.locator("#teach-said")).to_contain_text(sentence)
            expect(page.locator("#teach-box")).to_be_focused()
        with page.expect_navigation():
            context.clear_cookies()
        page.fill("#token", TOKEN)
        page.press("#token", "Enter")
        expect(progress).to_be_visible()
        assert not said


def test_a_lost_connection_is_told(browser: Browser, broker: Mosquitto, tmp_path: Path) -> None:
    """Its process is ended: the page says so, and asks for the token when the next one is there."""
    with console_node(tmp_path, broker.url) as node, browser.new_context() as context:
        context.set_default_timeout(WAIT_S * 1000)
        page = context.new_page()
        page.goto(f"http://{visitor_of(node).host}/")
        page.fill("#token", TOKEN)
        page.press("#token", "Enter")
        expect(page.locator("#no-requests")).to_have_text(re.compile("No requests yet"))
        expect(page.locator("#state")).to_have_text("online")
        os.kill(node.extension(ConsoleHost).pids["console"], 9)
        expect(page.locator("#broken")).to_contain_text("The connection to the node is lost")
        expect(page.locator("#state")).to_have_text("not connected")
        expect(page.locator("#token")).to_be_visible()


def test_in_a_frame_of_home_assistant(browser: Browser, broker: Mosquitto, tmp_path: Path) -> None:
    section = {"token_file": None, "ingress": True, "peers": ["127.0.0.1"]}
    said: list[str] = []
    with (
        console_node(tmp_path, broker.url, console=section) as node,
        ingress(visitor_of(node).port) as home,
        browser.new_context(viewport={"width": 1280, "height": 860}) as context,
    ):
        context.set_default_timeout(WAIT_S * 1000)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(home)
        frame = page.frame_locator("iframe")
        expect(frame.locator("#node")).to_have_text("hall")
        expect(frame.locator("#leave")).to_be_hidden()
        frame.locator('nav a[href="#try"]').click()
        frame.locator("#ask-task").select_option("triage")
        frame.locator("#ask-text").fill("Spindle 3 smells of burnt oil")
        frame.get_by_role("button", name="Run").click()
        expect(frame.locator("#answer .badge")).to_have_text(re.compile("ok|abstained"))
    assert not said
