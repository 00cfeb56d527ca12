// The order of work; no arithmetic but the layout of weights.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <tuple>

#include "asa/cuda/gemm.h"
#include "asa/cuda/layer_norm.h"
#include "asa/cuda/model.h"
#include "buffers.h"
#include "upload.h"

namespace asa::cuda {
namespace {

constexpr int kSmallestBucket = 64;       // rows
constexpr std::size_t kMostGraphs = 128;  // each holds memory of the driver's

// The smallest 2^k or 3 2^k, times `least`, that is at least `wanted`; `most` at most.
int bucket_of(int wanted, int least, int most) {
  int steps = 1;
  while (steps * least < wanted) steps += steps & (steps - 1) ? steps / 3 : std::max(1, steps / 2);
  return std::min(steps * least, most);
}

}  // namespace

struct Model::Parts {
  Parts(const ModelShape& shape, Format format, const Limits& limits)
      : shape(shape),
        format(format),
        limits(limits),
        buffers(shape, limits, true),
        upload(stream, format) {}

  ModelShape shape;
  Format format;
  Limits limits;
  Buffers buffers;
  Stream stream;
  Uploader upload;
  HeadWeights head_weights{};
  std::vector<float> layer_weights;
  int layers_set = 0;
  bool stem_set = false, final_set = false;

  // Windows, rows and input's kind of a bucket -> its work.
  std::map<std::tuple<int, int, bool>, std::optional<Graph>> graphs;

  const int* table(std::size_t at) const { return buffers.tables.as<int>() + at; }

  Ragged ragged(const Capacity& capacity) const {
    const TableLayout& at = buffers.layout;
    return {table(TableLayout::strips),
            reinterpret_cast<const Span*>(table(at.strip)),
            table(TableLayout::tiles),
            reinterpret_cast<const Span*>(table(at.tile)),
            table(at.starts),
            table(at.mel_frames),
            table(at.mel_starts),
            table(at.input_starts),
            capacity.strips,
            capacity.tiles};
  }

  PoolHead pool_head() const {
    const Buffers& b = buffers;
    return {shape.head,
            head_weights,
            b.attention_weight.as<float>(),
            b.attention_bias.as<float>(),
            b.mixed.as<float>(),
            b.padded.width,
            b.stats.as<float>(),
            b.sums.as<double>(),
            table(TableLayout::summed),
            b.partial.as<float>(),
            b.arrived.as<unsigned>(),
            b.scratch.as<float>(),
            b.scores.as<float>(),
            b.prior.as<float>()};
  }

  Norm norm(const Memory* weights, void* out) const {
    const Buffers& b = buffers;
    return {b.x.as<float>(),
            b.padded.width,
            shape.encoder.width,
            weights[0].as<float>(),
            weights[1].as<float>(),
            out,
            false,
            nullptr,
            0.0f,
            false,
            nullptr,
            shape.head.stats(),
            0,
            0,
            b.partial.as<float>(),
            b.arrived.as<unsigned>()};
  }

  // The norm that also takes the output of layer `index` into the mix and the moments.
  Norm taking_norm(int index, const Memory* weights, void* out) const {
    Norm n = norm(weights, out);
    n.closing = index == shape.encoder.layers;
    n.mixed = buffers.mixed.as<float>();
    n.mix_weight = layer_weights[index];
    n.begin = index == 0;
    if (shape.head.outputs) {
      n.stats = buffers.stats.as<float>();
      n.at = 1 + pooled_sums(shape.head) + index * shape.encoder.width;
      n.squares = shape.head.sums();
    }
    return n;
  }

  void enqueue(const Capacity& capacity, bool mels) {
    const Buffers& b = buffers;
    const Padded& p = b.padded;
    const Ragged r = ragged(capacity);
    const int* rows = table(TableLayout::rows);
    stream.fill(b.top.as(), kLowestTop, b.top.bytes());
    log_mel(stream, format,
            {b.input.as<float>(), mels ? nullptr : b.mel_tables.as<MelTables>(), shape.encoder.mels,
             p.mels, b.power.as<float>(), b.top.as<int>(), b.mel.as()},
            r);
    gemm_store(
        stream, format,
        {b.mel.as(), p.mels, table(b.layout.conv1_source), b.conv1.as(), b.conv1_bias.as<float>(),
         3 * p.mels, p.width, table(TableLayout::padded_mels), capacity.mel_frames},
        true, b.conv.as(), p.width);
    gemm_place(stream, format,
               {b.conv.as(), p.width, table(b.layout.conv2_source), b.conv2.as(),
                b.conv2_bias.as<float>(), 3 * p.width, p.width, rows, capacity.rows},
               b.positions.as<float>(), table(b.layout.position), b.x.as<float>(), p.width);

    const auto linear = [&](const Memory& from, int in, const Memory& weight, const Memory& bias,
                            int out) -> Gemm {
      return {from.as(), in, nullptr, weight.as(), bias.as<float>(), in, out, rows, capacity.rows};
    };
    for (int i = 0; i < shape.encoder.layers; ++i) {
      const LayerBuffers& layer = b.layers[i];
      layer_norm(stream, format, taking_norm(i, layer.norm1, b.normal.as()), r);
      gemm_store(stream, format, linear(b.normal, p.width, layer.qkv, layer.qkv_bias, 3 * p.all),
                 false, b.qkv.as(), 3 * p.all);
      attend(stream, format,
             {b.qkv.as(), 3 * p.all, shape.encoder.heads, p.head, b.context.as(), p.all}, r);
      gemm_add(stream, format, linear(b.context, p.all, layer.out, layer.out_bias, p.width),
               b.x.as<float>(), p.width);
      layer_norm(stream, format, norm(layer.norm2, b.normal.as()), r);
      gemm_store(stream, format, linear(b.normal, p.width, layer.fc1, layer.fc1_bias, p.inner),
                 true, b.hidden.as(), p.inner);
      gemm_add(stream, format, linear(b.hidden, p.inner, layer.fc2, layer.fc2_bias, p.width),
               b.x.as<float>(), p.width);
    }
    layer_norm(stream, format, taking_norm(shape.encoder.layers, b.final_norm, nullptr), r);
    pool_and_score(stream, pool_head(), r);
  }

  int tabulate(const Batch& batch) const {
    return asa::cuda::tabulate(shape, limits, buffers.layout, batch, buffers.host_tables.as<int>());
  }

  // A bucket's first batch runs as it is: that loads its kernels, which a capture must not. The
  // second one is captured.
  void run(int windows, int rows, bool mels) {
    const int bucket_windows = bucket_of(windows, 1, limits.windows);
    const int bucket_rows = bucket_of(rows, kSmallestBucket, limits.frames);
    const Capacity capacity({bucket_windows, bucket_rows});
    if (graphs.size() == kMostGraphs) graphs.clear();
    const auto [bucket, first] = graphs.try_emplace({bucket_windows, bucket_rows, mels});
    std::optional<Graph>& graph = bucket->second;
    if (first) {
      enqueue(capacity, mels);
      return;
    }
    if (!graph) {
      stream.begin_capture();
      enqueue(capacity, mels);
      graph = stream.end_capture();
    }
    stream.launch(*graph);
  }

  void check_ready() const {
    if (!stem_set || !final_set || layers_set != shape.encoder.layers || layer_weights.empty()) {
      throw std::logic_error("the model's weights are not all set");
    }
  }
};

std::size_t Model::need_bytes(const ModelShape& shape, const Limits& limits) {
  return Buffers(shape, limits, false).bytes;
}

Model::Model(const ModelShape& shape, Format format, const Limits& limits) {
  const std::size_t need = need_bytes(shape, limits), free = machine().free_bytes;
  if (need > free) {
    throw std::runtime_error("the model needs " + std::to_string(need >> 20) +
                             " MB of the GPU's memory and " + std::to_string(free >> 20) +
                             " MB are free; lower the limits of a batch");
  }
  parts_ = std::make_unique<Parts>(shape, format, limits);
  Parts& p = *parts_;
  const MelTables tables{LogMelPlan(shape.encoder.mels)};
  p.stream.copy_to_device(p.buffers.mel_tables.as(), &tables, sizeof(tables));
  p.stream.fill(p.buffers.arrived.as(), 0, p.buffers.arrived.bytes());
  p.stream.synchronize();
}

Model::~Model() = default;

const ModelShape& Model::shape() const { return parts_->shape; }
const Limits& Model::limits() const { return parts_->limits; }

void Model::set_stem(const StemWeights& w) {
  Parts& p = *parts_;
  Buffers& b = p.buffers;
  const EncoderShape& e = p.shape.encoder;
  p.upload.convolution(b.conv1, w.conv1_weight, e.width, e.mels, b.padded.width, b.padded.mels);
  p.upload.vector(b.conv1_bias, w.conv1_bias, e.width, b.padded.width);
  p.upload.convolution(b.conv2, w.conv2_weight, e.width, e.width, b.padded.width, b.padded.width);
  p.upload.vector(b.conv2_bias, w.conv2_bias, e.width, b.padded.width);
  std::vector<float> positions(std::size_t(e.positions) * b.padded.width);
  for (int t = 0; t < e.positions; ++t) {
    std::copy_n(w.positions + std::size_t(t) * e.width, e.width,
                positions.data() + std::size_t(t) * b.padded.width);
  }
  p.upload.numbers(b.positions, positions);
  p.stem_set = true;
}

void Model::set_layer(int index, const LayerWeights& w) {
  Parts& p = *parts_;
  const EncoderShape& e = p.shape.encoder;
  const Padded& to = p.buffers.padded;
  if (index != p.layers_set || index >= e.layers) {
    throw std::logic_error("layers are set in order, once");
  }
  LayerBuffers& layer = p.buffers.layers[index];
  const int real = e.width / e.heads;
  // Queries, keys and values in one matrix, every head padded; the softmax is taken to base 2.
  std::vector<float> qkv(std::size_t(3) * to.all * e.width), qkv_bias(3 * to.all);
  const float factor = 1.44269504089f / std::sqrt(float(real));
  const float* weights[] = {w.q_weight, w.k_weight, w.v_weight};
  const float* biases[] = {w.q_bias, nullptr, w.v_bias};
  for (int part = 0; part < 3; ++part) {
    const float scale = part == 0 ? factor : 1.0f;
    for (int row = 0; row < e.width; ++row) {
      const std::size_t at = std::size_t(part) * to.all + row / real * to.head + row % real;
      for (int i = 0; i < e.width; ++i) {
        qkv[at * e.width + i] = scale * weights[part][std::size_t(row) * e.width + i];
      }
      if (biases[part]) qkv_bias[at] = scale * biases[part][row];
    }
  }
  p.upload.matrix(layer.qkv, qkv.data(), 3 * to.all, e.width, 3 * to.all, to.width);
  p.upload.numbers(layer.qkv_bias, qkv_bias);
  std::vector<float> out(std::size_t(e.width) * to.all);
  for (int row = 0; row < e.width; ++row) {
    for (int i = 0; i < e.width; ++i) {
      out[std::size_t(row) * to.all + i / real * to.head + i % real] =
          w.o_weight[std::size_t(row) * e.width + i];
    }
  }
  p.upload.matrix(layer.out, out.data(), e.width, to.all, to.width, to.all);
  p.upload.vector(layer.out_bias, w.o_bias, e.width, to.width);
  p.upload.matrix(layer.fc1, w.fc1_weight, e.inner, e.width, to.inner, to.width);
  p.upload.vector(layer.fc1_bias, w.fc1_bias, e.inner, to.inner);
  p.upload.matrix(layer.fc2, w.fc2_weight, e.width, e.inner, to.width, to.inner);
  p.upload.vector(layer.fc2_bias, w.fc2_bias, e.width, to.width);
  p.upload.vector(layer.norm1[0], w.norm1_weight, e.width, to.width);
  p.upload.vector(layer.norm1[1], w.norm1_bias, e.width, to.width);
  p.upload.vector(layer.norm2[0], w.norm2_weight, e.width, to.width);
  p.upload.vector(layer.norm2[1], w.norm2_bias, e.width, to.width);
  ++p.layers_set;
}

void Model::set_final_norm(const float* weight, const float* bias) {
  Parts& p = *parts_;
  const int width = p.shape.encoder.width, room = p.buffers.padded.width;
  p.upload.vector(p.buffers.final_norm[0], weight, width, room);
  p.upload.vector(p.buffers.final_norm[1], bias, width, room);
  p.final_set = true;
}

void Model::set_head(const HeadWeights& w, const float* attention_weight,
                     const float* attention_bias, const std::vector<float>& layer_weights) {
  Parts& p = *parts_;
  const HeadShape& s = p.shape.head;
  if (layer_weights.size() != std::size_t(p.shape.encoder.layers) + 1) {
    throw std::invalid_argument("one weight a layer is needed, and one for the embedded input");
  }
  const auto tensors = head_tensors(s);
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    const auto [member, rows, columns] = tensors[t];
    const int stride = round_up(columns, 4);
    std::vector<float> padded(std::size_t(rows) * stride);
    for (int r = 0; r < rows; ++r) {
      std::copy_n((w.*member) + std::size_t(r) * columns, columns,
                  padded.data() + std::size_t(r) * stride);
    }
    p.upload.numbers(p.buffers.head[t], padded);
    p.head_weights.*member = p.buffers.head[t].as<float>();
  }
  p.upload.vector(p.buffers.attention_weight, attention_weight, s.heads * s.width,
                  s.heads * s.width);
  p.upload.vector(p.buffers.attention_bias, attention_bias, s.heads, s.heads);
  p.layer_weights = layer_weights;
  p.graphs.clear();
}

void Model::encode(const Batch& batch) {
  Parts& p = *parts_;
  const Buffers& b = p.buffers;
  const HeadShape& h = p.shape.head;
  p.check_ready();
  const int rows = p.tabulate(batch);
  const int windows = static_cast<int>(batch.starts.size()) - 1;
  const std::size_t values =
      std::size_t(batch.starts.back()) * (batch.mels ? p.shape.encoder.mels : 1);
  std::memcpy(b.host_input.as(), batch.values, values * sizeof(float));
  p.stream.copy_to_device(b.tables.as(), b.host_tables.as(), b.tables.bytes());
  p.stream.copy_to_device(b.input.as(), b.host_input.as(), values * sizeof(float));
  if (batch.sums) {
    const std::size_t bytes = sizeof(double) * windows * h.stats();
    std::memcpy(b.host_sums.as(), batch.sums, bytes);
    p.stream.copy_to_device(b.sums.as(), b.host_sums.as(), bytes);
  }
  p.run(windows, rows, batch.mels);

  struct Result {
    const Memory &device, &host;
    float* to;
    std::size_t bytes;
  };
  const Result results[] = {
      {b.stats, b.host_stats, batch.stats, sizeof(float) * windows * h.stats()},
      {b.scores, b.host_scores, batch.scores, sizeof(float) * windows * h.aspects},
      {b.prior, b.host_prior, batch.prior, sizeof(float) * windows * h.levels}};
  for (const Result& result : results) {
    if (result.to) p.stream.copy_to_host(result.host.as(), result.device.as(), result.bytes);
  }
  p.stream.synchronize();
  for (const Result& result : results) {
    if (result.to) std::memcpy(result.to, result.host.as(), result.bytes);
  }
  if (batch.frames) {
    const std::size_t width = p.shape.encoder.width, stride = b.padded.width;
    std::vector<float> padded(std::size_t(rows) * stride);
    p.stream.copy_to_host(padded.data(), b.mixed.as(), padded.size() * sizeof(float));
    p.stream.synchronize();
    for (int row = 0; row < rows; ++row) {
      std::copy_n(padded.data() + row * stride, width, batch.frames + row * width);
    }
  }
}

void Model::score(const float* stats, int count, float* scores, float* prior) {
  Parts& p = *parts_;
  const Buffers& b = p.buffers;
  const HeadShape& h = p.shape.head;
  p.check_ready();
  PoolHead head = p.pool_head();
  head.summed = nullptr;
  for (int first = 0; first < count; first += p.limits.windows) {
    const int windows = std::min(p.limits.windows, count - first);
    p.stream.copy_to_device(b.stats.as(), stats + std::size_t(first) * h.stats(),
                            sizeof(float) * windows * h.stats());
    asa::cuda::score(p.stream, head, windows);
    p.stream.copy_to_host(scores + std::size_t(first) * h.aspects, b.scores.as(),
                          sizeof(float) * windows * h.aspects);
    p.stream.copy_to_host(prior + std::size_t(first) * h.levels, b.prior.as(),
                          sizeof(float) * windows * h.levels);
    p.stream.synchronize();
  }
}

float Model::time(const Batch& batch, int runs) {
  Parts& p = *parts_;
  const int windows = static_cast<int>(batch.starts.size()) - 1;
  const int rows = p.tabulate(batch);
  float best = 0.0f;
  for (int run = -2; run < runs; ++run) {  // the first two may load and capture
    const float taken = p.stream.time([&] { p.run(windows, rows, batch.mels); });
    best = run <= 0 ? taken : std::min(best, taken);
  }
  return best;
}

}  // namespace asa::cuda
