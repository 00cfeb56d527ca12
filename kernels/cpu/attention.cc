// A row's softmax is shifted by the maximum over its first keys instead of a running one: any shift
// is exact in real numbers, and float32 and bfloat16 keep their relative precision over 2^126, so
// nothing need ever be rescaled. Should a later key exceed the first ones by more than that allows,
// the tile is done again with the maximum over all keys.
#include "asa/attention.h"

#include "rows.h"

namespace asa::ASA_ISA {
namespace {

constexpr int kBlockChunks = 8;     // keys of a block fill so many chunks of weights
constexpr float kTooLarge = 1e33f;  // 2^110: a sum of weights beyond it may have overflowed
constexpr float kLowestScore = -1e30f;

ASA_INLINE vi lane_index() {
  vi index;
  for (int i = 0; i < kLanes; ++i) index[i] = i;
  return index;
}

template <class Op>
class TileAttention {
 public:
  TileAttention(const Attention& a, int tile, int head)
      : a_(a),
        words_(words_of(Op::precision, a.head_width)),
        panels_((a.length + kPanel - 1) / kPanel),
        queries_(a.queries + (size_t(tile) * a.heads + head) *
                                 chunks_of(Op::precision, a.head_width) * kTileWords),
        keys_(a.keys + size_t(head) * a.key_panels * words_ * kPanel),
        values_(a.values + size_t(head) * (a.head_width / kPanel) * a.key_words * kPanel) {}

  // Sets each row's shift to its highest score over the first `panels` panels.
  void find_shift(int panels) {
    vf top[kRows];
    for (int r = 0; r < kRows; ++r) top[r] = splat(kLowestScore);
    for (int p = 0; p < panels; ++p) {
      vf score[kRows][kVectors];
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVectors; ++v) score[r][v] = splat(0.0f);
      }
      multiply<Op>(queries_, keys_ + size_t(p) * words_ * kPanel, words_, score);
      for (int v = 0; v < kVectors; ++v) {
        const vi counts = lane_index() + (p * kPanel + v * kLanes) < a_.length;
        for (int r = 0; r < kRows; ++r) {
          top[r] = max(top[r], counts ? score[r][v] : splat(kLowestScore));
          if (p == 0) store(first_[r] + v * kLanes, score[r][v]);
        }
      }
    }
    for (int r = 0; r < kRows; ++r) shift_[r] = -highest(top[r]);
  }

  // Writes the tile; false if a sum of weights grew too large for the shift.
  bool run(float* out, int stride) {
    constexpr int kBlockWords = kBlockChunks * kChunkWords;
    constexpr int kWordsAPanel = kPanel / inputs_per_word(Op::precision);
    constexpr int kBlockPanels = kBlockWords / kWordsAPanel;
    const int words = words_of(Op::precision, a_.length);
    for (int r = 0; r < kRows; ++r) total_[r] = splat(0.0f);
    for (int first = 0; first < panels_; first += kBlockPanels) {
      const int count = panels_ - first < kBlockPanels ? panels_ - first : kBlockPanels;
      for (int p = 0; p < count; ++p) {
        const int word = p * kWordsAPanel;
        int32_t* to = weights_ + word / kChunkWords * kTileWords + word % kChunkWords;
        if ((first + p) * kPanel + kLanes < a_.length) {
          weigh<kVectors>(first + p, to);
        } else {
          weigh<1>(first + p, to);
        }
      }
      const int left = words - first * kWordsAPanel;
      add_values(first * kWordsAPanel, left < kBlockWords ? left : kBlockWords, first == 0, out,
                 stride);
    }
    for (int r = 0; r < kRows; ++r) {
      const float total = sum(total_[r]);
      if (!(total < kTooLarge)) return false;
      const float inverse = 1.0f / total;
      for (int i = 0; i < a_.head_width; i += kLanes) {
        store(out + r * stride + i, load(out + r * stride + i) * inverse);
      }
    }
    return true;
  }

 private:
  // Softmax weights of the first V vectors of a panel's keys, the others being past the end,
  // packed as the rows of the product with the values.
  template <int V>
  ASA_INLINE void weigh(int panel, int32_t* to) {
    vf score[kRows][V];
    if (panel == 0) {
#pragma GCC unroll 12
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) score[r][v] = load(first_[r] + v * kLanes) + shift_[r];
      }
    } else {
#pragma GCC unroll 12
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) score[r][v] = splat(shift_[r]);
      }
      multiply<Op>(queries_, keys_ + size_t(panel) * words_ * kPanel, words_, score);
    }
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) {
        score[r][v] = exp2<Op::precision == Precision::bf16>(score[r][v]);
      }
    }
    if ((panel + 1) * kPanel > a_.length) {
      for (int v = 0; v < V; ++v) {
        const vi counts = lane_index() + (panel * kPanel + v * kLanes) < a_.length;
        for (int r = 0; r < kRows; ++r) score[r][v] = counts ? score[r][v] : splat(0.0f);
      }
    }
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      const vf second = V == 2 ? score[r][V - 1] : splat(0.0f);
      if constexpr (Op::precision == Precision::bf16) {
        store(to + r * kChunkWords, to_bf16(score[r][0], second));
      } else {
        store(to + r * kChunkWords, bits(score[r][0]));
        store(to + r * kChunkWords + kLanes, bits(second));
      }
      total_[r] += score[r][0] + second;
    }
  }

  void add_values(int first_word, int words, bool fresh, float* out, int stride) {
    for (int n = 0; n < a_.head_width; n += kPanel) {
      vf acc[kRows][kVectors];
#pragma GCC unroll 12
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) {
          acc[r][v] = fresh ? splat(0.0f) : load(out + r * stride + n + v * kLanes);
        }
      }
      multiply<Op>(weights_, values_ + (size_t(n) * a_.key_words) + size_t(first_word) * kPanel,
                   words, acc);
#pragma GCC unroll 12
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) store(out + r * stride + n + v * kLanes, acc[r][v]);
      }
    }
  }

  const Attention& a_;
  const int words_;   // of one query or key
  const int panels_;  // that hold keys which count
  const int32_t* const queries_;
  const int32_t* const keys_;
  const int32_t* const values_;
  float shift_[kRows];
  vf total_[kRows];
  float first_[kRows][kPanel];  // scores of the first panel
  alignas(64) int32_t weights_[kBlockChunks * kTileWords];
};

template <class Op>
void attend_at(const Attention& a, int tile, int head, float* out, int stride) {
  TileAttention<Op> attention(a, tile, head);
  attention.find_shift(1);
  if (attention.run(out, stride)) return;
  attention.find_shift((a.length + kPanel - 1) / kPanel);
  attention.run(out, stride);
}

void attend(const Attention& a, int tile, int head, float* out, int stride) {
  if (a.precision == Precision::bf16) {
    attend_at<Bf16>(a, tile, head, out, stride);
  } else {
    attend_at<Fp32>(a, tile, head, out, stride);
  }
}

}  // namespace

AttentionKernels attention_kernels() { return {.attend = attend}; }

}  // namespace asa::ASA_ISA
