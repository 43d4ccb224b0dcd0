#include <immintrin.h>

#include "kernels.h"

namespace headgate {
namespace {

// AVX2 registers of two tokens.
struct Avx2 {
  using Element = float;
  using Vector = __m256;
  using Sum = __m256;
  static constexpr int kLaneTokens = 2, kMaxVectors = 3, kRows = 4, kColumnVectors = 2, kColumnRows = 6;

  static Sum zero() { return _mm256_setzero_ps(); }
  static Vector load(const float* from) { return _mm256_loadu_ps(from); }
  static Vector broadcast(const float* from) { return _mm256_broadcast_ps(reinterpret_cast<const __m128*>(from)); }
  static Vector broadcast_pair(const float* from) { return _mm256_broadcast_ss(from); }
  static void store(Sum sum, float* to, bool add) {
    _mm256_storeu_ps(to, add ? _mm256_add_ps(_mm256_loadu_ps(to), sum) : sum);
  }
  static Sum multiply_add(Vector x, Vector w, Sum sum) { return _mm256_fmadd_ps(x, w, sum); }

  static void store_sums(Sum a, Sum b, Sum c, Sum d, float* to, bool add) {
    const Sum ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    const Sum cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
    const __m256d low = _mm256_unpacklo_pd(_mm256_castps_pd(ab), _mm256_castps_pd(cd));
    const __m256d high = _mm256_unpackhi_pd(_mm256_castps_pd(ab), _mm256_castps_pd(cd));
    const Sum abcd = _mm256_add_ps(_mm256_castpd_ps(low), _mm256_castpd_ps(high));
    store_four(_mm256_castps256_ps128(abcd), to, add);
    store_four(_mm256_extractf128_ps(abcd, 1), to + kTileRows, add);
  }

 private:
  static void store_four(__m128 sums, float* to, bool add) {
    _mm_storeu_ps(to, add ? _mm_add_ps(_mm_loadu_ps(to), sums) : sums);
  }
};

}  // namespace

const ExpertsKernels* avx2_kernels(int dtype) {
  static constexpr ExpertsKernels kFloat = kernels_of<Avx2, float>();
  static constexpr ExpertsKernels kHalf = kernels_of<Avx2, Half>();
  static constexpr ExpertsKernels kBf16 = kernels_of<Avx2, Bf16>();
  return dtype == HEADGATE_FLOAT32 ? &kFloat : dtype == HEADGATE_FLOAT16 ? &kHalf : &kBf16;
}

}  // namespace headgate
