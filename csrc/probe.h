// The inner loops of the two probes of the machine, one set per instruction set.
#ifndef HEADGATE_PROBE_H
#define HEADGATE_PROBE_H

#include <cstdint>

namespace headgate {

// A thread reads its part in this many streams side by side: a little faster than one, as measured on Zen 4. Software
// prefetch, at any distance, was slower than the hardware's own.
constexpr int kProbeStreams = 4;
constexpr int kWordsPerLine = 8;

struct ProbeLoops {
  // The sum of the words, modulo 2^64: order and split do not matter.
  std::uint64_t (*read)(const std::uint64_t* words, std::int64_t num_words);
  // Repeats num_steps times the multiply-adds of `multiply_width`, all in registers. Returns a value that depends on
  // every one of them.
  float (*multiply)(std::int64_t num_steps, float factor, float addend);
  std::int64_t multiply_width;
};

extern const ProbeLoops kProbeGeneric;
#if defined(HEADGATE_X86)
extern const ProbeLoops kProbeAvx2;
extern const ProbeLoops kProbeAvx512;
extern const ProbeLoops kProbeAvx512Bf16;  // multiplies in bfloat16; reads as kProbeAvx512
#endif

}  // namespace headgate

#endif
