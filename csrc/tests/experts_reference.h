// The experts and their gradients as nested loops in double precision, with a bound on what rounding may do to each
// result.
#ifndef HEADGATE_TESTS_EXPERTS_REFERENCE_H
#define HEADGATE_TESTS_EXPERTS_REFERENCE_H

#include <vector>

#include "bounded.h"
#include "experts_problem.h"

namespace fuzz {

using BoundedArray = std::vector<Bounded>;

struct ExpertsResult {
  BoundedArray up_rows;  // [R', U]
  BoundedArray y;        // [T, D]
};

ExpertsResult run_experts_naively(const ExpertsProblem& problem);

struct ExpertsGradients {
  BoundedArray dx, row_weights, up, up_bias, down, down_bias;  // as in headgate_gradients
};

// At what the first projection gave; only `dy`, `dy_stride` and `up_rows` of the gradients are read.
ExpertsGradients differentiate_experts_naively(const ExpertsProblem& problem, const headgate_gradients& gradients);

// What both read alike.
double element(const headgate_matrices& matrices, int dtype, std::int64_t expert, std::int64_t row,
               std::int64_t column);

// Where gate and up of hidden unit i are in a row of the first projection; the same where there is no gate.
struct UpColumns {
  std::int64_t gate, up;
};
UpColumns up_columns(const headgate_experts& call, std::int64_t hidden);

// A hidden unit in float32, from gate and up (without a gate, `up` is not read).
Bounded apply_function(const headgate_function& function, const Bounded& gate, const Bounded& up);

}  // namespace fuzz

#endif
