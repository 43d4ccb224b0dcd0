// AVX-512 registers of four tokens. Internal linkage, see elements.h.
#ifndef HEADGATE_EXPERTS_ISA_AVX512_H
#define HEADGATE_EXPERTS_ISA_AVX512_H

#include <immintrin.h>

#include "elements.h"

namespace headgate {
namespace {

struct Avx512Sums {
  using Sum = __m512;
  static constexpr int kLaneTokens = 4, kMaxVectors = 3, kRows = 8, kColumnVectors = 4, kColumnRows = 6;

  static Sum zero() { return _mm512_setzero_ps(); }
  static void store(Sum sum, float* to, bool add) {
    _mm512_storeu_ps(to, add ? _mm512_add_ps(_mm512_loadu_ps(to), sum) : sum);
  }

  static void store_sums(Sum a, Sum b, Sum c, Sum d, float* to, bool add) {
    const Sum ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const Sum cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const __m512d low = _mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    const __m512d high = _mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    const Sum abcd = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
    store_four(_mm512_castps512_ps128(abcd), to, add);
    store_four(_mm512_extractf32x4_ps(abcd, 1), to + 8, add);
    store_four(_mm512_extractf32x4_ps(abcd, 2), to + 16, add);
    store_four(_mm512_extractf32x4_ps(abcd, 3), to + 24, add);
  }

 private:
  static void store_four(__m128 sums, float* to, bool add) {
    _mm_storeu_ps(to, add ? _mm_add_ps(_mm_loadu_ps(to), sums) : sums);
  }
};

struct Avx512 : Avx512Sums {
  using Element = float;
  using Vector = __m512;

  static Vector load(const float* from) { return _mm512_loadu_ps(from); }
  static Vector broadcast(const float* from) { return _mm512_broadcast_f32x4(_mm_loadu_ps(from)); }
  static Vector broadcast_pair(const float* from) { return _mm512_set1_ps(*from); }
  static Sum multiply_add(Vector x, Vector w, Sum sum) { return _mm512_fmadd_ps(x, w, sum); }
};

#if defined(__AVX512BF16__)
struct Avx512Bf16 : Avx512Sums {
  using Element = Bf16;
  using Vector = __m512i;

  static Vector load(const Bf16* from) { return _mm512_loadu_si512(from); }
  static Vector broadcast(const Bf16* from) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  static Vector broadcast_pair(const Bf16* from) {
    std::int32_t pair;
    std::memcpy(&pair, from, sizeof pair);
    return _mm512_set1_epi32(pair);
  }
  static Sum multiply_add(Vector x, Vector w, Sum sum) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(x), reinterpret_cast<__m512bh>(w));
  }
};
#endif

}  // namespace
}  // namespace headgate

#endif
