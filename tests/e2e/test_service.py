# SPDX-License-Identifier: Apache-2.0
"""A node as a service: systemd's protocols, SIGTERM, SIGHUP, what listens, what logs never hold."""
import json
import os
import signal
import socket
import subprocess
import threading
import time

import httpx
import pytest

from network import MDN, eventually

HELLO = [{"role": "user", "content": "Hello"}]
SYNTHETIC = {"engine": "synthetic"}  # about 11 ms a token


@pytest.fixture
def pair(make_network, tiny):
    net = make_network(edges={"edge-1": "north", "edge-2": "north"}, edge=SYNTHETIC)
    net.push(tiny, "tiny")
    return net


class Stream:
    """A stream that is read in a thread."""

    def __init__(self, edge, tokens):
        self.chunks, self.error = [], None
        self.thread = threading.Thread(target=self.read, args=(edge, tokens))
        self.thread.start()
        eventually(lambda: len(self.chunks) > 3 or self.error, every=0.01)

    def read(self, edge, tokens):
        try:
            with httpx.stream("POST", edge.api_url + "/v1/chat/completions", timeout=30, json={
                    "model": "tiny", "messages": HELLO, "max_tokens": tokens, "stream": True,
                    "stream_options": {"include_usage": True}}) as answer:
                self.node = answer.headers["x-mdn-node-name"]
                for line in answer.iter_lines():
                    if line:
                        self.chunks.append(line)
        except httpx.HTTPError as error:
            self.error = error

    @property
    def whole(self):
        return self.error is None and self.chunks[-1] == "data: [DONE]"


def local_stream(edge, tokens):
    """One that this edge answers itself: near ones share their load."""
    for _ in range(20):
        stream = Stream(edge, tokens)
        if stream.node == edge.name:
            return stream
        stream.thread.join(30)
    raise AssertionError(f"{edge.name} never answers itself")


# ---- stopping ----------------------------------------------------------------------------------------


def test_sigterm_finishes_streams_and_sends_new_requests_elsewhere(pair, tiny):
    edge, other = pair.edges
    request = {"model": "tiny", "messages": HELLO, "max_tokens": 2}
    stream = local_stream(edge, 250)
    with httpx.Client(base_url=edge.api_url, timeout=20, limits=httpx.Limits(keepalive_expiry=60)) as kept:
        assert kept.get("/ready").status_code == 200
        edge.signal(signal.SIGTERM)
        eventually(lambda: refuses_connections(edge), every=0.01)
        answer = kept.post("/v1/chat/completions", json=request)
    assert answer.status_code == 503 and answer.headers["x-mdn-redirect"] == other.api_url
    assert answer.headers["location"].startswith(other.api_url) and "retry-after" in answer.headers
    assert answer.headers["connection"] == "close"
    # Followed, it is answered.
    assert httpx.post(answer.headers["location"], timeout=20, json=request).status_code == 200
    stream.thread.join(20)
    assert stream.whole and '"completion_tokens":250' in stream.chunks[-2]
    assert edge.process.wait(5) == 0
    assert pair.route("tiny").json()["choice"]["name"] == "edge-2"


def refuses_connections(node):
    try:
        httpx.get(node.api_url + "/ready")
    except httpx.ConnectError:
        return True
    return False


def test_streams_are_cut_at_the_drain_deadline(make_network, tiny):
    net = make_network(edges={"edge-1": "north"}, edge=SYNTHETIC | {"drain_deadline": "1s"})
    net.push(tiny, "tiny")
    stream, started = Stream(net.edges[0], 1500), time.monotonic()
    net.edges[0].signal(signal.SIGTERM)
    assert net.edges[0].process.wait(10) == 0
    assert 0.9 < time.monotonic() - started < 4
    stream.thread.join(10)
    assert not stream.whole
    assert "at the deadline" in net.edges[0].log()


def test_a_second_signal_stops_at_once(make_network, tiny):
    net = make_network(edges={"edge-1": "north"}, edge=SYNTHETIC)
    net.push(tiny, "tiny")
    stream = Stream(net.edges[0], 1500)
    net.edges[0].signal(signal.SIGTERM)
    eventually(lambda: "stopping" in net.edges[0].log())
    net.edges[0].signal(signal.SIGINT)
    assert net.edges[0].process.wait(3) == 0
    stream.thread.join(10)


def test_an_operator_drains_a_node(pair):
    pair.mdn("drain", "edge-1")
    eventually(lambda: pair.node("edge-1")["state"] == "draining")
    eventually(lambda: pair.route("tiny").json()["choice"]["name"] == "edge-2")
    assert "edge-1" in [n["name"] for n in pair.route("tiny").json()["refused"]]
    answer = httpx.post(pair.edges[0].api_url + "/v1/chat/completions", timeout=20, follow_redirects=False,
                        json={"model": "tiny", "messages": HELLO, "max_tokens": 2})
    assert answer.status_code == 503 and answer.headers["x-mdn-redirect"] == pair.edges[1].api_url
    assert pair.edges[0].runs


# ---- reload ------------------------------------------------------------------------------------------


def test_sighup_applies_what_it_can_and_says_what_it_cannot(make_network, tiny):
    net = make_network(edges={"edge-1": "north"})
    net.push(tiny, "tiny")
    edge = net.edges[0]
    edge.write_config(open=False, slots=9, log_level="debug")
    edge.signal(signal.SIGHUP)
    eventually(lambda: edge.get("/v1/models").status_code == 401, what="it is not open any more")
    log = edge.log()
    assert "reloaded: open" in log and "`slots` changed, but only a restart applies it" in log
    edge.config_path.write_text(edge.config_path.read_text() + "no_such_key: 1\n")
    edge.signal(signal.SIGHUP)
    eventually(lambda: "configuration not reloaded" in edge.log())
    assert "no_such_key" in edge.log() and edge.runs
    assert edge.get("/v1/models").status_code == 401


def test_a_scheduler_takes_new_zones_on_sighup(make_network, tiny):
    net = make_network(edges={"edge-1": "north", "edge-2": "south"})
    net.push(tiny, "tiny")
    assert net.route("tiny", client="203.0.113.5").json()["client"]["site"] == ""
    net.scheduler.write_config(zones=["203.0.113.0/24=south"])
    net.scheduler.signal(signal.SIGHUP)
    eventually(lambda: net.route("tiny", client="203.0.113.5").json()["client"]["site"] == "south")
    assert net.route("tiny", client="203.0.113.5").json()["choice"]["name"] == "edge-2"


# ---- systemd -----------------------------------------------------------------------------------------


def test_systemd_is_told_ready_reloading_and_stopping(make_network):
    net = make_network(edges={"edge-1": "north"})
    edge = net.edges[0]
    edge.stop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        path = str(net.folder / "notify")
        notify.bind(path)
        notify.settimeout(10)
        edge.start(env={"NOTIFY_SOCKET": path})
        assert notify.recv(1000).startswith(b"READY=1")
        edge.signal(signal.SIGHUP)
        reloading = notify.recv(1000)
        assert reloading.startswith(b"RELOADING=1") and b"MONOTONIC_USEC=" in reloading
        assert notify.recv(1000).startswith(b"READY=1")
        edge.signal(signal.SIGTERM)
        assert notify.recv(1000).startswith(b"STOPPING=1")
        assert edge.process.wait(10) == 0


def test_sockets_come_from_systemd(make_network, tiny):
    """Whoever connects before the node runs waits and is answered."""
    net = make_network(edges={"edge-1": "north"})
    net.push(tiny, "tiny")
    edge = net.edges[0]
    edge.stop()
    host, port = edge.config["api_listen"].rsplit(":", 1)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, int(port)))
        listener.listen(100)
        answers = []
        early = threading.Thread(target=lambda: answers.append(edge.get("/health").status_code))
        early.start()
        with open(edge.log_path, "ab") as log:
            edge.process = subprocess.Popen(
                ["bash", "-c", f"exec 3<&{listener.fileno()}; LISTEN_PID=$$ exec \"$0\" serve --config \"$1\"", MDN,
                 edge.config_path], pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=os.environ | {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "api"})
        early.join(20)
    assert answers == [200]
    net.wait_up()
    assert httpx.get(edge.api_url + "/health").status_code == 200


# ---- what is open ------------------------------------------------------------------------------------


def listening(pid):
    """Addresses on which a process listens, over TCP and UDP, as (kind, "HOST:PORT")."""
    inodes, found = set(), set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            link = os.readlink(f"/proc/{pid}/fd/{fd}")
        except OSError:
            continue
        if link.startswith("socket:["):
            inodes.add(link[8:-1])
    for kind, state in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
        with open(f"/proc/{pid}/net/{kind}") as table:
            for line in list(table)[1:]:
                _, local, _, at, *_, inode = line.split()[:10]
                if at != state or inode not in inodes:
                    continue
                host, port = local.split(":")
                raw = b"".join(bytes.fromhex(host[i:i + 8])[::-1] for i in range(0, len(host), 8))
                family = socket.AF_INET if len(raw) == 4 else socket.AF_INET6
                found.add((kind[:3], f"{socket.inet_ntop(family, raw)}:{int(port, 16)}"))
    return found


def test_nothing_listens_but_what_the_configuration_says(net):
    for node in net.nodes.values():
        expected = {("tcp", node.config["node_listen"])}
        expected |= {("tcp", node.config[k]) for k in ("api_listen", "repository_listen", "scheduler_listen", "console_listen")
                     if k in node.config}
        if "dns_listen" in node.config:
            expected |= {("tcp", node.config["dns_listen"]), ("udp", node.config["dns_listen"])}
        assert listening(node.process.pid) == expected, node.name


def test_the_defaults_listen_on_loopback_only(folder):
    shown = json.loads(subprocess.run([MDN, "config", "show", "--json", "--data", folder], check=True,
                                      capture_output=True, cwd=folder).stdout)
    for key in ("node_listen", "repository_listen", "scheduler_listen", "dns_listen", "api_listen", "console_listen"):
        assert shown[key].startswith("127.0.0.1:"), key


# ---- what logs never hold ----------------------------------------------------------------------------


def test_prompts_answers_and_keys_are_in_no_log(make_network, tiny):
    debug = {"log_level": "debug"}
    net = make_network(edges={"edge-1": "north", "edge-2": "south"}, edge=debug | {"open": False}, center=debug,
                       repository=debug, scheduler=debug)
    key = net.json("key", "new", "somebody")["key"]
    net.api_headers = {"authorization": "Bearer " + key}
    net.push(tiny, "tiny", on="node=edge-2")
    marker, answers = "zebrafinch", []
    with net.edges[0].openai(key) as client:
        answers.append(client.chat.completions.create(model="tiny", max_tokens=40, messages=[
            {"role": "system", "content": marker}, {"role": "user", "content": f"about {marker}s"}],
            ).choices[0].message.content)
        answers.append(client.completions.create(model="tiny", prompt=marker, max_tokens=20).choices[0].text)
    url = net.edges[0].api_url + "/v1/chat/completions"
    ask = {"model": "tiny", "messages": [{"role": "user", "content": marker}]}
    bad = [httpx.post(url, headers=net.api_headers, json=ask | {"temperature": 99}),
           httpx.post(url, headers=net.api_headers, json=ask | {"model": "nope"}),
           httpx.post(url, headers=net.api_headers, content=b'{"messages": "' + marker.encode()),
           httpx.post(url, headers={"authorization": "Bearer " + key[:-2] + "00"}, json=ask)]
    assert [a.status_code for a in bad] == [400, 404, 400, 401]
    eventually(lambda: sum("access" in str(line.get("event")) for line in net.edges[0].log_lines()) >= 5)
    for node in net.nodes.values():
        text = node.log()
        assert marker not in text and key not in text and key[17:40] not in text, node.name
        for answer in answers:
            assert answer[:30] not in text, node.name
