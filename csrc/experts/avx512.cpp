#include "isa_avx512.h"
#include "kernels.h"

namespace headgate {

const ExpertsKernels* avx512_kernels(int dtype) {
  static constexpr ExpertsKernels kFloat = kernels_of<Avx512, float>();
  static constexpr ExpertsKernels kHalf = kernels_of<Avx512, Half>();
  static constexpr ExpertsKernels kBf16 = kernels_of<Avx512, Bf16>();
  return dtype == HEADGATE_FLOAT32 ? &kFloat : dtype == HEADGATE_FLOAT16 ? &kHalf : &kBf16;
}

}  // namespace headgate
