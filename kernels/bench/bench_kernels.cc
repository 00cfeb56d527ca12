// Rates of the packed kernels on one thread, on the shapes of Whisper tiny (or another width).
// Usage: bench_kernels [width] [rows]; ASA_CPU_ISA picks the kernels. Best of many runs, by the CPU
// time of the thread, so that a busy machine disturbs little.
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "asa/encoder.h"
#include "asa/isa.h"

namespace {

double cpu_seconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return double(t.tv_sec) + double(t.tv_nsec) * 1e-9;
}

template <class Work>
void report(const char* name, const char* precision, double operations, Work work) {
  double best = 1e9, begin = cpu_seconds();
  while (cpu_seconds() - begin < 0.3) {
    const double start = cpu_seconds();
    work();
    best = std::min(best, cpu_seconds() - start);
  }
  std::printf("%-28s %-5s %9.1f us %8.1f G/s\n", name, precision, best * 1e6,
              operations / best * 1e-9);
}

std::vector<float> noise(std::size_t count, float scale) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

struct Weights {
  Weights(const asa::GemmKernels& gemm, asa::Precision precision, int in, int out) {
    linear.precision = precision;
    linear.in = in;
    linear.out = asa::round_up(out, gemm.geometry.panel);
    const std::size_t groups = asa::chunks_of(precision, in);
    panels = asa::Buffer(std::size_t(asa::words_of(precision, in)) * linear.out);
    bias = asa::Buffer(linear.out);
    scale = asa::Buffer(groups * linear.out);
    sum = asa::Buffer(groups * linear.out);
    linear.panels = panels.ints();
    linear.bias = bias.floats();
    linear.scale = scale.floats();
    linear.sum = sum.floats();
    linear.paired = true;
    const auto values = noise(std::size_t(in) * linear.out, 0.2f / std::sqrt(float(in)));
    gemm.pack(values.data(), nullptr, linear);
  }
  asa::Linear linear;
  asa::Buffer panels, bias, scale, sum;
};

struct Input {
  Input(asa::Precision precision, int in, int rows)
      : words(std::size_t(asa::chunks_of(precision, in)) * asa::kChunkWords * rows),
        scale(std::size_t(asa::chunks_of(precision, in)) * 2 * rows),
        rows_{precision, in, words.ints(), scale.floats()} {}
  asa::Buffer words, scale;
  asa::Rows rows_;
};

}  // namespace

// The head of the default grader over a width, with its kernel regressor.
void report_head(const asa::Kernels& k, int width) {
  const asa::HeadShape s = {.width = width,
                            .heads = 4,
                            .prior_width = 128,
                            .levels = 5,
                            .embedding = 32,
                            .hidden = 256,
                            .aspects = 5,
                            .outputs = 5,
                            .place = 384,
                            .centres = 2000};
  const double products = double(s.prior_width) * (width + s.levels) + s.embedding * s.levels +
                          double(s.hidden) * (s.features() + s.aspects) +
                          double(s.place) * 2 * s.sums() +
                          double(s.centres) * (s.place + 1 + s.aspects);
  const auto stats = noise(s.stats(), 1.0f);
  const auto large = noise(std::size_t(s.place) * 2 * s.sums(), 0.01f);
  const auto centres = noise(std::size_t(s.centres) * (s.place + 1), 0.01f);
  const auto fc1 = noise(std::size_t(s.hidden) * s.features(), 0.01f);
  const auto other = noise(std::size_t(s.prior_width) * width + 16384, 0.01f);
  const float* o = other.data();
  const asa::HeadWeights w = {o, o,          o,
                              o, o,          o,
                              o, o,          o,
                              o, fc1.data(), o,
                              o, o,          o,
                              o, o,          large.data(),
                              o, o,          centres.data(),
                              o, o};
  std::vector<double> scratch(asa::head_scratch(s));
  std::vector<float> scores(s.aspects), prior(s.levels);
  report("head", "fp32", 2 * products,
         [&] { k.head.run(s, w, stats.data(), scratch.data(), scores.data(), prior.data()); });
}

int main(int argc, char** argv) {
  const int width = argc > 1 ? std::atoi(argv[1]) : 384;
  const asa::Kernels& k = asa::kernels();
  const int rows =
      (argc > 2 ? std::atoi(argv[2]) : 96) / k.gemm.geometry.rows * k.gemm.geometry.rows;
  const int inner = 4 * width, length = 1500, head_width = 64;
  std::printf("%s, width %d, %d rows\n", k.isa, width, rows);
  asa::Buffer x(std::size_t(rows) * inner), staging(std::size_t(rows) * asa::kGroup + inner);
  const auto values = noise(std::size_t(rows) * inner + asa::kGroup, 1.0f);
  const auto ones = std::vector<float>(inner, 1.0f);
  const char* names[] = {"fp32", "bf16", "int8", "int16"};
  for (auto precision :
       {asa::Precision::fp32, asa::Precision::bf16, asa::Precision::int8, asa::Precision::int16}) {
    const char* name = names[int(precision)];
    Weights square(k.gemm, precision, width, width);
    Weights up(k.gemm, precision, width, inner);
    Weights down(k.gemm, precision, inner, width);
    Input narrow(precision, width, rows);
    Input wide(precision, inner, rows);
    const double small = 2.0 * rows * width * width, large = 4 * small;
    report("layer norm", name, 8.0 * rows * width, [&] {
      k.layer_norm.put(values.data(), width, rows, ones.data(), ones.data(), narrow.rows_,
                       staging.floats());
    });
    report("gemm + residual", name, small, [&] {
      k.gemm.add(narrow.rows_, square.linear, 0, square.linear.out, rows, x.floats(), inner);
    });
    report("gemm + gelu", name, large,
           [&] { k.gemm.gelu_put(narrow.rows_, up.linear, rows, wide.rows_, staging.floats()); });
    report("gemm (4 D -> D) + residual", name, large, [&] {
      k.gemm.add(wide.rows_, down.linear, 0, down.linear.out, rows, x.floats(), inner);
    });
    if (precision == asa::Precision::int8) continue;
    const int keys = asa::round_up(length, 96), panel = k.gemm.geometry.panel;
    const int heads = width / head_width, words = asa::words_of(precision, head_width);
    asa::Buffer q(std::size_t(keys) * heads * asa::chunks_of(precision, head_width) *
                  asa::kChunkWords);
    asa::Buffer kb(std::size_t(keys) * heads * words), vb(std::size_t(keys) * heads * words);
    asa::Buffer query_scale(std::size_t(keys) * heads * 2),
        key_scale(std::size_t(keys) * heads * 2);
    asa::Buffer value_scale(std::size_t(keys) * heads);
    const asa::Attention attention{
        .precision = precision,
        .heads = heads,
        .head_width = head_width,
        .length = length,
        .queries = q.ints(),
        .keys = kb.ints(),
        .values = vb.ints(),
        .key_panels = keys / panel,
        .key_words = keys / asa::inputs_per_word(precision),
        .query_words =
            k.gemm.geometry.rows * heads * asa::chunks_of(precision, head_width) * asa::kChunkWords,
        .query_scale = query_scale.floats(),
        .key_scale = key_scale.floats(),
        .value_scale = value_scale.floats(),
        .scratch = staging.floats()};
    for (int t = 0; t * rows < length; ++t) {
      k.gemm.queries(narrow.rows_, square.linear, rows, attention, t * rows / k.gemm.geometry.rows);
      k.gemm.keys(narrow.rows_, square.linear, rows, attention, t * rows / k.gemm.geometry.rows);
      k.gemm.values(narrow.rows_, square.linear, rows, attention, t * rows / k.gemm.geometry.rows);
    }
    report("gemm + pack queries", name, small,
           [&] { k.gemm.queries(narrow.rows_, square.linear, rows, attention, 0); });
    report("gemm + pack keys", name, small,
           [&] { k.gemm.keys(narrow.rows_, square.linear, rows, attention, 0); });
    report("gemm + pack values", name, small,
           [&] { k.gemm.values(narrow.rows_, square.linear, rows, attention, 0); });
    report("attention", name, 4.0 * rows * length * head_width, [&] {
      for (int t = 0; t < rows / k.gemm.geometry.rows; ++t) {
        k.attention.attend(attention, t, 0, x.floats(), head_width);
      }
    });
  }
  report_head(k, width);
}
