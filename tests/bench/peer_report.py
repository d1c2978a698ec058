"""The tables of peer.py: medians over rounds, their range, and ratios of the medians."""

from statistics import median

PEER = "llama.cpp"
PEER_Q4_0 = "llama.cpp, Q4_0"
OTTER = "otter"


def number(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def with_range(values):
    """'median (least-most)' of the rounds."""
    return f"{number(median(values))} ({number(min(values))}-{number(max(values))})"


def ratio(ours, theirs):
    value = ours / theirs if theirs else 0.0
    return f"{value:.2f}x" if value >= 0.1 else f"{value:.2g}x" if value > 0 else ""


def table(head, rows):
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(row) + " |" for row in rows), ""]


def case_values(rounds, system, case):
    """Tokens a second of a case, one for each round; empty where the system has no such case."""
    return [r["speed"][system][case]["tokens_per_s"] for r in rounds if case in r["speed"].get(system, {})]


def shares(rounds, case):
    """The limit that binds a case, and the shares of it that Otter and the peer reach on the same work: each token of the same file
    needs the same operations and bytes, so shares are as speeds."""
    told = [r["speed"][OTTER][case] for r in rounds]
    known = [c for c in told if c.get("share") and c.get("limit")]
    if not known:
        return None
    ours = median(c["share"] for c in known)
    per_speed = median(c["share"] / c["tokens_per_s"] for c in known)
    return known[0]["limit"], ours, per_speed * median(case_values(rounds, PEER, case))


def speed_table(rounds):
    """Markdown of prefill and decoding."""
    has_q4_0 = PEER_Q4_0 in rounds[0]["speed"]
    head = ["tokens/s", "Otter", PEER, "Otter is", "share of limit: Otter", PEER]
    if has_q4_0:
        head[4:4] = ["llama.cpp, its Q4_0", "Otter is"]
    rows = []
    for case in rounds[0]["speed"][OTTER]:
        ours, peer, q4_0 = (case_values(rounds, system, case) for system in (OTTER, PEER, PEER_Q4_0))
        if not peer:
            continue
        row = [case, with_range(ours), with_range(peer), ratio(median(ours), median(peer))]
        if has_q4_0:
            row += [with_range(q4_0), ratio(median(ours), median(q4_0))]
        share = shares(rounds, case)
        row += [f"{share[1]:.0%} of {share[0]}", f"{share[2]:.0%}"] if share else ["", ""]
        rows.append(row)
    return table(head, rows)


LOAD_COLUMNS = [  # what, of a client's row
    ("tokens/s", lambda row: row["tokens_per_s"]),
    ("first token, s", lambda row: row["first_token_ms"]["median"] / 1000),
    ("p95", lambda row: row["first_token_ms"]["p95"] / 1000),
    ("between tokens, ms", lambda row: row["between_tokens_ms"]["median"]),
    ("p95", lambda row: row["between_tokens_ms"]["p95"]),
]


def load_table(rounds):
    """Markdown of the servers: a row for each count of clients and system, then how they compare."""
    rounds = [r for r in rounds if "load" in r]
    if not rounds:
        return []
    rows = []
    for clients in rounds[0]["load"][OTTER]:
        medians = {}
        for system in rounds[0]["load"]:
            told = [r["load"][system][clients] for r in rounds]
            columns = [[value(row) for row in told] for _, value in LOAD_COLUMNS]
            medians[system] = [median(values) for values in columns]
            rows.append([str(clients), system, *map(with_range, columns), str(sum(row["failed"] for row in told))])
        ours, peer = medians[OTTER], medians[PEER]
        rows.append(["", "ratio", *map(ratio, ours, peer), ""])
    return table(["clients", "server", *(name for name, _ in LOAD_COLUMNS), "failed"], rows)


def report(result):
    """The whole Markdown report of a result as peer.py writes it to JSON."""
    machine, sizes, rounds = result["machine"], result["sizes"], result["rounds"]
    limits = result["limits"]
    lines = [f"{machine['processor']}, {sizes['threads']} threads; {result['model']['name']}; Otter's kernels: {machine['kernels']}; "
             f"llama.cpp {result['peer']['build_commit']}; load average {result['load_average']:.1f} at the start.",
             f"Limits of this machine: read {limits['read_gb_s']:.1f} GB/s, int8 {limits['int8_gop_s']:.0f} GOP/s, "
             f"float {limits['float_gflop_s']:.0f} GFLOP/s.", "",
             f"Medians of {len(rounds)} alternating rounds (least-most): a prompt of {sizes['prompt_tokens']} tokens, and sequences that "
             f"decode {sizes['decode_tokens']} each.", "", *speed_table(rounds)]
    loads = load_table(rounds)
    if loads:
        n_loads = sum("load" in r for r in rounds)
        lines += [f"Servers, medians of {n_loads} alternating rounds (least-most): all clients at once, each with a prompt of its own "
                  f"of {sizes['load_prompt_words']} tokens and {sizes['load_tokens']} tokens streamed back.", "", *loads]
    return "\n".join(lines)
