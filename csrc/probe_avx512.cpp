// Compiled with AVX-512: nothing here may be shared with code that runs elsewhere.
#include <immintrin.h>

#include "probe.h"

namespace headgate {
namespace {

constexpr int kNumSums = 16;  // of 32 registers; latency 4 times two pipes asks for 8

std::uint64_t read_words(const std::uint64_t* words, std::int64_t num_words) {
  const std::int64_t stride = num_words / (kProbeStreams * kWordsPerLine) * kWordsPerLine;
  __m512i sums[kProbeStreams];
  for (int j = 0; j < kProbeStreams; ++j) sums[j] = _mm512_setzero_si512();
  for (std::int64_t i = 0; i < stride; i += kWordsPerLine) {
    for (int j = 0; j < kProbeStreams; ++j) {
      sums[j] = _mm512_add_epi64(sums[j], _mm512_loadu_si512(words + j * stride + i));
    }
  }
  const __m512i total = _mm512_add_epi64(_mm512_add_epi64(sums[0], sums[1]), _mm512_add_epi64(sums[2], sums[3]));
  alignas(64) std::uint64_t parts[8];
  _mm512_store_si512(parts, total);
  std::uint64_t sum = 0;
  for (int j = 0; j < 8; ++j) sum += parts[j];
  for (std::int64_t i = kProbeStreams * stride; i < num_words; ++i) sum += words[i];
  return sum;
}

float multiply(std::int64_t num_steps, float factor, float addend) {
  const __m512 by = _mm512_set1_ps(factor);
  const __m512 plus = _mm512_set1_ps(addend);
  __m512 sums[kNumSums];
  for (int j = 0; j < kNumSums; ++j) sums[j] = _mm512_set1_ps(static_cast<float>(j));
  for (std::int64_t step = 0; step < num_steps; ++step) {
    for (int j = 0; j < kNumSums; ++j) sums[j] = _mm512_fmadd_ps(sums[j], by, plus);
  }
  for (int j = 1; j < kNumSums; ++j) sums[0] = _mm512_add_ps(sums[0], sums[j]);
  alignas(64) float parts[16];
  _mm512_store_ps(parts, sums[0]);
  float sum = 0.0F;
  for (int j = 0; j < 16; ++j) sum += parts[j];
  return sum;
}

}  // namespace

const ProbeLoops kProbeAvx512{read_words, multiply, kNumSums * 16};

}  // namespace headgate
