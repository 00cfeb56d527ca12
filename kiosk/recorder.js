// The microphone at 16 kHz, one channel, as it is: no echo cancelling, no gain of its own.
const SAMPLE_RATE_HZ = 16000;
const REST_MS = 1000; // for the last block, which a suspended context never hands over

/** A recording cannot start; `reason` names a sentence of strings.js. */
export class RecorderError extends Error {
  /** @param {string} reason */
  constructor(reason) {
    super(reason);
    this.reason = reason;
  }
}

/** Of the errors that getUserMedia gives. */
const REASONS = {
  NotAllowedError: "refused",
  SecurityError: "refused",
  NotFoundError: "no_microphone",
  OverconstrainedError: "no_microphone",
  NotReadableError: "busy",
};

/**
 * Starts a recording.
 * @param {(block: Float32Array) => void} onBlock Takes every 0.1 s, and the rest at the end.
 * @param {() => void} onUnplugged The microphone has gone.
 * @returns {Promise<() => Promise<void>>} Stops; every block has been handed over when it resolves.
 * @throws {RecorderError} There is no microphone, it is refused, or the browser cannot do it.
 */
export async function record(onBlock, onUnplugged) {
  if (!navigator.mediaDevices || !globalThis.AudioWorkletNode) throw new RecorderError("unsupported");
  const context = new AudioContext({ sampleRate: SAMPLE_RATE_HZ });
  /** @type {MediaStream | undefined} */
  let media;
  try {
    await context.audioWorklet.addModule("capture.js");
    media = await microphone();
    const node = new AudioWorkletNode(context, "capture", {
      channelCount: 1,
      channelCountMode: "explicit",
      numberOfOutputs: 0,
    });
    const ended = new Promise((resolve) => {
      node.port.onmessage = ({ data }) => (data ? onBlock(data) : resolve(undefined));
    });
    const [track] = media.getAudioTracks();
    track.addEventListener("ended", onUnplugged);
    sourceOf(context, media).connect(node);
    await context.resume();
    const opened = media;
    return async () => {
      track.removeEventListener("ended", onUnplugged);
      node.port.postMessage("stop");
      await Promise.race([ended, new Promise((resolve) => setTimeout(resolve, REST_MS))]);
      release(context, opened);
    };
  } catch (error) {
    release(context, media);
    throw error instanceof RecorderError ? error : new RecorderError("unsupported");
  }
}

async function microphone() {
  const audio = {
    channelCount: 1,
    echoCancellation: false,
    noiseSuppression: false,
    autoGainControl: false,
  };
  try {
    return await navigator.mediaDevices.getUserMedia({ audio });
  } catch (error) {
    throw new RecorderError(REASONS[error.name] ?? "no_microphone");
  }
}

/** Firefox connects no microphone of another rate than the context's. */
function sourceOf(context, media) {
  try {
    return context.createMediaStreamSource(media);
  } catch {
    throw new RecorderError("unsupported");
  }
}

function release(context, media) {
  for (const track of media?.getTracks() ?? []) track.stop();
  void context.close();
}

/**
 * A recording as a WAV file.
 * @param {Int16Array} samples
 */
export function wav(samples) {
  const header = new DataView(new ArrayBuffer(44));
  const text = (at, word) => [...word].forEach((c, i) => header.setUint8(at + i, c.charCodeAt(0)));
  text(0, "RIFF");
  header.setUint32(4, 36 + samples.byteLength, true);
  text(8, "WAVEfmt ");
  header.setUint32(16, 16, true);
  header.setUint16(20, 1, true); // PCM
  header.setUint16(22, 1, true);
  header.setUint32(24, SAMPLE_RATE_HZ, true);
  header.setUint32(28, 2 * SAMPLE_RATE_HZ, true);
  header.setUint16(32, 2, true);
  header.setUint16(34, 16, true);
  text(36, "data");
  header.setUint32(40, samples.byteLength, true);
  return new Blob([header, samples], { type: "audio/wav" });
}
