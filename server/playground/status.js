// The status view: what /metrics says, every two seconds while it is looked at.

/** Samples of Prometheus' text format: {name: [{labels: {...}, value}]}. */
function parseMetrics(text) {
  const samples = {};
  for (const line of text.split("\n")) {
    const match = /^([\w:]+)(?:\{(.*)\})? (\S+)/.exec(line);
    if (line.startsWith("#") || !match) continue;
    const labels = {};
    for (const [, name, value] of (match[2] || "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g))
      labels[name] = value.replace(/\\(.)/g, (_, c) => (c === "n" ? "\n" : c));
    (samples[match[1]] ||= []).push({ labels, value: Number(match[3].replace("Inf", "Infinity")) });
  }
  return samples;
}

const sum = (samples, name) => (samples[name] || []).reduce((total, sample) => total + sample.value, 0);

/** Counts between neighbouring bounds: [{below, count}], of the series that have these labels. */
function bucketsOf(samples, name, wanted = {}) {
  const totals = new Map();
  for (const { labels, value } of samples[`${name}_bucket`] || []) {
    if (Object.entries(wanted).some(([label, text]) => labels[label] !== text)) continue;
    const below = Number(labels.le.replace("Inf", "Infinity"));
    totals.set(below, (totals.get(below) || 0) + value);
  }
  let before = 0;
  return [...totals].sort(([a], [b]) => a - b).map(([below, total]) => {
    const count = total - before;
    before = total;
    return { below, count };
  });
}

/** Linear within a bucket, as Prometheus' histogram_quantile. */
function quantile(buckets, q) {
  const total = buckets.reduce((n, bucket) => n + bucket.count, 0);
  let seen = 0, from = 0;
  for (const { below, count } of buckets) {
    if (count > 0 && seen + count >= q * total) return below === Infinity ? from : from + ((q * total - seen) / count) * (below - from);
    seen += count;
    from = below;
  }
  return NaN;
}

const seconds = (value) => (Number.isNaN(value) ? "none yet" : value < 1 ? `${(value * 1000).toFixed(0)} ms` : `${value.toFixed(2)} s`);

const LATENCIES = [
  ["until the first token", "vllm:time_to_first_token_seconds"], ["between tokens", "vllm:inter_token_latency_seconds"],
  ["in the queue", "vllm:request_queue_time_seconds"], ["whole request", "vllm:e2e_request_latency_seconds"],
];

class StatusView {
  async refresh() {
    const response = await call("/metrics");
    const samples = parseMetrics(await response.text());
    const now = performance.now(), generated = sum(samples, "vllm:generation_tokens_total");
    const rate = this.before ? (generated - this.before.generated) / ((now - this.before.now) / 1000) : 0;
    this.before = { now, generated };
    const facts = [
      ["Running", sum(samples, "vllm:num_requests_running")], ["Waiting", sum(samples, "vllm:num_requests_waiting")],
      ["Keys and values in use", `${(100 * sum(samples, "vllm:kv_cache_usage_perc")).toFixed(1)}%`], ["Tokens/s", rate.toFixed(0)],
      ["Tokens written", generated.toLocaleString("en")], ["Prompt tokens read", sum(samples, "vllm:prompt_tokens_total").toLocaleString("en")],
      ["Changed by steering", sum(samples, "otter_intervention_changed_tokens_total").toLocaleString("en")],
      ["Memory", `${(sum(samples, "process_resident_memory_bytes") / 2 ** 20).toFixed(0)} MiB`],
    ];
    byId("load").replaceChildren(...facts.map(([name, value]) => make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value }))));
    byId("latency").tBodies[0].replaceChildren(...LATENCIES.map(([text, name]) => {
      const buckets = bucketsOf(samples, name);
      const cells = [seconds(quantile(buckets, 0.5)), seconds(quantile(buckets, 0.95)), buckets.reduce((n, b) => n + b.count, 0)];
      return make("tr", {}, make("th", { scope: "row", textContent: text }), ...cells.map((cell) => make("td", { textContent: cell })));
    }));
    this.showHeads(samples);
  }

  showHeads(samples) {
    const names = [...new Set((samples.otter_head_score_count || []).map((sample) => sample.labels.head))];
    byId("heads").replaceChildren(...(names.length > 0 ? names.map((name) => this.histogram(name, bucketsOf(samples, "otter_head_score", { head: name })))
      : [make("p", { textContent: "No head has scored anything yet." })]));
  }

  histogram(name, buckets) {
    const total = buckets.reduce((n, bucket) => n + bucket.count, 0);
    const most = Math.max(1, ...buckets.map((bucket) => bucket.count));
    const bars = buckets.map(({ below, count }) => {
      const bar = make("span", { title: `up to ${below}: ${count}` });
      bar.style.setProperty("--share", count / most);
      return bar;
    });
    const picture = make("div", { className: "histogram" }, ...bars);
    picture.setAttribute("role", "img");
    picture.setAttribute("aria-label", `Histogram of ${total} scores of ${name}, median ${quantile(buckets, 0.5).toFixed(2)}`);
    return make("div", { className: "head" }, make("p", {}, make("code", { textContent: name }),
      ` ${total.toLocaleString("en")} scores, median ${quantile(buckets, 0.5).toFixed(2)}, 95 of 100 below ${quantile(buckets, 0.95).toFixed(2)}`), picture);
  }
}
