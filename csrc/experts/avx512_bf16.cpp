#include "isa_avx512.h"
#include "kernels.h"

namespace headgate {

const ExpertsKernels* avx512_bf16_kernels(int dtype) {
  static constexpr ExpertsKernels kBf16 = kernels_of<Avx512Bf16, Bf16>();
  return dtype == HEADGATE_BFLOAT16 ? &kBf16 : avx512_kernels(dtype);
}

}  // namespace headgate
