// Storage types as double precision sees them. Written without a look at the library's own conversions.
#ifndef HEADGATE_TESTS_NUMBERS_H
#define HEADGATE_TESTS_NUMBERS_H

#include <cmath>
#include <cstdint>
#include <cstring>

#include "headgate.h"

namespace fuzz {

inline std::int64_t bytes_of(int dtype) { return dtype == HEADGATE_FLOAT32 ? 4 : 2; }

// Bits of the significand, the leading one included, and the exponent of the smallest positive number.
struct Format {
  int precision, smallest;
};

inline Format format_of(int dtype) {
  if (dtype == HEADGATE_FLOAT16) return {11, -24};
  return dtype == HEADGATE_BFLOAT16 ? Format{8, -133} : Format{24, -149};
}

// The largest error of rounding to nearest, relative to the result, and where results are subnormal.
inline double roundoff_of(int dtype) { return std::ldexp(1.0, -format_of(dtype).precision); }
inline double smallest_roundoff_of(int dtype) { return std::ldexp(0.5, format_of(dtype).smallest); }

// To the nearest number of a type, ties to even. Magnitudes beyond the type's largest are the caller's to avoid.
inline double round_to(double value, int dtype) {
  if (value == 0.0 || !std::isfinite(value)) return value;
  const Format format = format_of(dtype);
  int exponent = 0;
  std::frexp(value, &exponent);
  const int quantum = exponent - format.precision > format.smallest ? exponent - format.precision : format.smallest;
  return std::ldexp(std::nearbyint(std::ldexp(value, -quantum)), quantum);
}

inline double read_half(std::uint16_t bits) {
  const int exponent = (bits >> 10) & 31, fraction = bits & 1023;
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == 31) return fraction != 0 ? static_cast<double>(NAN) : sign * static_cast<double>(INFINITY);
  return exponent == 0 ? sign * std::ldexp(fraction, -24) : sign * std::ldexp(1024 + fraction, exponent - 25);
}

// Of a value that half precision has.
inline std::uint16_t write_half(double value) {
  const std::uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  if (std::isnan(value)) return 0x7e00;
  if (std::isinf(value)) return sign | 0x7c00;
  int exponent = 0;
  std::frexp(value, &exponent);
  if (value == 0.0 || exponent < -13) return sign | static_cast<std::uint16_t>(std::ldexp(std::fabs(value), 24));
  const int fraction = static_cast<int>(std::ldexp(std::fabs(value), 11 - exponent)) - 1024;
  return sign | static_cast<std::uint16_t>((exponent + 14) << 10 | fraction);
}

inline double read(const void* data, int dtype, std::int64_t index) {
  const char* const from = static_cast<const char*>(data) + index * bytes_of(dtype);
  if (dtype == HEADGATE_FLOAT32) {
    float value;
    std::memcpy(&value, from, sizeof value);
    return value;
  }
  std::uint16_t bits;
  std::memcpy(&bits, from, sizeof bits);
  if (dtype == HEADGATE_FLOAT16) return read_half(bits);
  const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

inline void write(double value, void* data, int dtype, std::int64_t index) {
  char* const to = static_cast<char*>(data) + index * bytes_of(dtype);
  const double rounded = round_to(value, dtype);
  if (dtype == HEADGATE_FLOAT16) {
    const std::uint16_t bits = write_half(rounded);
    std::memcpy(to, &bits, sizeof bits);
    return;
  }
  const float narrow = static_cast<float>(rounded);
  if (dtype == HEADGATE_FLOAT32) {
    std::memcpy(to, &narrow, sizeof narrow);
    return;
  }
  std::uint32_t wide;
  std::memcpy(&wide, &narrow, sizeof wide);
  const std::uint16_t bits = static_cast<std::uint16_t>(wide >> 16);
  std::memcpy(to, &bits, sizeof bits);
}

}  // namespace fuzz

#endif
