// A worker: the graders, off the page's thread. What is scored is what is played back, to the bit.
import { Grader } from "./web/index.js";

const PROVISIONAL_EVERY_S = 0.5;
const SAMPLE_RATE_HZ = 16000;
/** One judges a text that is read, the other free speech. At fp32 the first would take twice the memory. */
const READING = { file: "reading.asa", precision: "int8" };
const FREE = { file: "grader.asa", precision: "fp32" };

/** The one grader that is open. */
let opened = { kind: undefined, grader: /** @type {Grader | undefined} */ (undefined) };
/** @type {import("./web/index.js").Stream | undefined} */
let stream;
/** @type {Int16Array[]} */
let blocks = [];
let held = 0;
let told = 0;

/** The other one is let go first, so that only one takes memory. */
async function open(kind) {
  if (opened.kind === kind) return opened.grader;
  opened.grader?.close();
  opened = { kind: undefined, grader: undefined };
  opened = { kind, grader: await Grader.open(kind.file, { precision: kind.precision }) };
  return opened.grader;
}

const takes = {
  async open() {
    await open(READING);
    postMessage({ type: "ready" });
  },

  /** A text that cannot be read is refused here, before there is a microphone. */
  async start({ text }) {
    stream?.close();
    stream = undefined;
    const grader = await open(text === undefined ? FREE : READING);
    try {
      stream = grader.stream(text);
    } catch (error) {
      if (error.status !== "text") throw error;
      postMessage({ type: "refused", message: error.message });
      return;
    }
    blocks = [];
    held = told = 0;
    postMessage({ type: "started" });
  },

  samples({ block }) {
    const samples = Int16Array.from(block, (value) =>
      Math.max(-32768, Math.min(32767, Math.round(value * 32768))),
    );
    blocks.push(samples);
    held += samples.length;
    stream.feed(samples);
    if (held - told < PROVISIONAL_EVERY_S * SAMPLE_RATE_HZ) return;
    told = held;
    const { scores, words } = stream.provisional();
    postMessage({ type: "provisional", scores, words });
  },

  finish() {
    const recording = new Int16Array(held);
    let at = 0;
    for (const block of blocks) {
      recording.set(block, at);
      at += block.length;
    }
    // A stream that was fed nothing has no end.
    const result = held
      ? stream.finish()
      : { scores: {}, validity: { scorable: false, reasons: ["too_short"] } };
    stream.close();
    stream = undefined;
    blocks = [];
    postMessage({ type: "result", result, recording }, [recording.buffer]);
  },
};

onmessage = async ({ data }) => {
  try {
    await takes[data.type](data);
  } catch (error) {
    postMessage({ type: "error", message: error.message });
  }
};
