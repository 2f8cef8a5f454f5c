# SPDX-License-Identifier: Apache-2.0
"""Limits of keys and teams over three edges, and the records of what was used."""
import collections
import concurrent.futures
import csv
import io
import json
import signal
import time

import httpx
import pytest

from conftest import shared_network
from network import eventually


@pytest.fixture(scope="module")
def net(tiny):
    """Three edges; the third has no model and forwards everything."""
    with shared_network(edges={"edge-1": "north", "edge-2": "north", "edge-3": "south"},
                        edge={"engine": "synthetic", "open": False, "slots": 64}) as net:
        net.free = new_key(net, "free")
        net.api_headers = {"authorization": "Bearer " + net.free[0]}
        net.push(tiny, "tiny", on="site=north")
        yield net


def new_key(net, name, *options):
    """(key, id); every edge knows it."""
    made = net.json("key", "new", name, *options)
    for edge in net.edges:
        eventually(lambda: edge.get("/v1/models", headers={"authorization": "Bearer " + made["key"]}).status_code == 200,
                   what=f"{edge.name} knows the key")
    return made["key"], made["id"]


def ask(edge, key, words=8, stream=False, client=httpx, **more):
    """(status, tokens, answer). Streams do not ask for their usage: the records must know it."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "count to ten"}], "max_tokens": words, "stream": stream}
    answer = client.post(edge.api_url + "/v1/chat/completions", json=body | more, timeout=60,
                         headers={"authorization": "Bearer " + key})
    tokens = None
    if answer.status_code == 200 and not stream:
        tokens = answer.json()["usage"]["total_tokens"]
    return answer.status_code, tokens, answer


def refused(answer, code="rate_limit_exceeded"):
    error = answer.json()["error"]
    assert answer.status_code == 429 and error["code"] == code and error["type"] == "rate_limit_error", answer.text
    assert int(answer.headers["retry-after"]) >= 1 and "Try again in" in error["message"]
    assert answer.headers["x-llm-d-request-dropped-reason"] == "rejected-quota"


def used(net, id):
    """Requests and tokens of a key, as the center has them."""
    sums = [s for s in net.json("usage")["sums"] if s["key"] == id]
    return (sum(s["requests"] for s in sums), sum(s["prompt_tokens"] + s["completion_tokens"] for s in sums))


def one_minute(check):
    """check() within a minute of the clock, so that no other window begins meanwhile; once more if one did."""
    for _ in range(2):
        if time.time() % 60 > 40:
            time.sleep(60.5 - time.time() % 60)
        minute = time.time() // 60
        check()
        if time.time() // 60 == minute:
            return
    pytest.skip("the machine is too slow for a test within one minute")


def test_two_hundred_at_once_on_three_edges_spend_a_budget_and_no_more(net):
    """What one of them takes is at most what it reserved, so there is nothing beyond the limit."""
    most = ask(net.edges[0], net.free[0])[1]
    budget = 200 * most
    key, id = new_key(net, "burst", "--tokens-per-month", budget)
    answers = collections.Counter()
    with httpx.Client(limits=httpx.Limits(max_connections=None)) as client, \
            concurrent.futures.ThreadPoolExecutor(200) as pool:
        for _ in range(3):
            for status, tokens, answer in pool.map(lambda i: ask(net.edges[i % 3], key, stream=i % 2 == 0, client=client), range(200)):
                assert status in (200, 429), answer.text
                if status == 429:
                    refused(answer, "insufficient_quota")
                answers[status] += 1
    assert answers[429] > 0
    eventually(lambda: used(net, id)[0] == answers[200], what="every answer has its record")
    requests, tokens = used(net, id)
    assert tokens <= budget
    # What bursts left in the edges' hands goes back, so that all of it can be used.
    def rest():
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda edge: ask(edge, key), net.edges))
        return used(net, id)[1] > budget - 3 * most
    eventually(rest, 60, "all of the budget can be used", every=0.1)
    time.sleep(2)
    assert used(net, id)[1] <= budget
    records = [json.loads(line) for line in net.mdn("usage", "export", "--format", "jsonl", "--key", id).splitlines()]
    assert len({(r["node"], r["boot"], r["seq"]) for r in records}) == len(records) == used(net, id)[0]
    assert sum(r["prompt_tokens"] + r["completion_tokens"] for r in records) == used(net, id)[1]
    assert {r["completion_tokens"] for r in records} == {8}, "forwarded streams are counted, too"
    eventually(lambda: all(e.metric("mdn_ledger_open") == 0 for e in net.edges), what="nothing runs")


def test_requests_a_minute_are_exact_over_all_edges(net):
    key, _ = new_key(net, "few", "--requests-per-minute", 7)

    def check():
        with concurrent.futures.ThreadPoolExecutor(30) as pool:
            answers = [a for _, _, a in pool.map(lambda i: ask(net.edges[i % 3], key, words=1), range(30))]
        assert [a.status_code for a in answers].count(200) == 7
        for answer in answers:
            assert answer.headers["x-ratelimit-limit-requests"] == "7"
            assert 0 <= int(answer.headers["x-ratelimit-remaining-requests"]) < 7
            if answer.status_code == 429:
                refused(answer)
                assert int(answer.headers["retry-after"]) <= 61
    one_minute(check)


def test_requests_at_once_are_bounded_over_all_edges(net):
    key, _ = new_key(net, "narrow", "--concurrent", 3)
    body = {"model": "tiny", "messages": [{"role": "user", "content": "long"}], "max_tokens": 1500, "stream": True}
    headers = {"authorization": "Bearer " + key}
    with httpx.Client(timeout=60, headers=headers) as client:
        streams = [client.send(client.build_request("POST", e.api_url + "/v1/chat/completions", json=body), stream=True)
                   for e in net.edges]
        assert [s.status_code for s in streams] == [200] * 3
        refused(ask(net.edges[0], key)[2])
        streams[2].close()
        eventually(lambda: ask(net.edges[0], key, words=1)[0] == 200, what="a place was given back")
        for stream in streams[:2]:
            stream.close()
    eventually(lambda: all(e.metric("mdn_ledger_open") == 0 for e in net.edges), what="nothing runs")


def test_a_team_shares_what_it_has(net):
    most = ask(net.edges[0], net.free[0])[1]
    net.mdn("team", "set", "research", "--tokens-per-month", 10 * most)
    keys = [new_key(net, name, "--team", "research") for name in ("ann", "bob")]
    statuses = [ask(net.edges[i % 3], keys[i % 2][0])[0] for i in range(16)]
    assert 8 <= statuses.count(200) <= 10 and set(statuses) == {200, 429}
    eventually(lambda: used(net, keys[0][1])[0] + used(net, keys[1][1])[0] == statuses.count(200), what="the records are there")
    net.mdn("team", "set", "research", "--tokens-per-month", 1000 * most)
    eventually(lambda: ask(net.edges[0], keys[0][0])[0] == 200, what="more was given")
    assert {"name": "research", "limits": {"tokens_per_month": 1000 * most}} in net.json("team", "list")["teams"]
    with pytest.raises(Exception, match="is of this team"):
        net.mdn("team", "remove", "research")


def test_what_can_never_fit_is_the_requests_fault(net):
    key, id = new_key(net, "small", "--tokens-per-minute", 50)
    status, _, answer = ask(net.edges[0], key, words=500)
    assert status == 400 and answer.json()["error"]["code"] == "request_too_large"
    net.mdn("key", "set", id, "--tokens-per-minute", 0)
    eventually(lambda: ask(net.edges[0], key, words=100)[0] == 200, what="the limit is gone")


def test_budgets_outlive_the_center_and_records_come_once(net):
    most = ask(net.edges[0], net.free[0])[1]
    key, id = new_key(net, "away", "--tokens-per-minute", 300 * most)
    assert ask(net.edges[0], key)[0] == 200
    edge = net.edges[0]
    net.center.signal(signal.SIGSTOP)
    try:
        for _ in range(5):
            assert ask(edge, key)[0] == 200, "its share goes on"
            assert ask(edge, net.free[0])[0] == 200
        edge.kill()  # records that the center has not seen are on the disk
        edge.start()
        eventually(lambda: ask(edge, key)[0] == 200, 60, "the edge is back, and the center is not")
    finally:
        net.center.signal(signal.SIGCONT)
    eventually(lambda: used(net, id)[0] == 7, 30, "the records came, once")
    time.sleep(2)
    assert used(net, id) == (7, 7 * most)


def test_usage_is_exported(net):
    key, id = new_key(net, "export")
    for edge in net.edges:
        assert ask(edge, key, words=3)[0] == 200
    eventually(lambda: used(net, id)[0] == 3, what="the records are there")
    rows = list(csv.DictReader(io.StringIO(net.mdn("usage", "export", "--key", id))))
    assert len(rows) == 3 and {r["node"] for r in rows} == {e.id for e in net.edges}
    assert all(r["key"] == id and r["completion_tokens"] == "3" and r["status"] == "200" and r["model"] == "tiny:latest" for r in rows)
    behind = net.mdn("usage", "export", "--key", id, "--after", rows[0]["serial"], "--format", "jsonl").splitlines()
    assert [json.loads(line)["serial"] for line in behind] == [int(r["serial"]) for r in rows[1:]]
    assert net.mdn("usage", "export", "--month", "2001-01") == ""
