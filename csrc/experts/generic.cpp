#include "kernels.h"

namespace headgate {
namespace {

// Four floats of one token, in plain C++ that compilers turn into the target's 128-bit registers.
struct Generic {
  struct Four {
    float value[4];
  };
  using Element = float;
  using Vector = Four;
  using Sum = Four;
  static constexpr int kLaneTokens = 1, kMaxVectors = 2, kRows = 4, kColumnVectors = 4, kColumnRows = 2;

  static Sum zero() { return {{0.0f, 0.0f, 0.0f, 0.0f}}; }
  static Vector load(const float* from) { return {{from[0], from[1], from[2], from[3]}}; }
  static Vector broadcast(const float* from) { return load(from); }
  static Vector broadcast_pair(const float* from) { return {{from[0], from[0], from[0], from[0]}}; }

  static void store(Sum sum, float* to, bool add) {
    for (int i = 0; i < 4; ++i) to[i] = add ? to[i] + sum.value[i] : sum.value[i];
  }

  static Sum multiply_add(Vector x, Vector w, Sum sum) {
    for (int i = 0; i < 4; ++i) sum.value[i] += x.value[i] * w.value[i];
    return sum;
  }

  static void store_sums(Sum a, Sum b, Sum c, Sum d, float* to, bool add) {
    const float sums[4] = {total(a), total(b), total(c), total(d)};
    for (int r = 0; r < 4; ++r) to[r] = add ? to[r] + sums[r] : sums[r];
  }

 private:
  static float total(Sum sum) { return (sum.value[0] + sum.value[2]) + (sum.value[1] + sum.value[3]); }
};

}  // namespace

const ExpertsKernels* generic_kernels(int dtype) {
  static constexpr ExpertsKernels kFloat = kernels_of<Generic, float>();
  static constexpr ExpertsKernels kHalf = kernels_of<Generic, Half>();
  static constexpr ExpertsKernels kBf16 = kernels_of<Generic, Bf16>();
  return dtype == HEADGATE_FLOAT32 ? &kFloat : dtype == HEADGATE_FLOAT16 ? &kHalf : &kBf16;
}

}  // namespace headgate
