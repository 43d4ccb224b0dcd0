#include <cmath>
#include <cstring>

#include "checks.h"
#include "experts_problem.h"
#include "numbers.h"
#include "route_outputs.h"
#include "route_problem.h"

namespace fuzz {
namespace {

ExactMemory make_nans(const headgate_experts& call) {
  ExactMemory memory(call.num_tokens * call.d_model * bytes_of(call.dtype), 0);
  for (std::int64_t i = 0; i < call.num_tokens * call.d_model; ++i) {
    write(static_cast<double>(NAN), memory.data(), call.dtype, i);
  }
  return memory;
}

// The plan's fields are not to be read.
headgate_experts without_plan(headgate_experts call) {
  call.num_rows = -1;
  call.token_of_row = call.expert_offsets = call.row_order = call.token_offsets = call.slot_of_row = nullptr;
  call.row_weights = nullptr;
  return call;
}

// The router, then the experts on its plan, each of which has a check of its own.
ExactMemory run_step_by_step(const RouteProblem& route, const headgate_experts& experts) {
  const RouteOutputs decided(route);
  require(decided.fill(route, route.threads) == HEADGATE_OK, "status of the router");
  headgate_experts planned = experts;
  planned.num_rows = route.input.num_tokens * route.router.top_k;
  planned.token_of_row = decided.token_of_row.data();
  planned.expert_offsets = decided.expert_offsets.data();
  planned.row_order = decided.row_order.data();
  planned.token_offsets = decided.token_offsets.data();
  planned.slot_of_row = decided.slot_of_row.data();
  planned.row_weights = decided.combine_weights.data();
  ExactMemory y = make_nans(experts);
  require(headgate_experts_forward(&planned, y.data(), nullptr) == HEADGATE_OK, "status of the experts");
  return y;
}

void require_refusals(const RouteProblem& route, const headgate_experts& experts, void* y) {
  const auto refuses = [&](auto change) {
    headgate_router router = route.router;
    headgate_router_input input = route.input;
    headgate_experts call = experts;
    change(router, input, call);
    return headgate_layer_forward(&router, &input, &call, y) == HEADGATE_BAD_ARGUMENT;
  };
  using Router = headgate_router;
  using Input = headgate_router_input;
  using Call = headgate_experts;
  require(headgate_layer_forward(nullptr, &route.input, &experts, y) == HEADGATE_BAD_ARGUMENT, "null is not refused");
  require(headgate_layer_forward(&route.router, nullptr, &experts, y) == HEADGATE_BAD_ARGUMENT, "null is not refused");
  require(headgate_layer_forward(&route.router, &route.input, nullptr, y) == HEADGATE_BAD_ARGUMENT, "null is not refused");
  require(refuses([](Router& r, Input&, Call&) { r.top_k = r.num_experts + 1; }), "K > E is not refused");
  require(refuses([](Router& r, Input&, Call&) { r.d_model += 1; }), "another D of the router is not refused");
  require(refuses([](Router&, Input& i, Call&) { i.num_tokens += 1; }), "another T of the router is not refused");
  require(refuses([](Router& r, Input&, Call& c) { c.num_experts = r.num_experts + 1; }), "too few experts to choose from");
  require(refuses([](Router&, Input&, Call& c) { c.isa = 4; }), "isa 4 is not refused");
}

}  // namespace

void check_layer(Random& random) {
  const ExpertsProblem experts = make_experts_problem(random);
  RouteProblem route = make_route_problem(random, experts.call);
  route.isa = experts.call.isa;
  try {
    const headgate_experts call = without_plan(experts.call);
    const ExactMemory y = make_nans(call), expected = run_step_by_step(route, experts.call);
    require(headgate_layer_forward(&route.router, &route.input, &call, y.data()) == HEADGATE_OK, "status of the layer");
    const auto size = static_cast<std::size_t>(y.num_bytes());
    require(size == 0 || std::memcmp(y.data(), expected.data(), size) == 0, "a layer gives other bits than its steps");
    require_refusals(route, call, y.data());
  } catch (const Mismatch& mismatch) {
    throw Mismatch(route.describe() + "; " + experts.description + ": " + mismatch.what());
  }
}

}  // namespace fuzz
