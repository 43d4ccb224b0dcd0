// Numbers in double precision, with a bound on how far off a computation in float32 and a storage type may be.
#ifndef HEADGATE_TESTS_BOUNDED_H
#define HEADGATE_TESTS_BOUNDED_H

#include <cmath>

#include "numbers.h"

namespace fuzz {

struct Bounded {
  double value = 0.0, error = 0.0;

  double most() const { return std::fabs(value) + error; }
};

const double kFloatRoundoff = roundoff_of(HEADGATE_FLOAT32);
// What flushing products below float32's normal range to zero may lose: 2^-126 for each of thousands.
constexpr double kFlushed = 0x1p-100;

// Rounded to a storage type.
inline Bounded store(const Bounded& exact, int dtype) {
  return {exact.value, exact.error + roundoff_of(dtype) * exact.most() + smallest_roundoff_of(dtype)};
}

inline Bounded multiply(const Bounded& a, const Bounded& b) {
  const double error = std::fabs(a.value) * b.error + std::fabs(b.value) * a.error + a.error * b.error;
  return {a.value * b.value, error + kFloatRoundoff * (std::fabs(a.value * b.value) + error) + kFlushed};
}

// A sum of products, of which one factor is exact, in float32: n + 1 roundings at most touch each term, whatever the order
// (N. Higham, "Accuracy and Stability of Numerical Algorithms", 2nd edition, 2002, section 4.2).
class Sum {
 public:
  void add(double factor, const Bounded& term) {
    value_ += factor * term.value;
    error_ += std::fabs(factor) * term.error;
    magnitude_ += std::fabs(factor) * term.most();
    ++num_terms_;
  }

  Bounded total() const { return {value_, error_ + (num_terms_ + 1) * kFloatRoundoff * magnitude_ + kFlushed}; }

 private:
  double value_ = 0.0, error_ = 0.0, magnitude_ = 0.0;
  int num_terms_ = 0;
};

}  // namespace fuzz

#endif
