// An answer as it streams: one element a token, coloured by a head's score, with what is known of it.

const END_MARK = "■";  // stands for the token that ended the text, which is no part of it
const INVISIBLE = { "\n": "↵", "\t": "⇥", " ": "␣" };

class Answer {
  constructor(section) {
    this.place = section.querySelector(".text");
    this.facts = section.querySelector(".facts");
    this.tokens = [];
    this.usage = null;
    this.finish = null;
    this.at = 0;
    this.place.addEventListener("keydown", (event) => this.move(event));
    this.place.addEventListener("pointerover", (event) => this.point(event.target));
    this.place.addEventListener("click", (event) => this.point(event.target));
    this.place.addEventListener("focus", () => this.tokens.length > 0 && this.show(Math.min(this.at, this.tokens.length - 1)));
  }

  begin(given) {
    this.tokens = [];
    this.usage = this.finish = this.guard = null;
    this.at = 0;
    this.started = performance.now();
    this.first = this.last = null;
    this.decoder = new TextDecoder();
    this.place.replaceChildren();
    if (given) this.place.append(make("span", { className: "given", textContent: given }));
    this.facts.textContent = "waiting …";
  }

  /** One object of the stream: its tokens, with log-probabilities and scores. */
  take(event) {
    if (event.usage) this.usage = event.usage;
    const choice = event.choices && event.choices[0];
    if (!choice) {
      this.report();
      return;
    }
    if (choice.finish_reason) this.finish = choice.finish_reason;
    if (choice.guard) this.guard = choice.guard;
    const signals = choice.signals || {};
    const tokens = tokensOf(choice);
    const said = choice.text === undefined ? choice.delta.content || "" : choice.text;
    tokens.forEach((token, i) => {
      token.ends = choice.finish_reason === "stop" && i === tokens.length - 1 && !said.endsWith(token.text);
      token.scores = Object.fromEntries(Object.entries(signals).map(([head, values]) => [head, values[i]]));
      this.add(token);
    });
    this.report();
  }

  add(token) {
    this.last = performance.now();
    if (this.first === null) this.first = this.last;
    token.shown = token.ends ? "" : token.bytes ? this.decoder.decode(new Uint8Array(token.bytes), { stream: true }) : token.text;
    token.element = make("span", { className: "token", textContent: token.ends ? END_MARK : token.shown });
    token.element.dataset.index = this.tokens.length;
    if (token.likeliest.length > 0 && token.likeliest[0].text !== token.text) token.element.classList.add("changed");
    this.tokens.push(token);
    this.colour(token);
    this.place.append(token.element);
  }

  colour(token) {
    const score = token.scores[byId("colour").value];
    token.element.style.setProperty("--score", score === undefined || score === null ? 0 : shareOf(score));
  }

  recolour() {
    this.tokens.forEach((token) => this.colour(token));
    if (this.tokens.length > 0) this.report();
  }

  text() {
    return this.tokens.map((token) => token.shown).join("");
  }

  report() {
    const n = this.usage ? this.usage.completion_tokens : this.tokens.length;
    const facts = [`${n} ${n === 1 ? "token" : "tokens"}`];
    if (n > 1 && this.last > this.first) facts.push(`${((n - 1) / ((this.last - this.first) / 1000)).toFixed(0)} tokens/s`);
    if (this.first !== null) facts.push(`first after ${((this.first - this.started) / 1000).toFixed(2)} s`);
    const head = byId("colour").value;
    const scores = this.tokens.map((token) => token.scores[head]).filter((score) => typeof score === "number");
    if (scores.length > 0) facts.push(`${head}: last ${scores.at(-1).toFixed(3)}, highest ${Math.max(...scores).toFixed(3)}`);
    if (this.usage && this.usage.intervention) {
      const { candidates_scored: scored, changed_tokens: changed } = this.usage.intervention;
      if (scored) facts.push(`${scored} candidates scored`);
      if (changed !== undefined) facts.push(`${changed} changed`);
    }
    const drafts = this.usage && this.usage.completion_tokens_details;
    if (drafts && drafts.accepted_prediction_tokens) facts.push(`${drafts.accepted_prediction_tokens} guessed right`);
    if (this.finish) facts.push(`ended: ${this.finish}`);
    if (this.guard) facts.push(`refused at ${this.guard.score.toFixed(3)}`);
    this.facts.textContent = facts.join(" · ");
  }

  fail(text) {
    this.facts.textContent = text;
  }

  point(element) {
    if (element.classList.contains("token")) this.show(Number(element.dataset.index));
  }

  move(event) {
    const to = { ArrowRight: this.at + 1, ArrowLeft: this.at - 1, Home: 0, End: this.tokens.length - 1 }[event.key];
    if (to === undefined || to < 0 || to >= this.tokens.length) return;
    event.preventDefault();
    this.show(to);
  }

  show(index) {
    for (const element of document.querySelectorAll(".token.current")) element.classList.remove("current");
    const token = this.tokens[index];
    this.at = index;
    token.element.classList.add("current");
    const rows = [];
    for (const [head, score] of Object.entries(token.scores))
      if (typeof score === "number") rows.push(make("tr", {}, make("th", { scope: "row", textContent: head }), make("td", { textContent: score.toFixed(4) })));
    const alternatives = token.likeliest.map((other) => make("tr", {},
      make("td", {}, make("code", { textContent: visible(other.text) })), make("td", { textContent: percent(other.logprob) })));
    byId("detail").replaceChildren(
      make("p", {}, "Token ", make("code", { textContent: visible(token.text) }),
        ` (${index + 1} of ${this.tokens.length}), probability by the base ${percent(token.logprob)}`),
      ...(rows.length > 0 ? [make("table", {}, make("tbody", {}, ...rows))] : []),
      ...(alternatives.length > 0 ? [make("p", { textContent: "The base would have said:" }), make("table", {}, make("tbody", {}, ...alternatives))] : []));
  }
}

/** 0 to 1 for a colour: probabilities as they are, scores without bounds through a logistic curve. */
const shareOf = (score) => (score >= 0 && score <= 1 ? score : 1 / (1 + Math.exp(-score)));
const visible = (text) => text.replace(/[\n\t]/g, (c) => INVISIBLE[c]).replace(/^ | $/g, INVISIBLE[" "]);
const percent = (logprob) => (typeof logprob === "number" ? `${(100 * Math.exp(logprob)).toFixed(1)}%` : "unknown");

/** The tokens of a choice, from either route's form of log-probabilities: [{text, bytes, logprob, likeliest}]. */
function tokensOf(choice) {
  const logprobs = choice.logprobs;
  if (!logprobs) return [];
  if (logprobs.content)
    return logprobs.content.map((token) => ({
      text: token.token, bytes: token.bytes, logprob: token.logprob,
      likeliest: (token.top_logprobs || []).map((other) => ({ text: other.token, logprob: other.logprob })),
    }));
  return (logprobs.tokens || []).map((text, i) => ({
    text, bytes: bytesOf(text), logprob: logprobs.token_logprobs[i],
    likeliest: Object.entries((logprobs.top_logprobs || [])[i] || {})
      .map(([other, logprob]) => ({ text: other, logprob })).sort((a, b) => b.logprob - a.logprob),
  }));
}

/** "bytes:\xe2\x80" is how a part of a character is written where a token must be text. */
function bytesOf(text) {
  if (/^bytes:(\\x[0-9a-f]{2})+$/.test(text)) return text.match(/[0-9a-f]{2}(?=\\|$)/g).map((hex) => parseInt(hex, 16));
  return [...new TextEncoder().encode(text)];
}
