// Random calls of the router: sizes, formulas and dtypes that a caller may pass, with numbers that are not finite.
#ifndef HEADGATE_TESTS_ROUTE_PROBLEM_H
#define HEADGATE_TESTS_ROUTE_PROBLEM_H

#include <cstdint>
#include <string>

#include "exact_memory.h"
#include "headgate.h"
#include "random.h"

namespace fuzz {

struct RouteProblem {
  headgate_router router{};
  headgate_router_input input{};  // points into what follows
  headgate_threads threads{};
  int isa = 0;
  bool is_finite = true;  // all of the inputs
  ExactMemory x, weight, bias;
  ExactArray<float> selection_bias;

  std::string describe() const;
};

RouteProblem make_route_problem(Random& random);

// One for the tokens of `experts`, and for its experts and up to two that compute nothing.
RouteProblem make_route_problem(Random& random, const headgate_experts& experts);

}  // namespace fuzz

#endif
