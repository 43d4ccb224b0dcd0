// AVX-512 registers of four tokens. Internal linkage, see elements.h.
#ifndef HEADGATE_EXPERTS_ISA_AVX512_H
#define HEADGATE_EXPERTS_ISA_AVX512_H

#include <immintrin.h>

#include "elements.h"

namespace headgate {
namespace {

struct Avx512Sums {
  using Sum = __m512;
  static constexpr int kLaneTokens = 4, kMaxVectors = 3, kRows = 8;

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
  static constexpr bool kCanTranspose = false;

  static Vector load(const float* from) { return _mm512_loadu_ps(from); }
  static Vector broadcast(const float* from) { return _mm512_broadcast_f32x4(_mm_loadu_ps(from)); }
  static Vector broadcast_pair(const float* from) { return _mm512_set1_ps(*from); }
  static Sum multiply_add(Vector x, Vector w, Sum sum) { return _mm512_fmadd_ps(x, w, sum); }
};

#if defined(__AVX512BF16__)
struct Avx512Bf16 : Avx512Sums {
  using Element = Bf16;
  using Vector = __m512i;
  static constexpr bool kCanTranspose = true;

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

  // Eight 128-bit lanes' worth of 8 x 8 transpositions: three rounds of interleaving.
  template <class S>
  static void transpose(const S* from, std::int64_t stride, Bf16* to, std::int64_t to_stride) {
    __m512i a[8], b[8];
    for (int k = 0; k < 8; ++k) a[k] = _mm512_loadu_si512(from + k * stride);
    for (int i = 0; i < 4; ++i) {
      b[2 * i] = _mm512_unpacklo_epi16(a[2 * i], a[2 * i + 1]);
      b[2 * i + 1] = _mm512_unpackhi_epi16(a[2 * i], a[2 * i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
      a[i] = _mm512_unpacklo_epi32(b[i], b[i + 2]);
      a[i + 1] = _mm512_unpackhi_epi32(b[i], b[i + 2]);
      a[i + 2] = _mm512_unpacklo_epi32(b[i + 1], b[i + 3]);
      a[i + 3] = _mm512_unpackhi_epi32(b[i + 1], b[i + 3]);
    }
    for (int i = 0; i < 4; ++i) {
      b[2 * i] = _mm512_unpacklo_epi64(a[i], a[i + 4]);
      b[2 * i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 4]);
    }
    for (int r = 0; r < 8; ++r) {
      store_eight(to + r * to_stride, _mm512_castsi512_si128(b[r]));
      store_eight(to + (r + 8) * to_stride, _mm512_extracti32x4_epi32(b[r], 1));
      store_eight(to + (r + 16) * to_stride, _mm512_extracti32x4_epi32(b[r], 2));
      store_eight(to + (r + 24) * to_stride, _mm512_extracti32x4_epi32(b[r], 3));
    }
  }

 private:
  static void store_eight(Bf16* to, __m128i values) { _mm_storeu_si128(reinterpret_cast<__m128i*>(to), values); }
};
#endif

}  // namespace
}  // namespace headgate

#endif
