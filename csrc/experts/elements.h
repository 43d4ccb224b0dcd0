// Storage types and their conversions from and to float32. Included by files that are compiled for different
// instruction sets, so everything has internal linkage and nothing comes from the standard library's templates.
#ifndef HEADGATE_EXPERTS_ELEMENTS_H
#define HEADGATE_EXPERTS_ELEMENTS_H

#include <cstdint>
#include <cstring>

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace headgate {
namespace {

struct Bf16 {
  std::uint16_t bits;
};

struct Half {
  std::uint16_t bits;
};

inline std::uint32_t bits_of(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float float_of(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline float widen(float value) { return value; }

inline float widen(Bf16 value) { return float_of(static_cast<std::uint32_t>(value.bits) << 16); }

inline float widen(Half value) {
#if defined(__F16C__)
  return _cvtsh_ss(value.bits);
#else
  const std::uint32_t sign = static_cast<std::uint32_t>(value.bits & 0x8000u) << 16;
  const std::uint32_t rest = value.bits & 0x7fffu;
  if (rest >= 0x7c00u) return float_of(sign | 0x7f800000u | ((rest & 0x3ffu) << 13));
  // Moving the exponent by a product normalises subnormal numbers on the way: 2^112 = 2^(127 - 15).
  return float_of(sign | bits_of(float_of(rest << 13) * float_of(0x77800000u)));
#endif
}

inline void narrow(float value, float* to) { *to = value; }

// Round to nearest, ties to even; a NaN stays one.
inline void narrow(float value, Bf16* to) {
  const std::uint32_t bits = bits_of(value);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  to->bits = static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u : rounded);
}

inline void narrow(float value, Half* to) {
#if defined(__F16C__)
  to->bits = static_cast<std::uint16_t>(_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
  const std::uint32_t bits = bits_of(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t rest = bits & 0x7fffffffu;
  std::uint32_t result;
  if (rest > 0x7f800000u) {
    result = 0x7e00u;
  } else if (rest >= 0x477ff000u) {  // 65520, which rounds to infinity
    result = 0x7c00u;
  } else if (rest < 0x38800000u) {  // below 2^-14: adding 0.5 leaves the subnormal's bits at the bottom, rounded
    result = bits_of(float_of(rest) + 0.5f) - 0x3f000000u;
  } else {
    result = (rest - 0x38000000u + 0xfffu + ((rest >> 13) & 1u)) >> 13;
  }
  to->bits = static_cast<std::uint16_t>(sign | result);
#endif
}

template <class A, class B>
struct IsSame {
  static constexpr bool value = false;
};
template <class A>
struct IsSame<A, A> {
  static constexpr bool value = true;
};

template <typename To, typename From>
inline To convert(From value) {
  if constexpr (IsSame<To, From>::value) {
    return value;
  } else {
    To result;
    narrow(widen(value), &result);
    return result;
  }
}

// What a value becomes in storage of type S, as float32: half precision overflows to infinity there.
template <typename S>
inline float round_to(float value) {
  return widen(convert<S>(value));
}

}  // namespace
}  // namespace headgate

#endif
