# SPDX-License-Identifier: Apache-2.0
"""docs/metrics.md names every metric of ours that a node and a scheduler show, in the words of the node."""
import re
from pathlib import Path

import httpx

PAGE = Path(__file__).resolve().parents[2] / "docs/metrics.md"


def rows(text):
    """A table row of each family, of what Prometheus reads."""
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    return {f"| `{name}` | {types[name]} | {meaning} |" for name, meaning in re.findall(r"^# HELP (\S+) (.*)$", text, re.M)
            if name.startswith("mdn_")}


def test_the_page_has_every_metric_and_no_other(net):
    port = net.scheduler.config["scheduler_listen"]
    seen = rows(net.edges[0].get("/metrics").text) | rows(httpx.get(f"http://{port}/metrics").text)
    written = {line for line in PAGE.read_text().splitlines() if line.startswith("| `mdn_")}
    assert len(seen) > 30
    assert not seen - written, "docs/metrics.md lacks:\n" + "\n".join(sorted(seen - written))
    assert not written - seen, "docs/metrics.md has what no node shows:\n" + "\n".join(sorted(written - seen))
