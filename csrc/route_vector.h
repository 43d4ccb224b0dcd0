// Vectors of floats as wide as the flags of the including file allow, with the few operations that routing needs.
// To be included inside an anonymous namespace, after <stdint.h>, <string.h> and, for AVX, <immintrin.h>: each
// variant then has code of its own, which the linker can't exchange.

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#elif defined(__GNUC__)
constexpr int kLanes = 4;
#else
constexpr int kLanes = 1;
#endif

#if defined(__GNUC__)
typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
typedef uint32_t Words __attribute__((vector_size(4 * kLanes)));
typedef uint16_t Halves __attribute__((vector_size(2 * kLanes)));
#define HEADGATE_INLINE inline __attribute__((always_inline))
HEADGATE_INLINE Words widen(Halves values) { return __builtin_convertvector(values, Words); }
HEADGATE_INLINE float lane(const Floats& values, int index) { return values[index]; }
#else
typedef float Floats;
typedef int32_t Ints;
typedef uint32_t Words;
typedef uint16_t Halves;
#define HEADGATE_INLINE inline
HEADGATE_INLINE Words widen(Halves values) { return values; }
HEADGATE_INLINE float lane(const Floats& values, int) { return values; }
#endif

struct Float16 {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

HEADGATE_INLINE Words words_of(Floats values) {
  Words words;
  memcpy(&words, &values, sizeof words);
  return words;
}

HEADGATE_INLINE Floats floats_of(Words words) {
  Floats values;
  memcpy(&values, &words, sizeof values);
  return values;
}

HEADGATE_INLINE Floats all(float value) { return Floats{} + value; }

HEADGATE_INLINE Floats load(const float* from) {
  Floats values;
  memcpy(&values, from, sizeof values);
  return values;
}

HEADGATE_INLINE void store(float* to, Floats values) { memcpy(to, &values, sizeof values); }

HEADGATE_INLINE Floats load(const BFloat16* from) {
  // By name, since GCC 12 widens a vector of 16 in two halves.
#if defined(__AVX512F__)
  const __m256i packed = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return (Floats)_mm512_maskz_slli_epi32(0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, packed), 16);
#elif defined(__AVX2__)
  return (Floats)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))), 16);
#else
  Halves halves;
  memcpy(&halves, from, sizeof halves);
  return floats_of(widen(halves) << 16);
#endif
}

HEADGATE_INLINE Floats load(const Float16* from) {
#if defined(__AVX512F__)
  return (Floats)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif defined(__AVX2__)
  return (Floats)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#else
  Halves halves;
  memcpy(&halves, from, sizeof halves);
  const Words bits = widen(halves), magnitude = (bits & 0x7fffu) << 13, sign = (bits & 0x8000u) << 16;
  // The exponents' offsets differ by 112; the product is exact, below float16's normal range as well.
  const Words finite = words_of(floats_of(magnitude) * 0x1p112f);
  return floats_of(sign | ((bits & 0x7c00u) == 0x7c00u ? magnitude | 0x7f800000u : finite));
#endif
}

// The first `count` of a vector's elements, then zeros.
template <typename Element>
HEADGATE_INLINE Floats load_part(const Element* from, int64_t count) {
  Element padded[kLanes] = {};
  memcpy(padded, from, static_cast<size_t>(count) * sizeof(Element));
  return load(padded);
}

// a * b + c; rounded once where that is fast.
HEADGATE_INLINE Floats multiply_add(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
  return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
  return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

// The sum of all lanes, always in the same order.
HEADGATE_INLINE float sum_lanes(Floats values) {
#if defined(__AVX512F__)
  // The forms with a mask, since GCC 12 warns of its own headers in the others.
  const __m256 half = _mm256_add_ps(_mm512_maskz_extractf32x8_ps(0xff, (__m512)values, 0),
                                    _mm512_maskz_extractf32x8_ps(0xff, (__m512)values, 1));
#elif defined(__AVX2__)
  const __m256 half = (__m256)values;
#endif
#if defined(__AVX2__)
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#else
  float sum = lane(values, 0);
  for (int i = 1; i < kLanes; ++i) sum += lane(values, i);
  return sum;
#endif
}

// The larger in each lane; `floor` where `values` is NaN.
HEADGATE_INLINE Floats larger(Floats values, Floats floor) { return values > floor ? values : floor; }

HEADGATE_INLINE float max_lanes(Floats values) {
#if defined(__AVX512F__)
  const __m256 half = _mm256_max_ps(_mm512_maskz_extractf32x8_ps(0xff, (__m512)values, 0),
                                    _mm512_maskz_extractf32x8_ps(0xff, (__m512)values, 1));
#elif defined(__AVX2__)
  const __m256 half = (__m256)values;
#endif
#if defined(__AVX2__)
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
#else
  float best = lane(values, 0);
  for (int i = 1; i < kLanes; ++i) best = lane(values, i) > best ? lane(values, i) : best;
  return best;
#endif
}

// The first lane that equals `value`, or -1.
HEADGATE_INLINE int find_lane(Floats values, float value) {
#if defined(__AVX512F__)
  const unsigned found = _mm512_cmp_ps_mask((__m512)values, _mm512_set1_ps(value), _CMP_EQ_OQ);
  return found != 0 ? __builtin_ctz(found) : -1;
#elif defined(__AVX2__)
  const __m256 equal = _mm256_cmp_ps((__m256)values, _mm256_set1_ps(value), _CMP_EQ_OQ);
  const unsigned found = static_cast<unsigned>(_mm256_movemask_ps(equal));
  return found != 0 ? __builtin_ctz(found) : -1;
#else
  for (int i = 0; i < kLanes; ++i) {
    if (lane(values, i) == value) return i;
  }
  return -1;
#endif
}

HEADGATE_INLINE Floats square_root(Floats values) {
#if defined(__AVX512F__)
  return (Floats)_mm512_maskz_sqrt_ps(0xffff, (__m512)values);
#elif defined(__AVX2__)
  return (Floats)_mm256_sqrt_ps((__m256)values);
#else
  float lanes[kLanes];
  store(lanes, values);
  for (int i = 0; i < kLanes; ++i) lanes[i] = sqrtf(lanes[i]);
  return load(lanes);
#endif
}

// To the nearest bfloat16, ties to even.
HEADGATE_INLINE Floats round_to_bfloat16(Floats values) {
  const Words bits = words_of(values);
  const Words rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
  return values == values ? floats_of(rounded) : values;
}

// To the nearest float16, ties to even.
HEADGATE_INLINE Floats round_to_float16(Floats values) {
  const Words bits = words_of(values), magnitude = bits & 0x7fffffffu, sign = bits & 0x80000000u;
  const Floats size = floats_of(magnitude);
  const Words normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u)) & 0xffffe000u;
  // Next to 1/2 floats are 2^-24 apart, as float16s below 2^-14 are.
  const Words small = words_of((size + 0.5f) - 0.5f);
  const Words finite = size < all(0x1p-14f) ? small : normal;
  const Words rounded = size >= all(65520.0f) ? (Words{} + 0x7f800000u) : finite;
  return values == values ? floats_of(rounded | sign) : values;
}

// exp(x) for x <= 0, to about an ulp; NaN for NaN. After Moshier, Cephes, expf: x = n ln 2 + r, a polynomial in r.
HEADGATE_INLINE Floats exp_of_negative(Floats x) {
  // exp(-104) rounds to 0. A NaN passes.
  const Floats bounded = x < all(-104.0f) ? all(-104.0f) : x;
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
  const Floats shift = all(0x1.8p23f), shifted = bounded * 1.44269504f + shift, n = shifted - shift;
  const Floats r = multiply_add(n, all(2.12194440e-4f), multiply_add(n, all(-0.693359375f), bounded));
  Floats p = all(1.9875691500e-4f);
  p = multiply_add(p, r, all(1.3981999507e-3f));
  p = multiply_add(p, r, all(8.3334519073e-3f));
  p = multiply_add(p, r, all(4.1665795894e-2f));
  p = multiply_add(p, r, all(1.6666665459e-1f));
  p = multiply_add(p, r, all(5.0000001201e-1f));
  const Floats mantissa = multiply_add(p, r * r, r) + 1.0f;
  // 2^n in two factors, since 2^-149 is no normal float. n is at most 0: shifting -n keeps it so.
  const Words minus_n = words_of(shift) - words_of(shifted);
  const Words half = minus_n >> 1, rest = minus_n - half;
  return mantissa * floats_of((127u - half) << 23) * floats_of((127u - rest) << 23);
}

// log(1 + u) for u in [0, 1], to about two ulps; NaN for NaN: 2 atanh(s), s = u / (2 + u) <= 1/3, by its series.
HEADGATE_INLINE Floats log_of_one_plus(Floats u) {
  const Floats s = u / (u + 2.0f), square = s * s;
  Floats p = all(1.0f / 17.0f);
  for (int denominator = 15; denominator > 1; denominator -= 2) {
    p = multiply_add(p, square, all(1.0f / static_cast<float>(denominator)));
  }
  return multiply_add(p * square, s + s, s + s);
}
