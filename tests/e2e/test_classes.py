# SPDX-License-Identifier: Apache-2.0
"""Service classes: rules in a file, by the TLS name, by headers, by key; live; seen in answers, log, metrics, and on the wire."""
import json
import signal
import socket
import ssl
import struct
import time

import httpx
import pytest

from network import eventually, run_mdn
from test_public import certificate

RULES = """classes:
- name: voice
  match: {sni: "*.voice.example"}
  class: interactive
  ttft: 1h
- name: nightly
  match: {user_agent: "cron/*", api: chat}
  class: bulk
  dscp: af41
"""
QUESTION = {"model": "tiny", "max_tokens": 4, "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def edge(make_network, tiny, folder):
    rules = folder / "classes.yaml"
    rules.write_text(RULES)
    net = make_network(edges={"edge-1": "north"}, up=False)
    edge = net.edges[0]
    cert, key = certificate(folder, "edge", edge.api_host)
    edge.write_config(service_classes=str(rules), api_tls_cert=str(cert), api_tls_key=str(key))
    edge.rules = rules
    net.up()
    net.push(tiny, "tiny", ready=False)
    eventually(lambda: httpx.get(f"https://{edge.config['api_listen']}/ready", verify=False).status_code == 200, 30)
    return edge


def ask(edge, name=None, **more):
    with httpx.Client(verify=False, timeout=60) as client:
        extensions = {"sni_hostname": name} if name else {}
        answer = client.post(f"https://{edge.config['api_listen']}/v1/chat/completions", json=QUESTION | more.pop("body", {}),
                             extensions=extensions, **more)
        assert answer.status_code == 200, answer.text
        return answer


def service(answer):
    return answer.headers.get("x-mdn-service")


def test_a_resumed_session_keeps_its_name(edge):
    host, port = edge.config["api_listen"].rsplit(":", 1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode, context.maximum_version = False, ssl.CERT_NONE, ssl.TLSVersion.TLSv1_2
    body = json.dumps(QUESTION).encode()
    session = None
    for again in (False, True):
        with context.wrap_socket(socket.create_connection((host, int(port))), server_hostname="a.voice.example",
                                 session=session) as s:
            s.settimeout(60)
            s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
                      b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            head = s.recv(65536)
            assert s.session_reused == again
            assert b"x-mdn-service: voice" in head.lower(), head
            session = s.session


def test_rules_decide_and_are_read_again(edge):
    assert service(ask(edge)) is None
    assert service(ask(edge, "a.voice.example")) == "voice"
    assert service(ask(edge, headers={"user-agent": "cron/1"}, body={"priority": "interactive"})) == "nightly"
    lines = eventually(lambda: [x for x in edge.log_lines() if x.get("event") == "access"][2:])
    assert (lines[0]["service"], lines[0]["class"]) == ("nightly", "bulk"), "it asked for more than it may have"
    metrics = httpx.get(f"https://{edge.config['api_listen']}/metrics", verify=False, timeout=30).text
    assert 'mdn_service_goal_total{service="voice",goal="ttft",met="true"} 1\n' in metrics

    edge.rules.write_text(RULES.replace("bulk", "slow"))
    edge.signal(signal.SIGHUP)
    eventually(lambda: "classes.yaml:8: class: interactive, default or bulk" in edge.log())
    out, err = run_mdn("config", "check", edge.config_path, code=2)
    assert "classes.yaml:8: class" in out + err
    assert service(ask(edge, headers={"user-agent": "cron/1"})) == "nightly", "the old rules stay"
    edge.rules.write_text("classes: [{name: all}]")
    edge.signal(signal.SIGHUP)
    eventually(lambda: service(ask(edge)) == "all")


def test_answers_are_marked_on_the_wire(edge):
    port = int(edge.config["api_listen"].rsplit(":", 1)[1])
    try:
        wire = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    except PermissionError:
        pytest.skip("needs the right to open raw sockets")
    with wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        wire.settimeout(5)
        assert service(ask(edge, headers={"user-agent": "cron/1"})) == "nightly"
        marks, until = set(), time.monotonic() + 30
        while 34 not in marks and time.monotonic() < until:
            packet = wire.recv(65536)
            start = (packet[0] & 15) * 4
            if struct.unpack_from("!H", packet, start)[0] == port:
                marks.add(packet[1] >> 2)
    assert 34 in marks
