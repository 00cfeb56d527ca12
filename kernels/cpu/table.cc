// The kernels of the instruction set this file is compiled for.
#include "asa/isa.h"

namespace asa::ASA_ISA {

#define ASA_STRING(x) #x
#define ASA_NAME(x) ASA_STRING(x)

void log_mel_block(const LogMelPlan&, const float*, int, float*, int);
GemmKernels gemm_kernels();
LayerNormKernels layer_norm_kernels();
RmsNormKernels rms_norm_kernels();
RotaryKernels rotary_kernels();
AttentionKernels attention_kernels();
PoolKernels pool_kernels();
HeadKernels head_kernels();
SoftmaxKernels softmax_kernels();
PeakKernels peak_kernels();
VoiceKernels voice_kernels();
FourierKernels fourier_kernels();

Kernels table() {
  return {.isa = ASA_NAME(ASA_ISA),
          .log_mel_block = log_mel_block,
          .gemm = gemm_kernels(),
          .layer_norm = layer_norm_kernels(),
          .rms_norm = rms_norm_kernels(),
          .rotary = rotary_kernels(),
          .attention = attention_kernels(),
          .pool = pool_kernels(),
          .head = head_kernels(),
          .softmax = softmax_kernels(),
          .peak = peak_kernels(),
          .voice = voice_kernels(),
          .fourier = fourier_kernels()};
}

}  // namespace asa::ASA_ISA
