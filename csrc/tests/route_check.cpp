#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "checks.h"
#include "exact_memory.h"
#include "numbers.h"
#include "route_outputs.h"
#include "route_problem.h"

namespace fuzz {
namespace {

void require_logits(const RouteProblem& p, const RouteOutputs& out, std::int64_t token) {
  const std::int64_t d_model = p.router.d_model;
  for (std::int64_t e = 0; e < p.router.num_experts; ++e) {
    double sum = p.input.bias == nullptr ? 0.0 : read(p.input.bias, p.input.weight_dtype, e);
    double magnitude = std::fabs(sum);
    for (std::int64_t d = 0; d < d_model; ++d) {
      const double product = read(p.input.x, p.input.x_dtype, token * p.input.x_stride + d) *
                             read(p.input.weight, p.input.weight_dtype, e * d_model + d);
      sum += product;
      magnitude += std::fabs(product);
    }
    // D + 1 roundings at most touch each term (Higham, as in experts_reference.cpp), and one the result.
    const double roundoff = p.router.round_logits ? roundoff_of(p.input.x_dtype) : 0.0;
    const double bound = (static_cast<double>(d_model + 1) * roundoff_of(HEADGATE_FLOAT32) + roundoff) * magnitude;
    const double logit = static_cast<double>(out.logits[token * p.router.num_experts + e]);
    require(std::fabs(logit - sum) <= bound + smallest_roundoff_of(HEADGATE_FLOAT16),
            "logit of token " + std::to_string(token) + ", expert " + std::to_string(e) + " is " +
                std::to_string(logit) + ", expected " + std::to_string(sum) + " +- " + std::to_string(bound));
  }
}

void require_scores(const RouteProblem& p, const RouteOutputs& out, std::int64_t token) {
  const std::int64_t num_experts = p.router.num_experts;
  const float* const scores = out.scores.data() + token * num_experts;
  if (p.router.score == HEADGATE_LINEAR) return;
  double sum = 0.0;
  for (std::int64_t e = 0; e < num_experts; ++e) {
    require(scores[e] >= 0.0f && scores[e] < INFINITY, "a score is " + std::to_string(scores[e]));
    require(p.router.score == HEADGATE_SQRT_SOFTPLUS || scores[e] <= 1.0f, "a score is " + std::to_string(scores[e]));
    sum += static_cast<double>(scores[e]);
  }
  if (p.router.score != HEADGATE_SOFTMAX) return;
  // E + 1 roundings of the sum and the quotient, and one of each score; scores may vanish where they are rounded.
  const bool is_rounded = p.router.score_rounding != HEADGATE_ROUND_NOTHING;
  const int dtype = is_rounded ? p.input.x_dtype : HEADGATE_FLOAT32;
  const double terms = static_cast<double>(num_experts);
  const double bound = (terms + 1.0) * roundoff_of(HEADGATE_FLOAT32) + roundoff_of(dtype) +
                       terms * smallest_roundoff_of(dtype);
  require(std::fabs(sum - 1.0) <= bound, "scores of token " + std::to_string(token) + " sum to " + std::to_string(sum));
}

// Indices by falling value, equal ones by rising index.
std::vector<std::int64_t> rank(const std::vector<float>& values) {
  std::vector<std::int64_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    return values[static_cast<std::size_t>(a)] > values[static_cast<std::size_t>(b)];
  });
  return order;
}

float without_nan(float value) { return std::isnan(value) ? -INFINITY : value; }

void limit_to_groups(const headgate_router& router, std::vector<float>& ranked) {
  const std::int64_t size = router.num_experts / router.num_groups, counted = std::min(router.group_counted, size);
  std::vector<float> groups;
  for (std::int64_t g = 0; g < router.num_groups; ++g) {
    std::vector<float> members(ranked.begin() + g * size, ranked.begin() + (g + 1) * size);
    std::sort(members.begin(), members.end(), [](float a, float b) { return a > b; });
    groups.push_back(without_nan(std::accumulate(members.begin(), members.begin() + counted, 0.0f)));
  }
  const std::vector<std::int64_t> order = rank(groups);
  for (std::int64_t i = router.num_kept; i < router.num_groups; ++i) {
    const std::int64_t g = order[static_cast<std::size_t>(i)];
    const float masked = router.mask_zero ? 0.0f : -INFINITY;
    std::fill(ranked.begin() + g * size, ranked.begin() + (g + 1) * size, masked);
  }
}

// The choice follows exactly from the scores or logits that came out: best first, ties to the lowest id.
void require_choice(const RouteProblem& p, const RouteOutputs& out, std::int64_t token) {
  const std::int64_t num_experts = p.router.num_experts, top_k = p.router.top_k;
  const float* const source = (p.router.select_on_logits ? out.logits : out.scores).data() + token * num_experts;
  std::vector<float> ranked;
  for (std::int64_t e = 0; e < num_experts; ++e) {
    ranked.push_back(without_nan(p.input.selection_bias == nullptr ? source[e] : source[e] + p.input.selection_bias[e]));
  }
  if (p.router.num_groups > 0) limit_to_groups(p.router, ranked);
  const std::vector<std::int64_t> order = rank(ranked);
  for (std::int64_t k = 0; k < top_k; ++k) {
    const std::int64_t expert = out.expert_ids[token * top_k + k], wanted = order[static_cast<std::size_t>(k)];
    require(expert == wanted, "choice " + std::to_string(k) + " of token " + std::to_string(token) + " is " +
                                  std::to_string(expert) + ", expected " + std::to_string(wanted));
  }
}

void require_weights(const RouteProblem& p, const RouteOutputs& out, std::int64_t token) {
  const std::int64_t top_k = p.router.top_k;
  if (p.router.score == HEADGATE_LINEAR && p.router.normalise == HEADGATE_NORMALISE_SUM) return;  // can cancel
  double sum = 0.0;
  for (std::int64_t k = 0; k < top_k; ++k) {
    const float weight = out.combine_weights[token * top_k + k];
    require(std::isfinite(weight), "a combine weight is " + std::to_string(weight));
    sum += static_cast<double>(weight);
  }
  if (p.router.normalise != HEADGATE_NORMALISE_SOFTMAX) return;
  const double scale = static_cast<double>(p.router.scale);
  const double bound = static_cast<double>(top_k + 3) * roundoff_of(HEADGATE_FLOAT32) * scale;
  require(std::fabs(sum - scale) <= bound, "weights of token " + std::to_string(token) + " sum to " + std::to_string(sum));
}

// Whatever the numbers are: ids distinct and in range, and the plan a permutation sorted by expert, then by slot.
void require_plan(const RouteProblem& p, const RouteOutputs& out) {
  const std::int64_t num_experts = p.router.num_experts, top_k = p.router.top_k, num_tokens = p.input.num_tokens;
  for (std::int64_t t = 0; t < num_tokens; ++t) {
    std::vector<bool> is_taken(static_cast<std::size_t>(num_experts));
    for (std::int64_t slot = t * top_k; slot < (t + 1) * top_k; ++slot) {
      const std::int64_t expert = out.expert_ids[slot];
      require(0 <= expert && expert < num_experts, "expert id " + std::to_string(expert));
      require(!is_taken[static_cast<std::size_t>(expert)], "expert " + std::to_string(expert) + " chosen twice");
      is_taken[static_cast<std::size_t>(expert)] = true;
    }
  }
  std::int64_t row = 0;
  for (std::int64_t expert = 0; expert <= num_experts; ++expert) {
    require(out.expert_offsets[expert] == row, "expert_offsets[" + std::to_string(expert) + "]");
    for (std::int64_t slot = 0; slot < num_tokens * top_k; ++slot) {
      if (out.expert_ids[slot] != expert) continue;
      require(out.slot_of_row[row] == slot, "slot_of_row[" + std::to_string(row) + "]");
      require(out.token_of_row[row] == slot / top_k, "token_of_row[" + std::to_string(row) + "]");
      require(out.row_order[slot] == row, "row_order[" + std::to_string(slot) + "]");
      ++row;
    }
  }
  for (std::int64_t t = 0; t <= num_tokens; ++t) require(out.token_offsets[t] == t * top_k, "token_offsets");
  for (std::int64_t slot = 0; slot < num_tokens * top_k; ++slot) require(out.drop_reason[slot] == 0, "drop_reason");
}

template <typename Value>
void require_same_bits(const char* name, const ExactArray<Value>& one, const ExactArray<Value>& other) {
  const std::size_t num_bytes = static_cast<std::size_t>(one.size()) * sizeof(Value);
  const bool is_same = num_bytes == 0 || std::memcmp(one.data(), other.data(), num_bytes) == 0;
  require(is_same, std::string(name) + " has other bits with one thread");
}

void require_refusals(const RouteProblem& p, const RouteOutputs& out) {
  const auto status = [&](auto change) {
    RouteProblem changed;
    changed.router = p.router;
    changed.input = p.input;
    changed.isa = p.isa;
    change(changed);
    return out.fill(changed, p.threads);
  };
  using Problem = RouteProblem;
  const auto refuses = [&](auto change) { return status(change) == HEADGATE_BAD_ARGUMENT; };
  require(refuses([](Problem& c) { c.isa = 4; }), "isa 4 is not refused");
  require(refuses([](Problem& c) { c.router.top_k = c.router.num_experts + 1; }), "K > E is not refused");
  require(refuses([](Problem& c) { c.router.num_experts = 0; }), "E 0 is not refused");
  require(refuses([](Problem& c) { c.router.norm_order = 0.0f; }), "norm of order 0 is not refused");
  require(refuses([](Problem& c) { c.router.num_groups = c.router.num_experts + 1; }), "E + 1 groups are not refused");
  require(refuses([](Problem& c) { c.input.num_tokens = -1; }), "T -1 is not refused");
  require(refuses([](Problem& c) { c.input.x_dtype = 3; }), "dtype 3 is not refused");
}

void compare(const RouteProblem& problem) {
  const RouteOutputs out(problem), alone(problem);
  require(out.fill(problem, problem.threads) == HEADGATE_OK, "status is not HEADGATE_OK");
  require_plan(problem, out);
  for (std::int64_t token = 0; token < problem.input.num_tokens; ++token) {
    require_choice(problem, out, token);
    if (!problem.is_finite) continue;
    require_logits(problem, out, token);
    require_scores(problem, out, token);
    require_weights(problem, out, token);
  }
  require(alone.fill(problem, {nullptr, 1}) == HEADGATE_OK, "status with one thread");
  require_same_bits("logits", out.logits, alone.logits);
  require_same_bits("scores", out.scores, alone.scores);
  require_same_bits("combine_weights", out.combine_weights, alone.combine_weights);
  require_same_bits("expert_ids", out.expert_ids, alone.expert_ids);
  require_refusals(problem, out);
}

}  // namespace

void check_route(Random& random) {
  const RouteProblem problem = make_route_problem(random);
  try {
    compare(problem);
  } catch (const Mismatch& mismatch) {
    throw Mismatch(problem.describe() + ": " + mismatch.what());
  }
}

}  // namespace fuzz
