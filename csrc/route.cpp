#include "route.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "cpu.h"
#include "parallel.h"

namespace headgate {
namespace {

// Tokens at once: they stay in the second-level cache while the weights pass (24 of width 2048 are 192 KiB).
constexpr std::int64_t kMaxBlock = 24;
// The tokens of an AVX-512 tile; a block of whole tiles wastes nothing.
constexpr std::int64_t kTile = 6;
// Multiply-adds from which waking another thread pays: on Zen 4 both take about 20 us.
constexpr std::int64_t kWorkForThreads = 1 << 20;

struct Free {
  void operator()(void* pointer) const { std::free(pointer); }
};

// One call: blocks of tokens, each with a count of its slots by expert, and scratch for each thread.
struct Job {
  RouteCall call;
  RouteTokens route_tokens;
  std::int64_t block_size;
  std::int64_t num_blocks;
  std::int64_t* counts;  // [blocks, E]: slots of the block, then the row of its next slot
  float* scratch;
  std::int64_t scratch_per_worker;
  std::atomic<std::int64_t>* num_workers;

  std::int64_t begin_of(std::int64_t block) const { return block * block_size; }
  std::int64_t end_of(std::int64_t block) const {
    return std::min((block + 1) * block_size, call.input->num_tokens);
  }
  std::int64_t* counts_of(std::int64_t block) const { return counts + block * call.router->num_experts; }
};

void choose_in_block(const Job& job, std::int64_t block, float* scratch) {
  const std::int64_t top_k = job.call.router->top_k, begin = job.begin_of(block), end = job.end_of(block);
  job.route_tokens(job.call, begin, end, scratch);
  const headgate_routing& routing = *job.call.routing;
  std::int64_t* counts = job.counts_of(block);
  for (std::int64_t slot = begin * top_k; slot < end * top_k; ++slot) {
    ++counts[routing.expert_ids[slot]];
    routing.drop_reason[slot] = 0;
  }
  for (std::int64_t token = begin; token < end; ++token) routing.token_offsets[token] = token * top_k;
}

void run_choices(const void* context, TaskQueue& blocks) {
  const Job& job = *static_cast<const Job*>(context);
  float* scratch = job.scratch + job.num_workers->fetch_add(1) * job.scratch_per_worker;
  for (std::int64_t block = blocks.next(); block >= 0; block = blocks.next()) choose_in_block(job, block, scratch);
}

// Turns the blocks' counts into the row of each block's first slot.
void place_blocks(const Job& job, std::int64_t) {
  const headgate_routing& routing = *job.call.routing;
  std::int64_t row = 0;
  for (std::int64_t expert = 0; expert < job.call.router->num_experts; ++expert) {
    routing.expert_offsets[expert] = row;
    for (std::int64_t block = 0; block < job.num_blocks; ++block) {
      std::int64_t& next = job.counts_of(block)[expert];
      const std::int64_t count = next;
      next = row;
      row += count;
    }
  }
  routing.expert_offsets[job.call.router->num_experts] = row;
  routing.token_offsets[job.call.input->num_tokens] = row;
}

void place_rows(const Job& job, std::int64_t block) {
  const headgate_routing& routing = *job.call.routing;
  const std::int64_t top_k = job.call.router->top_k;
  std::int64_t* next = job.counts_of(block);
  for (std::int64_t token = job.begin_of(block); token < job.end_of(block); ++token) {
    for (std::int64_t slot = token * top_k; slot < (token + 1) * top_k; ++slot) {
      const std::int64_t row = next[routing.expert_ids[slot]]++;
      routing.slot_of_row[row] = slot;
      routing.token_of_row[row] = token;
      routing.row_order[slot] = row;
    }
  }
}

bool is_between(std::int64_t value, std::int64_t low, std::int64_t high) { return low <= value && value <= high; }

bool has_sound_groups(const headgate_router& router) {
  if (router.num_groups == 0) return true;
  return is_between(router.num_groups, 1, router.num_experts) && router.num_experts % router.num_groups == 0 &&
         is_between(router.num_kept, 1, router.num_groups) && router.group_counted >= 1;
}

bool is_sound(const headgate_router& router, const headgate_router_input& input) {
  return is_between(router.d_model, 0, INT32_MAX) && is_between(router.num_experts, 1, INT32_MAX) &&
         is_between(router.top_k, 1, router.num_experts) && has_sound_groups(router) && router.norm_order > 0.0f &&
         is_between(router.score, HEADGATE_SOFTMAX, HEADGATE_LINEAR) &&
         is_between(router.score_rounding, HEADGATE_ROUND_NOTHING, HEADGATE_ROUND_RESULT) &&
         is_between(router.normalise, HEADGATE_NORMALISE_NONE, HEADGATE_NORMALISE_SOFTMAX) &&
         is_between(input.num_tokens, 0, INT32_MAX) && input.x_stride >= 0 &&
         is_between(input.x_dtype, HEADGATE_FLOAT32, HEADGATE_BFLOAT16) &&
         is_between(input.weight_dtype, HEADGATE_FLOAT32, HEADGATE_BFLOAT16);
}

RouteTokens find_variant(int isa) {
#if defined(HEADGATE_X86)
  if (isa >= HEADGATE_ISA_AVX512) return route_tokens_avx512;
  if (isa == HEADGATE_ISA_AVX2) return route_tokens_avx2;
#endif
  return isa >= 0 ? route_tokens_generic : nullptr;
}

std::int64_t count_scratch(const headgate_router& router, std::int64_t num_tokens) {
  const std::int64_t experts = pad_to_lanes(router.num_experts);
  return num_tokens * (pad_to_lanes(router.d_model) + experts) + 5 * experts + pad_to_lanes(router.top_k);
}

// Several blocks for each thread, so that one that is held up does not hold up the rest.
std::int64_t choose_block_size(std::int64_t num_tokens, int num_threads) {
  if (num_threads <= 1) return std::min(std::max<std::int64_t>(num_tokens, 1), kMaxBlock);
  const std::int64_t share = num_tokens / (std::int64_t{4} * num_threads);
  return std::min(std::max((share + kTile - 1) / kTile * kTile, kTile), kMaxBlock);
}

int run(Job& job, const headgate_threads& threads) {
  const std::int64_t num_experts = job.call.router->num_experts;
  const std::int64_t num_workers = std::max(threads.num_threads, 1);
  // A line of 64 bytes more, to begin on one.
  job.scratch_per_worker = count_scratch(*job.call.router, job.block_size);
  const std::size_t scratch_bytes = sizeof(float) * static_cast<std::size_t>(num_workers * job.scratch_per_worker);
  const std::size_t counts_bytes = sizeof(std::int64_t) * static_cast<std::size_t>(job.num_blocks * num_experts);
  const std::unique_ptr<char, Free> scratch(static_cast<char*>(std::malloc(scratch_bytes + 64)));
  const std::unique_ptr<std::int64_t, Free> counts(static_cast<std::int64_t*>(std::calloc(counts_bytes + 1, 1)));
  if (!scratch || !counts) return HEADGATE_OUT_OF_MEMORY;
  job.scratch = reinterpret_cast<float*>((reinterpret_cast<std::uintptr_t>(scratch.get()) + 63) / 64 * 64);
  job.counts = counts.get();
  std::atomic<std::int64_t> workers{0};
  job.num_workers = &workers;
  const Phase phases[] = {{run_choices, &job, job.num_blocks},
                          {run_each<Job, place_blocks>, &job, 1},
                          {run_each<Job, place_rows>, &job, job.num_blocks}};
  return run_phases(threads, phases, 3);
}

}  // namespace
}  // namespace headgate

int headgate_route(const headgate_router* router, const headgate_router_input* input, const headgate_routing* routing,
                   const headgate_threads* threads, int isa) {
  using namespace headgate;
  const RouteTokens route_tokens = find_variant(resolve_isa(isa));
  if (route_tokens == nullptr || !is_sound(*router, *input)) return HEADGATE_BAD_ARGUMENT;
  headgate_threads used = *threads;
  const std::int64_t work = input->num_tokens * router->num_experts * router->d_model;
  if (work < kWorkForThreads || input->num_tokens <= kTile) used.num_threads = 1;
  const std::int64_t block_size = choose_block_size(input->num_tokens, used.num_threads);
  const std::int64_t num_blocks = (input->num_tokens + block_size - 1) / block_size;
  Job job{{router, input, routing}, route_tokens, block_size, num_blocks, nullptr, nullptr, 0, nullptr};
  return run(job, used);
}
