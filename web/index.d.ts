/** Why a call failed: names of libasa's statuses. */
export type Status =
  "argument" | "order" | "audio" | "file" | "memory" | "busy" | "device" | "internal" | "text";

/** One line says what is wrong and what to do. */
export class AsaError extends Error {
  readonly status: Status;
}

export type Precision = "fp32" | "bf16" | "int8";

export interface Score {
  value: number;
  scale_min: number;
  scale_max: number;
  /** Of the recording's scores. */
  level?: string;
  /** Expected error for this much speech, where it was measured. */
  sd?: number;
}

export interface Phone {
  /** ARPAbet. */
  phone: string;
  ipa: string;
  start_s: number;
  end_s: number;
  /** The phone that was said in its place, where it was poor. */
  heard?: string;
  score: Score;
}

/** A word of the text, or what was said beyond it. */
export interface Word {
  text: string;
  start_s?: number;
  end_s?: number;
  error: "none" | "mispronunciation" | "omission" | "insertion" | "repetition";
  /** Probability that `error` is right. */
  confidence: number;
  score?: Score;
  phones?: Phone[];
}

export interface Provisional {
  /** Seconds fed so far. */
  audio_s: number;
  /** By name; empty before the first window is full. */
  scores: Record<string, Score>;
  /** Of a text, those passed so far. */
  words?: Word[];
  features?: Record<string, number>;
}

export interface Assessment {
  schema_version: string;
  grader: string;
  /** By name; empty where the recording cannot be judged. */
  scores: Record<string, Score>;
  words?: Word[];
  /** Pace and pauses of a reading. */
  features?: Record<string, number>;
  prior?: { levels: number[]; probabilities: number[]; expected: number };
  validity: {
    scorable: boolean;
    /** Such as "silence", "no_speech", "too_short", "too_noisy", "clipping". */
    reasons: string[];
    peak_dbfs: number;
    rms_dbfs: number;
    clipped_share: number;
    speech_s: number;
    snr_db?: number;
  };
  channels: { count: number; used_s: Record<string, number> };
  timing: Record<string, number | null>;
  receipt: Record<string, unknown>;
}

export interface Description {
  grader: string;
  bundle: { name: string; version: string; sha256: string };
  file_sha256: string;
  precision: Precision;
  threads: number;
  kernel_isa: string;
  sample_rate_hz: 16000;
  channels: 1;
  aspects: { name: string; scale_min: number; scale_max: number }[];
  /** Whether its streams are given the text that is read. */
  reads_texts: boolean;
}

/** What a grader file can be given as. Texts are addresses. */
export type Source = string | URL | Response | ArrayBuffer | Uint8Array;

/** A grader, opened; it may have any number of streams. */
export class Grader {
  /**
   * Opens a file that `asa-engine export --target device` wrote.
   * @param options.threads How many a window may use, with workers for all but one: 4 unless told,
   *   or as many as the machine runs at once. One where the page is not cross-origin isolated; how
   *   many there are, `describe` tells, and scores are the same bits.
   * @throws AsaError The file is damaged or of another revision, or cannot be fetched.
   */
  static open(source: Source, options?: { precision?: Precision; threads?: number }): Promise<Grader>;
  /** What it is and how it runs. */
  describe(): Description;
  /**
   * Starts a recording: one channel at 16 kHz.
   * @param text What is read, for a grader that judges that, and for no other.
   * @throws AsaError The text cannot be read aloud, is missing, or is of no use.
   */
  stream(text?: string): Stream;
  /** Lets its memory go. Its workers end with the last of it and its streams that is closed. */
  close(): void;
}

/** One recording on its way to its scores. Made by `Grader.stream`. */
export class Stream {
  /**
   * Takes the next samples, as many as there are; floats have full scale 1.
   * @throws AsaError NaN, or fed after its end.
   */
  feed(samples: Float32Array | Int16Array): void;
  /** Scores of the speech so far. */
  provisional(): Provisional;
  /** Ends the recording; called again, it gives the same assessment. */
  finish(): Assessment;
  close(): void;
}
