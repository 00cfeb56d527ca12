// Hands over what the microphone hears in blocks, and the rest when it is told to stop.
const BLOCK_SAMPLES = 1600; // 0.1 s

class Capture extends AudioWorkletProcessor {
  #block = new Float32Array(BLOCK_SAMPLES);
  #held = 0;
  #stopped = false;

  constructor() {
    super();
    this.port.onmessage = () => {
      this.#post();
      this.#stopped = true;
      this.port.postMessage(null);
    };
  }

  process([[channel]]) {
    for (const sample of channel ?? []) {
      this.#block[this.#held++] = sample;
      if (this.#held === BLOCK_SAMPLES) this.#post();
    }
    return !this.#stopped;
  }

  #post() {
    const block = this.#block.slice(0, this.#held);
    this.port.postMessage(block, [block.buffer]);
    this.#held = 0;
  }
}

registerProcessor("capture", Capture);
