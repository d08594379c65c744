// The voting application in a headless Chromium, from first vote to export, with two raters at once.
//
//   npm install playwright-core@1.65.1
//   flametune ab serve pairs.jsonl --address 127.0.0.1:8080 --key k
//   CHROMIUM=/usr/bin/chromium node crates/eval/tests/clients/ab.mjs http://127.0.0.1:8080 k
//
// The first rater votes with keys, the second with clicks; fails at whatever the browser's console complains of.
import { chromium } from "playwright-core";

const url = process.argv[2] ?? "http://127.0.0.1:8080";
const key = process.argv[3] ?? "k";

function check(name, good, what = "") {
  console.log((good ? "ok   " : "FAIL ") + name, what);
  if (!good) process.exit(1);
}

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });
const complaints = [];

async function begin(name) {
  const page = await (await browser.newContext()).newPage();
  page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  await page.goto(url);
  await page.fill("input[name=rater]", name);
  await page.press("input[name=rater]", "Enter");
  await page.waitForURL("**/rate/**");
  return page;
}

async function finish(page, vote) {
  let votes = 0;
  while ((await page.locator("#left").count()) > 0) {
    const item = await page.inputValue("input[name=item]");
    await vote(page, votes);
    await page.waitForFunction(
      (before) => document.querySelector("input[name=item]")?.value !== before, item);
    votes += 1;
  }
  return votes;
}

const ann = await begin("ann");
const bob = await begin("bob");
const total = Number(/of (\d+) done/.exec(await ann.textContent("body"))[1]);

// A letter in the remark is no vote.
await ann.fill("textarea", "1 2 0");
check("a remark is no vote", (await ann.textContent("body")).includes(`0 of ${total} done`));

const keys = ["1", "2", "0", "ArrowLeft"];
const buttons = ["#left", "#right", "#tie"];
const [first, second] = await Promise.all([
  finish(ann, (page, n) => page.locator("h1").click().then(() => page.keyboard.press(keys[n % keys.length]))),
  finish(bob, (page, n) => page.click(buttons[n % buttons.length])),
]);
check("both raters voted on everything", first === total && second === total, `${first} and ${second} of ${total}`);

// Taking back brings the last item back; a new page goes on there.
await bob.click("#undo");
await bob.waitForSelector("#left");
const again = await begin("bob");
check("a rater goes on where he was", (await again.textContent("body")).includes(`${total - 1} of ${total} done`));
await again.click("#tie");
await again.waitForFunction(() => document.body.textContent.includes("are done"));

await ann.goto(`${url}/results?key=${key}`);
check("results show rates and ratings", (await ann.textContent("body")).includes("Bradley-Terry"));
const answer = await ann.request.get(`${url}/export.jsonl?key=${key}`);
const lines = (await answer.text()).trim().split("\n").map((line) => JSON.parse(line));
check("no vote is lost", lines.length === 2 * total, `${lines.length} votes`);
check("without the key there is nothing", (await ann.request.get(`${url}/export.jsonl`)).status() === 403);
check("the console is silent", complaints.length === 0, complaints.join("; "));
await browser.close();
