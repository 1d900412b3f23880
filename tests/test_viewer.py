"""The viewer: whom its server answers and what, and the page in a real browser."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import pytest
from browser import browser, page  # noqa: F401
from playwright.sync_api import Browser, Page, Route, expect
from test_explore import LATE, home, key_point, opened  # noqa: F401
from test_train import build, manifest, one_thread  # noqa: F401
from viewing import Answer, Served, served

from gate_cache.analysis.session import ViewerSession, open_session
from gate_cache.cli import main
from gate_cache.core.progress import Silent
from gate_cache.core.roots import Roots
from gate_cache.store.format.samples import NewSample
from gate_cache.store.writer import open_writer
from gate_cache.viewer import server as viewer_server
from gate_cache.viewer.guard import HEADERS, MAX_BODY

NEAR = 1 / 16
"""A cell of the finest maps."""


@pytest.fixture(scope="module")
def explorer(home: Path) -> ViewerSession:  # noqa: F811
    return opened(home, runs=[home / "nn" / "run"])


@pytest.fixture(scope="module")
def server(explorer: ViewerSession) -> Iterator[Served]:
    with served(explorer) as running:
        yield running


def match_of(explorer: ViewerSession, **changes: Any) -> dict[str, Any]:
    return {"feature": "combo good", "image": explorer.ids[0], "target": explorer.ids[8],
            "x": 0.5, "y": 0.5, **changes}


# ------------------------------------------------------------------------------- who is answered


def test_the_page_and_its_files(server: Served) -> None:
    page = server.ask("")  # noqa: F811
    assert page.status == 200 and page.headers["content-type"].startswith("text/html")
    parts = re.findall(r'(?:src|href)="([^"]+)"', page.body.decode())
    assert {"static/main.js", "static/viewer.css", "static/icon.svg"} <= set(parts)
    for part in parts:
        assert server.ask(part).status == 200
    assert server.ask("static/main.js").headers["content-type"].startswith("text/javascript")


@pytest.mark.parametrize("host", [
    "evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil:{port}",
    "localhost:{port}.evil", "0.0.0.0:{port}", "", None])
def test_another_host_is_refused(server: Served, host: str | None) -> None:
    name = host and host.format(port=server.port)
    for path in ("", "api/store", "static/main.js", "nowhere"):
        assert server.ask(path, Host=name).status in (400, 403)


def test_localhost_is_this_host(server: Served) -> None:
    assert server.ask("api/store", Host=f"localhost:{server.port}").status == 200
    assert server.ask("api/store", Host=f"LocalHost:{server.port}").status == 200


def test_it_listens_on_loopback_alone(server: Served) -> None:
    others = {i[4][0] for i in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for address in {str(a) for a in others} - {"127.0.0.1"}:
        with socket.socket() as line:
            line.settimeout(2)
            assert line.connect_ex((address, server.port)) != 0 or address.startswith("127.")


@pytest.mark.parametrize("headers", [
    {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"},
    {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "cors"},
    {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "no-cors"}])
def test_another_sites_page_is_refused(server: Served, explorer: ViewerSession,
                                       headers: dict[str, str]) -> None:
    assert server.ask("api/store", **headers).status == 403
    assert server.ask("api/match", match_of(explorer), **headers).status == 403


def test_a_post_says_its_origin_and_its_type(server: Served, explorer: ViewerSession) -> None:
    asked = match_of(explorer)
    assert server.ask("api/match", asked).status == 200
    assert server.ask("api/match", asked, Origin=None).status == 403
    assert server.ask("api/match", asked, Content_Type="text/plain").status == 415


def test_without_the_secret_there_is_nothing(server: Served) -> None:
    for path in ("/", "/api/store", "/static/main.js", f"/{server.secret[:-1]}/api/store"):
        assert server.ask(path).status == 404


@pytest.mark.parametrize("path", [
    "static/", "static/../index.html", "static/..%2f..%2fserver.py", "static/%2e%2e/server.py",
    "static/server.py", "../../etc/passwd", "..%2f..%2fetc%2fpasswd", "api/", "api/none",
    "static/main.js/", "static/mainxjs", "api/store/../../x"])
def test_only_known_routes_answer(server: Served, path: str) -> None:
    found = server.ask(path)
    assert found.status == 404 and b"Traceback" not in found.body


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH", "HEAD"])
def test_only_get_and_post(server: Served, method: str) -> None:
    assert server.ask("api/store", method=method).status == 405


def test_every_answer_says_how_to_treat_it(server: Served) -> None:
    kinds: list[Answer] = [server.ask(""), server.ask("api/store"), server.ask("nowhere"),
                           server.ask("", Host="evil.example"),
                           server.ask("api/store", method="PUT")]
    for answer in kinds:
        found = {k: answer.headers.get(k.lower()) for k in HEADERS}
        assert found == HEADERS and "server" not in answer.headers
    assert "default-src 'self'" in HEADERS["Content-Security-Policy"]


# ------------------------------------------------------------------------------ what is answered


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "test/cat/../../x", "", "\0"])
def test_images_come_from_the_list_alone(server: Served, explorer: ViewerSession,
                                         path: str) -> None:
    from urllib.parse import quote

    assert server.ask(f"picture?id={quote(path)}").status == 404
    assert "no sample" in server.ask(f"api/image?id={quote(path)}").json["problem"]
    for asked in (match_of(explorer, image=path), match_of(explorer, target=path)):
        assert "no sample" in server.ask("api/match", asked).json["problem"]


@pytest.mark.parametrize("changes", [
    {"x": 1.5}, {"x": -0.1}, {"x": "0.5"}, {"x": None}, {"y": True}, {"y": [0.5]},
    {"image": 3}, {"target": None}, {"feature": {}}])
def test_what_is_no_match_is_refused(server: Served, explorer: ViewerSession,
                                     changes: dict[str, Any]) -> None:
    assert server.ask("api/match", match_of(explorer, **changes)).status == 400


@pytest.mark.parametrize("body", ["", "[]", "{", "NaN", '{"x": NaN, "y": 0.5}', "\udcff", "1"])
def test_what_is_no_question_is_refused(server: Served, body: str) -> None:
    sent = body.encode("utf-8", "replace").decode()
    found = server.ask("api/match", sent)
    assert found.status == 400 and b"Traceback" not in found.body


def test_a_post_has_bounds(server: Served, explorer: ViewerSession) -> None:
    long = server.ask("api/match", "", Content_Length=str(MAX_BODY + 1))  # unread, it would reset
    assert long.status in (400, 413)
    asked = {"image": explorer.ids[0], "combo": "good", "maps": ["up0"] * 100}
    assert server.ask("api/maps", asked).status == 400
    asked = {"image": explorer.ids[0], "combo": "attn", "maps": ["attn1"], "tokens": ["a"]}
    assert server.ask("api/maps", asked).status == 400
    assert server.ask("api/images?first=x").status == 400
    assert server.ask("api/store").status == 200


def test_names_that_are_not_there_are_told(server: Served, explorer: ViewerSession) -> None:
    found = server.ask("api/match", match_of(explorer, feature="combo god")).json["problem"]
    assert "did you mean 'combo good'" in found
    asked = {"image": explorer.ids[0], "combo": "../good", "maps": ["up0"]}
    assert "no combo '../good'" in server.ask("api/maps", asked).json["problem"]
    asked = {"image": explorer.ids[0], "combo": "good", "maps": ["../up0"]}
    assert "has no map" in server.ask("api/maps", asked).json["problem"]


def test_rows_that_are_not_extracted_are_told(server: Served, explorer: ViewerSession) -> None:
    image = explorer.ids[LATE]
    asked = {"image": image, "combo": "noise-1", "maps": ["up0"]}
    assert server.ask("api/maps", asked).json == {"missing": True}
    asked = match_of(explorer, feature="combo noise-1", target=image)
    assert server.ask("api/match", asked).json == {"missing": True}


def test_a_match_is_the_explorers(server: Served, explorer: ViewerSession) -> None:
    from base64 import b64decode

    found = server.ask("api/match", match_of(explorer)).json
    match = explorer.matcher.match("combo good", 0, (0.5, 0.5), 8)
    assert [found["x"], found["y"]] == pytest.approx([match.x, match.y], abs=1e-6)
    tile = found["tile"]
    shares = np.frombuffer(b64decode(tile["values"]), np.uint8).reshape(16, 16) / 255
    values = tile["low"] + shares * (tile["high"] - tile["low"])
    np.testing.assert_allclose(values, match.values, atol=(tile["high"] - tile["low"]) / 500)


# ---------------------------------------------------------------------------------- the command


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
            *words: str) -> str:
    monkeypatch.setattr("sys.argv", ["gate-cache", "view", "--no-browser", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    return capsys.readouterr().err


def test_what_cannot_be_served_is_one_line(
    home: Path, tmp_path: Path, server: Served, monkeypatch: pytest.MonkeyPatch,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = str(home / "stores" / "toy.zarr")
    taken = refused(monkeypatch, capsys, store, "--port", str(server.port))
    assert f"error: --port {server.port}: is taken" in taken
    assert "no such store" in refused(monkeypatch, capsys, str(tmp_path / "none.zarr"))
    assert "no finished training" in refused(monkeypatch, capsys, store, "--run", str(tmp_path))
    build(tmp_path / "stores", manifest(tmp_path), rows={"good": 0}, only=["good"])
    empty = refused(monkeypatch, capsys, str(tmp_path / "stores" / "toy.zarr"))
    assert empty.count("error: ") == 1 and "holds no extracted image yet" in empty


@pytest.mark.long
def test_ctrl_c_is_a_clean_end(home: Path) -> None:  # noqa: F811
    words = [sys.executable, "-m", "gate_cache.cli", "view", str(home / "stores" / "toy.zarr"),
             "--no-browser"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}) as running:
        assert running.stdout
        address = running.stdout.readline().strip()
        assert Served(address).ask("api/store").json["name"] == "toy.zarr"
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=30)
    assert running.returncode == 0 and "Traceback" not in said


@pytest.mark.long
@pytest.mark.skipif(os.name != "posix", reason="who may read a file is told otherwise there")
def test_the_secret_is_not_in_the_words_that_a_browser_is_started_with(
        home: Path, tmp_path: Path, page: Page) -> None:  # noqa: F811
    """Everybody sees these; the file they name leads to the page and is the user's alone."""
    script, words = tmp_path / "browser", tmp_path / "words"
    script.write_text(f'#!/bin/sh\necho "$@" > {words}.part\nmv {words}.part {words}\n')
    script.chmod(0o700)
    with subprocess.Popen(
            [sys.executable, "-m", "gate_cache.cli", "view", str(home / "stores" / "toy.zarr")],
            stdout=subprocess.PIPE, text=True,
            env={**os.environ, "BROWSER": str(script), "DISPLAY": ":0", "OMP_NUM_THREADS": "1"},
    ) as running:
        assert running.stdout
        server = Served(running.stdout.readline().strip())
        try:
            while not words.exists():
                assert running.poll() is None
                page.wait_for_timeout(50)
            (told,) = words.read_text().split()
            file = Path(url2pathname(urlsplit(told).path))
            assert server.secret not in told and server.secret in file.read_text()
            assert [p.stat().st_mode & 0o777 for p in (file, file.parent)] == [0o600, 0o700]
            page.goto(told)
            expect(page.locator("#tiles canvas").first).to_be_visible()
            assert page.url.startswith(server.address)
            page.goto("about:blank")
        finally:
            running.send_signal(signal.SIGINT)
            running.wait(30)
    assert running.returncode == 0 and not file.parent.exists()


def test_a_thread_that_waits_for_a_server_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends: list[int] = []
    monkeypatch.setattr(viewer_server, "PATIENCE", 0.1)
    monkeypatch.setattr(viewer_server, "PICTURES", "none")  # a fixture's threads may be there
    monkeypatch.setattr(viewer_server, "MATCHES", "waiting")
    monkeypatch.setattr(os, "_exit", ends.append)
    release = threading.Event()
    with ThreadPoolExecutor(1, "waiting") as pool:
        pool.submit(release.wait)
        viewer_server._leave()
        assert ends == [0]
        release.set()
    viewer_server._leave()
    assert ends == [0]


# ---------------------------------------------------------------------------------- the browser


def start(page: Page, server: Served, **state: str) -> None:  # noqa: F811
    from urllib.parse import urlencode

    page.goto(f"{server.address}#{urlencode(state)}" if state else server.address)
    expect(page.locator("#tiles canvas").first).to_be_visible()


def click(page: Page, at: str, x: float, y: float) -> None:  # noqa: F811
    expect(page.locator(at)).to_be_visible()
    box = page.locator(at).bounding_box()
    assert box
    page.locator(at).click(position={"x": x * box["width"], "y": y * box["height"]})


def matches(page: Page, count: int) -> list[tuple[float, float]]:  # noqa: F811
    """Where the best matches are marked in the targets, as shares of their sides."""
    expect(page.locator("#targets .mark:not(.cross)")).to_have_count(count)
    found: list[tuple[float, float]] = page.eval_on_selector_all(
        "#targets .mark:not(.cross)", """marks => marks.map(mark => {
            const a = mark.getBoundingClientRect(), b = mark.parentElement.getBoundingClientRect();
            return [(a.x + a.width / 2 - b.x) / b.width, (a.y + a.height / 2 - b.y) / b.height];
        })""")
    return found


def test_it_opens_with_maps_of_the_first_image(page: Page, server: Served,  # noqa: F811
                                               explorer: ViewerSession) -> None:
    start(page, server)
    expect(page.locator("h2#image")).to_have_text(explorer.ids[0])
    expect(page.locator("#tiles canvas")).to_have_count(3)
    expect(page.locator("#rows [aria-current=true]")).to_contain_text(explorer.ids[0])
    expect(page.locator("#feature option:checked")).to_have_text("run run")
    assert len(page.eval_on_selector_all("#rows img", "all => all.map(i => i.src)")) < 40
    page.get_by_role("checkbox", name="good").uncheck()
    expect(page.locator("#tiles canvas")).to_have_count(2)
    page.get_by_role("radio", name="all").check()
    expect(page.locator("#tiles canvas")).to_have_count(4)


def test_a_click_is_found_where_it_is_in_the_same_image(page: Page, server: Served,  # noqa: F811
                                                        explorer: ViewerSession) -> None:
    """And in another image at the same key point."""
    a, b = explorer.find("horse")[:2]
    start(page, server, image=a, near="pinned", feature="combo good")
    page.get_by_role("button", name="Pin", exact=True).click()
    x, y = key_point(a, 0)
    click(page, "#input", x, y)
    (found,) = matches(page, 1)
    assert np.hypot(*np.subtract(found, (x, y))) < NEAR
    expect(page.locator("#targets .value")).to_contain_text(re.compile(r"1\.00 · \d+ ms"))
    page.fill("#search", b)
    expect(page.locator("#total")).to_have_text("1")
    page.locator("#rows button", has_text=b).click()
    expect(page.locator("#query")).to_have_attribute("aria-label", re.compile(b))
    click(page, "#query", *key_point(b, 0))
    (found,) = matches(page, 1)
    assert np.hypot(*np.subtract(found, (x, y))) < NEAR


def test_a_press_on_a_row_counts_though_the_list_is_drawn_meanwhile(
        page: Page, server: Served, explorer: ViewerSession) -> None:  # noqa: F811
    start(page, server)
    page.locator("#rows button").nth(2).hover()
    page.mouse.down()
    page.evaluate("""() => new Promise((done) => {
        document.getElementById("list").dispatchEvent(new Event("scroll"));
        requestAnimationFrame(() => requestAnimationFrame(done));
    })""")
    page.mouse.up()
    expect(page.locator("h2#image")).to_have_text(explorer.ids[2])


def test_the_last_click_counts(page: Page, server: Served, explorer: ViewerSession) -> None:  # noqa: F811
    a, b = explorer.find("horse")[:2]
    start(page, server, image=a, near="pinned", pins=b, feature="combo good")
    expect(page.locator("#targets figure")).to_have_count(2)
    for k in (1, 2, 0):
        click(page, "#input", *key_point(a, k))
    expect(page.locator("#told")).to_contain_text("1 matches")
    (found,) = matches(page, 1)
    assert np.hypot(*np.subtract(found, key_point(b, 0))) < NEAR


def test_attention_by_word(page: Page, server: Served, explorer: ViewerSession) -> None:  # noqa: F811
    start(page, server)
    page.keyboard.press("a")
    captions = page.locator("#tiles figcaption .name")
    expect(captions).to_have_text(["image", "photo", "horse"])
    page.get_by_role("checkbox", name="photo").uncheck()
    expect(captions).to_have_text(["image", "horse"])
    page.fill("#word", "start")
    page.get_by_role("checkbox", name="<|startoftext|>").check()
    expect(captions).to_have_text(["image", "<|startoftext|>", "horse"])
    stored = explorer.attention(explorer.ids[0], "attn", "attn1", [2])
    said = page.locator("#tiles .frame").nth(2)
    expect(said).to_have_attribute("title", re.compile(f"to {stored.max():.2g}"))


def test_what_is_not_extracted_says_so(page: Page, server: Served,  # noqa: F811
                                       explorer: ViewerSession) -> None:
    start(page, server, image=explorer.ids[LATE], feature="combo noise-1")
    expect(page.locator("#tiles canvas")).to_have_count(2)
    expect(page.locator("#tiles .frame p")).to_have_text("not extracted")
    click(page, "#input", 0.5, 0.5)
    expect(page.locator("#targets .frame p").first).to_have_text(re.compile("not extracted"))
    expect(page.locator("#told")).to_have_text("no match")


def test_a_reload_brings_it_back(page: Page, server: Served, explorer: ViewerSession) -> None:  # noqa: F811
    start(page, server, image=explorer.find("boat")[1], near="category", feature="combo good")
    page.get_by_role("radio", name="up0").check()
    page.select_option("#count", "4")
    click(page, "#input", 0.25, 0.75)
    expect(page.locator("#told")).to_contain_text("4 matches")
    before = matches(page, 4)
    address = page.url
    page.reload()
    np.testing.assert_allclose(matches(page, 4), before, atol=1e-3)
    assert page.url == address
    expect(page.locator("h2#image")).to_have_text(explorer.find("boat")[1])
    expect(page.locator("#level input:checked")).to_have_value("up0")
    cross = page.locator("#input .mark").bounding_box(), page.locator("#input").bounding_box()
    assert cross[0] and cross[1]
    at = cross[0]["x"] + cross[0]["width"] / 2 - cross[1]["x"]
    assert at / cross[1]["width"] == pytest.approx(0.25, abs=0.01)


def test_the_keys(page: Page, server: Served, explorer: ViewerSession) -> None:  # noqa: F811
    start(page, server)
    page.keyboard.press("ArrowDown")
    expect(page.locator("h2#image")).to_have_text(explorer.ids[1])
    page.keyboard.press("2")
    expect(page.locator("#tiles canvas")).to_have_count(2)
    page.keyboard.press("/")
    page.keyboard.type("cat 2")
    expect(page.locator("#search")).to_have_value("cat 2")
    expect(page.locator("#tiles canvas")).to_have_count(2)  # digits in a field are text
    page.locator("#input").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Shift+ArrowRight")
    expect(page.locator("h2#image")).to_have_text(explorer.ids[1])
    assert "point=0.6250%2C0.5000" in page.url


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> ViewerSession:
    path = tmp_path_factory.mktemp("many") / "many.zarr"
    with open_writer(path, "many", 8, 1) as writer:
        writer.append([NewSample(f"all/{i:05d}", f"{i:064x}", 8, 8) for i in range(20_000)])
        group = writer.require("a", {"kind": "conv", "size": 64}, {"up0": (4, 2, 2)}, "float16", {})
        group.fit()
        group.write(range(8), {"up0": np.ones((8, 4, 2, 2))})
    return open_session(path, Roots(), Silent(), device="cpu")


def scroll(page: Page, row: int) -> None:  # noqa: F811
    expect(page.locator("#total")).to_have_text("20000")
    page.eval_on_selector("#list", "(box, row) => { box.scrollTop = 46 * row; }", row)


def answers(page: Page) -> None:  # noqa: F811
    """A page whose thread is busy for good would answer nothing."""
    page.wait_for_timeout(300)
    page.wait_for_function("new Promise(done => setTimeout(() => done(true), 50))", timeout=9000)


@pytest.mark.long
def test_thousands_of_images_are_a_window_on_the_list(page: Page, many: ViewerSession) -> None:  # noqa: F811
    with served(many) as running:
        page.goto(running.address)
        scroll(page, 12345)
        page.locator("#rows button", has_text="12345").click()
        expect(page.locator("#tiles .frame p")).to_have_text("not extracted")
        assert page.locator("#rows li").count() < 40
        page.wait_for_load_state("networkidle")


@pytest.mark.mostly_long("told0")
@pytest.mark.parametrize("told", [{"problem": "the disk is gone"}, {"total": 20000, "ids": []}])
def test_a_part_of_the_list_that_fails_is_asked_for_again_by_the_next_scroll(
        page: Page, many: ViewerSession, told: dict[str, Any]) -> None:  # noqa: F811
    asked: list[str] = []

    def fail(route: Route) -> None:
        asked.append(route.request.url)
        route.fulfill(json=told)

    with served(many) as running:
        page.goto(running.address)
        page.route("**/api/images?*first=12300", fail)
        scroll(page, 12345)
        answers(page)
        assert 0 < len(asked) < 4 and not page.locator("#rows li").count()
        page.unroute_all()
        scroll(page, 12347)
        expect(page.locator("#rows button", has_text="12350")).to_be_visible()
        page.wait_for_load_state("networkidle")


def test_a_list_whose_server_has_ended_can_be_scrolled(browser: Browser,  # noqa: F811
                                                       many: ViewerSession) -> None:
    page = browser.new_page()  # noqa: F811
    with served(many) as running:
        page.goto(running.address)
        expect(page.locator("#total")).to_have_text("20000")
    scroll(page, 12345)
    answers(page)
    scroll(page, 10)
    expect(page.locator("#rows button", has_text="00012")).to_be_visible()
    page.close()


@pytest.mark.mostly_long("360")
@pytest.mark.parametrize("width", [360, 800, 1280])
def test_nothing_is_wider_than_the_page(page: Page, server: Served, width: int) -> None:  # noqa: F811
    page.set_viewport_size({"width": width, "height": 760})
    start(page, server, level="all", point="0.5,0.5")
    expect(page.locator("#told")).to_contain_text("matches")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if width == 360:
        expect(page.locator("#images")).to_be_hidden()
        page.get_by_role("button", name="Images").click()
        page.locator("#rows button").nth(2).click()
        expect(page.locator("#images")).to_be_hidden()


def test_a_server_that_has_ended_is_told(browser: Browser, explorer: ViewerSession) -> None:  # noqa: F811
    page = browser.new_page()  # noqa: F811
    with served(explorer) as running:
        start(page, running)
    page.get_by_role("radio", name="up0").check()
    expect(page.locator("#tiles .frame p").first).to_contain_text("does not answer")
    page.close()


def test_everything_that_is_used_has_a_name(page: Page, server: Served) -> None:  # noqa: F811
    start(page, server)
    for one in page.locator("button:visible, select:visible, input:visible, .frame:visible").all():
        name = one.evaluate("e => e.getAttribute('aria-label') || e.labels?.[0]?.textContent"
                            " || e.textContent")
        assert name.strip()
