// The activations and their derivatives, with bounds.
#ifndef HEADGATE_TESTS_ACTIVATIONS_H
#define HEADGATE_TESTS_ACTIVATIONS_H

#include <algorithm>
#include <cmath>

#include "bounded.h"
#include "headgate.h"

namespace fuzz {

// No activation here is steeper: GELU's slope peaks at 1.129, SiLU's (of any sigmoid slope) at 1.0998.
constexpr double kSteepest = 1.13;
// The activations' own errors, in units of 2^-24 times |z|, or 1 + |z| for derivatives. GELU of negative z is a
// difference of numbers near 1/2, off by a few roundings each; exp of an argument up to 88 is off by that argument's own
// rounding, 88 / 2 units, where it is below e^-16.
constexpr double kActivationRoundings = 16.0;

inline double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

// GELU with tanh is z * sigmoid(this).
inline double gelu_argument(double z) { return 2.0 * std::sqrt(2.0 / M_PI) * (z + 0.044715 * z * z * z); }

inline double activate(double z, const headgate_function& f) {
  switch (f.activation) {
    case HEADGATE_SILU:
      return z * sigmoid(static_cast<double>(f.sigmoid_slope) * z);
    case HEADGATE_GELU:
      return z * 0.5 * std::erfc(-z * std::sqrt(0.5));
    case HEADGATE_GELU_TANH:
      return z * sigmoid(gelu_argument(z));
    default:
      return std::max(z, 0.0);
  }
}

inline double differentiate(double z, const headgate_function& f) {
  const double slope = static_cast<double>(f.sigmoid_slope);
  const double s = sigmoid(f.activation == HEADGATE_SILU ? slope * z : gelu_argument(z));
  switch (f.activation) {
    case HEADGATE_SILU:
      return s + slope * z * s * (1.0 - s);
    case HEADGATE_GELU:
      return 0.5 * std::erfc(-z * std::sqrt(0.5)) + z * std::exp(-0.5 * z * z) / std::sqrt(2.0 * M_PI);
    case HEADGATE_GELU_TANH:
      return s + z * s * (1.0 - s) * 2.0 * std::sqrt(2.0 / M_PI) * (1.0 + 3.0 * 0.044715 * z * z);
    default:
      return z > 0.0 ? 1.0 : 0.0;
  }
}

inline Bounded activate(const Bounded& z, const headgate_function& f) {
  return {activate(z.value, f), kSteepest * z.error + kActivationRoundings * kFloatRoundoff * z.most() + kFlushed};
}

// At an exact z.
inline Bounded differentiate_at(double z, const headgate_function& f) {
  return {differentiate(z, f), kActivationRoundings * kFloatRoundoff * (1.0 + std::fabs(z))};
}

}  // namespace fuzz

#endif
