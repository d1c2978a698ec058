"""What the test_api_*.py programs share: untrained heads to test with, raw HTTP, and error objects."""

import atexit
import pathlib
import shutil
import socket
import subprocess
import tempfile

from server_process import BIN, MODEL, Failed, brief, expect, expect_true, require_model

MISSING = object()


def make_heads(**heads):
    """Writes untrained insertions, {name: arguments of otter init}; {name: path} in a folder of this process alone. Their
    scores mean nothing, but are as definite as a trained head's."""
    require_model()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="otter-test-heads-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    paths = {}
    for name, arguments in heads.items():
        paths[name] = folder / f"{name}.gguf"
        done = subprocess.run([str(BIN), "init", "--model", str(MODEL), "--out", str(paths[name]), "--type", "q8_0", *arguments],
                              capture_output=True, text=True, timeout=300)
        if done.returncode != 0:
            raise Failed(f"otter init: {done.stderr or done.stdout}")
    return paths


def head_flags(paths):
    return [part for name, path in paths.items() for part in ("--head", f"{name}={path}")]


def expect_error(answer, status, param=MISSING, code=None, kind=None):
    """An OpenAI error object with this status; returns it."""
    expect(answer.status, status, f"status ({brief(answer.body)})")
    expect(answer.headers.get("content-type", "").split(";")[0], "application/json", "content type")
    body = answer.json()
    expect(sorted(body), ["error"], "members")
    error = body["error"]
    expect(sorted(error), ["code", "message", "param", "type"], "members of error")
    expect_true(isinstance(error["message"], str) and error["message"], f"no message: {error}")
    expect_true(error["type"] in ("invalid_request_error", "rate_limit_error", "server_error"), f"type: {error}")
    if param is not MISSING:
        expect(error["param"], param, f"param of {error}")
    if code is not None:
        expect(error["code"], code, f"code of {error}")
    if kind is not None:
        expect(error["type"], kind, f"type of {error}")
    return error


def raw(server, data, timeout=30, half_close=False):
    """Sends bytes on a connection of their own; all that comes back until the server closes or is silent."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=timeout) as connection:
        received = b""
        try:  # the server may have closed before all was sent
            connection.sendall(data)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65536):
                received += piece
        except OSError:
            pass
        return received


def post_bytes(path, body, extra=b""):
    """A POST as bytes; the connection is closed after the answer."""
    return (b"POST " + path.encode() + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
            b"Content-Length: " + str(len(body)).encode() + b"\r\n" + extra + b"\r\n" + body)


def status_of(received):
    return int(received.split(b" ", 2)[1]) if received.startswith(b"HTTP/1.") else None
