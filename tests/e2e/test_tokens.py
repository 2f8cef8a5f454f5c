# SPDX-License-Identifier: Apache-2.0
"""Tokens of an identity provider in place of API keys, signed with another library than the one that checks them."""
import base64
import http.server
import json
import threading
import time

import httpx
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from network import eventually


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Key:
    def __init__(self, kid, kind):
        self.kid, self.rsa = kid, kind == "RSA"
        self.key = rsa.generate_private_key(65537, 2048) if self.rsa else ec.generate_private_key(ec.SECP256R1())

    def jwk(self):
        n = self.key.public_key().public_numbers()
        if self.rsa:
            return {"kty": "RSA", "kid": self.kid, "n": b64(n.n.to_bytes(256, "big")), "e": b64(n.e.to_bytes(3, "big"))}
        return {"kty": "EC", "crv": "P-256", "kid": self.kid, "x": b64(n.x.to_bytes(32, "big")), "y": b64(n.y.to_bytes(32, "big"))}

    def token(self, **claims):
        claims = {"iss": "https://id.example", "aud": ["mdn"], "sub": "ann", "team": "red", "exp": time.time() + 600} | claims
        head = {"alg": "RS256" if self.rsa else "ES256", "kid": self.kid}
        text = f"{b64(json.dumps(head).encode())}.{b64(json.dumps(claims).encode())}"
        if self.rsa:
            return f"{text}.{b64(self.key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))}"
        r, s = decode_dss_signature(self.key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{text}.{b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


@pytest.fixture
def provider():
    """Serves the public halves of provider.keys at provider.url."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps({"keys": [key.jwk() for key in server.keys]}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.keys = [Key("one", "EC"), Key("two", "RSA")]
    server.url = f"http://127.0.0.1:{server.server_address[1]}/keys"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_tokens_are_as_good_as_keys(make_network, tiny, provider):
    net = make_network(edges={"edge-1": "north"}, edge={
        "open": False, "jwt_keys": provider.url, "jwt_issuer": "https://id.example", "jwt_audience": "mdn",
        "jwt_team": "team"})
    one, two = provider.keys
    token = one.token()
    net.api_headers = {"authorization": f"Bearer {token}"}
    net.push(tiny, "tiny")
    edge = net.edges[0]

    def ask(token):
        return httpx.post(edge.api_url + "/v1/completions", json={"model": "tiny", "prompt": "a", "max_tokens": 2},
                          headers={"authorization": f"Bearer {token}"}, timeout=60)

    assert ask(token).status_code == 200
    assert ask(two.token(sub="x" * 100)).status_code == 200
    tenants = {line["tenant"] for line in edge.log_lines() if line.get("event") == "access"}
    assert "jwt:red:ann" in tenants and any(len(t) == 40 for t in tenants), tenants
    for bad, words in [(one.token(exp=time.time() - 60), "expired"), (one.token(aud="other"), "aud"), (one.token(sub=7), "claim"), (one.token(team="a:b"), "team"),
                       (one.token(iss="https://evil"), "issuer"), (Key("one", "EC").token(), "signature does not hold"),
                       ("mdn-0", "Incorrect API key")]:
        answer = ask(bad)
        assert answer.status_code == 401 and words in answer.json()["error"]["message"], answer.text
        assert answer.headers["www-authenticate"] == "Bearer"
    assert token.split(".")[2] not in edge.log()

    # The team's budget counts, and what its members took is on record.
    records = eventually(lambda: [x for x in map(json.loads, net.mdn("usage", "export", "--format", "jsonl").splitlines())
                                  if x["key"] == "jwt:red:ann"])
    assert records[0]["team"] == "red"
    net.mdn("team", "set", "red", "--requests-per-minute", 1)
    eventually(lambda: ask(token).status_code == 429)
    assert ask(one.token(team="blue")).status_code == 200
    net.mdn("team", "remove", "red")
    eventually(lambda: ask(token).status_code == 200)

    # The provider is away: the keys of before serve on, also over a restart.
    provider.shutdown()
    provider.server_close()
    edge.stop()
    edge.start()
    eventually(lambda: ask(one.token()).status_code == 200, 60)
