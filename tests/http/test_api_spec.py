#!/usr/bin/env python3
"""The server against its own statement: each example of api-spec/examples is replayed and told what it says; every answer has the
status, the content type and the shape that api-spec/openapi.yaml gives it, without a member that is not stated; and every stated
operation has an example.

test-timeout: 200
"""

import json
import sys

import jsonschema

from api_support import head_flags
from server_process import ROOT, Failed, Server, brief, expect, expect_true, require_model, run_cases
from value_heads import make_all_heads

EXAMPLES = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "api-spec" / "examples").glob("*.json"))}


class Spec:
    def __init__(self, document):
        self.document = document
        self.strict = self.close(json.loads(json.dumps(document)))

    def close(self, schema):
        """The same with no further members wherever members are listed: an answer has to be stated in full."""
        if isinstance(schema, dict):
            if "properties" in schema and "type" in schema and "additionalProperties" not in schema:
                schema["additionalProperties"] = False
            for value in schema.values():
                self.close(value)
        elif isinstance(schema, list):
            for value in schema:
                self.close(value)
        return schema

    def operation(self, method, path):
        paths = self.document["paths"]
        for template in [path, *(t for t in paths if "{" in t and path.startswith(t.split("{")[0]))]:
            if template in paths and method.lower() in paths[template]:
                return template, paths[template][method.lower()]
        return None, None

    def follow(self, value):
        while "$ref" in value:
            reference, value = value["$ref"], self.document
            for part in reference[2:].split("/"):
                value = value[part]
        return value

    def validate(self, schema, instance, strict):
        document = self.strict if strict else self.document
        whole = {**(self.close(json.loads(json.dumps(schema))) if strict else schema), "components": document["components"]}
        errors = list(jsonschema.Draft202012Validator(whole).iter_errors(instance))
        if errors:
            best = jsonschema.exceptions.best_match(errors)
            raise Failed(f"at {'/'.join(map(str, best.absolute_path))}: {brief(best.message)}")


def contains(actual, expected, where="body"):
    """Members that are told are as told; lists begin with what is told."""
    if isinstance(expected, dict):
        expect_true(isinstance(actual, dict), f"{where} is {brief(actual)}")
        for key, value in expected.items():
            expect_true(key in actual, f"{where} has no {key}")
            contains(actual[key], value, f"{where}.{key}")
    elif isinstance(expected, list):
        expect_true(isinstance(actual, list) and len(actual) >= len(expected), f"{where} is {brief(actual)}")
        for i, value in enumerate(expected):
            contains(actual[i], value, f"{where}[{i}]")
    else:
        expect(actual, expected, where)


def replay(server, spec, example):
    request, response = example["request"], example["response"]
    method, path, body = request["method"], request["path"], request.get("body")
    answer = server.request(method, path, body, request.get("headers"))
    expect(answer.status, response["status"], f"status of {brief(answer.body)}")
    template, operation = spec.operation(method, path)
    kind = answer.headers["content-type"].split(";")[0]
    if operation is None:
        expect_true(answer.status in (404, 405), "an example for what is not stated")
        stated = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    else:
        expect_true(str(answer.status) in operation["responses"], f"status {answer.status} is not stated")
        stated = spec.follow(operation["responses"][str(answer.status)])["content"]
        if answer.status < 400 and "requestBody" in operation:
            spec.validate(operation["requestBody"]["content"]["application/json"]["schema"], body, strict=False)
    expect_true(kind in stated, f"content type {kind} is not stated")
    schema = stated[kind]["schema"]
    if kind == "text/event-stream":
        lines = answer.body.decode().splitlines()
        events = [line[6:] for line in lines if line.startswith("data: ")]
        if not any(line.startswith("event: ") for line in lines):  # dialects name their events, and the last one is the end
            expect(events.pop(), "[DONE]")
        expect_true(events, "no events")
        for event in map(json.loads, events):
            expect_true("error" not in event, f"an error in the stream: {event}")
            spec.validate(schema, event, strict=True)
    elif kind == "application/json":
        spec.validate(schema, answer.json(), strict=True)
        contains(answer.json(), response.get("has", {}))
    else:
        expect_true(answer.body, "an empty page")


def make_case(name, examples):
    def case(server, spec):
        for example in examples:
            try:
                replay(server, spec, example)
            except Failed as failure:
                raise Failed(f"{name}: {example['name']}: {failure}") from None

    case.__name__ = "replays_" + name.replace("-", "_")
    return case


def has_an_example_for_every_operation(server, spec):
    seen = {(spec.operation(e["request"]["method"], e["request"]["path"])[0], e["request"]["method"].lower())
            for examples in EXAMPLES.values() for e in examples}
    for path, operations in spec.document["paths"].items():
        for method in operations:
            expect_true((path, method) in seen, f"{method} {path} has no example")


def states_methods_as_they_are_allowed(server, spec):
    for path, operations in spec.document["paths"].items():
        allow = server.request("OPTIONS", path.replace("{id}", "x").replace("{name}", "x")).headers["allow"].split(", ")
        expect(sorted(set(allow) - {"HEAD", "OPTIONS"}), sorted(method.upper() for method in operations), path)


def states_what_a_route_with_a_body_may_refuse(server, spec):
    """Whatever its body says: no key, too large, no JSON, a failure of the server, no room for it now."""
    for path, operations in spec.document["paths"].items():
        for method, operation in operations.items():
            missing = {"400", "401", "413", "415", "500", "503"} - set(operation["responses"])
            expect_true("requestBody" not in operation or not missing, f"{method} {path} does not state {sorted(missing)}")


def states_an_error_as_the_event_of_a_stream(server, spec):
    for path in ("/v1/completions", "/v1/chat/completions"):
        schema = spec.document["paths"][path]["post"]["responses"]["200"]["content"]["text/event-stream"]["schema"]
        spec.validate(schema, server.post(path, {"max_tokens": 1}).json(), strict=True)


def main():
    require_model()
    with Server(*head_flags(make_all_heads())) as server:
        spec = Spec(server.get("/openapi.json").ok())
        cases = [make_case(name, examples) for name, examples in EXAMPLES.items()]
        return run_cases([*cases, has_an_example_for_every_operation, states_methods_as_they_are_allowed,
                          states_what_a_route_with_a_body_may_refuse, states_an_error_as_the_event_of_a_stream], server, spec)


if __name__ == "__main__":
    sys.exit(main())
