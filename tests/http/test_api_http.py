#!/usr/bin/env python3
"""The HTTP edge: methods, unknown paths, API keys, CORS, request ids, body limits, keep-alive and pipelining, the full queue, and
an idle server that uses no processor time.

test-timeout: 200
"""

import base64
import hashlib
import http.client
import json
import os
import pathlib
import re
import socket
import sys
import tempfile
import time

from api_support import expect_error, post_bytes, raw, status_of
from server_process import Server, expect, expect_true, in_parallel, require_model, run_cases

KEY, OTHER_KEY = "sk-test-0123456789", "sk-other"
JSON = {"Content-Type": "application/json"}
OPEN = ("/health", "/livez", "/readyz", "/metrics", "/")


def status(server, method, path, **options):
    return server.request(method, path, **options)


def answers_methods(server):
    expect_error(server.get("/nope"), 404, None, "not_found")
    expect_error(server.post("/v1/nope", {}), 404)
    for method, path, allowed in (("GET", "/v1/completions", "POST, OPTIONS"), ("DELETE", "/v1/models", "GET, HEAD, OPTIONS"),
                                  ("PUT", "/v1/heads", "GET, HEAD, POST, OPTIONS"), ("POST", "/health", "GET, HEAD, OPTIONS"),
                                  ("GET", "/v1/heads/x", "DELETE, OPTIONS"), ("PATCH", "/tokenize", "POST, OPTIONS")):
        answer = server.request(method, path, b"{}" if method in ("PUT", "POST", "PATCH") else None)
        expect_error(answer, 405, None, "method_not_allowed")
        expect(answer.headers["allow"], allowed, f"{method} {path}")
    answer = server.request("OPTIONS", "/v1/completions")
    expect([answer.status, answer.headers["allow"], answer.body], [204, "POST, OPTIONS", b""])
    head, get = server.request("HEAD", "/v1/models"), server.get("/v1/models")
    expect([head.status, head.body, head.headers["content-length"]], [200, b"", str(len(get.body))])
    expect(server.request("HEAD", "/v1/completions").status, 405)


def serves_small_pages(server):
    expect(server.get("/health").json(), {"status": "ok"})
    version = server.get("/version").ok()
    expect(version["backend"], "cpu")
    expect_true(re.fullmatch(r"\d+\.\d+\.\d+.*", version["version"]), version)
    expect(server.get("/openapi.json").ok()["openapi"][:3], "3.1")
    page = server.get("/")
    expect(page.headers["content-type"], "text/html; charset=utf-8")
    # The policy lets the page's own style and script run and nothing else; no address but the page's own is named.
    policy = page.headers["content-security-policy"]
    for tag, directive in ((b"style", "style-src"), (b"script", "script-src")):
        inside = page.body.split(b"<%s>" % tag)[1].split(b"</%s>" % tag)[0]
        digest = base64.b64encode(hashlib.sha256(inside).digest()).decode()
        expect_true(f"{directive} 'sha256-{digest}';" in policy, f"{directive} {digest} in {policy}")
        expect(page.body.count(b"<" + tag), 1, tag)
    expect_true(policy.startswith("default-src 'none'; connect-src 'self';") and "unsafe" not in policy, policy)
    expect(re.findall(rb"(?:https?:)?//[\w.-]+\.\w+", page.body), [])
    expect(server.get("/?a=b").status, 200)


def echoes_request_ids(server):
    expect(server.get("/health", headers={"X-Request-Id": "abc-123"}).headers["x-request-id"], "abc-123")
    expect(server.post("/v1/completions", {}, headers={"X-Request-Id": "e"}).headers["x-request-id"], "e")
    for bad in ("", "x" * 129, "with blank", "t\u00fc"):
        own = server.get("/health", headers={"X-Request-Id": bad.encode()}).headers["x-request-id"]
        expect_true(re.fullmatch(r"req-[0-9a-f]{24}", own), own)


def limits_bodies(server):
    expect_error(server.post("/v1/completions", b"{" + b" " * (1 << 20) + b"}"), 413, None, "request_too_large")
    # So large that it is not even read: the answer comes before the body.
    received = raw(server, b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n")
    expect(status_of(received), 413)
    # Chunks without a stated length meet the same limit.
    chunk = b"40000\r\n" + b" " * 0x40000 + b"\r\n"
    received = raw(server, b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
                           b"Transfer-Encoding: chunked\r\n\r\n" +
                   chunk * 5 + b"0\r\n\r\n")
    expect(status_of(received), 413)
    received = raw(server, b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
                           b"Transfer-Encoding: chunked\r\n\r\n"
                           b"10\r\n{\"content\": \"a b\r\n3\r\n\"}\n\r\n0\r\n\r\n")
    expect(status_of(received), 200)
    expect_error(server.post("/tokenize", b"x", headers={"Content-Encoding": "gzip"}), 415)
    expect_error(server.post("/tokenize", b"x", headers={"Content-Type": "multipart/form-data; boundary=x"}), 415)
    # What a page of another origin can send without asking its browser: a form's types, or none.
    for kind in ("application/x-www-form-urlencoded", "text/plain", "text/plain; charset=application/json", "application/jsonp", ""):
        expect_error(server.post("/tokenize", b'{"content": "a"}', headers={"Content-Type": kind}), 415, code="unsupported_media_type")
    received = raw(server, post_bytes("/tokenize", b'{"content": "a"}').replace(b"Content-Type: application/json\r\n", b""))
    expect(status_of(received), 415)
    expect(server.post("/tokenize", b'\xef\xbb\xbf{"content": "a"}').ok()["count"], 1, "behind a byte order mark")
    for kind in ("application/json; charset=utf-8", "Application/JSON", "application/json ;x=y"):
        expect(server.post("/tokenize", b'{"content": "a"}', headers={"Content-Type": kind}).status, 200)


def refuses_by_headers_alone(server):
    """An error object, and the end of the connection, so that the rest is taken for no request."""
    head = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    smuggled = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for data, code, kind in (
            (head + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled, 400, "invalid_request"),
            (head + b"Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}" + smuggled, 400, "invalid_request"),
            (b"GET /health HTTP/1.1\r\n\r\n" + smuggled, 400, "invalid_request"),
            (b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n" + smuggled, 400, "invalid_request"),
            (head + b"Transfer-Encoding: gzip\r\n\r\n{}" + smuggled, 501, "unsupported_transfer_encoding"),
            (head + b"Transfer-Encoding: gzip, chunked\r\n\r\n{}" + smuggled, 501, "unsupported_transfer_encoding"),
            (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"y" * 33000 + b"\r\n\r\n", 431, "headers_too_large"),
            (b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + (b"X: " + b"y" * 1000 + b"\r\n") * 33 + b"\r\n", 431, "headers_too_large"),
            (b"GET /health?" + b"q" * 33000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431, "headers_too_large")):
        header, _, body = raw(server, data, timeout=5).partition(b"\r\n\r\n")
        expect(status_of(header), code, f"{data[:90]}: {header[:300]}")
        expect_true(b"connection: close" in header.lower(), header)
        expect_true(body.endswith(b"}"), f"{data[:90]}: {header[:300]} {body[:300]}")
        expect(json.loads(body)["error"]["code"], kind, f"{data[:90]}")  # and nothing behind it
    expect(status_of(raw(server, b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: " + b"y" * 30000 + b"\r\n\r\n")), 200)


def closes_on_what_is_no_http(server):
    """libmicrohttpd answers these itself, or not at all; either way the connection ends at once and the server goes on."""
    post = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\n"
    chunked = post + b"Transfer-Encoding: chunked\r\n\r\n"
    for data, codes in ((b"GET /health\r\n\r\n", (400,)), (b"GET /health HTTP/9.9\r\n\r\n", (505,)), (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (505,)),
                        (b"GET\r\n\r\n", (None, 400)), (b"GET /health HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n", (400,)),
                        (post + b"Content-Length: -5\r\n\r\n", (400,)), (post + b"Content-Length: z\r\n\r\n{}", (400,)),
                        (post + b"Content-Length: 18446744073709551617\r\n\r\n{}", (400, 413)),
                        (chunked + b"zz\r\n{}\r\n0\r\n\r\n", (400,)), (chunked + b"fffffffffffffffff\r\n{}", (400, 413)),
                        (chunked + b"2\r\n{}abcdef\r\n0\r\n\r\n", (400,)),
                        (b"A" * 200000, (414, 431)), (b"GET /" + b"a" * 200000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", (414, 431)),
                        (b"GET / HTTP/1.1\r\nX: " + b"y" * 200000 + b"\r\n\r\n", (431,))):
        begin = time.monotonic()
        received = raw(server, data, timeout=10)
        expect_true(status_of(received) in codes, f"{data[:90]}: {received[:300]}, expected one of {codes}")
        expect_true(time.monotonic() - begin < 5, f"{data[:90]}: left open")
        expect(server.get("/health").status, 200)


def takes_whole_addresses(server):
    """The first line may name host and scheme, as it does for a proxy; that host beats the header's."""
    for target, expected in ((b"http://localhost/health", 200), (b"HTTP://127.0.0.1:8080/v1/models?x=y", 200), (b"http://localhost", 200),
                             (b"http://evil.example/v1/models", 421), (b"ftp://localhost/health", 404)):
        received = raw(server, b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        expect(status_of(received), expected, f"{target}: {received[:200]}")


def keeps_connections(server):
    connection = server.connect()
    for i in range(20):
        connection.request("POST", "/tokenize", json.dumps({"content": "a" * i}), JSON)
        answer = connection.getresponse()
        expect(answer.status, 200)
        expect(json.loads(answer.read())["count"] > 0 or i == 0, True)
    connection.request("POST", "/v1/completions", json.dumps({"prompt": "x", "max_tokens": 3, "stream": True}), JSON)
    expect_true(connection.getresponse().read().endswith(b"data: [DONE]\n\n"), "a stream on a kept connection")
    connection.request("GET", "/health")
    expect(connection.getresponse().read(), b'{"status":"ok"}')
    connection.close()


def answers_pipelined_requests_in_order(server):
    first = post_bytes("/v1/completions", b'{"prompt": "Once", "max_tokens": 5, "temperature": 0}').replace(b"Connection: close\r\n", b"")
    second = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    third = post_bytes("/tokenize", b'{"content": "a b c"}')
    received = raw(server, first + second + third)
    expect([line.split(b" ")[1] for line in re.findall(rb"HTTP/1\.1 \d+ ", received)], [b"200"] * 3)
    order = [received.index(part) for part in (b"text_completion", b'{"status":"ok"}', b'"max_model_len"')]
    expect(order, sorted(order))


def speaks_http_1_0(server):
    received = raw(server, b"GET /health HTTP/1.0\r\n\r\n")
    expect_true(received.endswith(b'{"status":"ok"}'), received)
    body = b'{"prompt": "x", "max_tokens": 3, "stream": true}'
    received = raw(server, b"POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body)
    expect_true(received.endswith(b"data: [DONE]\n\n"), received[-200:])


def uses_no_time_when_idle(server):
    kept = [server.connect() for _ in range(3)]
    for connection in kept:
        connection.request("GET", "/health")
        connection.getresponse().read()
    half = socket.create_connection(("127.0.0.1", server.port))
    half.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
    time.sleep(0.5)
    before = server.metric("process_cpu_seconds_total")
    time.sleep(3)
    used = server.metric("process_cpu_seconds_total") - before
    half.close()
    for connection in kept:
        connection.close()
    expect_true(used <= 0.05, f"{used} s of processor time in 3 s with nothing to do")


def loop_seconds(server):
    """Processor time of the main thread alone, which runs the loop."""
    pid = server.process.pid
    fields = pathlib.Path(f"/proc/{pid}/task/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def waits_without_polling(server):
    """While requests wait for the engine the loop sleeps: it wakes for a token, not to look for one."""
    body = {"prompt": "Once upon a time", "max_tokens": 60, "ignore_eos": True}
    used, begin = loop_seconds(server), time.monotonic()
    answers = in_parallel([lambda: server.post("/v1/completions", body)] * 6)
    used, took = loop_seconds(server) - used, time.monotonic() - begin
    expect([answer.status for answer in answers], [200] * 6)
    expect_true(used < 0.05 + 0.1 * took, f"{used:.2f} s of the loop's time in {took:.2f} s of waiting")


# ---- With other settings -----------------------------------------------------------------------------------

def checks_keys():
    with tempfile.TemporaryDirectory(prefix="otter-test-") as folder:
        keys = pathlib.Path(folder, "keys")
        keys.write_text(f"# a comment\n\n{KEY}\n  {OTHER_KEY}  \r\n")
        with Server("--api-key-file", keys) as server:
            for path in OPEN:
                expect(server.get(path).status, 200, path)
            for name in ("x-api-key", "X-API-Key", "api-key"):
                expect(server.get("/v1/models", headers={name: KEY}).status, 200, name)
                expect_error(server.get("/v1/models", headers={name: KEY + "x"}), 401, None, "invalid_api_key")
            bad = [None, "", KEY, "Bearer", "Bearer ", "Bearer x", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Basic {KEY}",
                   f"Bearer {KEY} {KEY}", "Bearer # a comment", "Bearer " + "x" * 5000]
            for value in bad:
                headers = {} if value is None else {"Authorization": value}
                for method, path in (("POST", "/v1/completions"), ("GET", "/v1/models"), ("GET", "/version"), ("GET", "/nope"),
                                     ("GET", "/openapi.json"), ("DELETE", "/v1/heads/x"), ("GET", "/v1/completions")):
                    answer = server.request(method, path, headers=headers)
                    expect_error(answer, 401, None, "invalid_api_key")
                    expect(answer.headers["www-authenticate"], "Bearer")
            for key in (KEY, OTHER_KEY):
                for scheme in ("Bearer", "bearer"):
                    expect(server.get("/v1/models", headers={"Authorization": f"{scheme} {key}"}).status, 200)
            # Keys do not share a cached prefix: who asks cannot tell what others asked.
            body = {"prompt": "A prompt that is long enough to fill a page of the cache, and then some. " * 3, "max_tokens": 1}

            def cached(key):
                answer = server.post("/v1/completions", body, headers={"Authorization": f"Bearer {key}"}).ok()
                return answer["usage"]["prompt_tokens_details"]["cached_tokens"]

            expect([cached(KEY), cached(KEY) > 0, cached(OTHER_KEY), cached(OTHER_KEY) > 0], [0, True, 0, True])
        missing, malformed = pathlib.Path(folder, "missing"), pathlib.Path(folder, "malformed")
        keys.write_text("# nothing\n")
        malformed.write_text("sk-one name=ci role=admin\n")
        for path in (keys, missing, malformed):
            with Server("--api-key-file", path, ready=False) as server:
                server.stopped_by_test = True
                expect(server.process.wait(60), 1)
                expect_true(str(path) in server.log(), server.log())
                server.process.returncode = 0  # the expected end


def knows_roles():
    """Loading and unloading heads needs a key of the role `manage`; the default is `use`."""
    with tempfile.TemporaryDirectory(prefix="otter-test-") as folder:
        keys = pathlib.Path(folder, "keys")
        keys.write_text("sk-use\nsk-also-use name=ci role=use\nsk-manage  name=ops\trole=manage\n")
        with Server("--api-key-file", keys, "--heads-dir", folder) as server:
            for key, may in (("sk-use", False), ("sk-also-use", False), ("sk-manage", True)):
                headers = {"Authorization": f"Bearer {key}"}
                expect(server.get("/v1/heads", headers=headers).status, 200)
                load = server.post("/v1/heads", {"name": "a", "path": "none.gguf"}, headers=headers)
                unload = server.request("DELETE", "/v1/heads/a", headers=headers)
                if may:
                    expect_error(load, 400, "path")
                    expect_error(unload, 404)
                else:
                    expect_error(load, 403, None, "role_required")
                    expect_error(unload, 403, None, "role_required")


def answers_other_origins():
    with Server("--cors-origins", "https://a.example,https://b.example") as server:
        for origin, allowed in (("https://a.example", True), ("https://b.example", True), ("https://c.example", False), ("null", False)):
            for answer in (server.get("/health", headers={"Origin": origin}), server.get("/nope", headers={"Origin": origin}),
                           server.post("/tokenize", {"content": "a"}, headers={"Origin": origin})):
                expect(answer.headers.get("access-control-allow-origin"), origin if allowed else None)
                expect(answer.headers["vary"], "Origin")
        answer = server.request("OPTIONS", "/v1/chat/completions", headers={
            "Origin": "https://a.example", "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os"})
        expect(answer.status, 204)
        expect(answer.headers["access-control-allow-headers"], "authorization,content-type,x-stainless-os")
        expect_true("POST" in answer.headers["access-control-allow-methods"], answer.headers)
        connection = server.connect()
        connection.request("POST", "/v1/completions", json.dumps({"prompt": "x", "max_tokens": 1, "stream": True}),
                           {"Origin": "https://b.example", **JSON})
        expect(connection.getresponse().getheader("Access-Control-Allow-Origin"), "https://b.example")
        connection.close()
    with Server("--cors-origins", "*") as server:
        expect(server.get("/health", headers={"Origin": "https://x"}).headers["access-control-allow-origin"], "*")
    with Server() as server:
        expect_true("access-control-allow-origin" not in server.get("/health", headers={"Origin": "https://x"}).headers, "CORS by default")


def says_when_the_queue_is_full():
    with Server("--max-queue", "2", "--max-sequences", "1") as server:
        body = {"prompt": "Once upon a time", "max_tokens": 150, "ignore_eos": True, "temperature": 0}
        stream = server.stream("/v1/completions", body)
        next(stream)
        answers = in_parallel([lambda: server.post("/v1/completions", {**body, "max_tokens": 2})] * 6)
        stream.close()
        refused = [a for a in answers if a.status != 200]
        expect([a.status for a in refused], [429] * len(refused))
        expect_true(1 <= len(refused) <= 4, f"{len(refused)} of 6 refused with room for 2")
        for answer in refused:
            expect_error(answer, 429, None, "queue_full", "rate_limit_error")
            expect_true(int(answer.headers["retry-after"]) >= 1, answer.headers)
        expect_error(server.post("/v1/completions", {"prompt": ["a", "b", "c"], "max_tokens": 1}), 400, "prompt")
        expect(server.metric("otter_requests_rejected_total", reason="queue_full"), len(refused))


def logs_requests():
    for kind in ("plain", "json"):
        with Server("--access-log", kind) as server:
            server.get("/health", headers={"X-Request-Id": "my-id"})
            server.get("/forged%22%0aline")
            time.sleep(0.1)
            lines = [line for line in server.log().splitlines() if "GET" in line]
            mine = [line for line in lines if "my-id" in line]
            expect(len(mine), 1)
            expect_true("/health" in mine[0] and "200" in mine[0], mine[0])
            forged = [line for line in lines if "forged" in line]
            expect(len(forged), 1)
            expect_true(not any(line.startswith("line") for line in server.log().splitlines()), server.log())
            if kind == "json":
                expect(json.loads(mine[0])["status"], 200)
                expect(json.loads(forged[0])["path"], '/forged"\nline')
            logs_what_a_request_was(server, kind)


def logs_what_a_request_was(server, kind):
    """Who asked which model for how much, when the first token came, and how it ended; whole, streamed and refused."""
    body = {"prompt": "The otter", "max_tokens": 5, "ignore_eos": True}
    usage = server.post("/v1/completions", body, headers={"X-Request-Id": "whole"}).ok()["usage"]
    server.post("/v1/completions", {**body, "stream": True}, headers={"X-Request-Id": "streamed"})
    server.post("/v1/completions", {**body, "n": -1}, headers={"X-Request-Id": "refused"})
    server.post("/v1/completions", {"prompt": "x", "model": 'no"\nline'}, headers={"X-Request-Id": "unknown"})
    time.sleep(0.2)
    line = {name: next(line for line in server.log().splitlines() if name in line) for name in ("whole", "streamed", "refused", "unknown")}
    model = server.model_id()
    if kind == "json":
        for name in ("whole", "streamed"):
            told = json.loads(line[name])
            expect_true(0 <= told.pop("first_token_ms") <= told.pop("took_ms"), line[name])
            told.pop("time")
            expect(told, {"request_id": name, "client": "127.0.0.1", "method": "POST", "path": "/v1/completions", "status": 200, "model": model,
                          "prompt_tokens": usage["prompt_tokens"], "completion_tokens": 5, "changed_tokens": 0, "finish_reason": "length"})
        expect_true("prompt_tokens" not in json.loads(line["refused"]), line["refused"])
        expect(json.loads(line["unknown"])["status"], 404)
    else:
        for name in ("whole", "streamed"):
            wanted = f' client=127.0.0.1 model={json.dumps(model)} in={usage["prompt_tokens"]} out=5 changed=0 first='
            expect_true(wanted in line[name] and line[name].endswith("ms finish=length"), line[name])
        expect_true(" 400 " in line["refused"] and "in=" not in line["refused"], line["refused"])


def starts_where_it_is_told():
    with Server("--host", "::1", ready=False) as server:
        deadline = time.monotonic() + 30
        while True:
            try:
                connection = http.client.HTTPConnection("::1", server.port, timeout=5)
                connection.request("GET", "/readyz")
                expect(connection.getresponse().status, 200)
                break
            except OSError:
                expect_true(time.monotonic() < deadline, server.log())
                time.sleep(0.1)
        expect_true(f"http://[::1]:{server.port}" in server.log(), server.log())
        with Server("--host", "::1", "--port", server.port, ready=False) as other:
            other.stopped_by_test = True
            expect(other.process.wait(60), 1)
            expect_true("port" in other.log() and "in use" in other.log(), other.log())
            other.process.returncode = 0  # the expected end


def main():
    require_model()
    cases = [answers_methods, serves_small_pages, echoes_request_ids, limits_bodies, refuses_by_headers_alone,
             closes_on_what_is_no_http, takes_whole_addresses, keeps_connections, answers_pipelined_requests_in_order, speaks_http_1_0,
             uses_no_time_when_idle, waits_without_polling]
    with Server("--max-body", str(1 << 20)) as server:
        first = run_cases(cases, server)
    words = sys.argv[1:]
    others = [checks_keys, knows_roles, answers_other_origins, says_when_the_queue_is_full, logs_requests, starts_where_it_is_told]
    if words and not any(word in case.__name__ for case in others for word in words):
        return first
    second = run_cases(others)
    if words and not any(word in case.__name__ for case in cases for word in words):
        return second
    return first or second


if __name__ == "__main__":
    sys.exit(main())
