// What the router writes, each array in memory of exactly its size.
#ifndef HEADGATE_TESTS_ROUTE_OUTPUTS_H
#define HEADGATE_TESTS_ROUTE_OUTPUTS_H

#include <cstdint>

#include "exact_memory.h"
#include "headgate.h"
#include "route_problem.h"

namespace fuzz {

struct RouteOutputs {
  ExactArray<float> logits, scores, combine_weights;
  ExactArray<std::int64_t> expert_ids, slot_of_row, token_of_row, expert_offsets, row_order, token_offsets;
  ExactArray<std::uint8_t> drop_reason;

  explicit RouteOutputs(const RouteProblem& p)
      : logits(p.input.num_tokens * p.router.num_experts),
        scores(p.input.num_tokens * p.router.num_experts),
        combine_weights(p.input.num_tokens * p.router.top_k),
        expert_ids(p.input.num_tokens * p.router.top_k),
        slot_of_row(p.input.num_tokens * p.router.top_k),
        token_of_row(p.input.num_tokens * p.router.top_k),
        expert_offsets(p.router.num_experts + 1),
        row_order(p.input.num_tokens * p.router.top_k),
        token_offsets(p.input.num_tokens + 1),
        drop_reason(p.input.num_tokens * p.router.top_k) {}

  int fill(const RouteProblem& p, const headgate_threads& threads) const {
    const headgate_routing routing{logits.data(),         scores.data(),       expert_ids.data(),  combine_weights.data(),
                                   slot_of_row.data(),    token_of_row.data(), expert_offsets.data(), row_order.data(),
                                   token_offsets.data(), drop_reason.data()};
    return headgate_route(&p.router, &p.input, &routing, &threads, p.isa);
  }
};

}  // namespace fuzz

#endif
