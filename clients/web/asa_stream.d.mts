export interface Progress {
  /** Bytes that were spoken, sent on this connection, and kept by the server. */
  spoken: number;
  sent: number;
  saved: number;
}

export interface StreamOptions {
  /** Of the samples: `audioContext.sampleRate`. */
  sampleRateHz: number;
  /** Interleaved channels; 1 by default. */
  channels?: number;
  format?: "s16le" | "f32le";
  /** What is read, and the task, for graders that use them. */
  text?: string;
  prompt?: string;
  /** An API key. */
  key?: string;
  /** To go on with a stream that another page began; random by default. */
  id?: string;
  /** Bytes that may wait while the server is away; 64 MiB by default. */
  maxBufferedBytes?: number;
  onProvisional?: (message: { scores: Record<string, object>; windows: number }) => void;
  onRationale?: (piece: string) => void;
  onProgress?: (progress: Progress) => void;
  /** Another implementation; the platform's by default. */
  WebSocket?: typeof WebSocket;
}

/** What the server, or this client, cannot go on from. */
export class StreamError extends Error {
  readonly kind: string;
  readonly hint: string;
}

export function newStreamId(): string;

/** One stream. `send` samples as they are spoken, then await `finish()`. */
export class AsaStream {
  constructor(server: string, options: StreamOptions);
  readonly id: string;
  send(samples: ArrayBuffer | ArrayBufferView): void;
  finish(): Promise<Record<string, unknown>>;
  cancel(): void;
}
