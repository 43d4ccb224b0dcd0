// Seeded random numbers that are the same on every platform, which <random>'s distributions are not.
#ifndef HEADGATE_TESTS_RANDOM_H
#define HEADGATE_TESTS_RANDOM_H

#include <cstdint>

namespace fuzz {

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  // SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014, figure 17.
  std::uint64_t bits() {
    state_ += 0x9e3779b97f4a7c15u;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }

  std::int64_t below(std::int64_t count) {
    return static_cast<std::int64_t>(bits() % static_cast<std::uint64_t>(count));
  }

  // Both ends included.
  std::int64_t between(std::int64_t low, std::int64_t high) { return low + below(high - low + 1); }

  bool one_in(std::int64_t count) { return below(count) == 0; }

  // In [-1, 1), a multiple of 2^-23.
  double symmetric() { return static_cast<double>(below(std::int64_t{1} << 24)) * 0x1p-23 - 1.0; }

  template <typename Value, int count>
  Value pick(const Value (&values)[count]) {
    return values[below(count)];
  }

 private:
  std::uint64_t state_;
};

}  // namespace fuzz

#endif
