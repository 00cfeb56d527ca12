// A row's softmax is shifted by the maximum over its first keys instead of a running one: any shift
// is exact in real numbers, and float32 and bfloat16 keep their relative precision over 2^126, so
// nothing need ever be rescaled. Should a later key exceed the first ones by more than that allows,
// the row is done again with the maximum over all keys; what else is in its tile keeps its own
// shift.
#include "asa/attention.h"

#include "rows.h"

namespace asa::ASA_ISA {
namespace {

constexpr float kTooLarge = 1e33f;  // 2^110: a sum of weights beyond it may have overflowed
constexpr float kLowestScore = -1e30f;

ASA_INLINE vi lane_index() {
  vi index;
  for (int i = 0; i < kLanes; ++i) index[i] = i;
  return index;
}

// Scores are products of Score, their weights' products with the values of Op.
template <class Score, class Op, bool kWindowed>
class TileAttention {
 public:
  TileAttention(const Attention& a, int tile, int head)
      : a_(a),
        head_(head),
        words_(words_of(Score::precision, a.head_width)),
        query_(a.positions ? a.positions[0] : tile * kRows),
        last_(a.positions ? a.positions[kRows - 1] : query_ + kRows - 1),
        begin_(query_ > a.behind ? (query_ - a.behind) / kPanel : 0),
        end_(a.length - last_ - 1 < a.ahead ? a.length : last_ + 1 + a.ahead),
        query_scale_(is_scaled(Score::precision)
                         ? a.query_scale + (size_t(tile) * a.heads + head) * 2 * kRows
                         : nullptr),
        queries_(a.queries + size_t(tile) * a.query_words +
                 size_t(head) * chunks_of(Score::precision, a.head_width) * kTileWords),
        keys_(a.keys + size_t(head) * a.key_panels * words_ * kPanel),
        values_(a.values + size_t(head) * (a.head_width / kPanel) * a.key_words * kPanel) {
    for (int r = 0; r < kRows; ++r) {
      at_[r] = a.positions ? a.positions[r] : query_ + r;
      spoiled_[r] = true;
    }
  }

  // Sets the shift of each row that has none or too large a sum to its highest score over the first
  // panel of keys within reach, or all.
  void find_shift(bool all) {
    float kept[kRows];
    __builtin_memcpy(kept, shift_, sizeof(kept));
    vf top[kRows];
    for (int r = 0; r < kRows; ++r) top[r] = splat(kLowestScore);
    for (int p = begin_; p == begin_ || (all && p * kPanel < end_); ++p) {
      vf score[kRows][kVectors];
      for (int r = 0; r < kRows; ++r) shift_[r] = 0.0f;
      add_scores(p, score);
      for (int v = 0; v < kVectors; ++v) {
        for (int r = 0; r < kRows; ++r) {
          top[r] = max(top[r], counts(p, r, v) ? score[r][v] : splat(kLowestScore));
          if (p == begin_) store(first_[r] + v * kLanes, score[r][v]);
        }
      }
    }
    for (int r = 0; r < kRows; ++r) shift_[r] = spoiled_[r] ? -highest(top[r]) : kept[r];
  }

  // Writes the tile; false if a row's sum of weights grew too large for its shift.
  bool run(float* out, int stride) {
    constexpr int kBlockWords = kBlockChunks * kChunkWords;
    constexpr int kBlockPanels = kBlockWords / kWordsAPanel;
    const int from = begin_ * kWordsAPanel, words = words_of(Op::precision, end_) - from;
    const int panels = (end_ - begin_ * kPanel + kPanel - 1) / kPanel;
    for (int r = 0; r < kRows; ++r) total_[r] = splat(0.0f);
    for (int first = 0; first < panels; first += kBlockPanels) {
      const int count = panels - first < kBlockPanels ? panels - first : kBlockPanels;
      for (int p = 0; p < count; ++p) {
        const int word = p * kWordsAPanel;
        int32_t* to = weights_ + word / kChunkWords * kTileWords + word % kChunkWords;
        if ((begin_ + first + p) * kPanel + kLanes < end_) {
          weigh<kVectors>(begin_ + first + p, to);
        } else {
          weigh<1>(begin_ + first + p, to);
        }
      }
      if constexpr (Op::precision == Precision::int16) quantise_weights(count);
      const int left = words - first * kWordsAPanel;
      add_values(from + first * kWordsAPanel, left < kBlockWords ? left : kBlockWords, first == 0,
                 out, stride);
    }
    bool good = true;
    for (int r = 0; r < kRows; ++r) {
      const float total = sum(total_[r]);
      spoiled_[r] = !(total < kTooLarge);
      good = good && !spoiled_[r];
      const float inverse = 1.0f / total;
      for (int i = 0; i < a_.head_width; i += kLanes) {
        store(out + r * stride + i, load(out + r * stride + i) * inverse);
      }
    }
    return good;
  }

 private:
  // score = shift + the scores of the first V vectors of a panel's keys.
  template <int V>
  ASA_INLINE void add_scores(int panel, vf (&score)[kRows][V]) const {
    const int32_t* keys = keys_ + size_t(panel) * words_ * kPanel;
    if constexpr (is_scaled(Score::precision)) {
      vi acc[kRows][V];
#pragma GCC unroll 12
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) acc[r][v] = vi{};
      }
      multiply<Score>(queries_, keys, words_, acc);
      const float* key_scale = a_.key_scale + (size_t(head_) * a_.key_panels + panel) * 2 * kPanel;
      vf step[V], sum[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) {
        step[v] = load(key_scale + v * kLanes);
        if constexpr (Score::precision == Precision::int8) {
          sum[v] = load(key_scale + kPanel + v * kLanes);
        }
      }
#pragma GCC unroll 12
      for (int r = 0; r < kRows; ++r) {
        const vf row = splat(query_scale_[r]), shift = splat(shift_[r]);
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) {
          vf total = Score::total(acc[r][v]) * step[v];
          if constexpr (Score::precision == Precision::int8) {
            total -= splat(query_scale_[kRows + r] - Score::kOffset) * sum[v];
          }
          score[r][v] = total * row + shift;
        }
      }
    } else {
#pragma GCC unroll 12
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) score[r][v] = splat(shift_[r]);
      }
      multiply<Score>(queries_, keys, words_, score);
    }
  }

  // Which keys of a panel's vector count for a row.
  ASA_INLINE vi counts(int panel, int row, int vector) const {
    const vi key = lane_index() + (panel * kPanel + vector * kLanes);
    const vi inside = key < a_.length;
    if constexpr (!kWindowed) return inside;
    const vi apart = key - at_[row];
    return inside & (apart <= a_.ahead) & (apart >= -a_.behind);
  }

  // Whether all keys of a panel are within every row's reach.
  ASA_INLINE bool all_count(int panel) const {
    return (panel + 1) * kPanel - 1 - query_ <= a_.ahead && last_ - panel * kPanel <= a_.behind;
  }

  // Softmax weights of the first V vectors of a panel's keys, the others being past the end,
  // packed as the rows of the product with the values.
  template <int V>
  ASA_INLINE void weigh(int panel, int32_t* to) {
    vf score[kRows][V];
    if (panel == begin_) {
#pragma GCC unroll 12
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) score[r][v] = load(first_[r] + v * kLanes) + shift_[r];
      }
    } else {
      add_scores(panel, score);
    }
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) {
        score[r][v] = exp2<Op::precision == Precision::bf16>(score[r][v]);
      }
    }
    if ((kWindowed && !all_count(panel)) || (panel + 1) * kPanel > a_.length) {
      for (int v = 0; v < V; ++v) {
        const vi inside = counts(panel, 0, v);
        for (int r = 0; r < kRows; ++r) {
          const vi mask = kWindowed ? counts(panel, r, v) : inside;
          score[r][v] = mask ? score[r][v] : splat(0.0f);
        }
      }
    }
    vf scale[kVectors] = {};
    if constexpr (Op::precision == Precision::int16) {
      for (int v = 0; v < V; ++v) {
        const int key = panel * kPanel + v * kLanes;
        const vf own = load(a_.value_scale + size_t(head_) * a_.key_panels * kPanel + key);
        scale[v] = lane_index() + key < a_.length ? own : splat(0.0f);  // past the end is anything
      }
    }
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      const vf second = V == 2 ? score[r][V - 1] : splat(0.0f);
      if constexpr (Op::precision == Precision::bf16) {
        store(to + r * kChunkWords, to_bf16(score[r][0], second));
      } else if constexpr (Op::precision == Precision::int16) {
        float* staged = staged_[r] + (to - weights_) / kTileWords * 2 * kChunkWords +
                        (to - weights_) % kTileWords * 2;
        store(staged, score[r][0] * scale[0]);
        store(staged + kLanes, second * scale[1]);
      } else {
        store(to + r * kChunkWords, bits(score[r][0]));
        store(to + r * kChunkWords + kLanes, bits(second));
      }
      total_[r] += score[r][0] + second;
    }
  }

  // A block's weights, each times its key's scale, as integers with a scale a row.
  void quantise_weights(int panels) {
    constexpr int kHalf = 2 * kChunkWords;
    const int count = panels * kPanel;
    for (int r = 0; r < kRows; ++r) {
      weight_scale_[r] = scale_int16(staged_[r], count);
      for (int i = 0; i < count; i += kHalf) {
        store_int16(staged_[r] + i, count - i < kHalf ? count - i : kHalf, weight_scale_[r],
                    weights_ + i / kHalf * kTileWords + r * kChunkWords);
      }
    }
  }

  void add_values(int first_word, int words, bool fresh, float* out, int stride) {
    for (int n = 0; n < a_.head_width; n += kPanel) {
      const auto before = [&](int r, int v) {
        return fresh ? splat(0.0f) : load(out + r * stride + n + v * kLanes);
      };
      typename Op::Acc acc[kRows][kVectors];
#pragma GCC unroll 12
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) {
          if constexpr (Op::precision == Precision::int16) {
            acc[r][v] = vi{};
          } else {
            acc[r][v] = before(r, v);
          }
        }
      }
      multiply<Op>(weights_, values_ + (size_t(n) * a_.key_words) + size_t(first_word) * kPanel,
                   words, acc);
#pragma GCC unroll 12
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) {
          float* to = out + r * stride + n + v * kLanes;
          if constexpr (Op::precision == Precision::int16) {
            store(to, before(r, v) + Op::total(acc[r][v]) * splat(weight_scale_[r]));
          } else {
            store(to, acc[r][v]);
          }
        }
      }
    }
  }

  static constexpr int kWordsAPanel = kPanel / inputs_per_word(Op::precision);
  // Keys of a block fill so many chunks of weights; a block of integers has one scale a row.
  static constexpr int kBlockChunks =
      Op::precision == Precision::int16 ? kGroup / (2 * kChunkWords) : 8;

  const Attention& a_;
  const int head_;
  const int words_;                 // of one query or key
  const int query_;                 // where the first one stands ...
  const int last_;                  // ... and the last
  const int begin_;                 // first panel of keys within reach
  const int end_;                   // past the last key within reach
  const float* const query_scale_;  // of bytes
  const int32_t* const queries_;
  const int32_t* const keys_;
  const int32_t* const values_;
  int at_[kRows];        // where each row stands
  bool spoiled_[kRows];  // rows without a shift that does
  float shift_[kRows] = {};
  vf total_[kRows];
  float first_[kRows][kPanel];  // scores of the first panel within reach
  float staged_[kRows][Op::precision == Precision::int16 ? kGroup : 1];  // before they are integers
  float weight_scale_[kRows];
  alignas(64) int32_t weights_[kBlockChunks * kTileWords];
};

template <class Score, class Op, bool kWindowed>
void attend_at(const Attention& a, int tile, int head, float* out, int stride) {
  const TileRegisters held;
  TileAttention<Score, Op, kWindowed> attention(a, tile, head);
  attention.find_shift(kWindowed && a.behind < kUnlimited);  // else all rows see the first key
  if (attention.run(out, stride)) return;
  attention.find_shift(true);
  attention.run(out, stride);
}

template <class Score, class Op>
void attend_with(const Attention& a, int tile, int head, float* out, int stride) {
  if (a.behind < kUnlimited || a.ahead < kUnlimited) {
    attend_at<Score, Op, true>(a, tile, head, out, stride);
  } else {
    attend_at<Score, Op, false>(a, tile, head, out, stride);
  }
}

void attend(const Attention& a, int tile, int head, float* out, int stride) {
  const bool bytes = a.scores == Precision::int8;
  if (a.precision == Precision::int16) {
    attend_with<Int16, Int16>(a, tile, head, out, stride);
  } else if (a.precision == Precision::bf16) {
    (bytes ? attend_with<Int8, Bf16> : attend_with<Bf16, Bf16>)(a, tile, head, out, stride);
  } else {
    (bytes ? attend_with<Int8, Fp32> : attend_with<Fp32, Fp32>)(a, tile, head, out, stride);
  }
}

#if defined(ASA_ISA_AMX)
constexpr bool kBytes = false;  // as fast as bfloat16, and coarser
#elif defined(ASA_ISA_AVX512) || defined(ASA_ISA_AVX512_BF16) || defined(ASA_ISA_NEON_DOT) || \
    defined(ASA_ISA_NEON_BF16)
constexpr bool kBytes = true;
#else
constexpr bool kBytes = false;  // no dot products of bytes
#endif

}  // namespace

AttentionKernels attention_kernels() { return {.bytes = kBytes, .attend = attend}; }

}  // namespace asa::ASA_ISA
