# SPDX-License-Identifier: Apache-2.0
"""simulate - 700 GB to 1,000 nodes on 50 sites, by `mdn sim distribute`: the code that plans and asks in a network, over
modelled links. Nodes have 2.5 to 10 Gbit/s, sites 10 Gbit/s, 2 % of the nodes die on the way.

  bound    fluid: no way of sending is faster, were there no latency, no chunks and no failures
  peers    models of BitTorrent, a tree of two, a chain and a star, on the same links, where nobody fails

Each round has another seed, so other failures. ROUNDS (3); NODES (1000), SITES (50), SIZE (700G), FAILING (2) for others.
"""
import json
import os
import sys

import lib

PEERS = ("bittorrent", "tree", "chain", "star")


def run(seed):
    words = [lib.MDN, "sim", "distribute", "--json", "--seed", str(seed)]
    for name, fallback in (("nodes", "1000"), ("sites", "50"), ("size", "700G"), ("failing", "2")):
        words += [f"--{name}", os.environ.get(name.upper(), fallback)]
    done = lib.subprocess.run(words + sys.argv[1:], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"bench: mdn sim distribute: {done.stderr or done.stdout}")
    return json.loads(done.stdout)


def main():
    lib.introduce("simulate: a model to many nodes on many sites, by the shipping plan")
    found = []
    for seed in range(1, lib.rounds(3) + 1):
        r = run(seed)
        found.append(r)
        lib.say(f"  seed {seed}: {r['size'] / 1e9:.0f} GB to {r['nodes']} nodes on {r['sites']} sites; {r['alive']} lived, "
                f"{r['finished']} have it all; last {r['last_s']:.0f} s, median {r['median_s']:.0f} s, bound "
                f"{r['bound_s']:.0f} s; origin sent {r['origin_copies']:.2f} copies, busiest site got "
                f"{r['wan_copies']:.2f}; computed in {r['took_s']:.0f} s")
    last = [r["last_s"] for r in found]
    lib.figure("simulate_last", "s", last, "the fluid bound", [r["bound_s"] for r in found], ratio_goal=1.10, at_least=False)
    for peer in PEERS:
        lib.figure("simulate_last", "s", last, f"{peer} (model)", [r[f"{peer}_s"] for r in found], ratio_goal=1,
                   at_least=False)
    lib.figure("simulate_origin", "copies", [r["origin_copies"] for r in found], "bittorrent (model)",
               [r["bittorrent_copies"] for r in found])
    lib.figure("simulate_busiest_site", "copies in", [r["wan_copies"] for r in found], "bittorrent (model)",
               [r["bittorrent_wan_copies"] for r in found])
    whole = all(r["finished"] == r["alive"] for r in found)
    lib.figure("simulate_finished", "of those alive", [min(r["finished"] / r["alive"] for r in found)], goal="all", met=whole)


main()
