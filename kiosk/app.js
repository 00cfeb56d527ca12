// The page: one button, what it hears, and what it makes of it.
import { record, RecorderError, wav } from "./recorder.js";
import { bandOf } from "./sounds.js";
import { LANGUAGES, SENTENCES, STRINGS } from "./strings.js";
import { drawPassed, drawRead, make } from "./words.js";

/** @typedef {import("./web/index.js").Score} Score */

const LONGEST_S = 60;
const BLOCKS_A_SECOND = 10;
const TAKEN_OVER_MS = 1000;
const QUIETEST_DBFS = -60;
/** Slow learners read so many words in the longest recording. */
const MOST_WORDS = 100;
const FREE = "free";
const OWN = "own";
const MISMATCH = "text_mismatch";
/** What is to be read first. */
const FIRST = 5;

const at = (id) => document.getElementById(id);
const button = at("record");
const level = at("level");
const grading = new Promise((resolve) => controlled().then(() => resolve(opened())));

const wanted = [new URLSearchParams(location.search).get("lang"), ...navigator.languages];
let language = wanted.map((tag) => tag?.split("-")[0]).find((name) => LANGUAGES.includes(name)) ?? "en";
/** loading, ready, asking, recording, scoring or broken. */
let state = "loading";
let said = { keys: ["loading"], problem: false, detail: "" };
/** The last scores, provisional or final. */
let shown = { scores: {}, words: [], reasons: [], final: false };
/** What is read, undefined where anything may be said. */
let reading = /** @type {string | undefined} */ (undefined);
/** Tells start() that the text is taken, or not. */
let taken = (_) => {};
/** @type {(() => Promise<void>) | undefined} */
let stop;
let ending = "";
let blocks = 0;
let address = "";

const text = (key) => STRINGS[language][key] ?? key;

/** A worker is asked for once the service worker answers, so that every file is fetched once. */
async function controlled() {
  const workers = navigator.serviceWorker;
  if (!workers) return;
  try {
    const { installing } = await workers.register("sw.js");
    const failed = new Promise((resolve) => {
      installing?.addEventListener("statechange", () => installing.state === "redundant" && resolve());
    });
    await Promise.race([workers.ready, failed]);
    if (workers.controller) return;
    await new Promise((resolve) => {
      workers.addEventListener("controllerchange", resolve, { once: true });
      setTimeout(resolve, TAKEN_OVER_MS);
    });
  } catch {
    // Without it the page works while there is a network.
  }
}

function opened() {
  const worker = new Worker("grading.js", { type: "module" });
  worker.onmessage = ({ data }) => takes[data.type](data);
  worker.onerror = () => takes.error({ message: "" });
  worker.postMessage({ type: "open" });
  return worker;
}

const takes = {
  ready() {
    become("ready", ["ready"]);
  },

  started() {
    taken(true);
  },

  refused({ message }) {
    const [piece] = message.match(/(?<=')[^']+(?=')/) ?? [];
    const key = piece ? "text_refused" : asked() ? "text_unreadable" : "text_missing";
    become("ready", [key], true, piece ? `“${piece}”` : "");
    taken(false);
  },

  provisional({ scores, words = [] }) {
    if (state === "recording" && Object.keys(scores).length) show({ scores, words });
  },

  result({ result, recording }) {
    const { scorable, reasons } = result.validity;
    if (recording.length) {
      URL.revokeObjectURL(address);
      address = URL.createObjectURL(wav(recording));
      at("playback").src = address;
    }
    at("again").hidden = !recording.length;
    show({
      scores: result.scores,
      words: result.words ?? [],
      reasons: scorable ? reasons : [],
      final: true,
    });
    at("result").hidden = !recording.length && !scorable;
    const cause = reasons.includes(MISMATCH) ? MISMATCH : reasons[0];
    const why = [ending, scorable ? "" : cause].filter(Boolean);
    become("ready", why.length ? why : ["done"], why.length > 0);
    if (scorable) at("heading").focus();
  },

  async error({ message }) {
    const now = stop;
    stop = undefined;
    level.style.transform = "";
    become("broken", ["broken"], true, message);
    taken(false);
    await now?.();
  },
};

async function start() {
  if (state !== "ready") return;
  reading = asked();
  shown = { scores: {}, words: [], reasons: [], final: false };
  become("asking", ["loading_grader"]);
  at("result").hidden = true;
  at("playback").pause();
  ending = "";
  blocks = 0;
  const worker = await grading;
  const answer = new Promise((resolve) => (taken = resolve));
  worker.postMessage({ type: "start", text: reading });
  if (!(await answer)) return;
  become("asking", ["asking"]);
  try {
    stop = await record(
      (block) => heard(worker, block),
      () => finish("unplugged"),
    );
  } catch (error) {
    become("ready", [error instanceof RecorderError ? error.reason : "unsupported"], true);
    return;
  }
  if (state === "asking") become("recording", ["recording"]);
}

function heard(worker, block) {
  if (state === "broken") return;
  const power = block.reduce((sum, value) => sum + value * value, 0) / (block.length || 1);
  const db = 10 * Math.log10(power + 1e-12);
  level.style.transform = `scaleX(${Math.max(0, Math.min(1, 1 - db / QUIETEST_DBFS))})`;
  worker.postMessage({ type: "samples", block }, [block.buffer]);
  if (++blocks >= LONGEST_S * BLOCKS_A_SECOND) void finish("too_long");
}

async function finish(why = "") {
  if (state !== "recording" || !stop) return;
  ending = why;
  become("scoring", ["scoring"]);
  const now = stop;
  stop = undefined;
  await now();
  level.style.transform = "";
  (await grading).postMessage({ type: "finish" });
}

/** @param {string[]} keys What is said; `detail` follows as it is. */
function become(next, keys, problem = false, detail = "") {
  state = next;
  said = { keys, problem, detail };
  draw();
}

function show({ scores, words, reasons = [], final = false }) {
  shown = { scores, words, reasons, final };
  at("result").hidden = false;
  drawScores();
}

function draw() {
  document.documentElement.lang = language;
  document.title = text("title");
  for (const element of document.querySelectorAll("[data-text]")) {
    element.textContent = text(element.dataset.text);
  }
  const live = state === "recording";
  button.textContent = text(live ? "stop" : "start");
  button.classList.toggle("live", live);
  // Not disabled, which would take the focus from who pressed it.
  button.setAttribute("aria-disabled", String(!live && state !== "ready"));
  const status = at("status");
  status.classList.toggle("problem", said.problem);
  status.textContent = [...said.keys.map(text), said.detail].filter(Boolean).join(" ");
  const busy = !["loading", "ready", "broken"].includes(state);
  for (const id of ["choice", "words"]) at(id).disabled = busy;
  drawTask();
  drawScores();
}

/** The text that is chosen or typed; undefined where anything may be said. */
function asked() {
  const { value } = at("choice");
  if (value === FREE) return undefined;
  return value === OWN ? at("words").value.trim() : SENTENCES[Number(value)];
}

/** What is to be said, and remarks on it. */
function drawTask() {
  const { value } = at("choice");
  for (const option of at("choice").options) {
    if (STRINGS.en[option.value]) option.textContent = text(option.value);
  }
  at("own").hidden = value !== OWN;
  const sentence = at("sentence");
  sentence.lang = value === FREE ? language : "en";
  const words = asked();
  const passed = state === "recording" && words !== undefined ? shown.words : [];
  sentence.hidden = value === OWN && !passed.length;
  if (passed.length) drawPassed(sentence, words, passed);
  else sentence.textContent = words ?? text("free_task");
  const notes = [words === undefined ? "free_heard" : "text_heard"];
  if (words?.split(/\s+/).length > MOST_WORDS) notes.push("text_long");
  if (value === OWN && isForeign(words)) notes.push("text_foreign");
  at("notes").textContent = notes.map(text).join(" ");
}

/** Whether most letters are none of English: a hint, no verdict. */
function isForeign(words) {
  const letters = words.match(/\p{L}/gu) ?? [];
  return letters.filter((letter) => /[a-z]/i.test(letter)).length < letters.length / 2;
}

function drawScores() {
  const { scores, words, reasons, final } = shown;
  const isRead = final && words.length > 0 && reading !== undefined;
  at("reading").hidden = !isRead;
  if (isRead) drawRead(reading, words, text, number);
  if (state === "recording" && words.length) drawTask();
  at("heading").textContent = text(final ? "final" : "provisional");
  at("caution").hidden = !reasons.length;
  at("caution").textContent = reasons.map((reason) => text(reason)).join(" ");
  at("heading").hidden = !Object.keys(scores).length;
  at("scores").replaceChildren(...Object.entries(scores).map((entry) => scoreOf(...entry, final)));
}

function number(value) {
  return value.toLocaleString(language, { maximumFractionDigits: 1, minimumFractionDigits: 1 });
}

/**
 * @param {string} name
 * @param {Score} score
 * @param {boolean} final
 */
function scoreOf(name, score, final) {
  const { value, scale_min: low, scale_max: high, sd } = score;
  const share = (value - low) / (high - low);
  const line = make("div", "name");
  line.append(
    make("span", "", text(name)),
    make("span", "", text("of").replace("{value}", number(value)).replace("{most}", String(high))),
  );
  const bar = make("div", "bar");
  bar.setAttribute("aria-hidden", "true");
  bar.append(make("div"));
  bar.firstChild.style.transform = `scaleX(${share})`;
  const item = make("li");
  item.dataset.name = name;
  item.dataset.value = String(value);
  item.append(line, bar);
  if (!final) return item;
  const sentence = STRINGS[language][`${name}_${bandOf(score)}`] ?? "";
  const error = sd === undefined ? "" : text("sd").replace("{sd}", number(sd));
  item.append(make("p", "", [sentence, error].filter(Boolean).join(" ")));
  return item;
}

for (const name of LANGUAGES) {
  const option = new Option(STRINGS[name].name, name, false, name === language);
  option.lang = name;
  at("language").add(option);
}
SENTENCES.forEach((sentence, index) => {
  const option = new Option(sentence, String(index), false, index === FIRST);
  option.lang = "en";
  at("choice").add(option);
});
for (const name of [OWN, FREE]) at("choice").add(new Option("", name));
at("choice").addEventListener("change", drawTask);
at("words").addEventListener("input", drawTask);
at("language").addEventListener("change", ({ target }) => {
  language = target.value;
  draw();
});
button.addEventListener("click", () => (state === "recording" ? finish() : start()));
draw();
