// Instruction sets and the tables of kernels compiled for each.
#pragma once

#include "asa/attention.h"
#include "asa/fourier.h"
#include "asa/gemm.h"
#include "asa/head.h"
#include "asa/layer_norm.h"
#include "asa/log_mel.h"
#include "asa/peak.h"
#include "asa/pool.h"
#include "asa/rms_norm.h"
#include "asa/rotary.h"
#include "asa/softmax.h"
#include "asa/voice.h"

namespace asa {

struct Kernels {
  const char* isa;
  void (*log_mel_block)(const LogMelPlan& plan, const float* samples, int frames, float* log_power,
                        int stride);
  GemmKernels gemm;
  LayerNormKernels layer_norm;
  RmsNormKernels rms_norm;
  RotaryKernels rotary;
  AttentionKernels attention;
  PoolKernels pool;
  HeadKernels head;
  SoftmaxKernels softmax;
  PeakKernels peak;
  VoiceKernels voice;
  FourierKernels fourier;
};

// Kernels of the best instruction set this CPU has, or of the one ASA_CPU_ISA names.
// Throws std::runtime_error if ASA_CPU_ISA names an unknown one, or one this CPU or build lacks.
const Kernels& kernels();

// The table of one instruction set by name; throws as kernels() does.
const Kernels& kernels_for(const char* isa);

// Comma-separated names of the instruction sets that this CPU and build have, weakest first.
const char* available_isas();

}  // namespace asa
