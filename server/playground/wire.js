// The server's API as the page uses it: JSON, streams of events, and errors in words.
"use strict";

const byId = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const KEY = "otter-api-key";  // in this tab's session only

class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function showProblem(text) {
  const place = byId("problem");
  place.textContent = text;
  place.hidden = text === "";
}

/** What went wrong, in the words of OpenAI's error object where there is one. */
async function errorOf(response) {
  let text = `${response.status} ${response.statusText}`;
  try {
    const { error } = await response.json();
    text = error.message + (error.param && !error.message.includes(error.param) ? ` (${error.param})` : "");
  } catch {
    // Not our server's answer: a proxy's page, say. The status line has to do.
  }
  return new ApiError(response.status, text);
}

async function call(path, body, signal) {
  const headers = {};
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  const options = { headers, signal };
  if (body !== undefined) {
    options.method = "POST";
    options.body = JSON.stringify(body);
    headers["Content-Type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    throw new ApiError(0, "The server cannot be reached.");
  }
  if (!response.ok) throw await errorOf(response);
  return response;
}

const getJson = async (path) => (await call(path)).json();

/** Calls onEvent with each object of a stream of server-sent events. An error event ends it as an exception. */
async function stream(path, body, signal, onEvent) {
  const response = await call(path, { ...body, stream: true, stream_options: { include_usage: true } }, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let ended = false;
  for (;;) {
    let piece;
    try {
      piece = await reader.read();
    } catch (problem) {
      if (problem.name === "AbortError") throw problem;
      throw new ApiError(0, "The server was lost while it answered.");
    }
    if (piece.done) break;
    const events = (rest + piece.value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim()).join("\n");
      if (data === "[DONE]") ended = true;
      else if (data !== "") {
        const object = JSON.parse(data);
        if (object.error) throw new ApiError(object.error.code || 500, object.error.message);
        onEvent(object);
      }
    }
  }
  if (!ended) throw new ApiError(0, "The server was lost while it answered.");
}
