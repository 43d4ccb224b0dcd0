// Compiled with AVX2 and FMA: nothing here may be shared with code that runs elsewhere.
#include <immintrin.h>

#include "probe.h"

namespace headgate {
namespace {

constexpr int kNumSums = 12;  // of 16 registers; latency 4 or 5 times two pipes asks for 10

std::uint64_t read_words(const std::uint64_t* words, std::int64_t num_words) {
  const std::int64_t stride = num_words / (kProbeStreams * kWordsPerLine) * kWordsPerLine;
  __m256i sums[kProbeStreams];
  for (int j = 0; j < kProbeStreams; ++j) sums[j] = _mm256_setzero_si256();
  for (std::int64_t i = 0; i < stride; i += kWordsPerLine) {
    for (int j = 0; j < kProbeStreams; ++j) {
      const __m256i* line = reinterpret_cast<const __m256i*>(words + j * stride + i);
      sums[j] = _mm256_add_epi64(sums[j], _mm256_loadu_si256(line));
      sums[j] = _mm256_add_epi64(sums[j], _mm256_loadu_si256(line + 1));
    }
  }
  const __m256i total = _mm256_add_epi64(_mm256_add_epi64(sums[0], sums[1]), _mm256_add_epi64(sums[2], sums[3]));
  alignas(32) std::uint64_t parts[4];
  _mm256_store_si256(reinterpret_cast<__m256i*>(parts), total);
  std::uint64_t sum = parts[0] + parts[1] + parts[2] + parts[3];
  for (std::int64_t i = kProbeStreams * stride; i < num_words; ++i) sum += words[i];
  return sum;
}

float multiply(std::int64_t num_steps, float factor, float addend) {
  const __m256 by = _mm256_set1_ps(factor);
  const __m256 plus = _mm256_set1_ps(addend);
  __m256 sums[kNumSums];
  for (int j = 0; j < kNumSums; ++j) sums[j] = _mm256_set1_ps(static_cast<float>(j));
  for (std::int64_t step = 0; step < num_steps; ++step) {
    for (int j = 0; j < kNumSums; ++j) sums[j] = _mm256_fmadd_ps(sums[j], by, plus);
  }
  for (int j = 1; j < kNumSums; ++j) sums[0] = _mm256_add_ps(sums[0], sums[j]);
  alignas(32) float parts[8];
  _mm256_store_ps(parts, sums[0]);
  float sum = 0.0F;
  for (int j = 0; j < 8; ++j) sum += parts[j];
  return sum;
}

}  // namespace

const ProbeLoops kProbeAvx2{read_words, multiply, kNumSums * 8};

}  // namespace headgate
