#include "buffers.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace asa::cuda {
namespace {

constexpr std::size_t kAlignment = 256;  // of what cudaMalloc gives

}  // namespace

Padded::Padded(const ModelShape& shape) {
  const EncoderShape& e = shape.encoder;
  const HeadShape& h = shape.head;
  const auto in = [](int value, int least, int most) { return value >= least && value <= most; };
  if (!in(e.mels, 1, kMaxMels) || !in(e.width, 1, 8192) || !in(e.heads, 1, 256) ||
      !in(e.inner, 1, 32768) || !in(e.layers, 1, 256) || !in(e.positions, 1, 1 << 16) ||
      e.width % e.heads) {
    throw std::invalid_argument("not the shape of a Whisper encoder");
  }
  if (e.width / e.heads > kMaxHeadWidth) {
    throw std::invalid_argument("the GPU's kernels take heads up to 64 wide");
  }
  if (h.width != e.width || !in(h.heads, 1, 32) || !in(h.prior_width, 1, 16384) ||
      !in(h.levels, 1, 16384) || !in(h.embedding, 1, 16384) || !in(h.hidden, 1, 16384) ||
      !in(h.aspects, 1, 16384) || !in(h.centres, 0, 65536) || !in(h.place, 0, 16384) ||
      (h.outputs != 0 && h.outputs != e.layers + 1) || (h.centres != 0) != (h.outputs != 0)) {
    throw std::invalid_argument("not the shape of a head of this encoder");
  }
  mels = round_up(e.mels, 32);
  width = round_up(e.width, 64);
  inner = round_up(e.inner, 64);
  head = padded_head(e.width / e.heads);
  all = head * e.heads;
}

Capacity::Capacity(const Limits& limits) {
  if (limits.windows < 1 || limits.windows > 1 << 16 || limits.frames < 1 ||
      limits.frames > 1 << 22) {
    throw std::invalid_argument("a batch has 1 to 2^16 windows and 1 to 2^22 frames");
  }
  windows = limits.windows;
  rows = limits.frames;
  mel_frames = 2 * (rows + windows);  // with a zero frame before and after each window
  strips = rows / kStripRows + windows;
  tiles = rows / kTileRows + windows;
}

TableLayout::TableLayout(const Capacity& capacity) {
  std::size_t at = kCounts;
  const auto take = [&](std::size_t ints) {
    at += at % 2;  // a Span is two
    const std::size_t before = at;
    at += ints;
    return before;
  };
  strip = take(2 * std::size_t(capacity.strips));
  tile = take(2 * std::size_t(capacity.tiles));
  starts = take(capacity.windows + 1);
  mel_frames = take(capacity.windows);
  mel_starts = take(capacity.windows);
  input_starts = take(capacity.windows + 1);
  conv1_source = take(capacity.mel_frames);
  conv2_source = take(capacity.rows);
  position = take(capacity.rows);
  end = at;
}

int tabulate(const ModelShape& shape, const Limits& limits, const TableLayout& at,
             const Batch& batch, int* all) {
  auto* strip = reinterpret_cast<Span*>(all + at.strip);
  auto* tile = reinterpret_cast<Span*>(all + at.tile);
  const int windows = static_cast<int>(batch.starts.size()) - 1;
  if (windows < 1 || windows > limits.windows) {
    throw std::invalid_argument("a batch has 1 to " + std::to_string(limits.windows) +
                                " windows here, not " + std::to_string(windows));
  }
  if (batch.starts[0] != 0) throw std::invalid_argument("the first window starts at 0");
  int rows = 0, mels = 0, strips = 0, tiles = 0;
  for (int w = 0; w < windows; ++w) {
    const long size = long(batch.starts[w + 1]) - batch.starts[w];
    const long mel_frames = batch.mels ? size : size / kHop;
    const long frames = (mel_frames + 1) / 2;
    if (frames < 1 || (!batch.mels && size <= kEdge) || frames > shape.encoder.positions) {
      throw std::invalid_argument(
          "window " + std::to_string(w) + " has " + std::to_string(mel_frames) +
          " log-mel frames; this encoder takes 1 to " +
          std::to_string(2 * shape.encoder.positions) + ", and more than 200 samples");
    }
    if (frames > limits.frames - rows) {
      throw std::invalid_argument("the batch has more than " + std::to_string(limits.frames) +
                                  " frames");
    }
    all[at.starts + w] = rows;
    all[at.mel_frames + w] = static_cast<int>(mel_frames);
    all[at.mel_starts + w] = mels;
    all[at.input_starts + w] = batch.starts[w];
    all[at.conv1_source + mels] = -1;
    for (int t = 0; t < mel_frames; ++t) all[at.conv1_source + mels + 1 + t] = mels + t;
    all[at.conv1_source + mels + 1 + mel_frames] = -1;
    for (int t = 0; t < frames; ++t) {
      all[at.conv2_source + rows + t] = mels + 2 * t;
      all[at.position + rows + t] = t;
    }
    for (int t = 0; t < frames; t += kStripRows) strip[strips++] = {w, t};
    for (int t = 0; t < frames; t += kTileRows) tile[tiles++] = {w, t};
    rows += static_cast<int>(frames);
    mels += static_cast<int>(mel_frames) + 2;
  }
  all[at.starts + windows] = rows;
  all[at.input_starts + windows] = batch.starts[windows];
  all[TableLayout::rows] = rows;
  all[TableLayout::padded_mels] = mels;
  all[TableLayout::strips] = strips;
  all[TableLayout::tiles] = tiles;
  all[TableLayout::summed] = batch.sums != nullptr;
  return rows;
}

std::size_t input_floats(const ModelShape& shape, const Capacity& capacity) {
  // Less than a hop of samples is left over at the end of each window.
  const std::size_t samples =
      std::size_t(kHop) * (2 * std::size_t(capacity.rows) + capacity.windows);
  return std::max(samples, 2 * std::size_t(capacity.rows) * shape.encoder.mels);
}

std::vector<HeadTensor> head_tensors(const HeadShape& s) {
  using W = HeadWeights;
  std::vector<HeadTensor> all = {
      {&W::prior_norm_weight, 1, s.width},
      {&W::prior_norm_bias, 1, s.width},
      {&W::prior_fc1_weight, s.prior_width, s.width},
      {&W::prior_fc1_bias, 1, s.prior_width},
      {&W::prior_fc2_weight, s.levels, s.prior_width},
      {&W::prior_fc2_bias, 1, s.levels},
      {&W::prior_projector_weight, s.embedding, s.levels},
      {&W::prior_projector_bias, 1, s.embedding},
      {&W::pool_norm_weight, 1, s.pooled()},
      {&W::pool_norm_bias, 1, s.pooled()},
      {&W::fc1_weight, s.hidden, s.features()},
      {&W::fc1_bias, 1, s.hidden},
      {&W::fc2_weight, s.aspects, s.hidden},
      {&W::fc2_bias, 1, s.aspects},
      {&W::score_mean, 1, s.aspects},
      {&W::score_std, 1, s.aspects},
  };
  if (s.centres) {
    all.insert(all.end(), {{&W::blend, 1, s.aspects},
                           {&W::kernel_projection, s.place, 2 * s.sums()},
                           {&W::kernel_bias, 1, s.place},
                           {&W::kernel_duration, 1, 1},
                           {&W::kernel_centres, s.centres, s.place + 1},
                           {&W::kernel_weights, s.aspects, s.centres},
                           {&W::kernel_mean, 1, s.aspects}});
  }
  return all;
}

Buffers::Buffers(const ModelShape& shape, const Limits& limits, bool take)
    : padded(shape), capacity(limits), layout(capacity) {
  constexpr std::size_t factor = 2;  // bytes of a product's factor
  const auto device = [&](std::size_t count, std::size_t size) {
    const std::size_t wanted = count * size;
    bytes += (wanted + kAlignment - 1) / kAlignment * kAlignment;
    return take ? Memory(Memory::Place::device, wanted) : Memory();
  };
  const auto host = [&](std::size_t count, std::size_t size) {
    return take ? Memory(Memory::Place::host, count * size) : Memory();
  };
  const auto floats = [&](std::size_t count) { return device(count, sizeof(float)); };
  const EncoderShape& e = shape.encoder;
  const HeadShape& h = shape.head;
  const std::size_t width = padded.width, mels = padded.mels, inner = padded.inner;
  const std::size_t all = padded.all, rows = capacity.rows, windows = capacity.windows;

  mel_tables = device(1, sizeof(MelTables));
  conv1 = device(width * 3 * mels, factor);
  conv1_bias = floats(width);
  conv2 = device(width * 3 * width, factor);
  conv2_bias = floats(width);
  positions = floats(e.positions * width);
  layers.resize(e.layers);
  for (LayerBuffers& layer : layers) {
    for (Memory* norm : {&layer.norm1[0], &layer.norm1[1], &layer.norm2[0], &layer.norm2[1]}) {
      *norm = floats(width);
    }
    layer.qkv = device(3 * all * width, factor);
    layer.qkv_bias = floats(3 * all);
    layer.out = device(width * all, factor);
    layer.out_bias = floats(width);
    layer.fc1 = device(inner * width, factor);
    layer.fc1_bias = floats(inner);
    layer.fc2 = device(width * inner, factor);
    layer.fc2_bias = floats(width);
  }
  final_norm[0] = floats(width);
  final_norm[1] = floats(width);
  for (const HeadTensor& tensor : head_tensors(h)) {
    head.push_back(floats(std::size_t(tensor.rows) * round_up(tensor.columns, 4)));
  }
  attention_weight = floats(std::size_t(h.heads) * h.width);
  attention_bias = floats(h.heads);

  tables = device(layout.end, sizeof(int));
  input = floats(input_floats(shape, capacity));
  power = floats(capacity.mel_frames * mels);
  top = device(windows, sizeof(int));
  mel = device(capacity.mel_frames * mels, factor);
  conv = device(capacity.mel_frames * width, factor);
  x = floats(rows * width);
  normal = device(rows * width, factor);
  qkv = device(rows * 3 * all, factor);
  context = device(rows * all, factor);
  hidden = device(rows * inner, factor);
  mixed = floats(rows * width);
  partial = floats(capacity.strips * std::max(2 * width, std::size_t(pooled_sums(h))));
  arrived = device(windows, sizeof(unsigned));
  stats = floats(windows * h.stats());
  sums = device(windows * h.stats(), sizeof(double));
  scratch = floats(windows * head_scratch_floats(h));
  scores = floats(windows * h.aspects);
  prior = floats(windows * h.levels);

  host_tables = host(layout.end, sizeof(int));
  host_input = host(input_floats(shape, capacity), sizeof(float));
  host_sums = host(windows * h.stats(), sizeof(double));
  host_stats = host(windows * h.stats(), sizeof(float));
  host_scores = host(windows * h.aspects, sizeof(float));
  host_prior = host(windows * h.levels, sizeof(float));
}

}  // namespace asa::cuda
