# SPDX-License-Identifier: Apache-2.0
"""engine_chats - many chats of many turns on one system prompt: what is computed anew, and how soon the first token is
there, against llama-server with its caches as they are by default.

Every chat asks its next question as soon as all have their answers; so all turns of all chats arrive together, first
without anything known. The ideal computes each token once: the system prompt for all, then of each turn what neither the
turn before nor its answer had; but the last token of an answer, which no engine computes. What was computed is
what usage says: prompt tokens less cached ones. Tokens of answers that read differently when tokenized again count
against both.
"""
import json
import os
import threading
import urllib.request

from engine import SLOTS, THREADS, Answer, servers
from lib import MODEL, figure, introduce, median, resting, say, stop

CHATS, TURNS = int(os.environ.get("CHATS", 20)), int(os.environ.get("TURNS", 10))
TOKENS, CONTEXT = 16, 2048


def system_prompt():
    lines = ["You answer questions of the staff of a harbour in one short sentence. The rules of the harbour are these."]
    for i in range(34):
        lines.append(f"Rule {i}: berth {i * 7 % 90} takes ships of up to {20 + i * 3} metres on day {i % 7} of a week.")
    return "\n".join(lines)


def question(chat, turn):
    return (f"Ship {chat * 13 + 5} has {18 + chat * 2 + turn} metres and comes on day {(chat + turn) % 7}. "
            f"Question {turn}: where may it lie?")


class Turn(Answer):
    patience = 600

    def __init__(self, port, messages):
        super().__init__(port, 0)
        self.messages = messages

    def question(self):
        return {"messages": self.messages, "max_tokens": TOKENS, "cache_prompt": True}

    def read(self):
        """The answer's text, and how many of its prompt's tokens were found."""
        text, cached = "", 0
        for line in self.seen.split(b"\n"):
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            for choice in event.get("choices", ()):
                text += choice["delta"].get("content") or ""
            usage = event.get("usage") or {}
            cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", cached)
        return text, cached


class Chats:
    """The same chats on one server; each has its own answers."""

    def __init__(self, port):
        self.port, self.ttft, self.computed, self.ideal = port, [], 0, 0
        self.messages = [[{"role": "system", "content": system_prompt()}] for _ in range(CHATS)]
        self.known = [None] * CHATS  # tokens that are computed already

    def turn(self, number, shared):
        for i, messages in enumerate(self.messages):
            messages.append({"role": "user", "content": question(i, number)})
        turns = [Turn(self.port, m) for m in self.messages]
        threads = [threading.Thread(target=t.ask) for t in turns]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        for i, t in enumerate(turns):
            if t.error:
                raise SystemExit(f"bench: port {self.port}: {t.error}")
            text, cached = t.read()
            self.messages[i].append({"role": "assistant", "content": text})
            self.ttft.append((t.first - t.began) * 1e3)
            self.computed += t.prompt_tokens - cached
            self.ideal += t.prompt_tokens - (self.known[i] or shared)
            self.known[i] = t.prompt_tokens + t.tokens - 1
        if number == 0:
            self.ideal += shared


def post(port, path, body):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


def shared_tokens(port):
    """What all first prompts begin with, told by llama-server."""
    lists = []
    for chat in range(2):
        messages = [{"role": "system", "content": system_prompt()}, {"role": "user", "content": question(chat, 0)}]
        text = post(port, "/apply-template", {"messages": messages})["prompt"]
        lists.append(post(port, "/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"])
    return next(i for i, (a, b) in enumerate(zip(*lists)) if a != b)


if __name__ == "__main__":
    introduce(f"engine_chats: {CHATS} chats of {TURNS} turns on one system prompt against llama-server")
    made = servers(CONTEXT, cache=())
    shared = shared_tokens(made["llama-server"][0])
    say(f"# model:   {MODEL.name}; {THREADS} threads, {SLOTS} slots of {CONTEXT} tokens; {shared} tokens are shared, "
        f"answers have {TOKENS}")
    chats = {name: Chats(port) for name, (port, _) in made.items()}
    for number in range(TURNS):
        order = list(made) if number % 2 else list(made)[::-1]
        for who in order:
            with resting(*(c for n, (_, c) in made.items() if n != who)):
                chats[who].turn(number, shared)
    for who, c in chats.items():
        say(f"  {who}: {c.computed} prompt tokens computed, ideal {c.ideal}; TTFT p50 {median(c.ttft):.1f} ms, "
            f"p99 {sorted(c.ttft)[int(len(c.ttft) * 0.99)]:.1f} ms")
    ours, theirs = chats["mdn"], chats["llama-server"]
    figure("engine_chats_computed", "of the ideal", [ours.computed / ours.ideal], "llama-server",
           [theirs.computed / theirs.ideal], goal=1.05, met=ours.computed <= 1.05 * ours.ideal)
    figure("engine_chats_ttft_p50", "ms", [median(ours.ttft)], "llama-server", [median(theirs.ttft)], ratio_goal=1.0,
           at_least=False)
    for port, child in made.values():
        stop(child)
