// The page in a headless Chromium, against a running server.
//
//   npm install playwright-core@1.65.1
//   CHROMIUM=/usr/bin/chromium node crates/serve/tests/clients/page.mjs [URL] [ADAPTER]
//
// Chats with the base, and with an adapter where one is named; fails at whatever the browser's
// console complains of.
import { chromium } from "playwright-core";

const url = process.argv[2] ?? "http://127.0.0.1:8000";
const adapter = process.argv[3];

function check(name, good, what = "") {
  console.log((good ? "ok   " : "FAIL ") + name, what);
  if (!good) process.exit(1);
}

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });
const page = await browser.newPage();
const complaints = [];
page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
page.on("pageerror", (error) => complaints.push(String(error)));

await page.goto(url);
check("title", (await page.title()).endsWith("· Flametune"), await page.title());
const models = await page.locator("#model option").allTextContents();
check("models", models.length >= 1 && models[0].endsWith("(base)"), models.join(", "));

async function chat(text) {
  const before = await page.locator(".turn.assistant").count();
  await page.fill("#text", text);
  await page.click("#send");
  await page.waitForFunction(() => !document.getElementById("send").disabled, null, { timeout: 120_000 });
  const answers = await page.locator(".turn.assistant").allTextContents();
  check("one more answer", answers.length === before + 1);
  check("no error", (await page.locator(".turn.error").count()) === 0);
  return answers.at(-1);
}

await page.fill("#temperature", "0");
await page.fill("#tokens", "24");
const answer = await chat("What is the capital of France?");
check("an answer", answer.length > 0, JSON.stringify(answer));
const rate = await page.locator("#rate").textContent();
check("tokens per second", /^\d+ tokens, \d+\.\d tokens\/s$/.test(rate), rate);

if (adapter) {
  await page.click("#clear");
  await page.selectOption("#model", adapter);
  check("an adapter's answer", (await chat("What is the capital of France?")).length > 0);
  check("it stays chosen", (await page.inputValue("#model")) === adapter);
}

// Stopping keeps what is there.
await page.fill("#tokens", "400");
await page.click("#clear");
await page.fill("#text", "Tell me a long story.");
await page.click("#send");
await page.waitForFunction(() => document.querySelector(".turn.assistant")?.textContent.length > 10, null, {
  timeout: 120_000,
});
await page.click("#stop");
await page.waitForFunction(() => !document.getElementById("send").disabled);
check("stopped", (await page.locator(".turn.assistant").textContent()).length > 10);

check("the console is silent", complaints.length === 0, complaints.join("\n"));
await browser.close();
