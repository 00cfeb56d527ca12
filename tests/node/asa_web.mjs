// Scores a file of 16-bit samples with the web package, as a page would, and checks what it refuses.
//   node asa_web.mjs PACKAGE/index.js GRADER.asa SAMPLES.raw PRECISION [TEXT]
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";

const [index, path, recording, precision, text] = process.argv.slice(2);
const { AsaError, Grader } = await import(pathToFileURL(index));
const raw = await readFile(recording);
const samples = new Int16Array(raw.buffer.slice(raw.byteOffset, raw.byteOffset + raw.byteLength));
const file = await readFile(path);

const opening = performance.now();
const grader = await Grader.open(file, { precision });
const opened_ms = performance.now() - opening;

function score(chunk, convert = (block) => block) {
  const stream = grader.stream(text);
  const provisional = [];
  const start = performance.now();
  for (let at = 0; at < samples.length; at += chunk) {
    stream.feed(convert(samples.subarray(at, at + chunk)));
    provisional.push(stream.provisional());
  }
  const result = stream.finish();
  const spent_ms = performance.now() - start;
  assert.deepEqual(stream.finish(), result);
  assert.throws(() => stream.feed(samples), { name: "AsaError", status: "order" });
  stream.close();
  stream.close();
  assert.throws(() => stream.finish(), /closed/);
  return { result, provisional, spent_ms };
}

const { result, provisional, spent_ms } = score(1600);
// However it is cut, and as floats.
const floats = score(7777, (block) => Float32Array.from(block, (sample) => sample / 32768));
for (const part of ["scores", "words", "prior", "validity"]) {
  assert.deepEqual(floats.result[part], result[part]);
}

const stream = grader.stream(text);
assert.throws(() => stream.feed([0, 1]), { status: "argument" });
assert.throws(() => stream.feed(new Float32Array([0, NaN])), { status: "audio", message: /NaN/ });
assert.throws(() => stream.finish(), { status: "order" });
stream.close();
const about = grader.describe();
assert.equal(about.reads_texts, text !== undefined);
const other = text === undefined ? "A text" : undefined;
assert.throws(() => grader.stream(other), { status: "text" });
if (text !== undefined) assert.throws(() => grader.stream("5 pm"), { status: "text", message: /'5'/ });
grader.close();
assert.throws(() => grader.stream(), AsaError);

const damaged = new Uint8Array(file);
damaged[damaged.length - 5] ^= 1;
await assert.rejects(Grader.open(damaged), { status: "file", message: /hash/ });
await assert.rejects(Grader.open(new ArrayBuffer(0)), { status: "file", message: /no grader file/ });
await assert.rejects(Grader.open(file, { precision: "fp64" }), { status: "argument" });
const nowhere = new URL("nowhere.asa", pathToFileURL(path));
await assert.rejects(Grader.open(nowhere), { status: "file", message: /cannot be read/ });
console.log(JSON.stringify({ result, provisional, about, opened_ms, spent_ms }));
