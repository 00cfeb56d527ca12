// Speaks a file of samples: node stream_client.mjs URL FILE KEY; tells what happens, a line of JSON each.
import { readFileSync } from "node:fs";
import { AsaStream } from "../../clients/web/asa_stream.mjs";

const [url, path, key] = process.argv.slice(2);
const tell = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);
const samples = readFileSync(path);
const stream = new AsaStream(url, {
  sampleRateHz: 16000,
  key: key || undefined,
  onProvisional: ({ windows }) => tell({ windows }),
  onProgress: (progress) => tell({ progress }),
});
for (let start = 0; start < samples.length; start += 3200) {
  stream.send(samples.subarray(start, start + 3200));
  await new Promise((resolve) => setTimeout(resolve, 40));
}
try {
  tell({ assessment: await stream.finish() });
} catch (error) {
  tell({ error: error.kind, message: error.message });
}
