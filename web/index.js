// libasa for web pages: scores while the learner speaks; nothing leaves the page.

// Of asa.h, on 32-bit WebAssembly.
const ERROR_BYTES = 252;
const MESSAGE_AT = 4;
const OPTIONS_BYTES = 12;
const SAMPLE_RATE_HZ = 16000;
// How many threads are taken unless told otherwise, and can be told; and how long they may take.
const USUAL_THREADS = 4;
const MOST_THREADS = 256;
const START_MS = 10000;

export class AsaError extends Error {
  constructor(status, message) {
    super(message);
    this.name = "AsaError";
    this.status = status;
  }
}

// The library in memory of its own, which goes as a whole when nobody holds it any more.
class Library {
  #module;
  #error;
  #out;
  #samples = 0;
  #room = 0;
  #opened = 0;

  constructor(module) {
    this.#module = module;
    this.#error = this.allocate(ERROR_BYTES);
    this.#out = this.allocate(4);
  }

  allocate(bytes) {
    const at = this.#module._malloc(bytes);
    if (!at) throw new AsaError("memory", "out of memory");
    return at;
  }

  free(at) {
    this.#module._free(at);
  }

  // Copies an array to where it is put, or to room that is kept for samples.
  put(array, at = this.#reserve(array.byteLength)) {
    const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    this.#memory().set(bytes, at);
    return at;
  }

  text(at) {
    return this.#module.UTF8ToString(at);
  }

  // Calls a function of asa.h that may fail; it writes its error behind the other arguments.
  call(name, ...args) {
    const status = this.#module[`_asa_${name}`](...args, this.#error);
    if (status === 0) return;
    const named = this.text(this.#module._asa_status_name(status));
    throw new AsaError(named, this.text(this.#error + MESSAGE_AT));
  }

  // The same of one that gives a pointer, through its last argument.
  get(name, ...args) {
    this.call(name, ...args, this.#out);
    return new DataView(this.#memory().buffer).getUint32(this.#out, true);
  }

  // The same of one that opens a grader or stream.
  open(name, ...args) {
    const handle = this.get(name, ...args);
    this.#opened += 1;
    return handle;
  }

  describe(grader) {
    return this.text(this.#module._asa_grader_describe(grader));
  }

  // Closes a stream or grader.
  close(name, handle) {
    this.put(new Uint32Array([handle]), this.#out);
    this.#module[`_asa_${name}_close`](this.#out);
    this.#opened -= 1;
    this.endUnlessOpened();
  }

  // Workers do not end by being forgotten, as memory does.
  endUnlessOpened() {
    if (!this.#opened) this.#module.PThread?.terminateAllThreads();
  }

  // Memory that is shared may have been grown by another thread.
  #memory() {
    const { wasmMemory, HEAPU8 } = this.#module;
    return wasmMemory ? new Uint8Array(wasmMemory.buffer) : HEAPU8;
  }

  #reserve(bytes) {
    if (bytes > this.#room) {
      this.free(this.#samples);
      this.#samples = this.#room = 0;
      this.#samples = this.allocate(bytes);
      this.#room = bytes;
    }
    return this.#samples;
  }
}

export class Grader {
  #library;
  #handle;

  constructor(library, handle) {
    this.#library = library;
    this.#handle = handle;
  }

  static async open(source, { precision, threads = usualThreads() } = {}) {
    if (!Number.isInteger(threads) || threads < 1 || threads > MOST_THREADS) {
      throw new AsaError("argument", `threads is ${threads}; it must be in [1, ${MOST_THREADS}]`);
    }
    const [file, opened] = await Promise.allSettled([bytesOf(source), openLibrary(threads)]);
    if (opened.status === "rejected") throw opened.reason;
    const { library } = opened.value;
    try {
      if (file.status === "rejected") throw file.reason;
      const handle = openGrader(library, file.value, precision, opened.value.threads);
      return new Grader(library, handle);
    } finally {
      library.endUnlessOpened();
    }
  }

  describe() {
    return JSON.parse(this.#opened().describe(this.#handle));
  }

  stream(text) {
    const library = this.#opened();
    if (text === undefined) {
      return new Stream(library, library.open("stream_open", this.#handle, SAMPLE_RATE_HZ, 1));
    }
    const written = new TextEncoder().encode(`${text}\0`);
    const at = library.allocate(written.length);
    try {
      library.put(written, at);
      const handle = library.open("stream_open_text", this.#handle, SAMPLE_RATE_HZ, 1, at);
      return new Stream(library, handle);
    } finally {
      library.free(at);
    }
  }

  close() {
    if (this.#handle) this.#library.close("grader", this.#handle);
    this.#handle = 0;
    this.#library = null;
  }

  #opened() {
    if (!this.#handle) throw new AsaError("order", "the grader is closed; open it again");
    return this.#library;
  }
}

export class Stream {
  #library;
  #handle;

  constructor(library, handle) {
    this.#library = library;
    this.#handle = handle;
  }

  feed(samples) {
    const kind = samples instanceof Float32Array ? "f32" : samples instanceof Int16Array ? "i16" : "";
    if (!kind) throw new AsaError("argument", "samples must be a Float32Array or an Int16Array");
    const library = this.#opened();
    library.call(`stream_feed_${kind}`, this.#handle, library.put(samples), samples.length);
  }

  provisional() {
    return this.#json("stream_provisional");
  }

  finish() {
    return this.#json("stream_finish");
  }

  close() {
    if (this.#handle) this.#library.close("stream", this.#handle);
    this.#handle = 0;
    this.#library = null;
  }

  #json(name) {
    const library = this.#opened();
    return JSON.parse(library.text(library.get(name, this.#handle)));
  }

  #opened() {
    if (!this.#handle) throw new AsaError("order", "the stream is closed; start another one");
    return this.#library;
  }
}

function openGrader(library, file, precision, threads) {
  const name = new TextEncoder().encode(`${precision ?? ""}\0`);
  const [bytes, named, options] = [file.byteLength || 1, name.length, OPTIONS_BYTES].map((size) =>
    library.allocate(size),
  );
  try {
    library.put(file, bytes);
    library.put(name, named);
    library.put(new Uint32Array([OPTIONS_BYTES, threads, precision ? named : 0]), options);
    return library.open("grader_open_bytes", bytes, file.byteLength, options);
  } finally {
    for (const at of [bytes, named, options]) library.free(at);
  }
}

function usualThreads() {
  return Math.min(USUAL_THREADS, globalThis.navigator?.hardwareConcurrency ?? 1);
}

// Opens the module with threads where there can be any, else the one without.
async function openLibrary(threads) {
  // Threads share memory, and only isolated pages are given any.
  const shares = globalThis.crossOriginIsolated && typeof SharedArrayBuffer === "function";
  if (threads > 1 && shares && typeof Worker === "function") {
    try {
      return { library: new Library(await threadedModule(threads)), threads };
    } catch {
      // No workers, or no memory for them.
    }
  }
  const [{ default: create }, wasmBinary] = await Promise.all([
    import("./asa.mjs"),
    bytesOf(new URL("./asa.wasm", import.meta.url)),
  ]);
  return { library: new Library(await create({ wasmBinary })), threads: 1 };
}

async function threadedModule(threads) {
  const [{ default: create }, wasmBinary] = await Promise.all([
    import("./asa-threads.mjs"),
    bytesOf(new URL("./asa-threads.wasm", import.meta.url)),
  ]);
  const module = { wasmBinary, workers: threads - 1 };
  const created = create(module);
  // It waits for its workers, for ever for one that a policy forbids.
  let late;
  const failed = new Promise((_, reject) => {
    late = setTimeout(() => reject(new Error("the workers do not start")), START_MS);
    for (const worker of module.PThread.unusedWorkers) worker.addEventListener("error", reject);
  });
  try {
    return await Promise.race([created, failed]);
  } catch (error) {
    module.PThread.terminateAllThreads();
    throw error;
  } finally {
    clearTimeout(late);
  }
}

async function bytesOf(source) {
  if (source instanceof ArrayBuffer) return new Uint8Array(source);
  if (ArrayBuffer.isView(source)) {
    return new Uint8Array(source.buffer, source.byteOffset, source.byteLength);
  }
  const isResponse = typeof Response !== "undefined" && source instanceof Response;
  const response = isResponse ? source : await fetched(source);
  if (!response.ok) {
    throw new AsaError("file", `${response.url} cannot be read: status ${response.status}`);
  }
  return new Uint8Array(await response.arrayBuffer());
}

async function fetched(source) {
  try {
    // Node fetches no files.
    if (!(source instanceof URL && source.protocol === "file:")) return await fetch(source);
    const { readFile } = await import("node:fs/promises");
    return new Response(await readFile(source));
  } catch (error) {
    throw new AsaError("file", `${source} cannot be read: ${error.message}`);
  }
}
