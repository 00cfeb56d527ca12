// What a grader file says of its grader, number by number. docs/devices.md has the order.
#include <algorithm>

#include "asa/log_mel.h"
#include "cursor.h"

namespace asa {
namespace {

constexpr std::uint32_t kMostAspects = 64;
constexpr int kMostWidth = 8192, kMostCentres = 65536, kMostLayers = 64, kMostHeads = 128;
constexpr int kMostInner = 32768, kMostPositions = 3000;  // 60 s of frames
constexpr int kLeastHead = 8;  // kernels pad heads to their panels: narrower ones only waste memory
constexpr std::uint32_t kMostWindow = 60 * kSampleRate;
constexpr int kStride = 2 * kHop;  // samples a frame of the encoder
// A group of words is at most 160 tokens and a word more; a word has at most 40 letters.
constexpr int kLeastTextPositions = 256, kMostTextPositions = 4096;
constexpr int kMostTokens = 1 << 17, kMostSeeds = 16;
constexpr std::uint32_t kMostReading = 3600 * kSampleRate;

void read_windows(Cursor& cursor, GraderConfig& c) {
  EncoderShape& e = c.encoder;
  e.mels = cursor.size(kMaxMels, "n_mels is out of range");
  e.width = cursor.size(kMostWidth, "d_model is out of range");
  e.layers = cursor.size(kMostLayers, "layers is out of range");
  e.heads = cursor.size(kMostHeads, "heads is out of range");
  e.inner = cursor.size(kMostInner, "ffn is out of range");
  e.positions = cursor.size(kMostPositions, "positions is out of range");
  need(e.width % e.heads == 0 && e.width / e.heads >= kLeastHead, "d_model and heads do not fit");
  c.window_samples = cursor.size(kMostWindow, "the window is out of range", kSampleRate / 10);
  c.min_window_samples = cursor.size(c.window_samples, "the least window is out of range", kStride);
  need(c.window_samples % kStride == 0, "the window is not made of whole frames");
  need(c.window_samples / kStride <= e.positions, "the window is longer than positions");
  c.pad_to_window = cursor.at_most(1, "the padding is unknown") == 1;
  c.front = static_cast<Front>(cursor.at_most(2, "the front is unknown"));
}

void read_head(Cursor& cursor, GraderConfig& c) {
  HeadShape& h = c.head;
  h.width = c.encoder.width;
  h.heads = cursor.size(kMostHeads, "attention_heads is out of range");
  h.prior_width = cursor.size(kMostWidth, "prior_width is out of range");
  h.embedding = cursor.size(kMostWidth, "prior_embedding is out of range");
  h.hidden = cursor.size(kMostWidth, "head_width is out of range");
  h.centres = cursor.size(kMostCentres, "kernel_centres is out of range", 0);
  h.place = cursor.size(kMostWidth, "kernel_width is out of range", 0);
  need((h.centres == 0) == (h.place == 0), "its kernel regressor is half there");
  h.outputs = h.centres ? c.encoder.layers + 1 : 0;
  c.prior_levels = cursor.ascending(2);
  h.levels = static_cast<int>(c.prior_levels.size());
}

void read_reading(Cursor& cursor, const EncoderShape& encoder, ReadingConfig& r) {
  DecoderShape& d = r.decoder;
  d.width = encoder.width;
  d.layers = cursor.size(kMostLayers, "the decoder's layers is out of range");
  d.heads = cursor.size(kMostHeads, "the decoder's heads is out of range");
  d.inner = cursor.size(kMostInner, "the decoder's ffn is out of range");
  d.tokens = cursor.size(kMostTokens, "tokens is out of range");
  d.positions = cursor.size(kMostTextPositions, "the decoder's positions is out of range",
                            kLeastTextPositions);
  need(d.width % d.heads == 0 && d.width / d.heads >= kLeastHead,
       "d_model and the decoder's heads do not fit");
  r.alignment_heads.resize(cursor.at_most(1024, "alignment_heads is out of range", 1));
  for (int& head : r.alignment_heads) {
    head = cursor.size(d.layers * d.heads - 1, "there is no such alignment head", 0);
  }
  r.phone_hidden = cursor.size(kMostWidth, "the phone layer is out of range");
  r.verdict_hidden = cursor.size(kMostWidth, "a verdict's layer is out of range");
  JudgeShape& j = r.judge;
  j.heads = cursor.size(64, "the judge's heads is out of range");
  j.seeds = cursor.size(kMostSeeds, "the judge's seeds is out of range");
  j.width = cursor.size(kMostWidth, "the judge's width is out of range");
  j.layers = cursor.size(kMostLayers, "the judge's layers is out of range");
  j.inner = cursor.size(kMostInner, "the judge's inner width is out of range");
  j.directions = cursor.size(kMostWidth, "the judge's directions is out of range");
  j.pooled = cursor.size(kMostWidth, "the judge's pooled directions is out of range");
  j.net_pooled = cursor.size(j.pooled, "the judge's net_pooled is out of range");
  j.centres = cursor.size(kMostCentres, "the judge's centres is out of range");
  j.score_hidden = cursor.size(kMostWidth, "the judge's score layer is out of range");
  j.word_hidden = cursor.size(kMostWidth, "the judge's word layer is out of range");
  need(j.width % j.heads == 0, "the judge's width and heads do not fit");
  r.most_samples = cursor.at_most(kMostReading, "the longest reading is out of range", kSampleRate);
  Thresholds& t = r.thresholds;
  for (double* limit : {&t.mismatch, &t.omission, &t.insertion, &t.mispronounced, &t.poor_phone}) {
    *limit = cursor.number();
  }
  r.word_sd = cursor.pairs("too many expected errors of words");
}

Aspect read_aspect(Cursor& cursor, bool by_score) {
  Aspect aspect;
  aspect.name = cursor.text();
  aspect.scale_min = cursor.number();
  aspect.scale_max = cursor.number();
  need(aspect.scale_min < aspect.scale_max, "a scale is empty");
  aspect.level_cuts = cursor.ascending(0);
  aspect.level_names.resize(cursor.at_most(kMostNumbers, "too many levels"));
  for (std::string& name : aspect.level_names) name = cursor.text();
  need(aspect.level_names.empty() || aspect.level_names.size() == aspect.level_cuts.size() + 1,
       "levels and their cuts do not go together");
  aspect.sd = cursor.pairs("too many expected errors");
  if (by_score) aspect.sd_by_score = cursor.pairs("too many factors of expected errors");
  return aspect;
}

}  // namespace

GraderConfig read_config(Cursor& cursor) {
  GraderConfig c;
  for (std::string* text : {&c.grader, &c.bundle, &c.bundle_version, &c.bundle_sha256,
                            &c.engine_version, &c.precision}) {
    *text = cursor.text();
  }
  const bool reads = c.grader == "pronunciation";
  if (!reads && c.grader != "acoustic") {
    throw FileError(
        "the grader file holds a grader of another kind than acoustic and pronunciation, those "
        "that this library runs");
  }
  read_windows(cursor, c);
  if (reads) {
    read_reading(cursor, c.encoder, c.reading.emplace());
  } else {
    read_head(cursor, c);
  }
  const std::uint32_t aspects =
      cursor.at_most(kMostAspects, "the number of aspects is out of range", 1);
  for (std::uint32_t i = 0; i < aspects; ++i) {
    Aspect aspect = read_aspect(cursor, reads);
    for (const Aspect& other : c.aspects) {
      need(other.name != aspect.name, "two aspects have one name");
    }
    c.aspects.push_back(std::move(aspect));
  }
  if (reads) {
    c.reading->judge.aspects = static_cast<int>(aspects);
  } else {
    c.head.aspects = static_cast<int>(aspects);
  }
  return c;
}

}  // namespace asa
