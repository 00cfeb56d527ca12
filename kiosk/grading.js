// A worker: the grader, off the page's thread. What is scored is what is played back, to the bit.
import { Grader } from "./web/index.js";

const PROVISIONAL_EVERY_S = 0.5;
const SAMPLE_RATE_HZ = 16000;

/** @type {Grader} */
let grader;
/** @type {import("./web/index.js").Stream | undefined} */
let stream;
/** @type {Int16Array[]} */
let blocks = [];
let held = 0;
let told = 0;

const takes = {
  async open() {
    grader = await Grader.open("grader.asa", { precision: "fp32" });
    postMessage({ type: "ready", about: grader.describe() });
  },

  start() {
    stream?.close();
    stream = grader.stream();
    blocks = [];
    held = told = 0;
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
    postMessage({ type: "provisional", scores: stream.provisional().scores });
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
