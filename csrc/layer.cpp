// A whole layer for inference: the router's decision, then the experts on it. What was decided is not kept.
#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

#include "headgate.h"

namespace {

struct Decision {
  std::vector<float> logits, scores, combine_weights;
  std::vector<std::int64_t> expert_ids, slot_of_row, token_of_row, expert_offsets, row_order, token_offsets;
  std::vector<std::uint8_t> drop_reason;

  Decision(std::size_t num_tokens, std::size_t num_experts, std::size_t top_k)
      : logits(num_tokens * num_experts),
        scores(num_tokens * num_experts),
        combine_weights(num_tokens * top_k),
        expert_ids(num_tokens * top_k),
        slot_of_row(num_tokens * top_k),
        token_of_row(num_tokens * top_k),
        expert_offsets(num_experts + 1),
        row_order(num_tokens * top_k),
        token_offsets(num_tokens + 1),
        drop_reason(num_tokens * top_k) {}

  headgate_routing outputs() {
    return {logits.data(),         scores.data(),    expert_ids.data(),     combine_weights.data(), slot_of_row.data(),
            token_of_row.data(),   expert_offsets.data(), row_order.data(), token_offsets.data(),   drop_reason.data()};
  }
};

bool is_valid(const headgate_router& router, const headgate_router_input& input, const headgate_experts& experts) {
  return input.num_tokens >= 0 && router.num_experts >= experts.num_experts && router.top_k >= 1 &&
         router.top_k <= router.num_experts && input.num_tokens == experts.num_tokens &&
         router.d_model == experts.d_model;
}

}  // namespace

int headgate_layer_forward(const headgate_router* router, const headgate_router_input* input,
                           const headgate_experts* experts, void* y) {
  if (router == nullptr || input == nullptr || experts == nullptr || !is_valid(*router, *input, *experts)) {
    return HEADGATE_BAD_ARGUMENT;
  }
  try {
    Decision decision(static_cast<std::size_t>(input->num_tokens), static_cast<std::size_t>(router->num_experts),
                      static_cast<std::size_t>(router->top_k));
    const headgate_routing routing = decision.outputs();
    // One token's logits take less time than it takes to wake a thread.
    const headgate_threads alone{nullptr, 1};
    const headgate_threads* const threads = input->num_tokens == 1 ? &alone : &experts->threads;
    const int status = headgate_route(router, input, &routing, threads, experts->isa);
    if (status != HEADGATE_OK) return status;
    headgate_experts planned = *experts;
    planned.num_rows = input->num_tokens * router->top_k;
    planned.token_of_row = routing.token_of_row;
    planned.expert_offsets = routing.expert_offsets;
    planned.row_order = routing.row_order;
    planned.token_offsets = routing.token_offsets;
    planned.row_weights = routing.combine_weights;
    planned.slot_of_row = routing.slot_of_row;
    return headgate_experts_forward(&planned, y, nullptr);
  } catch (const std::bad_alloc&) {
    return HEADGATE_OUT_OF_MEMORY;
  }
}
