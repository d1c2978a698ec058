// Puts the page together: views, running a request in one or two columns, keys, lost servers.

const plain = new Answer(byId("plain"));
const steered = new Answer(byId("steered"));
const status = new StatusView();
let conversation = [];  // messages of the chat before the one that is being written
let running = null;     // the AbortController of the request that runs
let watching = null;    // the timer of the status view

// ---- Views ------------------------------------------------------------------------------------------------

function showView(view) {
  for (const tab of document.querySelectorAll(".tab")) tab.setAttribute("aria-pressed", tab.dataset.view === view);
  byId("status").hidden = view !== "status";
  byId("try").hidden = view === "status";
  clearInterval(watching);
  if (view === "status") {
    const refresh = () => status.refresh().then(() => showProblem(""), explain);
    watching = setInterval(refresh, 2000);
    refresh();
    return;
  }
  byId("try").dataset.mode = view;
  byId("write-input").hidden = view !== "write";
  byId("chat-input").hidden = view !== "chat";
  showCode();
}

function showConversation() {
  byId("history").replaceChildren(...conversation.map(({ role, content }) => make("li", { className: role, textContent: content })));
  byId("history").scrollTop = byId("history").scrollHeight;
}

// ---- Problems ----------------------------------------------------------------------------------------------

/** Says what went wrong; asks for a key where one is missing, and waits for a server that is gone. */
function explain(problem) {
  if (problem.name === "AbortError") return;
  const lost = problem instanceof ApiError && problem.status === 0;
  showProblem(lost ? `${problem.message} The page tries again by itself.` : problem.message);
  byId("key-form").hidden = problem.status !== 401;
  if (problem.status === 401) byId("key").focus();
  if (lost) setTimeout(() => connect(), 2000);
}

async function connect() {
  try {
    const [models, list, version] = await Promise.all([getJson("/v1/models"), getJson("/v1/heads"), getJson("/version")]);
    buildControls(models.data, list.data);
    byId("served").textContent = `${version.model.name}, ${(version.model.parameters / 1e6).toFixed(0)} M parameters, ` +
      `${list.data.length} heads, version ${version.version}`;
    byId("key-form").hidden = true;
    showProblem("");
    showCode();
  } catch (problem) {
    explain(problem);
  }
}

// ---- Running ------------------------------------------------------------------------------------------------

function runOne(answer, isSteered, signal) {
  const request = buildRequest(isSteered, isChat() ? conversation : []);
  Object.assign(request, isChat() ? { logprobs: true, top_logprobs: 5 } : { logprobs: 5 });
  answer.begin(isChat() ? "" : request.prompt);
  return stream(routeOf(), request, signal, (event) => answer.take(event)).catch((problem) => {
    answer.fail(problem.name === "AbortError" ? "stopped" : problem.message);
    throw problem;
  });
}

async function run() {
  if (running) return;
  running = new AbortController();
  byId("run").disabled = true;
  byId("stop").disabled = false;
  showProblem("");
  showCode();
  const isConversation = isChat(), said = byId("message").value;
  const both = byId("compare").checked;
  const done = await Promise.allSettled([
    runOne(steered, true, running.signal), ...(both ? [runOne(plain, false, running.signal)] : [])]);
  running = null;
  byId("run").disabled = false;
  byId("stop").disabled = true;
  const failed = done.find((one) => one.status === "rejected");
  if (failed) {
    explain(failed.reason);
    return;
  }
  byId("announce").textContent = `Answered: ${steered.text()}`;
  if (isConversation) {
    conversation.push({ role: "user", content: said }, { role: "assistant", content: steered.text() });
    byId("message").value = "";
    showConversation();
  }
}

// ---- Events -------------------------------------------------------------------------------------------------

byId("request").addEventListener("submit", (event) => { event.preventDefault(); run(); });
byId("request").addEventListener("input", () => { showValues(); showCode(); });
byId("preset-name").addEventListener("input", showCode);
byId("stop").addEventListener("click", () => running && running.abort());
byId("colour").addEventListener("change", () => { plain.recolour(); steered.recolour(); });
byId("compare").addEventListener("change", () => {
  byId("plain").hidden = !byId("compare").checked;
  document.querySelector(".columns").classList.toggle("single", !byId("compare").checked);
});
byId("forget").addEventListener("click", () => { conversation = []; showConversation(); });
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, byId("key").value);
  byId("key").value = "";
  connect();
});
for (const tab of document.querySelectorAll(".tab")) tab.addEventListener("click", () => showView(tab.dataset.view));
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); byId("request").requestSubmit(); }
  if (event.key === "Escape" && running) running.abort();
});

showView("write");
connect();
