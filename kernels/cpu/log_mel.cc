// One block of 16 frames, frames in vector lanes: every lane does the same scalar-looking work,
// so a frame's result does not depend on its neighbours.
#include "asa/log_mel.h"

#include "asa/isa.h"
#include "asa/simd.h"

namespace asa::ASA_ISA {
namespace {

constexpr int kHalf = kFft / 2;  // complex points: even samples real, odd samples imaginary

struct cf {
  vf re, im;
};

ASA_INLINE cf operator+(cf a, cf b) { return {a.re + b.re, a.im + b.im}; }
ASA_INLINE cf operator-(cf a, cf b) { return {a.re - b.re, a.im - b.im}; }
ASA_INLINE cf mul(cf a, float c, float s) { return {a.re * c - a.im * s, a.re * s + a.im * c}; }
ASA_INLINE cf times_minus_i(cf a) { return {a.im, -a.re}; }

ASA_INLINE void fft4(cf& a, cf& b, cf& c, cf& d) {
  const cf s = a + c, t = a - c, u = b + d, v = times_minus_i(b - d);
  a = s + u;
  b = t + v;
  c = s - u;
  d = t - v;
}

ASA_INLINE void fft8(cf* x) {
  constexpr float r = 0.70710678118654752f;
  fft4(x[0], x[2], x[4], x[6]);
  fft4(x[1], x[3], x[5], x[7]);
  const cf o1 = mul(x[3], r, -r), o2 = times_minus_i(x[5]), o3 = mul(x[7], -r, -r);
  const cf e0 = x[0], e1 = x[2], e2 = x[4], e3 = x[6], o0 = x[1];
  x[0] = e0 + o0;
  x[1] = e1 + o1;
  x[2] = e2 + o2;
  x[3] = e3 + o3;
  x[4] = e0 - o0;
  x[5] = e1 - o1;
  x[6] = e2 - o2;
  x[7] = e3 - o3;
}

ASA_INLINE void fft5(cf& a, cf& b, cf& c, cf& d, cf& e) {
  constexpr float c1 = 0.30901699437494742f, c2 = -0.80901699437494742f;
  constexpr float s1 = 0.95105651629515357f, s2 = 0.58778525229247313f;
  const cf p = b + e, q = c + d, u = b - e, v = c - d;
  const cf m = {a.re + c1 * p.re + c2 * q.re, a.im + c1 * p.im + c2 * q.im};
  const cf n = {a.re + c2 * p.re + c1 * q.re, a.im + c2 * p.im + c1 * q.im};
  const cf w = times_minus_i({s1 * u.re + s2 * v.re, s1 * u.im + s2 * v.im});
  const cf z = times_minus_i({s2 * u.re - s1 * v.re, s2 * u.im - s1 * v.im});
  a = a + p + q;
  b = m + w;
  c = n + z;
  d = n - z;
  e = m - w;
}

// cos and sin of -2 pi j / 25, j = 0..16: the twiddles of the 5 x 5 transform.
constexpr float kCos25[17] = {
    1.0f,          0.968583161f,  0.87630668f,   0.728968627f,  0.535826795f,  0.309016994f,
    0.0627905195f, -0.187381315f, -0.425779292f, -0.63742399f,  -0.809016994f, -0.929776486f,
    -0.992114701f, -0.992114701f, -0.929776486f, -0.809016994f, -0.63742399f};
constexpr float kSin25[17] = {
    -0.0f,         -0.248689887f, -0.481753674f, -0.684547106f, -0.844327926f, -0.951056516f,
    -0.998026728f, -0.982287251f, -0.904827052f, -0.770513243f, -0.587785252f, -0.368124553f,
    -0.125333234f, 0.125333234f,  0.368124553f,  0.587785252f,  0.770513243f};

// out[8 * k] = sum_n x[n] exp(-2 pi i n k / 25).
ASA_INLINE void fft25(cf* x, cf* out) {
#pragma GCC unroll 5
  for (int n = 0; n < 5; ++n) {
    fft5(x[n], x[n + 5], x[n + 10], x[n + 15], x[n + 20]);
#pragma GCC unroll 5
    for (int k = 1; k < 5; ++k) {
      if (n) x[n + 5 * k] = mul(x[n + 5 * k], kCos25[n * k], kSin25[n * k]);
    }
  }
#pragma GCC unroll 5
  for (int k = 0; k < 5; ++k) {
    cf* y = x + 5 * k;
    fft5(y[0], y[1], y[2], y[3], y[4]);
#pragma GCC unroll 5
    for (int j = 0; j < 5; ++j) out[8 * (k + 5 * j)] = y[j];
  }
}

void power_spectrum(const LogMelPlan& plan, const float* samples, int frames, vf* power) {
  alignas(64) cf x[kHalf];
  alignas(64) cf y[kHalf];
  static_assert(kFft % kLanes == 0);
  for (int n = 0; n < kFft; n += kLanes) {
    vf rows[kLanes];
    const vf window = load(plan.window + n);
#pragma GCC unroll 16
    for (int f = 0; f < kLanes; ++f) {
      const int frame = f < frames ? f : frames - 1;
      rows[f] = load(samples + frame * kHop + n) * window;
    }
    transpose(rows);
#pragma GCC unroll 8
    for (int j = 0; j < kLanes; j += 2) x[(n + j) / 2] = {rows[j], rows[j + 1]};
  }

  for (int n2 = 0; n2 < 25; ++n2) {
    cf t[8];
#pragma GCC unroll 8
    for (int n1 = 0; n1 < 8; ++n1) t[n1] = x[25 * n1 + n2];
    fft8(t);
    y[n2] = t[0];
#pragma GCC unroll 8
    for (int k1 = 1; k1 < 8; ++k1) {
      const int at = k1 * 25 + n2;
      y[at] = mul(t[k1], plan.twiddle_cos[at], plan.twiddle_sin[at]);
    }
  }
  for (int k1 = 0; k1 < 8; ++k1) fft25(y + 25 * k1, x + k1);

  // Split the packed spectrum Z: X[k] = E + w O, conj(X[200 - k]) = E - w O,
  // E = (Z[k] + conj Z[200 - k]) / 2, O = (Z[k] - conj Z[200 - k]) / 2i; the window holds the half.
  const vf sum = x[0].re + x[0].im, difference = x[0].re - x[0].im;
  power[0] = 4.0f * sum * sum;
  power[kHalf] = 4.0f * difference * difference;
  for (int k = 1; k <= kHalf / 2; ++k) {
    const cf a = x[k], b = {x[kHalf - k].re, -x[kHalf - k].im};
    const cf even = a + b, odd = mul(times_minus_i(a - b), plan.split_cos[k], plan.split_sin[k]);
    const cf low = even + odd, high = even - odd;
    power[k] = low.re * low.re + low.im * low.im;
    power[kHalf - k] = high.re * high.re + high.im * high.im;
  }
}

}  // namespace

void log_mel_block(const LogMelPlan& plan, const float* samples, int frames, float* log_power,
                   int stride) {
  constexpr float log10_2 = 0.301029995663981195f;
  for (int first = 0; first < frames; first += kLanes) {
    alignas(64) vf power[kBins];
    power_spectrum(plan, samples + first * kHop, frames - first, power);
    const float* weight = plan.mel_weight;
    const int* offset = plan.mel_offset;
    for (int m = 0; m < plan.n_mels; ++m) {
      const vf* bin = power + plan.mel_first[m];
      vf sum = splat(0.0f);
      for (int i = offset[m]; i < offset[m + 1]; ++i) sum += weight[i] * *bin++;
      store(log_power + m * stride + first, log2(max(sum, splat(1e-10f))) * log10_2);
    }
  }
}

}  // namespace asa::ASA_ISA
