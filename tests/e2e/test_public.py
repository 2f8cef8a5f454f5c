# SPDX-License-Identifier: Apache-2.0
"""The public API over TLS, and a disk that is too small: refused in words, nothing half-written, goes on when there is room."""
import signal
import socket
import ssl
import subprocess

import httpx
import openai
import pytest

from network import eventually

HELLO = [{"role": "user", "content": "Hello"}]


def certificate(folder, name, host):
    """A self-signed certificate for that address."""
    cert, key = folder / f"{name}.crt", folder / f"{name}.key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                    "-subj", f"/CN={name}", "-addext", f"subjectAltName=IP:{host}", "-keyout", key, "-out", cert],
                   check=True, capture_output=True)
    return cert, key


def ask(context, edge, session=None):
    """(the answer, the session, whether it was resumed) of a connection of its own."""
    address = edge.config["api_listen"].rsplit(":", 1)
    with context.wrap_socket(socket.create_connection(address, 20), server_hostname=address[0], session=session) as s:
        s.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: s.recv(4096), b""))
        return answer, s.session, s.session_reused


def test_the_public_api_speaks_tls_and_takes_a_new_certificate_on_sighup(make_network, tiny, tmp_path):
    net = make_network(edges={"edge-1": "north"}, up=False)
    edge = net.edges[0]
    cert, key = certificate(tmp_path, "first", edge.api_host)
    edge.write_config(api_tls_cert=str(cert), api_tls_key=str(key))
    url = "https://" + edge.config["api_listen"]

    def trusting(which):
        return httpx.Client(verify=ssl.create_default_context(cafile=str(which)), timeout=20,
                            limits=httpx.Limits(keepalive_expiry=60))

    net.up()
    net.push(tiny, "tiny", ready=False)
    eventually(lambda: trusting(cert).get(url + "/ready").status_code == 200, 30)
    client = openai.OpenAI(base_url=url + "/v1", api_key="any", http_client=trusting(cert), max_retries=0)
    answer = client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=3)
    assert answer.usage.completion_tokens > 0
    assert net.node("edge-1")["api_url"] == url
    with pytest.raises(httpx.HTTPError):  # no plain HTTP there
        httpx.get("http://" + edge.config["api_listen"] + "/health", timeout=5)

    for version in ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3:
        context = ssl.create_default_context(cafile=str(cert))
        context.minimum_version = context.maximum_version = version
        answer, session, resumed = ask(context, edge)
        assert answer.startswith(b"HTTP/1.1 200 ") and not resumed
        answer, _, resumed = ask(context, edge, session)
        assert answer.startswith(b"HTTP/1.1 200 ") and resumed

    old = trusting(cert)
    assert old.get(url + "/health").status_code == 200
    second, second_key = certificate(tmp_path, "second", edge.api_host)
    cert.write_bytes(second.read_bytes())
    key.write_bytes(second_key.read_bytes())
    edge.signal(signal.SIGHUP)
    eventually(lambda: trusting(second).get(url + "/health").status_code == 200)
    assert old.get(url + "/health").status_code == 200  # on the connection it has, which knows the old one
    _, _, resumed = ask(ssl.create_default_context(cafile=str(second)), edge)
    assert not resumed

    for wrong, told in ("not a key", "no valid PEM text"), (certificate(tmp_path, "third", edge.api_host)[1].read_text(),
                                                            "not that of the certificate"):
        key.write_text(wrong)
        edge.signal(signal.SIGHUP)
        line = eventually(lambda told=told: next((one for one in edge.log().splitlines() if told in one), None))
        assert str(key) in line and "the old one stays" in line
        assert trusting(second).get(url + "/health").status_code == 200


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 16 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_refuses_a_model_in_words_and_takes_it_when_there_is_room(make_network, big, small_disk):
    net = make_network(edges={"edge-1": "north", "edge-2": "south"}, up=False)
    edge = net.edges[0]
    edge.folder = small_disk / "data"
    edge.write_config(data=str(edge.folder))
    net.up()
    net.push(big, "big", ready=False)

    def states():
        return {n["name"]: n for n in net.model("big:latest")["nodes"]}

    eventually(lambda: states()["edge-2"]["state"] == "ready", 60)
    failed = eventually(lambda: states()["edge-1"]["state"] == "failed" and states()["edge-1"], 20)
    assert "free" in failed["error"] and str(edge.folder) in failed["error"]

    def answered_by():
        answer = httpx.post(edge.api_url + "/v1/chat/completions", timeout=20,
                            json={"model": "big", "messages": HELLO, "max_tokens": 2})
        return answer.status_code == 200 and answer.headers["x-mdn-node-name"]

    # It is no less a node: what comes to it is answered by the other, once it heard of that.
    assert eventually(answered_by, 5) == "edge-2"
    subprocess.run(["mount", "-o", "remount,size=256m", small_disk], check=True)
    eventually(lambda: states()["edge-1"]["state"] == "ready", 60)
