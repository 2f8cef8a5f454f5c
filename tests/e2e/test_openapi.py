# SPDX-License-Identifier: Apache-2.0
"""The API as /openapi.json describes it, asked by schemathesis: what the description allows gets an answer it promises."""
import json

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from conftest import shared_network
from network import ROOT

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def edge(tiny):
    with shared_network(edges={"edge-1": "north"}, edge={"engine": "synthetic", "slots": 16}) as net:
        net.push(tiny, "tiny")
        yield net.edges[0]
        assert net.edges[0].runs, "the node outlives it all"
        assert net.edges[0].metric("mdn_ledger_open") == 0


def short(node):
    """The same with a model that exists and answers that are soon over: most requests then get past their checks."""
    if isinstance(node, list):
        return [short(n) for n in node]
    if not isinstance(node, dict):
        return node
    made = {key: short(value) for key, value in node.items()}
    properties = made.get("properties")
    if isinstance(properties, dict) and "model" in properties and "id" not in properties:
        properties["model"] = {"enum": ["tiny", "tiny:latest", "nobody"]}
        for key in ("max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict"):
            if key in properties:
                properties[key] = {"type": "integer", "minimum": 1, "maximum": 3}
    return made


@pytest.fixture(scope="module")
def described(edge):
    document = httpx.get(edge.api_url + "/openapi.json").json()
    assert document["openapi"].startswith("3.1") and document["paths"]
    schemas = document["components"]["schemas"]
    for name in [n for n in schemas if n.endswith("Request")]:
        schemas[name] = short(schemas[name])
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=edge.api_url)
    return schema


DESCRIPTION = json.loads((ROOT / "src/serve/gateway/openapi.json").read_text())
OPERATIONS = [(path, method) for path, item in DESCRIPTION["paths"].items() for method in item]


@pytest.mark.parametrize("path, method", OPERATIONS, ids=[f"{method} {path}" for path, method in OPERATIONS])
def test_answers_are_as_described(described, path, method):
    seen = set()

    @given(case=described[path][method].as_strategy())
    @settings(max_examples=10, deadline=None, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate],
              suppress_health_check=list(HealthCheck))
    def ask(case):
        seen.add(case.call_and_validate(checks=CHECKS, timeout=10).status_code)

    ask()
    assert seen & {200, 404, 422} or path in ("/v1/files", "/v1/batches"), f"nothing got past the checks: {seen}"


def test_the_description_is_served_as_it_stands(edge):
    assert httpx.get(edge.api_url + "/openapi.json").json() == DESCRIPTION
