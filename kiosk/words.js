// The text as it was read: a mark and a colour for every word, its sounds, and what to do better.
import { bandOf, soundOf, worstSounds } from "./sounds.js";

/** @typedef {import("./web/index.js").Word} Word */

const MARKS = ["high", "middle", "low", "omission", "insertion"];
/** The word whose sounds are told; another language tells them again. */
let picked = /** @type {Word | undefined} */ (undefined);

/** @param {Word} word */
export function markOf({ error, score }) {
  if (error === "omission") return "omission";
  if (error === "insertion" || error === "repetition") return "insertion";
  return error === "mispronunciation" || !score ? "low" : bandOf(score);
}

export function make(tag, name = "", content = "") {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.textContent = content;
  return element;
}

/**
 * The text with its own commas and full stops, each word that was judged marked.
 * @param {string} written
 * @param {Word[]} words
 * @param {(word: Word, index: number) => HTMLElement} draw
 */
function laid(written, words, draw) {
  const parts = [];
  let at = 0;
  words.forEach((word, index) => {
    const found = markOf(word) === "insertion" ? -1 : written.indexOf(word.text, at);
    if (found >= 0) {
      parts.push(written.slice(at, found), draw(word, index));
      at = found + word.text.length;
    } else {
      parts.push(" ", draw(word, index), " ");
    }
  });
  parts.push(written.slice(at));
  return parts;
}

/** While it is read: no buttons, only marks. */
export function drawPassed(place, written, words) {
  place.replaceChildren(...laid(written, words, (word) => make("span", `word ${markOf(word)}`, shownAs(word))));
}

/**
 * At the end: every word is a button for its sounds; the worst one is open.
 * @param {(key: string) => string} text Of strings.js.
 * @param {(value: number) => string} number As the language writes it.
 */
export function drawRead(written, words, text, number) {
  const buttons = [];
  const at = (id) => document.getElementById(id);
  const pick = (word, index) => {
    picked = word;
    buttons.forEach((button, other) => button.setAttribute("aria-pressed", String(other === index)));
    drawSounds(at("sounds"), word, text, number);
  };
  const draw = (word, index) => {
    const mark = markOf(word);
    const button = make("button", `word ${mark}`, shownAs(word));
    button.type = "button";
    button.dataset.text = word.text;
    button.dataset.error = word.error;
    button.dataset.value = String(word.score?.value ?? "");
    const said = make("span", "unseen", `, ${text(`mark_${mark}`)}`);
    said.lang = document.documentElement.lang;
    button.append(said);
    button.addEventListener("click", () => pick(word, index));
    buttons.push(button);
    return button;
  };
  at("read").replaceChildren(...laid(written, words, draw));
  at("legend").replaceChildren(
    ...MARKS.filter((mark) => words.some((word) => markOf(word) === mark)).map((mark) => {
      const item = make("li");
      item.append(make("span", `word ${mark}`, text(`mark_${mark}`)));
      return item;
    }),
  );
  const judged = words.filter(({ phones }) => phones?.length);
  const worst = judged.sort((a, b) => (a.score?.value ?? 0) - (b.score?.value ?? 0))[0];
  const first = words.includes(picked) ? picked : worst;
  if (first) pick(first, words.indexOf(first));
  else at("sounds").replaceChildren();
  at("advice").replaceChildren(...advice(words, text));
}

function shownAs({ text, error }) {
  return error === "insertion" ? "+ …" : error === "repetition" ? `+ ${text}` : text;
}

function drawSounds(place, word, text, number) {
  const head = make("p", "picked");
  const name = make("strong", "", word.text === "?" ? "…" : word.text);
  name.lang = "en";
  head.append(name, ` · ${text(`mark_${markOf(word)}`)}`);
  if (word.score) head.append(` · ${ofMost(word.score, text, number)}`);
  const list = make("ul");
  for (const phone of word.phones ?? []) {
    const item = make("li", bandOf(phone.score));
    item.dataset.phone = phone.phone;
    item.append(make("b", "", `/${phone.ipa}/`), make("span", "", ofMost(phone.score, text, number)));
    if (phone.heard) {
      item.append(make("span", "", text("heard").replace("{sound}", `/${soundOf(phone.heard).ipa}/`)));
    }
    list.append(item);
  }
  place.replaceChildren(head, ...(list.children.length ? [list] : []));
}

function ofMost({ value, scale_max: most }, text, number) {
  return text("of").replace("{value}", number(value)).replace("{most}", String(most));
}

function advice(words, text) {
  const lines = worstSounds(words).map(({ ipa, example, hint, words: has }) => {
    const line = make("li");
    line.append(make("b", "", text("sound").replace("{sound}", `/${ipa}/`).replace("{example}", example)));
    line.append(` ${hint ? text(hint) : ""} ${text("said_in").replace("{words}", [...has].join(", "))}`);
    return line;
  });
  const omitted = words.filter(({ error }) => error === "omission").map((word) => word.text);
  if (omitted.length) lines.unshift(make("li", "", text("omitted").replace("{words}", omitted.join(", "))));
  return lines.length ? lines : [make("li", "", text("all_clear"))];
}
