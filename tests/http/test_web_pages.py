#!/usr/bin/env python3
"""What a web page in a browser can do to a server on the same machine: nothing, unless its origin is allowed.

The pages here are requests with the headers that browsers send; which of them a browser would send without asking first is in
https://fetch.spec.whatwg.org/#cors-safelisted-request-header.
"""

import pathlib
import sys
import tempfile

from api_support import expect_error, raw, status_of
from server_process import Server, expect, expect_true, require_model, run_cases

COMPLETION = b'{"prompt": "x", "max_tokens": 1}'
FOREIGN = "https://attacker.example"


def get(server, path, host):
    return status_of(raw(server, f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()))


def answers_to_localhost_only(server):
    """A name that was made to point at 127.0.0.1 (DNS rebinding) is a foreign one."""
    port = server.port
    for host in ("localhost", f"localhost:{port}", "LocalHost.", "otter.localhost", "127.0.0.1", f"127.0.0.1:{port}", "127.1.2.3", "[::1]",
                 f"[::1]:{port}"):
        expect(get(server, "/v1/models", host), 200, host)
    for host in ("attacker.example", f"attacker.example:{port}", "localhost.attacker.example", "attackerlocalhost", "127.0.0.1.attacker.example",
                 "192.168.0.1", "[2001:db8::1]", "[", "", ":80", "10.0.0.1:1"):
        expect(get(server, "/v1/models", host), 421 if host else 200, host)
        expect(get(server, "/livez", host), 200, f"health for {host}: a probe names what it likes")
    received = raw(server, b"POST /v1/completions HTTP/1.1\r\nHost: attacker.example\r\nContent-Type: application/json\r\nConnection: close\r\n"
                           b"Content-Length: 32\r\n\r\n" + COMPLETION)
    expect(status_of(received), 421)


def refuses_pages_of_other_origins(server):
    here = f"http://127.0.0.1:{server.port}"
    for origin, site in ((FOREIGN, None), (FOREIGN, "cross-site"), ("null", None), (f"http://127.0.0.1:{server.port + 1}", "same-site"),
                         ("http://localhost:3000", None), (here, "cross-site")):
        headers = {"Origin": origin, **({"Sec-Fetch-Site": site} if site else {})}
        for method, path, body in (("POST", "/v1/completions", COMPLETION), ("POST", "/v1/heads", b"{}"), ("POST", "/tokenize", b"{}"),
                                   ("DELETE", "/v1/heads/x", None), ("GET", "/v1/models", None)):
            expect_error(server.request(method, path, body, headers=headers), 403, None, "origin_not_allowed")
    for headers in ({"Origin": here}, {"Origin": here, "Sec-Fetch-Site": "same-origin"},
                    {"Origin": "https://otter.example", "Sec-Fetch-Site": "same-origin"}):  # behind a proxy with a name of its own
        expect(server.post("/v1/completions", COMPLETION, headers=headers).status, 200, headers)


def needs_json_to_be_called_so(server):
    """fetch(..., {mode: "no-cors"}) sends these types and no others, without an Origin on old browsers."""
    for kind in ("text/plain", "text/plain;charset=UTF-8", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        for path in ("/v1/completions", "/v1/chat/completions", "/v1/score", "/v1/moderations", "/v1/heads", "/tokenize", "/detokenize",
                     "/apply-template"):
            expect_error(server.post(path, COMPLETION, headers={"Content-Type": kind}), 415, None, "unsupported_media_type")
    preflight = server.request("OPTIONS", "/v1/heads", headers={"Origin": FOREIGN, "Access-Control-Request-Method": "POST"})
    expect_true("access-control-allow-origin" not in preflight.headers, "a preflight of a foreign page is not allowed")


def lets_those_in_that_are_named():
    with Server("--allowed-hosts", "otter.example,box", "--cors-origins", FOREIGN) as server:
        for host, status in (("otter.example", 200), ("OTTER.example:8080", 200), ("box", 200), ("localhost", 200), ("other.example", 421)):
            expect(get(server, "/v1/models", host), status, host)
        expect(server.post("/v1/completions", COMPLETION, headers={"Origin": FOREIGN}).status, 200)
        expect_error(server.post("/v1/completions", COMPLETION, headers={"Origin": "https://other.example"}), 403)
    with Server("--allowed-hosts", "*") as server:
        expect(get(server, "/v1/models", "attacker.example"), 200)


def trusts_a_key():
    """Who has a key is known, by whatever name the server was reached; a page still needs leave."""
    with tempfile.TemporaryDirectory(prefix="otter-test-") as folder:
        keys = pathlib.Path(folder, "keys")
        keys.write_text("sk-test\n")
        with Server("--api-key-file", keys) as server:
            key = {"Authorization": "Bearer sk-test"}
            expect(server.get("/v1/models", headers={"Host": "otter.example", **key}).status, 200)
            expect_error(server.get("/v1/models", headers={"Host": "otter.example"}), 401)
            expect_error(server.get("/v1/models", headers={"Origin": FOREIGN, **key}), 403)


def main():
    require_model()
    with Server() as server:
        first = run_cases([answers_to_localhost_only, refuses_pages_of_other_origins, needs_json_to_be_called_so], server)
    return first or run_cases([lets_those_in_that_are_named, trusts_a_key])


if __name__ == "__main__":
    sys.exit(main())
