#!/usr/bin/env python3
"""tests/bench/load-client: what it counts of Otter's streams, and of a server that frames, fails or ends in its own ways."""

import json
import os
import socketserver
import subprocess
import sys
import threading
import time

from server_process import ROOT, Server, expect, expect_true, free_port, run_cases

BUILD = os.environ.get("BUILD", "build")
CLIENT = os.path.join(BUILD, "tests", "bench", "load-client")


def load(url, *flags, status=0):
    """What the client printed: a row for each count."""
    done = subprocess.run([CLIENT, "--url", url, *flags], cwd=ROOT, capture_output=True, text=True, timeout=60)
    expect(done.returncode, status, done.stderr[-1000:])
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


class ByHand:
    """A server on a free port that reads a request and answers with these pieces of bytes; a number is a pause in seconds."""

    def __init__(self, *pieces):
        requests = self.requests = []

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                data = b""
                while b"\r\n\r\n" not in data:
                    data += self.request.recv(65536)
                head, body = data.split(b"\r\n\r\n", 1)
                length = int(head.lower().split(b"content-length:")[1].split()[0])
                while len(body) < length:
                    body += self.request.recv(65536)
                requests.append(json.loads(body))
                for piece in pieces:
                    if isinstance(piece, bytes):
                        self.request.sendall(piece)
                    else:
                        time.sleep(piece)

        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def event(text, **more):
    return b"data: " + json.dumps({"choices": [{"index": 0, "text": text, "finish_reason": None}], **more}).encode() + b"\n\n"


def chunked(data, size):
    """The data in chunked transfer coding, `size` bytes a chunk."""
    pieces = [data[i:i + size] for i in range(0, len(data), size)]
    return b"".join(f"{len(p):x}\r\n".encode() + p + b"\r\n" for p in pieces) + b"0\r\n\r\n"


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
DONE = b"data: [DONE]\n\n"


def counts_what_otter_streams(server):
    rows, _ = load(server.url, "--clients", "1,3", "--prompt-words", "20", "--max-tokens", "8")
    expect([row["clients"] for row in rows], [1, 3])
    for row in rows:
        expect(row["failed"], 0)
        expect(row["completion_tokens"], 8 * row["clients"])
        expect_true(18 <= row["prompt_tokens"] <= 24, f"{row['prompt_tokens']} tokens of 20 words")
        expect_true(0 < row["first_token_ms"]["median"] <= row["first_token_ms"]["p95"], f"first token: {row}")
        expect_true(0 < row["between_tokens_ms"]["median"] <= row["between_tokens_ms"]["p95"], f"between tokens: {row}")
    expect(server.metric("vllm:generation_tokens_total"), 32.0, "tokens that the server counted")


def prompts_differ_and_follow_the_seed(_):
    with ByHand(HEAD + b"\r\n" + event(" a") + DONE) as peer:
        for seed in ("1", "1", "2"):
            load(peer.url, "--clients", "2", "--prompt-words", "30", "--seed", seed)
        prompts = [request["prompt"] for request in peer.requests]
    expect([len(prompt.split()) for prompt in prompts], [30] * 6)
    expect(sorted(prompts[:2]), sorted(prompts[2:4]), "the same seed")
    expect(len(set(prompts)), 4, "different prompts")
    expect(len({prompt[:40] for prompt in prompts}), 4, "different beginnings")


def times_follow_the_stream(_):
    with ByHand(HEAD + b"\r\n", 0.2, event(" a"), 0.1, event(" b"), 0.1, event(""), event(" c"), DONE) as peer:
        rows, _ = load(peer.url, "--clients", "1")
    row = rows[0]
    expect(row["completion_tokens"], 3, "events with text, since there was no usage")
    expect_true(190 <= row["first_token_ms"]["median"] < 3000, f"200 ms to the first token: {row}")
    expect_true(90 <= row["between_tokens_ms"]["median"] < 3000, f"100 ms between tokens: {row}")


def chunks_may_end_anywhere(_):
    text = 'a \\" "text": "'  # the words of an event within its text
    stream = event("") + event(text) + event(" b") + event("", usage={"completion_tokens": 17, "prompt_tokens": 5}) + DONE
    for size in (1, 2, 7, 1000):
        with ByHand(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(stream, size)) as peer:
            rows, _ = load(peer.url, "--clients", "2")
        expect((rows[0]["failed"], rows[0]["completion_tokens"], rows[0]["prompt_tokens"]), (0, 34, 5.0), f"chunks of {size}")


def what_goes_wrong_is_counted_and_told(_):
    body = b'{"error": {"message": "queue is full"}}'
    refusal = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    for answer, words in ((refusal, "queue is full"), (HEAD + b"\r\n" + event(" a"), "closed before [DONE]"),
                          (HEAD + b"\r\n" + b'data: {"error": {"message": "broken"}}\n\n', "broken"),
                          (HEAD + b"\r\n" + DONE, "no text"), (b"SSH-2.0\r\n", "no HTTP")):
        with ByHand(answer) as peer:
            rows, told = load(peer.url, "--clients", "2", status=1)
        expect((rows[0]["failed"], rows[0]["completion_tokens"]), (2, 0), words)
        expect_true(words in told, f"'{words}' in {told}")
    rows, told = load(f"http://127.0.0.1:{free_port()}", "--clients", "1", status=1)
    expect((rows[0]["failed"], "cannot" in told), (1, True), told)
    with ByHand(HEAD + b"\r\n", 5.0) as peer:
        rows, told = load(peer.url, "--clients", "1", "--timeout", "0.3", status=1)
    expect((rows[0]["failed"], "not done in time" in told), (1, True), told)


def wrong_usage_is_status_2(_):
    for flags in (["--clients", "0"], ["--clients", "x"], ["--max-tokens", "0"], ["more"]):
        load("http://127.0.0.1:1", *flags, status=2)
    load("https://127.0.0.1:1", status=2)


def main():
    made = subprocess.run(["make", f"BUILD={BUILD}", CLIENT], cwd=ROOT, capture_output=True, text=True)
    if made.returncode != 0:
        print(made.stdout + made.stderr)
        return 1
    with Server("--threads", "1") as server:
        return run_cases([counts_what_otter_streams, prompts_differ_and_follow_the_seed, times_follow_the_stream, chunks_may_end_anywhere,
                          what_goes_wrong_is_counted_and_told, wrong_usage_is_status_2], server)


if __name__ == "__main__":
    sys.exit(main())
