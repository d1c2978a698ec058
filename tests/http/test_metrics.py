#!/usr/bin/env python3
"""/metrics: promtool accepts it, it has every metric of the contract with its type, the numbers move with what is asked for,
no label comes from a client, and the queries of the Grafana dashboard find what they ask for."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

import yaml

from server_process import HEAD, ROOT, Server, SkipCase, expect, expect_true, in_parallel, require_model, run_cases

TYPES = {
    "gauge": ["vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:num_requests_waiting_by_reason", "vllm:kv_cache_usage_perc", "vllm:cache_config_info",
              "vllm:lora_requests_info", "otter_companion_kv_usage_perc", "otter_build_info", "otter_grammar_bytes", "process_resident_memory_bytes", "process_start_time_seconds",
              "process_open_fds"],
    "counter": ["vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:num_preemptions_total",
                "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total", "vllm:request_success_total",
                "vllm:prompt_tokens_cached_total", "vllm:spec_decode_num_drafts_total", "vllm:spec_decode_num_accepted_tokens_per_pos_total",
                "vllm:spec_decode_num_draft_tokens_total", "vllm:spec_decode_num_accepted_tokens_total",
                "otter_intervention_requests_total", "otter_candidates_scored_total", "otter_grammars_total", "otter_grammar_compile_seconds_total",
                "otter_constrained_requests_total", "otter_constraint_masks_total", "otter_constraint_seconds_total",
                "otter_intervention_changed_tokens_total", "otter_requests_rejected_total", "otter_requests_cancelled_total",
                "otter_http_requests_total", "process_cpu_seconds_total"],
    "histogram": ["vllm:time_to_first_token_seconds", "vllm:inter_token_latency_seconds", "vllm:e2e_request_latency_seconds",
                  "vllm:request_queue_time_seconds", "vllm:request_prompt_tokens", "vllm:request_generation_tokens",
                  "vllm:request_prefill_time_seconds", "vllm:request_decode_time_seconds", "vllm:request_inference_time_seconds",
                  "vllm:request_time_per_output_token_seconds", "vllm:request_max_num_generation_tokens", "vllm:request_params_n",
                  "vllm:request_params_max_tokens", "vllm:iteration_tokens_total", "otter_step_seconds"],
}
DASHBOARD = ROOT / "docker" / "grafana" / "dashboards" / "otter.json"
ALERTS = ROOT / "docker" / "alerts.yaml"


def promtool(*arguments, stdin=None):
    program = shutil.which("promtool") or ROOT / "build" / "tools" / "promtool"
    if not os.path.exists(program):
        raise SkipCase("there is no promtool (scripts/install-packages --test fetches it)")
    done = subprocess.run([program, *arguments], input=stdin, capture_output=True, timeout=60)
    output = (done.stdout + done.stderr).decode(errors="replace").strip()
    return done.returncode, output


def declared_types(server):
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", server.get("/metrics").body.decode(), re.MULTILINE))


def is_accepted_by_promtool(server):
    answer = server.get("/metrics")
    expect(answer.headers["content-type"].replace(" ", "").split(";")[:2], ["text/plain", "version=0.0.4"])
    status, output = promtool("check", "metrics", stdin=answer.body)
    # Status 3 is a matter of style: vLLM's names with a colon, for one, are given and not ours to change.
    expect_true(status in (0, 3), f"status {status}: {output}")
    complaints = [line for line in output.splitlines() if "error" in line.lower() and "vllm:" not in line]
    expect(complaints, [])
    ours = [line for line in output.splitlines() if line.startswith(("otter_", "process_"))]
    expect(ours, [], "promtool's remarks on our own names")


def has_every_metric_with_its_type(server):
    types = declared_types(server)
    wanted = {name: kind for kind, names in TYPES.items() for name in names}
    if HEAD.exists():
        wanted["otter_head_score"] = "histogram"
    expect({name: types.get(name) for name in wanted}, wanted)


def counts_what_is_asked_for(server):
    def counts():
        samples = server.metrics()

        def total(name):
            return sum(value for key, value in samples.items() if key.split("{", 1)[0] == name)

        return {name: total(name) for name in (
            "vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:request_success_total",
            "vllm:e2e_request_latency_seconds_count", "vllm:time_to_first_token_seconds_count",
            "vllm:request_generation_tokens_sum", "vllm:inter_token_latency_seconds_count")}

    before = counts()
    usage = server.complete("Count with me: one, two,", max_tokens=7, ignore_eos=True)["usage"]
    after = counts()
    moved = {name: after[name] - before[name] for name in before}
    expect(moved, {"vllm:prompt_tokens_total": usage["prompt_tokens"], "vllm:generation_tokens_total": 7,
                   "vllm:request_success_total": 1, "vllm:e2e_request_latency_seconds_count": 1,
                   "vllm:time_to_first_token_seconds_count": 1, "vllm:request_generation_tokens_sum": 7,
                   "vllm:inter_token_latency_seconds_count": 6})


PER_REQUEST = ["vllm:request_success_total", "vllm:e2e_request_latency_seconds_count", "vllm:request_prompt_tokens_count",
               "vllm:time_to_first_token_seconds_count", "vllm:request_queue_time_seconds_count", "vllm:request_generation_tokens_count",
               "vllm:request_prefill_time_seconds_count", "vllm:request_decode_time_seconds_count",
               "vllm:request_inference_time_seconds_count", "vllm:request_time_per_output_token_seconds_count",
               "vllm:request_max_num_generation_tokens_count", "vllm:request_params_n_count", "vllm:request_params_max_tokens_count"]


def totals(server):
    sums = {}
    for key, value in server.metrics().items():
        name = key.split("{", 1)[0]
        sums[name] = sums.get(name, 0) + value
    return sums


def counts_a_request_once(server):
    """A prompt with all its choices is one request, in every counter of requests."""
    before = totals(server)
    server.complete(["one", "two"], n=3, max_tokens=2, ignore_eos=True)
    after = totals(server)
    moved = {name: after[name] - before[name] for name in after}
    expect({name: moved[name] for name in PER_REQUEST}, dict.fromkeys(PER_REQUEST, 2))
    expect({name: moved[name] for name in ("vllm:request_generation_tokens_sum", "vllm:request_max_num_generation_tokens_sum",
                                           "vllm:request_params_n_sum", "vllm:request_params_max_tokens_sum")},
           {"vllm:request_generation_tokens_sum": 12, "vllm:request_max_num_generation_tokens_sum": 4, "vllm:request_params_n_sum": 6,
            "vllm:request_params_max_tokens_sum": 4})
    parts = ("prefill", "decode", "inference")
    prefill, decode, inference = (moved[f"vllm:request_{part}_time_seconds_sum"] for part in parts)
    expect_true(0 < prefill and 0 < decode and prefill + decode <= inference + 1e-6, f"{prefill} + {decode} s of {inference} s")
    # Who leaves a request of several choices ends one request.
    before = totals(server)
    connection = server.connect()
    body = json.dumps({"prompt": "Once", "n": 4, "max_tokens": 4000, "ignore_eos": True})
    connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    server.wait_for_metric("vllm:num_requests_running", 1)
    connection.close()
    server.wait_for_metric("vllm:num_requests_running", 0)
    after = totals(server)
    expect({name: after[name] - before[name] for name in ("vllm:request_success_total", "otter_requests_cancelled_total",
                                                          "vllm:e2e_request_latency_seconds_count")},
           {"vllm:request_success_total": 1, "otter_requests_cancelled_total": 1, "vllm:e2e_request_latency_seconds_count": 1})


def counts_drafts_by_position(server):
    before = totals(server)
    usage = server.complete("one, two, three, four. " * 6, max_tokens=40, temperature=0, ignore_eos=True,
                            intervention={"speculative": {"draft": "lookup", "max_draft": 4, "adaptive": False}})["usage"]
    after = totals(server)
    details = usage["completion_tokens_details"]
    moved = {name: after[name] - before[name] for name in after if name.startswith("vllm:spec_decode")}
    expect(moved["vllm:spec_decode_num_accepted_tokens_per_pos_total"], details["accepted_prediction_tokens"])
    expect(moved["vllm:spec_decode_num_accepted_tokens_total"], details["accepted_prediction_tokens"])
    expect_true(0 < moved["vllm:spec_decode_num_drafts_total"] <= moved["vllm:spec_decode_num_draft_tokens_total"], moved)


def counts_steering(server):
    if not HEAD.exists():
        raise SkipCase(f"no head at {HEAD}")
    scored = server.metric("otter_candidates_scored_total")
    steered = server.metric("otter_intervention_requests_total", mode="reward")
    observed = server.metric("otter_head_score_count", head="toxicity")
    usage = server.complete("You are such a", max_tokens=8, ignore_eos=True, temperature=1, seed=1, intervention={
        "reward": {"heads": {"toxicity": -4.0}, "candidates": 5}})["usage"]
    expect_true(server.metric("otter_candidates_scored_total") > scored, f"no candidate counted; usage {usage}")
    expect(server.metric("otter_intervention_requests_total", mode="reward"), steered + 1)
    expect_true(server.metric("otter_head_score_count", head="toxicity") >= observed + 8, "scores of 8 tokens")


def labels_never_come_from_clients(server):
    mark = "Zu7otter"
    for path in (f"/{mark}", f"/v1/models/{mark}", f"/v1/{mark}?{mark}=1"):
        server.get(path, headers={"User-Agent": mark})
    server.post("/v1/completions", {"model": mark, "prompt": mark, "user": mark, "intervention": {"signals": [mark]}})
    server.request(mark.upper(), "/v1/models")
    server.complete(mark, user=mark)
    text = server.get("/metrics").body.decode()
    expect_true(mark.lower() not in text.lower(), "a client's text in the metrics")
    expect_true(server.metric("otter_http_requests_total", code="404") >= 2, "requests to unknown routes are counted")


def buckets_are_cumulative(server):
    samples = {}
    for line in server.get("/metrics").body.decode().splitlines():
        if match := re.match(r'(\S+)_bucket\{(.*?),?le="([^"]+)"(.*?)\} (\S+)$', line):
            name, labels, bound, more, value = match.groups()
            samples.setdefault((name, labels + more), []).append((float(bound), float(value)))
    expect_true(len(samples) >= 8, f"{len(samples)} histograms")
    for key, buckets in samples.items():
        expect(buckets, sorted(buckets), f"{key}: bounds ascend, counts never fall")
        expect(buckets[-1][0], float("inf"), f"{key}: the last bound")


def serves_while_busy(server):
    def scrape():
        return server.get("/metrics", timeout=5).status

    def work():
        return server.complete("Once upon a time", max_tokens=64, ignore_eos=True)["usage"]["completion_tokens"]

    expect(in_parallel([work, work] + [scrape] * 8), [64, 64] + [200] * 8)


def feeds_dashboard_and_alerts(server):
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [(panel["title"], target["expr"].replace("$__rate_interval", "1m"))
               for panel in panels for target in panel.get("targets", [])]
    expect_true(len(queries) > 20, f"{len(queries)} queries")
    queries += [(rule["alert"], rule["expr"]) for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    types = declared_types(server)
    served = set(types) | {name + suffix for name, kind in types.items() if kind == "histogram"
                           for suffix in ("_bucket", "_sum", "_count")}
    unknown = {(title, name) for title, query in queries
               for name in re.findall(r"\b(?:vllm:|otter_|process_)[a-z0-9_]+", query) if name not in served}
    if not HEAD.exists():
        unknown = {(title, name) for title, name in unknown if not name.startswith("otter_head_score")}
    expect(unknown, set(), "asked for by the dashboard or an alert, and not served")
    rules = {"groups": [{"name": "dashboard", "rules": [{"record": f"query:{i}", "expr": query}
                                                          for i, (_, query) in enumerate(queries)]}]}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:  # JSON is YAML
        json.dump(rules, file)
        file.flush()
        status, output = promtool("check", "rules", file.name)
    expect_true(status == 0, output)


def configures_prometheus(server):
    status, output = promtool("check", "config", str(ROOT / "docker" / "prometheus.yaml"))
    expect_true(status == 0, output)


def main():
    require_model()
    head = ["--head", f"toxicity={HEAD}"] if HEAD.exists() else []
    with Server("--threads", "2", *head) as server:
        return run_cases([is_accepted_by_promtool, has_every_metric_with_its_type, counts_what_is_asked_for, counts_a_request_once, counts_drafts_by_position,
                          counts_steering, labels_never_come_from_clients, buckets_are_cumulative, serves_while_busy, feeds_dashboard_and_alerts,
                          configures_prometheus], server)


if __name__ == "__main__":
    sys.exit(main())
