// Sounds as learners know them: IPA, a word that has the sound, and which hint of strings.js helps.

/** By ARPAbet: IPA, an example, the hint's key. */
// prettier-ignore
const SOUNDS = {
  AA: ["ɑ", "hot", "open"], AE: ["æ", "cat", "open"], AH: ["ʌ", "cup", "short"],
  AO: ["ɔ", "saw", "open"], AW: ["aʊ", "how", "gliding"], AY: ["aɪ", "my", "gliding"],
  B: ["b", "bed", "stop"], CH: ["tʃ", "chair", "sh"], D: ["d", "day", "stop"],
  DH: ["ð", "this", "th"], EH: ["ɛ", "bed", "short"], ER: ["ɝ", "bird", "er"],
  EY: ["eɪ", "day", "gliding"], F: ["f", "five", "v"], G: ["ɡ", "go", "stop"],
  HH: ["h", "house", "h"], IH: ["ɪ", "sit", "short"], IY: ["i", "see", "long"],
  JH: ["dʒ", "job", "sh"], K: ["k", "cat", "stop"], L: ["l", "light", "l"],
  M: ["m", "man", "nasal"], N: ["n", "no", "nasal"], NG: ["ŋ", "sing", "nasal"],
  OW: ["oʊ", "go", "gliding"], OY: ["ɔɪ", "boy", "gliding"], P: ["p", "pen", "stop"],
  R: ["ɹ", "red", "r"], S: ["s", "see", "s"], SH: ["ʃ", "she", "sh"], T: ["t", "tea", "stop"],
  TH: ["θ", "think", "th"], UH: ["ʊ", "book", "short"], UW: ["u", "food", "long"],
  V: ["v", "very", "v"], W: ["w", "we", "w"], Y: ["j", "yes", "y"], Z: ["z", "zoo", "s"],
  ZH: ["ʒ", "vision", "sh"],
};

const MOST = 3;

/** Where a score lies on its scale: low, middle or high. */
export function bandOf({ value, scale_min: low, scale_max: high }) {
  const share = (value - low) / (high - low);
  return share < 0.5 ? "low" : share < 0.75 ? "middle" : "high";
}

/** @param {string} phone ARPAbet, with or without stress. */
export function soundOf(phone) {
  const name = phone.replace(/\d$/, "");
  const [ipa, example, hint] = SOUNDS[name] ?? [name, "", ""];
  return { name, ipa, example, hint: hint && `hint_${hint}` };
}

/**
 * The sounds that were said worst, each once, with the words they are in; none that is clear.
 * @param {import("./web/index.js").Word[]} words
 */
export function worstSounds(words) {
  const found = new Map();
  for (const { text, phones = [] } of words) {
    for (const { phone, score } of phones) {
      if (bandOf(score) === "high") continue;
      const sound = soundOf(phone);
      const worst = found.get(sound.name) ?? { ...sound, value: Infinity, words: new Set() };
      worst.value = Math.min(worst.value, score.value);
      worst.words.add(text);
      found.set(sound.name, worst);
    }
  }
  return [...found.values()].sort((a, b) => a.value - b.value).slice(0, MOST);
}
