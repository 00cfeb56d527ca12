// Threads: each task is done once, and what the encoder writes does not depend on who does which
// when. Built with -DASA_SANITIZE=thread every unordered access to shared memory is a failure.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "asa/encoder.h"
#include "asa/thread_pool.h"
#include "checks.h"

namespace {

using namespace asa::tests;

// Under the sanitizer one try shows what is unordered, and takes twenty times as long.
#if defined(__SANITIZE_THREAD__)
constexpr int kTries = 1, kRounds = 30, kMelFrames = 150;
#else
constexpr int kTries = 5, kRounds = 300, kMelFrames = 600;
#endif

// Workers asleep, awake in a session, more than the tasks, fewer than the last time: each task is
// done once, by a thread the pool has.
void test_thread_pool() {
  asa::ThreadPool pool(4);
  for (int round = 0; round < kRounds; ++round) {
    const int tasks = round * 7 % 13;
    std::vector<std::atomic<int>> done(tasks);
    std::atomic<bool> known{true};
    const auto work = [&](int task, int thread) {
      ++done[task];
      if (thread < 0 || thread >= 4) known = false;
    };
    {
      const asa::ThreadPool::Session session(pool, round % 6);
      pool.run(tasks, work);
      if (round % 50 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
      pool.run(tasks, work);
    }
    if (round % 3) pool.run(tasks, work);
    for (const auto& count : done) check(count == (round % 3 ? 3 : 2), "thread pool: each task");
    check(known, "thread pool: threads");
  }
}

// An encoder of random weights.
std::unique_ptr<asa::Encoder> encoder(const asa::Kernels& k, const asa::EncoderShape& s,
                                      const std::vector<Precision>& precisions, int threads) {
  auto made = std::make_unique<asa::Encoder>(s, precisions, threads, k);
  const int d = s.width;
  unsigned seed = 80;
  const auto weight = [&](int out, int in) {
    return noise(std::size_t(out) * in, 1.0f / std::sqrt(float(in)), ++seed);
  };
  const std::vector<float> ones(d, 1.0f), none(std::max(d, s.inner), 0.0f);
  made->set_stem({weight(d, 3 * s.mels).data(), none.data(), weight(d, 3 * d).data(), none.data(),
                  weight(s.positions, d).data()});
  for (int layer = 0; layer < s.layers; ++layer) {
    const auto q = weight(d, d), key = weight(d, d), v = weight(d, d), o = weight(d, d);
    const auto fc1 = weight(s.inner, d), fc2 = weight(d, s.inner);
    made->set_layer(layer, {ones.data(), none.data(), q.data(), none.data(), key.data(), v.data(),
                            none.data(), o.data(), none.data(), ones.data(), none.data(),
                            fc1.data(), none.data(), fc2.data(), none.data()});
  }
  made->set_final_norm(ones.data(), none.data());
  return made;
}

// Layers of unlike precisions, whose queries, keys and values are of unlike sizes, and more threads
// than processors, so that some blocks of rows are a layer ahead of others.
void test_encoder(const asa::Kernels& k) {
  constexpr Precision mixed[] = {Precision::fp32, Precision::int8, Precision::bf16,
                                 Precision::int8, Precision::fp32, Precision::bf16};
  const asa::EncoderShape s = {
      .mels = 5, .width = 128, .heads = 2, .inner = 64, .layers = 6, .positions = kMelFrames / 2};
  const std::vector<float> weights(s.layers + 1, 1.0f);
  std::vector<std::vector<float>> mels;
  for (const int frames : {kMelFrames - 1, 130, kMelFrames})
    mels.push_back(noise(frames * s.mels, 1.0f, 90));
  const auto run = [&](asa::Encoder& with) {
    std::vector<std::vector<float>> outs;
    std::vector<asa::Sequence> batch;
    for (const auto& mel : mels) {
      const int frames = int(mel.size()) / s.mels;
      outs.emplace_back(std::size_t(frames + 1) / 2 * s.width);
      batch.push_back({mel.data(), frames, outs.back().data()});
    }
    with.encode(batch, weights);
    return outs;
  };
  const std::vector<std::vector<Precision>> all = {
      asa::layer_precisions(Precision::int8, s.layers, k),
      asa::layer_precisions(Precision::bf16, s.layers, k),
      {std::begin(mixed), std::end(mixed)}};
  for (std::size_t i = 0; i < all.size(); ++i) {
    const auto expected = run(*encoder(k, s, all[i], 1));
    for (const int threads : {2, 3, 7}) {
      const auto with = encoder(k, s, all[i], threads);
      for (int repeat = 0; repeat < kTries; ++repeat) {
        check(run(*with) == expected, std::string(k.isa) + " encoder of precisions " +
                                          std::to_string(i) + ": " + std::to_string(threads) +
                                          " threads");
      }
    }
  }
}

}  // namespace

int main() {
  test_thread_pool();
  on_every_isa(test_encoder);
  return result();
}
