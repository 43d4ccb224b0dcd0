#include "cpu.h"

namespace headgate {
namespace {

#if defined(HEADGATE_X86)
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

bool has_isa(int isa) {
  switch (isa) {
    case HEADGATE_ISA_AVX512_BF16:
      return has_avx512() && __builtin_cpu_supports("avx512bf16");
    case HEADGATE_ISA_AVX512:
      return has_avx512();
    case HEADGATE_ISA_AVX2:
      return has_avx2();
    default:
      return isa == HEADGATE_ISA_GENERIC;
  }
}
#else
bool has_isa(int isa) { return isa == HEADGATE_ISA_GENERIC; }
#endif

}  // namespace

int best_isa() {
  int isa = HEADGATE_ISA_AVX512_BF16;
  while (!has_isa(isa)) --isa;
  return isa;
}

int resolve_isa(int requested) {
  if (requested == HEADGATE_ISA_BEST) return best_isa();
  return has_isa(requested) ? requested : -1;
}

}  // namespace headgate

int headgate_best_isa(void) { return headgate::best_isa(); }
