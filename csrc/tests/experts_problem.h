// Random calls of the experts: sizes, layouts, functions and plans that a caller may pass, and mean ones.
#ifndef HEADGATE_TESTS_EXPERTS_PROBLEM_H
#define HEADGATE_TESTS_EXPERTS_PROBLEM_H

#include <cstdint>
#include <string>
#include <vector>

#include "exact_memory.h"
#include "headgate.h"
#include "random.h"

namespace fuzz {

// What is common to every call: instruction set, and who does the work.
int pick_isa(Random& random);
headgate_threads pick_threads(Random& random);

// A plan's arrays, and the expert of each row: those from `num_experts` on compute nothing.
struct Plan {
  ExactArray<std::int64_t> token_of_row, expert_offsets, row_order, token_offsets;
  ExactArray<float> row_weights;
  std::vector<std::int64_t> expert_of_row;
};

struct ExpertsProblem {
  headgate_experts call{};  // points into what follows
  Plan plan;
  ExactMemory x, up, down, up_bias, down_bias;
  std::string description;

  std::int64_t up_width() const { return call.function.is_gated ? 2 * call.d_ff : call.d_ff; }
  std::int64_t num_computed() const { return call.expert_offsets[call.num_experts]; }
};

ExpertsProblem make_experts_problem(Random& random);

}  // namespace fuzz

#endif
