#include "probe.h"

#include <algorithm>
#include <atomic>

#include "cpu.h"
#include "headgate.h"
#include "parallel.h"

namespace headgate {
namespace {

// SSE2 on x86-64 and NEON on AArch64, as the compiler vectorises them. 48 sums are 12 vectors: enough independent
// chains to fill the pipes, and few enough to stay in 16 registers.
constexpr std::int64_t kNumSums = 48;

std::uint64_t read_generic(const std::uint64_t* words, std::int64_t num_words) {
  const std::int64_t stride = num_words / (kProbeStreams * kWordsPerLine) * kWordsPerLine;
  std::uint64_t sums[kProbeStreams] = {};
  for (std::int64_t i = 0; i < stride; i += kWordsPerLine) {
    for (int j = 0; j < kProbeStreams; ++j) {
      for (int k = 0; k < kWordsPerLine; ++k) sums[j] += words[j * stride + i + k];
    }
  }
  std::uint64_t sum = 0;
  for (std::int64_t i = kProbeStreams * stride; i < num_words; ++i) sum += words[i];
  for (const std::uint64_t part : sums) sum += part;
  return sum;
}

float multiply_generic(std::int64_t num_steps, float factor, float addend) {
  float sums[kNumSums];
  for (int j = 0; j < kNumSums; ++j) sums[j] = static_cast<float>(j);
  for (std::int64_t step = 0; step < num_steps; ++step) {
    for (int j = 0; j < kNumSums; ++j) sums[j] = sums[j] * factor + addend;
  }
  float sum = 0.0F;
  for (const float part : sums) sum += part;
  return sum;
}

const ProbeLoops& loops_for([[maybe_unused]] int isa, [[maybe_unused]] int dtype) {
#if defined(HEADGATE_X86)
  if (isa == HEADGATE_ISA_AVX512_BF16 && dtype == HEADGATE_BFLOAT16) return kProbeAvx512Bf16;
  if (isa >= HEADGATE_ISA_AVX512) return kProbeAvx512;
  if (isa == HEADGATE_ISA_AVX2) return kProbeAvx2;
#endif
  return kProbeGeneric;
}

struct Read {
  const ProbeLoops* loops;
  const std::uint64_t* words;
  std::int64_t num_words;
  std::int64_t words_per_task;
  std::atomic<std::uint64_t>* sum;
};

void read_part(const Read& job, std::int64_t task) {
  const std::int64_t begin = task * job.words_per_task;
  const std::int64_t size = std::min(job.words_per_task, job.num_words - begin);
  job.sum->fetch_add(job.loops->read(job.words + begin, size), std::memory_order_relaxed);
}

struct Multiply {
  const ProbeLoops* loops;
  std::int64_t steps_per_task;
  std::atomic<std::uint64_t>* num_finite;
};

// They keep the sums finite; read through volatile, no compiler can compute the result beforehand.
constexpr float kFactor = 0.96875F;
constexpr float kAddend = 0.03125F;

void multiply_part(const Multiply& job, std::int64_t) {
  const volatile float factor = kFactor;
  const volatile float addend = kAddend;
  const float result = job.loops->multiply(job.steps_per_task, factor, addend);
  job.num_finite->fetch_add(result - result == 0.0F ? 1U : 0U, std::memory_order_relaxed);
}

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return a / b + (a % b != 0 ? 1 : 0); }

}  // namespace

const ProbeLoops kProbeGeneric{read_generic, multiply_generic, kNumSums};

}  // namespace headgate

int headgate_probe_read(const void* data, int64_t num_bytes, int isa, const headgate_threads* threads,
                        uint64_t* checksum) {
  using namespace headgate;
  const int chosen = resolve_isa(isa);
  if (chosen < 0 || num_bytes < 0 || num_bytes % 8 != 0) return HEADGATE_BAD_ARGUMENT;
  const std::int64_t num_words = num_bytes / 8;
  const std::int64_t num_tasks = std::max(threads->num_threads, 1);
  // Parts begin at multiples of a cache line.
  const std::int64_t words_per_task =
      std::max<std::int64_t>(divide_up(divide_up(num_words, num_tasks), kWordsPerLine) * kWordsPerLine,
                             kWordsPerLine);
  std::atomic<std::uint64_t> sum{0};
  const Read job{&loops_for(chosen, HEADGATE_FLOAT32), static_cast<const std::uint64_t*>(data), num_words,
                 words_per_task, &sum};
  const Phase phase{run_each<Read, read_part>, &job, divide_up(num_words, words_per_task)};
  const int status = run_phases(*threads, &phase, 1);
  *checksum = sum.load();
  return status;
}

int headgate_probe_multiply(int64_t num_multiplies, int dtype, int isa, const headgate_threads* threads,
                            int64_t* num_done) {
  using namespace headgate;
  constexpr std::int64_t kStepsPerTask = 1 << 14;  // tens of microseconds: no thread waits long for the last one
  const int chosen = resolve_isa(isa);
  const bool is_known = dtype == HEADGATE_FLOAT32 || dtype == HEADGATE_FLOAT16 || dtype == HEADGATE_BFLOAT16;
  if (chosen < 0 || num_multiplies < 0 || !is_known) return HEADGATE_BAD_ARGUMENT;
  const ProbeLoops& loops = loops_for(chosen, dtype);
  const std::int64_t per_task = kStepsPerTask * loops.multiply_width;
  const std::int64_t num_tasks = divide_up(num_multiplies, per_task);
  std::atomic<std::uint64_t> num_finite{0};
  const Multiply job{&loops, kStepsPerTask, &num_finite};
  const Phase phase{run_each<Multiply, multiply_part>, &job, num_tasks};
  const int status = run_phases(*threads, &phase, 1);
  *num_done = static_cast<std::int64_t>(num_finite.load()) * per_task;
  return status;
}
