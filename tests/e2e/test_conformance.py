# SPDX-License-Identifier: Apache-2.0
"""The official conformance suite of the OCI distribution-spec against a repository of ours, with all that it can ask."""
import os
import re
import subprocess
import warnings
from pathlib import Path

import httpx
import pytest

from network import ROOT, eventually

SUITE = Path(os.environ.get("OCI_CONFORMANCE", ROOT / ".deps/registry/conformance"))


@pytest.fixture(scope="module")
def suite():
    if not SUITE.exists():
        missing = SUITE.parent / "missing"
        why = missing.read_text().strip() if missing.exists() else "tools/setup test builds it"
        warnings.warn(f"SKIPPED: the OCI conformance suite is not here: {why}", stacklevel=1)
        pytest.skip(why)
    return SUITE


# "1.1+dev": also what the next version of the spec has: tags as parameters, cancelled uploads, digests in all answers.
@pytest.mark.parametrize("version, access", [("1.1", "open"), ("1.1+dev", "open"), ("1.1+dev", "pull"), ("1.1", "key")])
def test_the_official_conformance_suite_has_no_failures(make_network, suite, folder, access, version, capsys):
    net = make_network(edges={}, repository={"repository_access": access})
    key = net.json("key", "new", "conformance")["key"] if access != "open" else ""
    if key:
        eventually(lambda: httpx.get(net.repository_url + "/v2/", auth=("any", key)).status_code == 200,
                   what="the repository knows the key")
    done = subprocess.run([suite], cwd=folder, capture_output=True, text=True, timeout=300, env=os.environ | {
        "OCI_REGISTRY": net.repository.config["repository_listen"], "OCI_TLS": "disabled", "OCI_VERSION": version,
        "OCI_RESULTS_DIR": str(folder / "results"), "OCI_USERNAME": "any" if key else "", "OCI_PASSWORD": key})
    suite_tag = re.search(r"<testsuite [^>]*>", (folder / "results/junit.xml").read_text()).group()
    numbers = {name: int(re.search(rf'{name}="(\d+)"', suite_tag).group(1)) for name in ("tests", "failures", "errors")}
    with capsys.disabled():
        print(f"\nOCI conformance {version}, access {access}: {numbers['tests']} tests, {numbers['failures']} failures")
    failed = [line for line in (done.stdout + done.stderr).splitlines() if "failed test" in line]
    assert not failed and numbers["failures"] == numbers["errors"] == 0 and done.returncode == 0, failed[:5]
    assert numbers["tests"] > 700, "it ran"
