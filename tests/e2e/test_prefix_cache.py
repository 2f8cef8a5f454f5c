# SPDX-License-Identifier: Apache-2.0
"""What a prompt begins with is computed once: seen from outside, by key, by salt, and over a restart of the node."""
from network import eventually

SYSTEM = " ".join(f"Rule {i}: the lamp of tower {i * 7} is lit on day {i % 7}." for i in range(30))


def ask(node, key="any", **more):
    with node.openai(key) as client:
        answer = client.chat.completions.create(
            model="tiny", max_tokens=8, temperature=0, extra_body=more,
            messages=[{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Which lamp?"}])
    details = answer.usage.prompt_tokens_details
    return answer.choices[0].message.content, answer.usage.prompt_tokens, details.cached_tokens if details else 0


def test_prompts_are_found_by_their_own_key_or_salt_and_after_a_restart(make_network, tiny):
    net = make_network(edges={"edge-1": "north"}, edge={"prefix_cache_disk": "64M", "open": False})
    edge = net.edges[0]
    mine, theirs = (net.json("key", "new", name)["key"] for name in ("mine", "theirs"))
    net.api_headers = {"authorization": "Bearer " + mine}
    net.push(tiny, "tiny")
    eventually(lambda: edge.get("/v1/models", headers={"Authorization": f"Bearer {theirs}"}).status_code == 200, 20,
               "the edge knows the keys")
    text, prompt, cached = ask(edge, mine)
    assert cached == 0 and prompt > 300
    assert ask(edge, mine) == (text, prompt, prompt - 1)
    assert ask(edge, theirs) == (text, prompt, 0)
    assert ask(edge, theirs, cache_salt="ours") == (text, prompt, 0)
    assert ask(edge, mine, cache_salt="ours") == (text, prompt, prompt - 1)
    eventually(lambda: sum(edge.metric(f"mdn_prefix_cache_{where}_tokens_total") for where in ("cells", "memory"))
               == edge.metric("vllm:prefix_cache_hits_total") == 2 * (prompt - 1), 5, "both answers are counted")

    assert edge.stop() == 0
    folder = edge.folder / "prefix"
    files = list(folder.glob("*/*.kv"))
    assert files and folder.stat().st_mode & 0o777 == 0o700
    assert all(f.stat().st_mode & 0o777 == 0o600 for f in files)
    edge.start()
    net.wait_model("tiny", ["edge-1"])
    eventually(lambda: edge.metric("mdn_prefix_cache_disk_bytes") > 0, 20, "the files are found")
    text_after, prompt_after, cached = ask(edge, mine)
    assert (text_after, prompt_after) == (text, prompt) and cached > prompt * 0.9
    eventually(lambda: edge.metric("mdn_prefix_cache_disk_tokens_total") == cached, 5, "the answer is counted")
    assert ask(edge, mine, cache_salt="nobody's") == (text, prompt, 0)
