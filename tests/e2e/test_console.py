# SPDX-License-Identifier: Apache-2.0
"""The web console in a real browser: signing in, the map of a running distribution, a center that goes and comes back."""
import json
import os
import re
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from browser import Browser, chromium

needs_chromium = pytest.mark.skipif(not chromium(), reason="no chromium: tools/setup test")
EDGES = {"edge-1": "north", "edge-2": "north", "edge-3": "south", "edge-4": "south"}
NODES = """Object.fromEntries([...document.querySelectorAll(".node")].map((n) =>
    [n.dataset.name, {state: n.dataset.state, share: +n.dataset.share, words: n.getAttribute("aria-label")}]))"""
FLOWS = """(() => { const name = Object.fromEntries([...document.querySelectorAll(".node")].map((n) => [n.dataset.id, n.dataset.name]));
    return [...document.querySelectorAll(".edge:not(.leaving)")].map((e) => [name[e.dataset.from], name[e.dataset.to]]); })()"""


@pytest.fixture(scope="module")
def browser():
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture
def pictures(folder):
    """Where screenshots go: $MDN_PICTURES keeps them."""
    path = Path(os.environ.get("MDN_PICTURES") or folder)
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture
def net(make_network):
    net = make_network(edges=EDGES, edge={"fetch_rate": "2M"})
    net.console = "http://" + net.center.config["console_listen"]
    return net


def url(net):
    return json.loads(net.mdn("console", "--json"))["url"]


def cookie(net):
    ticket = url(net).partition("#ticket=")[2]
    answer = httpx.post(net.console + "/mdn/v1/console/login", content=ticket)
    assert answer.status_code == 204, answer.text
    return ticket, answer.headers["set-cookie"]


def test_only_who_has_a_ticket_sees_the_network_and_nobody_changes_it(net):
    page = httpx.get(net.console + "/")
    assert page.status_code == 200 and "default-src 'self'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"] and page.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<script(?! type=\"module\" src=)|\sstyle=|\son\w+=", page.text), "nothing inline"
    again = httpx.get(net.console + "/", headers={"if-none-match": page.headers["etag"]})
    assert again.status_code == 304 and not again.content
    assert httpx.get(net.console + "/main.js").headers["content-type"].startswith("text/javascript")
    assert httpx.get(net.console + "/../mdn.yaml").status_code in (400, 401, 404)

    refused = httpx.get(net.console + "/mdn/v1/nodes")
    assert refused.status_code == 401 and "mdn console" in refused.json()["error"]["message"]
    ticket, set_cookie = cookie(net)
    assert "HttpOnly" in set_cookie and "SameSite=Strict" in set_cookie
    assert httpx.post(net.console + "/mdn/v1/console/login", content=ticket).status_code == 401, "a ticket works once"
    assert httpx.post(net.console + "/mdn/v1/console/login", content="A" * 32).status_code == 401

    name, _, value = set_cookie.split(";")[0].partition("=")
    held = {"cookie": f"{name}={value}"}
    assert len(httpx.get(net.console + "/mdn/v1/nodes", headers=held).json()["nodes"]) == 7
    assert httpx.get(net.console + "/mdn/v1/nodes", headers={"cookie": f"{name}={value[:-1]}{'0' if value[-1] != '0' else '1'}"}
                     ).status_code == 401
    assert httpx.get(net.console + "/mdn/v1/keys", headers=held).status_code == 404, "keys are not shown"
    assert httpx.post(net.console + "/mdn/v1/tokens", headers=held, json={}).status_code == 405
    for host in ("evil.example", "127.0.0.1.evil.example"):
        assert httpx.get(net.console + "/mdn/v1/nodes", headers=held | {"host": host}).status_code == 403
    foreign = {"origin": "http://evil.example"}
    assert httpx.post(net.console + "/mdn/v1/console/login", headers=foreign, content=ticket).status_code == 403

    # Sessions outlive the center; `--end` ends them.
    net.center.kill()
    net.center.start()
    net.wait_up(["center"])
    assert httpx.get(net.console + "/mdn/v1/nodes", headers=held).status_code == 200
    net.mdn("console", "--end")
    assert httpx.get(net.console + "/mdn/v1/nodes", headers=held).status_code == 401


@needs_chromium
def test_the_map_shows_who_feeds_whom_until_all_have_it_and_outlives_the_center(net, browser, big, pictures):
    net.push(big, "big:v1", on=None)
    browser.size(1280, 800)
    browser.go(url(net))
    browser.wait("document.querySelector('.card')?.textContent.includes('big:v1')", what="the model is listed")
    assert "ticket" not in browser.ask("location.href") and browser.ask("document.cookie") == ""
    browser.ask("document.querySelector('.card').click()")
    net.mdn("place", "big:v1", "--on", "role=edge", "--within", "1h")

    # While it runs: an arrow wherever the center says that one feeds another, at that very moment or a little before.
    flows, told, states, longest = set(), set(), set(), time.monotonic() + 60
    shot = False
    while time.monotonic() < longest:
        nodes = browser.ask(NODES)
        flows |= {tuple(flow) for flow in browser.ask(FLOWS)}
        told |= {(source["name"], n["name"]) for n in net.model("big:v1")["nodes"] for source in n.get("sources", [])}
        states |= {n["state"] for n in nodes.values()}
        middle = [n for n in nodes.values() if n["state"] == "fetching" and 20 < n["share"] < 90]
        if middle and not shot and len(browser.ask(FLOWS)) >= 3:
            shot = True
            look_at_it(browser, pictures)
        if all(nodes.get(edge, {}).get("state") == "ready" for edge in EDGES):
            break
    assert "repository" in {source for source, _ in flows}, flows
    assert flows <= told and len(flows) >= 3, (flows, told)
    assert {receiver for _, receiver in flows} <= set(EDGES) and {source for source, _ in flows} <= {*EDGES, "repository"}
    assert any(source in EDGES for source, _ in flows), "edges feed edges"
    assert {"fetching", "ready", "origin"} <= states and shot
    browser.wait("document.querySelector('.bar').getAttribute('aria-valuenow') === '100'")
    browser.wait("document.querySelectorAll('.edge:not(.leaving)').length === 0")
    assert browser.ask("document.title").startswith("100 % big:v1")
    assert "made it" in browser.ask("document.querySelector('.figures').textContent")
    assert sorted(n for n, node in browser.ask(NODES).items() if node["share"] == 100) == [*EDGES, "repository"]
    browser.screenshot(pictures / "done.png")
    keys_walk_from_node_to_node(browser)
    assert browser.complaints == []

    # The center dies: the page says so, keeps what it had, and goes on by itself.
    net.center.kill()
    browser.wait("document.querySelector('#freshness').textContent.startsWith('center away')", 15)
    assert len(browser.ask(NODES)) == 5 and "old" in browser.ask("document.querySelector('#freshness').textContent")
    browser.screenshot(pictures / "away.png")
    net.center.start()
    browser.wait("document.querySelector('#freshness').textContent === 'live'", 40)
    browser.wait("document.querySelectorAll('.node[data-state=ready]').length === 4", 20)
    assert [c for c in browser.complaints if "ERR_" not in c] == [], "nothing but the connections that broke"

    hosts = {urlsplit(u).netloc for u in browser.requests if urlsplit(u).scheme in ("http", "https", "ws", "wss")}
    assert hosts == {urlsplit(net.console).netloc}
    assert all("default-src 'self'" in h["content-security-policy"] for u, h in browser.headers.items() if u.startswith("http"))
    stopped = browser.ask("""new Promise((done) => { document.addEventListener("securitypolicyviolation", (e) => done(e.effectiveDirective));
        const s = document.createElement("script"); s.textContent = "1"; document.body.append(s); })""")
    assert stopped.startswith("script-src"), "inline scripts are stopped"

    net.mdn("console", "--end")
    browser.go("about:blank")
    browser.go(net.console + "/")
    browser.wait("document.body?.innerText.includes('Not signed in')")


def look_at_it(browser, pictures):
    """The same page in light, narrow, and as a table; nothing wider than the window."""
    browser.scheme("dark")
    browser.screenshot(pictures / "map.png")
    browser.scheme("light")
    browser.screenshot(pictures / "light.png")
    browser.size(360, 740)
    browser.wait("document.documentElement.scrollWidth <= 360 && document.querySelector('.map').clientWidth < 360", 5)
    browser.ask("new Promise((done) => setTimeout(done, 700))")  # things glide to their new places
    browser.screenshot(pictures / "narrow.png")
    browser.size(1280, 800)
    rows = browser.ask("[...document.querySelectorAll('tbody tr')].map((row) => row.firstElementChild.textContent)")
    assert sorted(rows) == [*EDGES, "repository"], "the table is there for screen readers"


def keys_walk_from_node_to_node(browser):
    browser.ask("document.querySelector('.node[tabindex=\"0\"]').focus()")
    first = browser.ask("document.activeElement.dataset.name")
    for key in ("ArrowDown", "ArrowRight"):  # below or beside: that is the window's shape
        browser.press(key)
    second = browser.ask("document.activeElement.dataset.name")
    assert first != second and second in browser.ask("document.querySelector('#detail').textContent")
    browser.ask("document.querySelector('[data-view=table]').click()")
    assert browser.ask("document.querySelector('.table-frame').clientWidth") > 300
    browser.ask("document.querySelector('[data-view=map]').click()")
