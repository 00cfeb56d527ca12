/**
 * Live speech to `asa-engine serve --store FILE`, from a web page or Node.js 22: buffers what the
 * server has not kept yet, connects again when the connection drops, and goes on at the byte that
 * the server says. The scores are those of an unbroken stream, to the last bit.
 */

const RETRYABLE = new Set(["Full", "Stopping", "StoreDown", "TooMany", "TooSlow"]);
const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 8000;
const MOST_IN_SOCKET_BYTES = 2 ** 20;
const LOOK_MS = 50;

/** What the server, or this client, cannot go on from. */
export class StreamError extends Error {
  /**
   * @param {string} kind The server's name of the error, or "ClientError".
   * @param {string} message What is wrong.
   * @param {string} hint What to do about it.
   */
  constructor(kind, message, hint = "") {
    super(hint ? `${message} (${hint})` : message);
    this.name = "StreamError";
    this.kind = kind;
    this.hint = hint;
  }
}

/** Return a new id: 192 random bits, as who knows it may go on with the stream. */
export function newStreamId() {
  const bytes = crypto.getRandomValues(new Uint8Array(24));
  return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_");
}

/** One stream. `send` samples as they are spoken, then await `finish()`. */
export class AsaStream {
  #url;
  #protocols;
  #options;
  #socket = null;
  #timer = null;
  #look = null;
  #pieces = []; // what the server may ask for again: [{start, bytes}], end to end
  #total = 0;
  #next = null; // byte to send next on this connection; null before the server has said it
  #saved = 0;
  #finishing = false;
  #finishSent = false;
  #over = false;
  #pauseMs = FIRST_PAUSE_MS;
  #settle;
  #result;

  /**
   * @param {string} server Such as "wss://asa.example.org".
   * @param {object} options See asa_stream.d.mts.
   */
  constructor(server, options) {
    this.#options = { maxBufferedBytes: 64 * 2 ** 20, WebSocket: globalThis.WebSocket, ...options };
    this.id = options.id ?? newStreamId();
    const query = new URLSearchParams({ sample_rate_hz: options.sampleRateHz, id: this.id });
    for (const name of ["channels", "format", "text", "prompt"]) {
      if (options[name] !== undefined) query.set(name, options[name]);
    }
    this.#url = `${server.replace(/\/$/, "")}/v1/stream?${query}`;
    this.#protocols = options.key === undefined ? [] : ["asa", `asa.key.${options.key}`];
    this.#result = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
    this.#result.catch(() => {}); // told by finish()
    this.#connect();
  }

  /**
   * Send samples; they are copied.
   * @param {ArrayBuffer | ArrayBufferView} samples Interleaved, in the stream's format.
   */
  send(samples) {
    if (this.#over) return;
    if (this.#finishing) throw new StreamError("ClientError", "the stream is finished");
    const view = ArrayBuffer.isView(samples)
      ? new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength)
      : new Uint8Array(samples);
    if (!view.length) return;
    this.#pieces.push({ start: this.#total, bytes: view.slice() });
    this.#total += view.length;
    if (this.#total - this.#pieces[0].start > this.#options.maxBufferedBytes) {
      this.#fail(new StreamError("ClientError", "the server was away for too long"));
    } else {
      this.#flush();
    }
  }

  /**
   * End the speech.
   * @returns {Promise<object>} The assessment.
   */
  finish() {
    this.#finishing = true;
    this.#flush();
    return this.#result;
  }

  /** Stop; `finish()` rejects. What the server keeps of the stream it keeps for its time. */
  cancel() {
    this.#fail(new StreamError("ClientError", "the stream was cancelled"));
  }

  #connect() {
    this.#timer = null;
    this.#next = null;
    this.#finishSent = false;
    const socket = new this.#options.WebSocket(this.#url, this.#protocols);
    socket.binaryType = "arraybuffer";
    socket.onmessage = (event) => {
      if (socket === this.#socket) this.#hear(JSON.parse(event.data));
    };
    const lost = () => {
      if (socket !== this.#socket) return;
      this.#socket = null;
      socket.close();
      this.#connectLater();
    };
    socket.onerror = lost; // not every implementation closes after that
    socket.onclose = lost;
    this.#socket = socket;
  }

  #connectLater() {
    if (this.#over || this.#timer !== null) return;
    this.#next = null;
    const pauseMs = this.#pauseMs * (0.5 + Math.random());
    this.#pauseMs = Math.min(2 * this.#pauseMs, LONGEST_PAUSE_MS);
    this.#timer = setTimeout(() => this.#connect(), pauseMs);
  }

  #hear(message) {
    if (this.#over) return;
    if (message.type === "resume") {
      const first = this.#pieces.length ? this.#pieces[0].start : this.#total;
      if (message.offset < first || message.offset > this.#total) {
        const hint = "speak again, with a new stream";
        this.#fail(new StreamError("ClientError", "the server lost what it had kept", hint));
        return;
      }
      this.#pauseMs = FIRST_PAUSE_MS;
      this.#next = message.offset;
      this.#flush();
    } else if (message.type === "provisional") {
      this.#trim(message.saved);
      this.#options.onProvisional?.(message);
    } else if (message.type === "rationale") {
      this.#options.onRationale?.(message.text);
    } else if (message.type === "final") {
      this.#end();
      this.#settle.resolve(message.assessment);
    } else if (message.type === "error" && !RETRYABLE.has(message.error)) {
      this.#fail(new StreamError(message.error, message.message, message.hint));
    }
  }

  #trim(saved) {
    this.#saved = saved;
    const kept = this.#pieces.findIndex(({ start, bytes }) => start + bytes.length > saved);
    this.#pieces.splice(0, kept < 0 ? this.#pieces.length : kept);
    this.#tell();
  }

  #flush() {
    const socket = this.#socket;
    if (this.#over || this.#next === null || socket?.readyState !== 1) return;
    for (const { start, bytes } of this.#pieces) {
      if (start + bytes.length <= this.#next) continue;
      if (socket.bufferedAmount > MOST_IN_SOCKET_BYTES) {
        this.#look ??= setTimeout(() => {
          this.#look = null;
          this.#flush();
        }, LOOK_MS);
        return;
      }
      socket.send(bytes.subarray(this.#next - start));
      this.#next = start + bytes.length;
    }
    if (this.#finishing && !this.#finishSent) {
      this.#finishSent = true;
      socket.send('{"type": "finish"}');
    }
    this.#tell();
  }

  #tell() {
    const progress = { spoken: this.#total, sent: this.#next ?? this.#saved, saved: this.#saved };
    this.#options.onProgress?.(progress);
  }

  #fail(error) {
    if (this.#over) return;
    this.#end();
    this.#settle.reject(error);
  }

  #end() {
    this.#over = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#look);
    this.#pieces = [];
    this.#socket?.close();
  }
}
