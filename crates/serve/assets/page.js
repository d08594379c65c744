"use strict";
const $ = (id) => document.getElementById(id);
const base = document.body.dataset.base;
const log = $("log"), form = $("form");
let messages = [];
let controller = null;

function headers() {
  const all = { "content-type": "application/json" };
  if ($("key") && $("key").value) all.authorization = "Bearer " + $("key").value;
  return all;
}

function turn(role, text) {
  const element = document.createElement("div");
  element.className = "turn " + role;
  element.textContent = text;
  log.append(element);
  log.scrollTop = log.scrollHeight;
  return element;
}

async function failure(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return "the server answered " + response.status;
  }
}

// The models, again: adapters come and go.
async function refresh() {
  const response = await fetch("/v1/models", { headers: headers() });
  if (!response.ok) return;
  const { data } = await response.json();
  const select = $("model"), chosen = select.value;
  const options = data
    .filter((model) => model.id === base || model.parent === base)
    .map((model) => new Option(model.id === base ? base + " (base)" : model.id, model.id));
  select.replaceChildren(...options);
  if (options.some((option) => option.value === chosen)) select.value = chosen;
}

async function answer() {
  controller = new AbortController();
  $("send").disabled = true;
  $("stop").disabled = false;
  const element = turn("assistant", "");
  let text = "", tokens = 0, first = 0;
  const show = () => {
    const seconds = (performance.now() - first) / 1000;
    const rate = tokens > 1 ? ((tokens - 1) / seconds).toFixed(1) + " tokens/s" : "";
    $("rate").value = tokens + " tokens" + (rate && ", " + rate);
  };
  try {
    const response = await fetch("/v1/chat/completions", {
      method: "POST",
      headers: headers(),
      signal: controller.signal,
      body: JSON.stringify({
        model: $("model").value,
        messages,
        temperature: Number($("temperature").value),
        max_tokens: Number($("tokens").value),
        stream: true,
        stream_options: { include_usage: true },
      }),
    });
    if (!response.ok) throw new Error(await failure(response));
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
        const chunk = JSON.parse(line.slice(6));
        if (chunk.error) throw new Error(chunk.error.message);
        if (chunk.usage) tokens = chunk.usage.completion_tokens;
        const piece = chunk.choices[0]?.delta?.content;
        if (!piece) continue;
        if (tokens === 0) first = performance.now();
        tokens += 1;
        text += piece;
        element.textContent = text;
        log.scrollTop = log.scrollHeight;
        show();
      }
    }
    show();
  } catch (error) {
    if (error.name !== "AbortError") {
      element.classList.add("error");
      element.textContent = text + (text && "\n") + error.message;
    }
  }
  if (text) messages.push({ role: "assistant", content: text });
  else messages.pop();
  controller = null;
  $("send").disabled = false;
  $("stop").disabled = true;
  refresh();
}

if (form) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = $("text").value.trim();
    if (!text || controller) return;
    $("text").value = "";
    messages.push({ role: "user", content: text });
    turn("user", text);
    answer();
  });
  $("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  $("stop").addEventListener("click", () => controller?.abort());
  $("clear").addEventListener("click", () => {
    controller?.abort();
    messages = [];
    log.replaceChildren();
    $("rate").value = "";
  });
}
$("key")?.addEventListener("change", refresh);
