// Compiled with AVX-512 BF16: nothing here may be shared with code that runs elsewhere.
#include <immintrin.h>

#include "probe.h"

namespace headgate {
namespace {

constexpr int kNumSums = 16;  // of 32 registers; latency 6 times two pipes asks for 12

// Each of the 16 lanes adds two products.
float multiply(std::int64_t num_steps, float factor, float addend) {
  const __m512bh left = _mm512_cvtne2ps_pbh(_mm512_set1_ps(factor), _mm512_set1_ps(-factor));
  const __m512bh right = _mm512_cvtne2ps_pbh(_mm512_set1_ps(addend), _mm512_set1_ps(factor));
  __m512 sums[kNumSums];
  for (int j = 0; j < kNumSums; ++j) sums[j] = _mm512_set1_ps(static_cast<float>(j));
  for (std::int64_t step = 0; step < num_steps; ++step) {
    for (int j = 0; j < kNumSums; ++j) sums[j] = _mm512_dpbf16_ps(sums[j], left, right);
  }
  for (int j = 1; j < kNumSums; ++j) sums[0] = _mm512_add_ps(sums[0], sums[j]);
  alignas(64) float parts[16];
  _mm512_store_ps(parts, sums[0]);
  float sum = 0.0F;
  for (int j = 0; j < 16; ++j) sum += parts[j];
  return sum;
}

}  // namespace

const ProbeLoops kProbeAvx512Bf16{nullptr, multiply, kNumSums * 32};

}  // namespace headgate
