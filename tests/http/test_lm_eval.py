#!/usr/bin/env python3
"""lm-eval's `local-completions` model, unmodified, on two tiny tasks of our own: log-likelihoods of given answers, and generated
text. Its figures must be what the same requests give by hand.

lm-eval with its dependencies takes 750 MB, so that this is skipped unless OTTER_TEST_LM_EVAL=1 asks for it (or an earlier run left
.venv-lm-eval); then it is installed there. `.ci/run` asks for it.

test-timeout: 900
"""

import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile

from server_process import ROOT, Server, brief, expect, expect_true, require_model, run_cases, skip

REQUIREMENT = "lm_eval[api]==0.4.13"
VENV = ROOT / ".venv-lm-eval"
TASKS = ROOT / "tests" / "http" / "lm-eval-tasks"


def lm_eval_python():
    """The Python that has lm-eval; installs it if asked to."""
    python = VENV / "bin" / "python"
    made_for = VENV / "made-for"
    if made_for.exists() and made_for.read_text() == REQUIREMENT:
        return python
    if os.environ.get("OTTER_TEST_LM_EVAL") != "1":
        skip("set OTTER_TEST_LM_EVAL=1 to install lm-eval (750 MB) and run its local-completions model")
    print(f"installing {REQUIREMENT} into {VENV.name}", flush=True)
    for command in ([sys.executable, "-m", "venv", "--clear", str(VENV)],
                    [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", REQUIREMENT]):
        if subprocess.run(command).returncode != 0:
            sys.exit(f"{REQUIREMENT} could not be installed")
    made_for.write_text(REQUIREMENT)
    return python


def evaluate(server, python):
    """Runs both tasks; {task: results} as lm-eval reports them, and {task: samples}."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(python), "-m", "lm_eval", "run", "--model", "local-completions", "--model_args",
                   f"model={server.model_id()},base_url={server.url}/v1/completions,num_concurrent=4,max_retries=1,"
                   "max_length=2048",
                   "--tasks", "otter_choices,otter_continuations", "--include_path", str(TASKS),
                   "--output_path", folder, "--log_samples", "--batch_size", "4"]
        # Nothing may be looked for on a hub.
        env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": folder,
               "TOKENIZERS_PARALLELISM": "false"}
        done = subprocess.run(command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=600)
        expect_true(done.returncode == 0, f"lm-eval ended with status {done.returncode}:\n{done.stdout[-2000:]}"
                                          f"\n{done.stderr[-6000:]}")
        print(done.stdout[-1500:], flush=True)
        results = [json.loads(path.read_text()) for path in pathlib.Path(folder).rglob("results_*.json")]
        expect(len(results), 1, "files of results")
        samples = {}
        for path in pathlib.Path(folder).rglob("samples_*.jsonl"):
            task = "otter_choices" if "choices" in path.name else "otter_continuations"
            samples[task] = [json.loads(line) for line in path.read_text().splitlines()]
        return results[0]["results"], samples


def gives_sensible_accuracies(server, results, samples):
    accuracy = results["otter_choices"]["acc,none"]
    expect_true(accuracy >= 0.75, f"accuracy {accuracy} on questions of one word (chance .25)")
    matched = results["otter_continuations"]["exact_match,first-word"]
    expect_true(matched >= 0.8, f"{matched} of the continuations")


def gives_the_same_figures_by_hand(server, results, samples):
    """The log-likelihood of each answer is the sum of its tokens' log-probabilities after the question's."""
    n_compared = 0
    for sample in samples["otter_choices"]:
        for choice, (reported, _) in zip(sample["doc"]["choices"], sample["filtered_resps"]):
            question, text = sample["doc"]["question"], f"{sample['doc']['question']} {choice}"
            n_question = server.post("/tokenize", {"content": question}).ok()["count"]
            echoed = server.complete(text, echo=True, logprobs=1, max_tokens=1)["choices"][0]
            by_hand = math.fsum(echoed["logprobs"]["token_logprobs"][n_question:-1])
            expect_true(abs(float(reported) - by_hand) < 1e-4, f"{brief(text)}: lm-eval {reported}, by hand {by_hand}")
            n_compared += 1
    expect(n_compared, 64)


def main():
    require_model()
    python = lm_eval_python()
    with Server("--threads", "2") as server:
        return run_cases([gives_sensible_accuracies, gives_the_same_figures_by_hand], server, *evaluate(server, python))


if __name__ == "__main__":
    sys.exit(main())
