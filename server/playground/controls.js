// The form: controls for the heads that this server has, and the request that they stand for.

const heads = { score: [], expert: [], draft: [] };  // names by what they can be used for

/** Names under which a head may be used: itself, and each output by its label where it has several. */
function namesOf(head) {
  return head.labels && head.labels.length > 1 ? head.labels.map((label) => `${head.name}/${label}`) : [head.name];
}

function sortHeads(list) {
  heads.score = [];
  heads.expert = [];
  heads.draft = [];
  for (const head of list) {
    const offsets = head.offsets || [];
    if (head.kind === "scalar" || head.kind === "lookahead" || head.role === "reward_model") heads.score.push(...namesOf(head));
    else if (head.role === "expert_model" || (head.kind === "generation" && offsets.includes(0))) heads.expert.push(head.name);
    else if (head.role === "draft_model") heads.draft.push("model");
    else if (head.kind === "generation") heads.draft.push(head.name);
  }
}

function fill(select, options) {
  const before = select.value;
  select.replaceChildren(...options.map(([value, text]) => make("option", { value, textContent: text })));
  if (options.some(([value]) => value === before)) select.value = before;
}

const orNone = (names, none) => [["", none], ...names.map((name) => [name, name])];

function slider(name) {
  const id = `weight-${name}`;
  const input = make("input", { type: "range", id, min: -8, max: 8, step: 0.5, value: 0 });
  input.dataset.head = name;
  const output = make("output", {});
  output.htmlFor.add(id);
  return [make("label", { htmlFor: id, textContent: name }), input, output];
}

/** Makes the controls anew; what they were set to stays where the head is still there. */
function buildControls(models, list) {
  const weights = rewardWeights();
  sortHeads(list);
  fill(byId("model"), models.map((model) => [model.id, model.id]));
  fill(byId("colour"), orNone(heads.score, "nothing"));
  if (byId("colour").value === "" && heads.score.length > 0) byId("colour").value = heads.score[0];
  byId("weights").replaceChildren(...heads.score.flatMap(slider));
  for (const input of byId("weights").querySelectorAll("input")) input.value = weights[input.dataset.head] || 0;
  fill(byId("positive"), orNone(heads.expert, "no expert"));
  fill(byId("negative"), orNone(heads.expert, "no expert"));
  fill(byId("guard-head"), orNone(heads.score, "no guard"));
  fill(byId("draft"), [["", "as the server does"], ["off", "never"], ["lookup", "lookup (from the text)"], ...heads.draft.map((name) => [name, name])]);
  byId("reward-controls").hidden = byId("guard-controls").hidden = heads.score.length === 0;
  byId("expert-controls").hidden = heads.expert.length === 0;
  showValues();
}

function showValues() {
  for (const input of document.querySelectorAll("input[type=range]")) {
    const output = input.nextElementSibling;
    output.value = input.dataset.head && Number(input.value) === 0 ? "off" : input.value;
    input.setAttribute("aria-valuetext", output.value);
  }
}

function rewardWeights() {
  const weights = {};
  for (const input of byId("weights").querySelectorAll("input"))
    if (Number(input.value) !== 0) weights[input.dataset.head] = Number(input.value);
  return weights;
}

/** The members of `intervention` that the controls ask for; {} if none does. */
function chosenIntervention() {
  const chosen = {};
  const weights = rewardWeights();
  if (Object.keys(weights).length > 0) chosen.reward = { heads: weights, candidates: Number(byId("candidates").value) };
  if (byId("negative").value !== "" && Number(byId("alpha").value) > 0) {
    chosen.experts = { negative: byId("negative").value, alpha: Number(byId("alpha").value), top_p: 0.9 };
    if (byId("positive").value !== "") chosen.experts.positive = byId("positive").value;
  }
  if (byId("guard-head").value !== "")
    chosen.guard = { head: byId("guard-head").value, above: Number(byId("above").value), action: byId("guard-action").value };
  if (byId("draft").value === "off") chosen.speculative = null;
  else if (byId("draft").value !== "") chosen.speculative = { draft: byId("draft").value, max_draft: Number(byId("max-draft").value) };
  return chosen;
}

const baseModel = () => byId("model").options[0].value;
const isChat = () => byId("try").dataset.mode === "chat";

/** The request as the API takes it, without streaming. `steered`: with the preset and the intervention of the form. */
function buildRequest(steered, conversation) {
  const request = { model: steered ? byId("model").value : baseModel() };
  if (isChat()) {
    request.messages = [];
    if (byId("system").value !== "") request.messages.push({ role: "system", content: byId("system").value });
    request.messages.push(...conversation, { role: "user", content: byId("message").value });
  } else request.prompt = byId("prompt").value;
  request.max_tokens = Number(byId("max-tokens").value);
  request.temperature = Number(byId("temperature").value);
  request.seed = Number(byId("seed").value);
  const intervention = steered ? chosenIntervention() : {};
  if (heads.score.length > 0) intervention.signals = heads.score;
  if (Object.keys(intervention).length > 0) request.intervention = intervention;
  return request;
}

const routeOf = () => (isChat() ? "/v1/chat/completions" : "/v1/completions");

// ---- The request as code --------------------------------------------------------------------------------

const shellQuoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

function asCurl(request) {
  const key = sessionStorage.getItem(KEY) ? ` -H "Authorization: Bearer $OTTER_API_KEY"` : "";
  return `curl -s ${location.origin}${routeOf()} -H 'Content-Type: application/json'${key} -d ${shellQuoted(JSON.stringify(request, null, 2))}`;
}

function pythonValue(value, indent = "    ") {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value !== "object") return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map((item) => pythonValue(item, indent)).join(", ")}]`;
  return `{${Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${pythonValue(item, indent)}`).join(", ")}}`;
}

function asPython(request) {
  const { intervention, ...rest } = request;
  const lines = Object.entries(rest).map(([name, value]) => `    ${name}=${pythonValue(value)},`);
  if (intervention) lines.push(`    extra_body={"intervention": ${pythonValue(intervention)}},`);
  const key = sessionStorage.getItem(KEY) ? `os.environ["OTTER_API_KEY"]` : `"none"`;
  return `${sessionStorage.getItem(KEY) ? "import os\n" : ""}from openai import OpenAI\n\n` +
    `client = OpenAI(base_url="${location.origin}/v1", api_key=${key})\n` +
    `answer = client.${isChat() ? "chat.completions" : "completions"}.create(\n${lines.join("\n")}\n)\nprint(answer.choices[0])`;
}

function yamlValue(value) {
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(yamlValue).join(", ")}]`;
  return `{${Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${yamlValue(item)}`).join(", ")}}`;
}

function asPreset() {
  const members = Object.entries(chosenIntervention());
  const name = byId("preset-name").value.trim() || "mine";
  if (members.length === 0) return "# Nothing is set: move a slider first.";
  return `presets:\n  ${JSON.stringify(name)}: # clients send it as the model "${baseModel()}+${name}"\n` +
    members.map(([member, value]) => `    ${member}: ${yamlValue(value)}`).join("\n");
}

function showCode() {
  if (byId("model").options.length === 0) return;
  const request = buildRequest(true, isChat() ? conversation : []);
  byId("as-curl").textContent = asCurl(request);
  byId("as-python").textContent = asPython(request);
  byId("as-yaml").textContent = asPreset();
}
