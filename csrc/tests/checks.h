// One random round of each function of the C ABI: makes a problem, calls, and compares.
#ifndef HEADGATE_TESTS_CHECKS_H
#define HEADGATE_TESTS_CHECKS_H

#include <stdexcept>
#include <string>

#include "random.h"

namespace fuzz {

// What a round found wrong: its problem, and the difference.
struct Mismatch : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline void require(bool holds, const std::string& what) {
  if (!holds) throw Mismatch(what);
}

void check_experts_forward(Random& random);
void check_experts_backward(Random& random);
void check_route(Random& random);
void check_layer(Random& random);
void check_plan(Random& random);
void check_probes(Random& random);

}  // namespace fuzz

#endif
