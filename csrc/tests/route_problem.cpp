#include "route_problem.h"

#include <cmath>

#include "experts_problem.h"
#include "numbers.h"

namespace fuzz {
namespace {

void draw_sizes(Random& random, RouteProblem& problem) {
  headgate_router& router = problem.router;
  router.d_model = random.below(random.one_in(6) ? 700 : 70);
  router.num_experts = random.between(1, random.one_in(6) ? 300 : 70);
  problem.input.num_tokens = random.below(40);
  if (random.one_in(40)) {  // enough work to share among threads: 2^20 products
    router.d_model = random.between(256, 400);
    router.num_experts = random.between(64, 96);
    problem.input.num_tokens = random.between(65, 150);
  }
  router.top_k = random.between(1, router.num_experts);
  if (router.top_k > 12 && !random.one_in(5)) router.top_k = random.between(1, 12);
}

void draw_groups(Random& random, headgate_router& router) {
  if (!random.one_in(3)) return;
  router.num_groups = random.between(1, router.num_experts);
  while (router.num_experts % router.num_groups != 0) --router.num_groups;
  router.num_kept = random.between(1, router.num_groups);
  router.group_counted = random.between(1, 4);
  router.mask_zero = random.one_in(2) ? 1 : 0;
}

void draw_formula(Random& random, headgate_router& router) {
  const float orders[] = {1.0f, 1.0f, 2.0f, INFINITY};
  const float epsilons[] = {0.0f, 1e-20f, 0.25f};
  router.score = static_cast<std::int32_t>(random.below(4));
  router.score_rounding = static_cast<std::int32_t>(random.below(3));
  router.round_logits = random.one_in(2) ? 1 : 0;
  router.select_on_logits = random.one_in(2) ? 1 : 0;
  router.normalise = static_cast<std::int32_t>(random.below(3));
  router.clamp_norm = random.one_in(2) ? 1 : 0;
  router.norm_order = random.pick(orders);
  router.epsilon = random.pick(epsilons);
  router.scale = random.one_in(2) ? 1.0f : 2.5f;
  draw_groups(random, router);
}

// What fills an array: numbers of one size, numbers with many ties, or anything.
class Filler {
 public:
  explicit Filler(Random& random, bool may_be_odd) : random_(random), style_(random.below(may_be_odd ? 4 : 3)) {}

  bool is_finite() const { return style_ != 3; }

  double next() {
    if (style_ == 0) return static_cast<double>(random_.between(-1, 1));
    if (style_ == 3 && random_.one_in(20)) {
      const double odd[] = {static_cast<double>(NAN), static_cast<double>(INFINITY), -static_cast<double>(INFINITY), 1e4};
      return random_.pick(odd);
    }
    return 2.0 * random_.symmetric();
  }

 private:
  Random& random_;
  std::int64_t style_;
};

ExactMemory make_numbers(Random& random, int dtype, std::int64_t size, RouteProblem& problem) {
  Filler filler(random, random.one_in(4));
  problem.is_finite = problem.is_finite && filler.is_finite();
  const std::int64_t misaligned = random.one_in(3) ? random.between(1, 15) : 0;
  ExactMemory memory(size * bytes_of(dtype), misaligned * bytes_of(dtype));
  for (std::int64_t i = 0; i < size; ++i) write(filler.next(), memory.data(), dtype, i);
  return memory;
}

// Everything but the sizes.
void draw_rest(Random& random, RouteProblem& problem) {
  draw_formula(random, problem.router);
  headgate_router_input& input = problem.input;
  const headgate_router& router = problem.router;
  input.x_dtype = static_cast<std::int32_t>(random.below(3));
  input.weight_dtype = static_cast<std::int32_t>(random.below(3));
  input.x_stride = random.one_in(10) ? 0 : router.d_model + (random.one_in(3) ? random.below(20) : 0);
  const std::int64_t x_size = input.num_tokens > 0 ? (input.num_tokens - 1) * input.x_stride + router.d_model : 0;
  problem.x = make_numbers(random, input.x_dtype, x_size, problem);
  problem.weight = make_numbers(random, input.weight_dtype, router.num_experts * router.d_model, problem);
  input.x = problem.x.data();
  input.weight = problem.weight.data();
  if (random.one_in(2)) {
    problem.bias = make_numbers(random, input.weight_dtype, router.num_experts, problem);
    input.bias = problem.bias.data();
  }
  if (random.one_in(2)) {
    problem.selection_bias = ExactArray<float>(router.num_experts);
    Filler filler(random, random.one_in(4));
    for (std::int64_t e = 0; e < router.num_experts; ++e) problem.selection_bias[e] = static_cast<float>(filler.next());
    input.selection_bias = problem.selection_bias.data();
  }
  problem.isa = pick_isa(random);
  problem.threads = pick_threads(random);
}

}  // namespace

RouteProblem make_route_problem(Random& random) {
  RouteProblem problem;
  draw_sizes(random, problem);
  draw_rest(random, problem);
  return problem;
}

RouteProblem make_route_problem(Random& random, const headgate_experts& experts) {
  RouteProblem problem;
  problem.router.d_model = experts.d_model;
  problem.router.num_experts = experts.num_experts + random.below(3);
  if (problem.router.num_experts == 0) problem.router.num_experts = 1;
  problem.router.top_k = random.between(1, problem.router.num_experts);
  problem.input.num_tokens = experts.num_tokens;
  draw_rest(random, problem);
  return problem;
}

std::string RouteProblem::describe() const {
  const auto text = [](std::int64_t value) { return std::to_string(value); };
  return "T " + text(input.num_tokens) + ", D " + text(router.d_model) + ", E " + text(router.num_experts) + ", K " +
         text(router.top_k) + ", isa " + text(isa) + ", dtypes " + text(input.x_dtype) + " " +
         text(input.weight_dtype) + ", score " + text(router.score) + ", rounding " + text(router.score_rounding) +
         ", groups " + text(router.num_groups) + ", threads " + text(threads.num_threads);
}

}  // namespace fuzz
