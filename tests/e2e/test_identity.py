# SPDX-License-Identifier: Apache-2.0
"""Who may come in, for how long, and how one is put out: tokens, certificates, removal."""
import ssl
import subprocess
import threading
import time

import httpx
import openai
import pytest

from network import CommandFailed, Network, eventually, run_mdn

REFUSED = 4
HELLO = [{"role": "user", "content": "Hello"}]


def certificate(node, *what):
    return subprocess.run(["openssl", "x509", "-in", node.folder / "identity/cert.pem", "-noout", *what], check=True,
                          capture_output=True, text=True).stdout


def join_fails(net, node, token):
    with pytest.raises(CommandFailed) as e:
        run_mdn("join", net.center.node_url, token, "--config", node.config_path, code=None)
    return e.value


# ---- tokens ------------------------------------------------------------------------------------------


def test_a_token_works_once_and_again_only_for_the_same_key(net):
    token = net.token()
    first, second = net.add_edge("twice-a", "north"), net.add_edge("twice-b", "north")
    try:
        net.join(first, token)
        before = certificate(first, "-subject", "-ext", "subjectAltName")
        # As if the answer was lost on its way: the same key may ask again, and is the same node.
        for path in (first.folder / "identity").iterdir():
            if path.name != "key.pem":
                path.unlink()
        net.join(first, token)
        assert certificate(first, "-subject", "-ext", "subjectAltName") == before
        refused = join_fails(net, second, token)
        assert refused.code == REFUSED and "token" in refused.err
    finally:
        del net.nodes["twice-a"], net.nodes["twice-b"]


def test_tokens_expire_and_bind_what_they_name(net):
    node = net.add_edge("late", "north")
    try:
        short = net.token("--life", "1s")
        time.sleep(1.2)
        late = join_fails(net, node, short)
        assert late.code == REFUSED and "expire" in late.err
        elsewhere = join_fails(net, node, net.token("--site", "south"))
        assert elsewhere.code == REFUSED and "site" in elsewhere.err
        role = join_fails(net, node, net.token("--roles", "scheduler"))
        assert role.code == REFUSED and "role" in role.err
        parts = net.token().split(".")
        forged = join_fails(net, node, ".".join([*parts[:2], parts[2][::-1], parts[3]]))
        assert forged.code == REFUSED
        # A token of another network: the center is not the one it names.
        other = join_fails(net, node, ".".join([*parts[:3], parts[3][::-1]]))
        assert other.code != 0 and not (node.folder / "identity/cert.pem").exists()
    finally:
        del net.nodes["late"]


# ---- TLS ---------------------------------------------------------------------------------------------


def test_certificates_are_p256_short_lived_and_name_the_node(net):
    edge = net.edges[0]
    text = certificate(edge, "-text")
    assert "prime256v1" in text and f"URI:spiffe://mdn.local/node/{edge.id}" in text
    expires = net.node("edge-1")["cert_expires_us"] / 1e6
    assert 0 < expires - time.time() <= 3600 + 60
    assert (edge.folder / "identity/key.pem").stat().st_mode & 0o077 == 0
    assert (net.operator / "key.pem").stat().st_mode & 0o077 == 0


def test_node_ports_speak_tls_1_3_with_certificates_of_the_network_only(net, folder):
    url = net.edges[0].node_url + "/mdn/v1/ping"
    assert net.http().get(url).status_code == 204

    nobody = ssl.create_default_context(cafile=net.operator / "ca.pem")
    nobody.check_hostname = False
    with httpx.Client(verify=nobody) as http:
        with pytest.raises(httpx.HTTPError):
            raise_for(http.get(url))
    old = net.operator_context()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with httpx.Client(verify=old) as http, pytest.raises(httpx.HTTPError):
        http.get(url)

    other = Network(folder)
    run_mdn("init", "--config", other.center.config_path, "--operator", other.operator)
    stranger = ssl.create_default_context(cafile=net.operator / "ca.pem")
    stranger.check_hostname = False
    stranger.load_cert_chain(other.operator / "cert.pem", other.operator / "key.pem")
    with httpx.Client(verify=stranger) as http:
        with pytest.raises(httpx.HTTPError):
            raise_for(http.get(url))
    # Plain HTTP on a node port is no way in either.
    with pytest.raises(httpx.HTTPError):
        raise_for(httpx.get(url.replace("https:", "http:")))


def raise_for(answer):
    """With TLS 1.3 the refusal of a client may come as an alert or as a 401."""
    answer.raise_for_status()


def test_nodes_may_not_do_what_operators_do(net):
    """A node's own certificate neither pushes models, nor reads logs, nor makes tokens or keys."""
    edge = net.edges[0]
    context = ssl.create_default_context(cafile=net.operator / "ca.pem")
    context.check_hostname = False
    context.load_cert_chain(edge.folder / "identity/cert.pem", edge.folder / "identity/key.pem")
    with httpx.Client(verify=context) as http:
        assert http.get(net.edges[1].node_url + "/mdn/v1/ping").status_code == 204
        for method, url in (("POST", net.center.node_url + "/mdn/v1/tokens"),
                            ("POST", net.center.node_url + "/mdn/v1/keys"),
                            ("DELETE", net.center.node_url + "/mdn/v1/nodes/" + net.edges[1].id),
                            ("POST", net.repository.node_url + "/v2/x/blobs/uploads/"),
                            ("GET", net.edges[1].node_url + "/mdn/v1/logs")):
            assert http.request(method, url, content=b"{}" if method == "POST" else None).status_code == 403, url


# ---- time --------------------------------------------------------------------------------------------


def test_certificates_renew_themselves_and_the_data_plane_outlives_the_center(make_network, tiny, recovery):
    net = make_network(edges={"edge-1": "north", "edge-2": "south"}, center={"cert_life": "4s"})
    net.push(tiny, "tiny", on="node=edge-2")
    first = net.node("edge-1")["cert_expires_us"]
    eventually(lambda: net.node("edge-1")["cert_expires_us"] > first + 3e6, 15, "edge-1 renewed its certificate")
    net.center.kill()
    time.sleep(5)  # all certificates are past their end now
    for _ in range(3):
        answer = net.edges[0].openai().chat.completions.with_raw_response.create(
            model="tiny", messages=HELLO, max_tokens=2)
        assert answer.headers["x-mdn-node-name"] == "edge-2"
    assert net.route("tiny").status_code == 200
    net.center.start()
    started = time.monotonic()
    pids = {n.process.pid for n in net.nodes.values()}
    # The operator's own certificate lives longer than a node's.
    net.wait_up()
    eventually(lambda: net.node("edge-1")["cert_expires_us"] / 1e6 > time.time(), what="edge-1 has a good certificate")
    recovery("center back after all certificates expired: all nodes up after", time.monotonic() - started)
    assert pids == {n.process.pid for n in net.nodes.values()}


# ---- removal -----------------------------------------------------------------------------------------


def test_a_removed_node_is_cut_off_within_5_seconds(make_network, tiny, recovery):
    net = make_network(edges={"front": "north", "gone": "north", "stays": "south"}, edge={"engine": "synthetic"})
    net.push(tiny, "tiny", on="node=gone")
    lines, ended = [], []

    def stream():
        with net.edges[0].openai(timeout=30) as client:
            try:
                for chunk in client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=2000, stream=True):
                    lines.append(chunk)
            except openai.APIError:
                pass
            ended.append(time.monotonic())
    thread = threading.Thread(target=stream)
    thread.start()
    eventually(lambda: len(lines) > 5)
    removed = time.monotonic()
    net.mdn("remove", "gone")
    thread.join(15)
    recovery("node removed: its running stream was cut after", ended[0] - removed)
    assert ended[0] - removed < 5
    assert "gone" not in [n["name"] for n in net.json("nodes")["nodes"]]
    # Its certificate is good for nothing any more.
    context = ssl.create_default_context(cafile=net.operator / "ca.pem")
    context.check_hostname = False
    context.load_cert_chain(net.edges[1].folder / "identity/cert.pem", net.edges[1].folder / "identity/key.pem")
    with httpx.Client(verify=context) as http:
        for node in (net.center, net.repository, net.scheduler, net.edges[0], net.edges[2]):
            def refused():
                try:
                    return http.get(node.node_url + "/mdn/v1/ping").status_code in (401, 403)
                except httpx.HTTPError:
                    return True
            eventually(refused, 5 - (time.monotonic() - removed) + 0.7, f"{node.name} refuses the removed node")
    eventually(lambda: net.route("tiny").status_code in (404, 503), 5, "the scheduler does not name it")
