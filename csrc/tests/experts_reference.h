// The experts as two nested loops in double precision, with a bound on what rounding may do to each result.
#ifndef HEADGATE_TESTS_EXPERTS_REFERENCE_H
#define HEADGATE_TESTS_EXPERTS_REFERENCE_H

#include <vector>

#include "experts_problem.h"

namespace fuzz {

// Numbers, and how far off a computation with float32 sums and the problem's storage type may be.
struct Bounded {
  double value = 0.0, error = 0.0;
};

struct ExpertsResult {
  std::vector<Bounded> up_rows;  // [R', U]
  std::vector<Bounded> y;        // [T, D]
};

ExpertsResult run_experts_naively(const ExpertsProblem& problem);

}  // namespace fuzz

#endif
