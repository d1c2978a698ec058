"""The comparison as Markdown and plots, from the figures of compare.py alone, so that it can be drawn again without a run."""

import math


def number(value, digits):
    return "" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def with_interval(item, digits=3):
    if item is None:
        return ""
    low, high = item["interval"]
    return f"{number(item['mean'], digits)} ({number(low, digits)} to {number(high, digits)})"


def table(columns, rows):
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows] + [""]


def saved(timing, key, rival, what):
    """The share of the rival's extra time (or space) that is saved, as the paper states it."""
    if rival not in timing or key not in timing or timing[rival][what] <= 1.005:
        return ""
    return f"{100 * (1 - (timing[key][what] - 1) / (timing[rival][what] - 1)):.0f}%"


def cost_cells(result, key, rival):
    timing = result["timing"]
    if key not in timing:
        return [""] * 5
    t = timing[key]
    return [number(t["tokens_per_second"], 1), number(t["time_ratio"], 2) + "x", number(t["space_ratio"], 2) + "x",
            saved(timing, key, rival, "time_ratio"), saved(timing, key, rival, "space_ratio")]


COST = ["tokens/s", "time", "space", "extra time saved", "extra space saved"]


def note_missing(result):
    labels = {key: label for key, label, _ in result["systems"]}
    return [f"Not run: {labels[key]} (no {', '.join(names)})." for key, names in result["missing"].items()] + (
        [""] if result["missing"] else [])


def run_note(result, size="; separate models are as large as the base"):
    run, timing = result["run"], result.get("timing_run") or result["run"]
    note = f"{run['date']}, {run['model']}. "
    if not result["timing"]:
        return note.strip()
    when = "" if timing["date"] == run["date"] else f"measured on {timing['date']}, "
    return note + (f"Time and space: {when}{timing['threads']} threads, medians of {timing['rounds']} rounds, load average {timing['load']:.1f}; ratios to plain "
                   f"decoding in the same rounds, one prompt at a time{size}.")


# ---- Sections ------------------------------------------------------------------------------------------------

JUDGES = ("tox-block", "toxic-comment-classifier", "alt-profanity-check")
CAVEAT = ("Judges: [tox-block](https://pypi.org/project/tox-block/) and [toxic-comment-classifier](https://pypi.org/project/toxic-comment-classifier/), which share "
          "no training row with any head, and [alt-profanity-check](https://pypi.org/project/alt-profanity-check/), which learned from one of the "
          "toxicity head's sources and is no independent one. Degenerate: the share of texts that are rows of signs instead of words, by the rule in "
          "tests/bench/text_measures.py. Perplexity is the base's own.")


def share(item, digits=1):
    return "" if item is None or item["mean"] is None else f"{100 * item['mean']:.{digits}f}%"


def signed(item):
    if item is None or item["mean"] is None:
        return ""
    low, high = item["interval"]
    return f"{item['mean']:+.3f} ({low:+.3f} to {high:+.3f})"


def score_columns(result, prefix):
    """[(column, key, cell of a row's figure)]: each judge that judged, and its change."""
    columns = []
    for judge in JUDGES:
        key = f"{prefix} by {judge}"
        if any(key in q for q in result["quality"].values()):
            columns.append((f"{prefix} by {judge}", key, lambda item, _: number(item["mean"], 3)))
            columns.append(("change", key, lambda item, plain: "" if plain else signed(item["change"])))
    return columns


def quality_cells(columns, q, key):
    return ["" if q is None or figure not in q else cell(q[figure], key == "plain") for _, figure, cell in columns]


def measured(result):
    """Rows that say anything: with a text judged, or a time."""
    return [(key, label, rival, result["quality"].get(key)) for key, label, rival in result["systems"]
            if key in result["quality"] or key in result["timing"]]


def reward_section(result):
    columns = score_columns(result, "toxicity")
    if any("separate" in q for q in result["quality"].values()):
        columns.append((f"score by {result.get('scorer')}", "separate", lambda item, _: number(item["mean"], 3)))
        columns.append(("change", "separate", lambda item, plain: "" if plain else signed(item["change"])))
    columns.append(("degenerate", "degenerate", lambda item, _: share(item)))
    rows = []
    for key, label, rival, q in measured(result):
        figures = [number(q[k], d) if q else "" for k, d in (("perplexity", 2), ("diversity", 3), ("distinct_2", 3))]
        rows.append([label, *quality_cells(columns, q, key), *figures, *cost_cells(result, key, rival)])
    title = "answers to held-out conversations" if result["task"] == "harmless" else "continuations of held-out texts"
    header = ["system", *(column for column, _, _ in columns), "perplexity", "diversity", "distinct-2", *COST]
    return [f"## Table 1: ARGS, {result['task']}", "",
            f"{result['prompts']} {title}, greedy, at most {result['max_tokens']} tokens, weight {result['weights'][0]:g} where no other is named, "
            f"{result['candidates']} candidates. Changes against plain decoding with 95% intervals, by paired bootstrap over prompts. {CAVEAT}", "",
            *table(header, rows), *note_missing(result), run_note(result), ""]


def expert_section(result):
    columns = score_columns(result, "toxicity")
    columns += [(f"probability by {judge}", f"probability by {judge}", lambda item, _: with_interval(item)) for judge in JUDGES[:2]]
    columns.append(("degenerate", "degenerate", lambda item, _: share(item)))
    rows = []
    for key, label, rival, q in measured(result):
        figures = [number(q[k], d) if q else "" for k, d in (("perplexity", 2), ("distinct_1", 3), ("distinct_2", 3), ("distinct_3", 3))]
        rows.append([label, *quality_cells(columns, q, key), *figures, *cost_cells(result, key, rival)])
    header = ["system", *(column for column, _, _ in columns), "perplexity", "distinct-1", "distinct-2", "distinct-3", *COST]
    return ["## Table 2: DExperts", "",
            f"{result['prompts']} held-out texts, {result['samples']} sample{'' if result['samples'] == 1 else 's'} of {result['max_tokens']} tokens each, top-p {result['top_p']:g}, "
            f"alpha {result['alpha']:g}, experts choose within the base's top-p {result['experts_top_p']:g}. Toxicity is a prompt's mean over its samples, the "
            f"probability whether any of them reaches one half. Intervals are 95%, by (paired) bootstrap over prompts. {CAVEAT}", "",
            *table(header, rows), *note_missing(result), run_note(result), ""]


def draft_section(result):
    rows = []
    for key, label, rival in result["systems"]:
        q, t = result["quality"].get(key), result["timing"].get(key)
        if q is None:
            continue
        rows.append([label, with_interval(q["tokens_a_pass"], 2), number(100 * q["accepted_share"], 0) + "%" if key != "plain" else "",
                     str(q["different_answers"]), number(t["tokens_per_second"], 1), number(1 / t["time_ratio"], 2) + "x",
                     number(t["space_ratio"], 2) + "x"])
    columns = ["system", "tokens a pass", "guesses accepted", "answers that differ", "tokens/s", "speed-up", "space"]
    return ["## Table 3: drafts", "",
            f"{result['prompts']} held-out instructions, greedy answers of at most {result['max_tokens']} tokens, at most {result['max_draft']} tokens "
            f"ahead, trees of {result['tree']}. How many are tried follows what they save, down to none, "
            "but where it says \"in every pass\": what the guesses are worth where rows cost nothing, as on a large accelerator.", "",
            *table(columns, rows), *note_missing(result), run_note(result, ""), ""]


def last_dev(curve):
    evaluations = [entry["dev"] for entry in curve if "dev" in entry]
    return evaluations[-1] if evaluations else {}


def curve_table(curves, what):
    figures = sorted({key for curve in curves.values() for key in last_dev(curve) if key != "rows"})
    rows = []
    for label, curve in curves.items():
        steps, dev = [entry for entry in curve if "loss" in entry], last_dev(curve)
        rows.append([label, *((str(steps[-1]["step"]), str(steps[-1]["tokens"]), number(steps[-1]["loss"], 4)) if steps else ("", "", "")),
                     str(dev.get("rows", "")), *(number(dev.get(key), 4) for key in figures)])
    return [*table([what, "steps", "tokens", "training loss", "dev rows", *(f"dev {key}" for key in figures)], rows),
            "Each is `otter train` with its configuration of [heads/ablations](../heads/ablations) and `--curve`, ended after these steps. "
            "One without figures ended before its first line.", ""]


# ---- Plots ---------------------------------------------------------------------------------------------------


def plot_points(axis, result, x, y):
    for key, label, _ in result["systems"]:
        q = result["quality"].get(key)
        if q is None or y not in q:
            continue
        low, high = q[y]["interval"]
        axis.errorbar([q[x]], [q[y]["mean"]], yerr=[[q[y]["mean"] - low], [high - q[y]["mean"]]], marker="o", capsize=3, label=label)


def finish(plt, figure, axis, path, title, x, y):
    axis.set_title(title)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return [f"![{title}]({path.name})", ""]


def plot_curves(plt, curves, path, title):
    figure, axis = plt.subplots(figsize=(6.4, 4))
    for label, curve in curves.items():
        points = [(entry["tokens"], entry["loss"]) for entry in curve if entry.get("loss") is not None]
        if points:
            axis.plot([x for x, _ in points], [y for _, y in points], label=label)
    return finish(plt, figure, axis, path, title, "tokens read", "training loss")


def plots(results, out):
    """{section: lines that show its plot}; empty where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        return {}
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    shown, tables = {}, results["tables"]
    for name, y, y_label in (("harmless", "separate", "mean reward, separate model"), ("toxicity", "toxicity by tox-block", "toxicity by tox-block"),
                             ("experts", "toxicity by tox-block", "toxicity by tox-block")):
        if name in tables and any(y in q for q in tables[name]["quality"].values()):
            figure, axis = plt.subplots(figsize=(6.4, 4))
            plot_points(axis, tables[name], "perplexity", y)
            shown[name] = finish(plt, figure, axis, out.with_name(f"{out.name}-{name}.png"), f"Steering: {name}",
                                 "perplexity under the base model", y_label)
    if "drafts" in tables:
        d = tables["drafts"]
        keys = [(key, label) for key, label, _ in d["systems"] if key in d["quality"]]
        figure, axis = plt.subplots(figsize=(8, 4.5))
        axis.invert_yaxis()  # in the order of the table
        axis.barh([label for _, label in keys], [d["quality"][key]["tokens_a_pass"]["mean"] for key, _ in keys], height=0.4, align="edge",
                  label="tokens a pass")
        axis.barh([label for _, label in keys], [1 / d["timing"][key]["time_ratio"] for key, _ in keys], height=-0.4, align="edge",
                  label="speed-up")
        shown["drafts"] = finish(plt, figure, axis, out.with_name(f"{out.name}-drafts.png"), "Drafts", "", "")
    for what, title in (("curves", "Initialisations"), ("sizes", "Sizes of the insertion")):
        if results[what]:
            shown[what] = plot_curves(plt, results[what], out.with_name(f"{out.name}-{what}.png"), title)
    return shown


# ---- The page ------------------------------------------------------------------------------------------------


def write(results, out):
    shown, lines = plots(results, out), ["# Comparison", "",
        "Written by `otter bench paper` (tests/bench/compare.py): steering and drafts by insertions, beside the same by separate models, on one",
        "base model. [The page on steering](steering.md) has a request for each row.", ""]
    sections = {"harmless": reward_section, "toxicity": reward_section, "experts": expert_section, "drafts": draft_section}
    for name, section in sections.items():
        if name in results["tables"]:
            lines += section(results["tables"][name]) + shown.get(name, [])
    if results["curves"]:
        lines += ["## Figure 3: initialisations", "", *curve_table(results["curves"], "initialisation"), *shown.get("curves", [])]
    if results["sizes"]:
        lines += ["## Table 4: sizes", "", *curve_table(results["sizes"], "size"), *shown.get("sizes", [])]
    while lines and not lines[-1]:
        lines.pop()
    out.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")
