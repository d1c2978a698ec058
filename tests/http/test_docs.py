#!/usr/bin/env python3
"""What the documentation tells a reader to send works: every request of README.md, docs/steering.md and docs/clients.md that stands in a
shell block is sent to a server with heads of every kind, and every preset of config/otter-presets.yaml answers, with the heads that it names.

test-timeout: 300
"""

import json
import re
import sys

from api_support import head_flags
from server_process import MODEL, ROOT, Failed, Server, brief, expect, expect_true, require_model, run_cases
from value_heads import make_all_heads

PAGES = ["README.md", "docs/steering.md", "docs/clients.md"]
PRESETS = ROOT / "config" / "otter-presets.yaml"


def requests_of(page):
    """(route, body) of each `ask '{...}'` and `curl ... URL ... -d '{...}'` in a shell block."""
    found = []
    for block in re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
        for body in re.findall(r"^ask '(.*?)'$", block, re.DOTALL | re.MULTILINE):
            found.append(("/v1/completions", body))
        for route, body in re.findall(r"curl -s http://127\.0\.0\.1:8080(\S+)[^']*'Content-Type: application/json'[^']*-d '(.*?)'", block, re.DOTALL):
            found.append((route, body))
    return [request for request in found if request[0] != "/v1/heads"]


def make_case(page, at_least):
    def case(server):
        requests = requests_of(page)
        expect_true(len(requests) >= at_least, f"{len(requests)} requests found in {page}")
        for route, body in requests:
            try:
                answer = server.post(route, json.loads(body)).ok()
                for choice in answer.get("choices", []):
                    expect_true(choice["text"], "an empty text")
            except (Failed, ValueError) as failure:
                raise Failed(f"{page}: {route} {body}: {failure}") from None

    case.__name__ = "answers_" + re.sub(r"\W", "_", page)
    return case


def steers_in_every_way(server):
    """No member of an intervention is left without an example."""
    members = set()
    for _, body in requests_of("docs/steering.md"):
        for name, member in json.loads(body).get("intervention", {}).items():
            members |= {name, *(f"{name}.{key}" for key in member if isinstance(member, dict))}
    statement = server.get("/openapi.json").ok()["components"]["schemas"]["Intervention"]["properties"]
    stated = {name for name in statement} | {f"{name}.{key}" for name, member in statement.items() for key in member.get("properties", {})}
    expect(sorted(stated - members), [], "stated and not shown")


def takes_every_preset(_):
    with Server("--threads", "2", "--config", PRESETS) as server:
        models = [model["id"] for model in server.get("/v1/models").ok()["data"]]
        expect(models, [f"smollm2{preset}" for preset in ("", "+gentle", "+guarded", "+watched", "+quick", "+detoxified",
                                                          "+anti-expert", "+foreseeing", "+drafted", "+careful")])
        for model in models:
            answer = server.post("/v1/chat/completions", {"model": model, "max_tokens": 4, "messages": [{"role": "user", "content": "Hi"}]})
            expect(answer.status, 200, brief(answer.body))


def main():
    require_model()
    paths = make_all_heads()
    flags = ["--config", PRESETS, *head_flags(paths), "--reward-model", f"judge={MODEL},{paths['toxicity']}",
             "--expert-model", f"good={MODEL}", "--expert-model", f"bad={MODEL}", "--draft-model", MODEL]

    with Server("--threads", "2", *flags) as server:
        return run_cases([make_case("README.md", 2), make_case("docs/steering.md", 19), make_case("docs/clients.md", 1), steers_in_every_way,
                          takes_every_preset], server)


if __name__ == "__main__":
    sys.exit(main())
